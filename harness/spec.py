"""Names by content: what a task, a training and a run are, and the id and seeds that follow from it.

An id is 16 hex digits of SHA-256 over canonical JSON of what defines a model, chained through its parents.
Where it ran, when, how fast and where the data lie is never in the id. A field added later goes to the end
with a default and is left out of the hash while it equals that default, so that old ids stay.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

Value = bool | int | float | str | None
Params = tuple[tuple[str, Value], ...]  # fully resolved, sorted by name
Stream = Literal["init", "order", "split", "halves", "method", "score", "search"]
REFERENCES = ("baseline", "retrain")
PROFILES = ("reference", "corrected")
PRECISIONS = ("fp32", "bf16")


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces; NaN and infinities, which are not JSON, become strings."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


def content_id(kind: str, body: Mapping[str, Any]) -> str:
    """16 hex digits that name what `body` says, and nothing else."""
    return hashlib.sha256(f"{kind}:{canonical_json(body)}".encode()).hexdigest()[:16]


def derive_seed(seed: int, stream: Stream, *parts: Value) -> int:
    """A 63-bit seed of its own for each stream, so that no two uses of one seed share random numbers."""
    text = canonical_json([seed, stream, *parts])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _body(spec: Any) -> dict[str, Any]:
    """The fields of a spec that define it: parents by id, and nothing that still equals its default."""
    body: dict[str, Any] = {}
    for f in dataclasses.fields(spec):
        value = getattr(spec, f.name)
        if f.default is not dataclasses.MISSING and value == f.default:
            continue
        body[f.name] = value.id if isinstance(value, (Task, TrainSpec)) else value
    return body


@dataclass(frozen=True, slots=True)
class Task:
    """What must be forgotten, from what."""

    dataset: str
    model: str
    scenario: str
    target: str | None  # the group's name, e.g. "rocket"; None where the scenario has none
    count: int | None  # images to forget, where the scenario counts
    profile: str

    @property
    def id(self) -> str:
        return _task_id(self)

    @property
    def label(self) -> str:
        """For people: digits/vgg_mini full_class 3."""
        what = [self.scenario] + [str(part) for part in (self.target, self.count) if part is not None]
        return f"{self.dataset}/{self.model} {' '.join(what)}"


@dataclass(frozen=True, slots=True)
class TrainSpec:
    """One trained model: an original, or (with `without`) the same recipe with something left out."""

    dataset: str
    model: str
    recipe: str  # "name@digest", see tasks.recipes
    train_seed: int
    precision: str
    without: Task | None = None
    split_seed: int | None = None
    start: str = "fresh"  # "warm": from the original's weights with a new head, as published
    original: TrainSpec | None = None  # only where the forget set (worst_case) or the start (warm) needs it

    @property
    def id(self) -> str:
        return _train_id(self)

    @property
    def parents(self) -> tuple[TrainSpec, ...]:
        return (self.original,) if self.original else ()

    @property
    def kind(self) -> str:
        """`original` or `retrain`."""
        return "retrain" if self.without else "original"

    @property
    def label(self) -> str:
        if self.without is None:
            return f"{self.dataset}/{self.model} original, train seed {self.train_seed}"
        return f"{self.without.label} retrain, seed {self.split_seed}"


@dataclass(frozen=True, slots=True)
class RunSpec:
    """One unlearning run: a method with its parameters on a task, from one original, with one seed."""

    task: Task
    original: TrainSpec
    method: str
    method_version: int
    params: Params
    seed: int
    precision: str
    split_seed: int | None = (
        None  # which forget set, where the suite has fewer retrains than seeds; None: `seed`
    )
    retrain: TrainSpec | None = None  # only for the reference `retrain`: the model that its row scores

    @property
    def id(self) -> str:
        return _run_id(self)

    @property
    def parents(self) -> tuple[TrainSpec, ...]:
        return (self.original, self.retrain) if self.retrain else (self.original,)

    @property
    def forget_seed(self) -> int:
        """The seed that draws the forget set."""
        return self.seed if self.split_seed is None else self.split_seed

    @property
    def kind(self) -> str:
        return "run"

    @property
    def label(self) -> str:
        return f"{self.method} on {self.task.label}, seed {self.seed}"


Spec = TrainSpec | RunSpec


@lru_cache(maxsize=65536)
def _task_id(task: Task) -> str:
    return content_id("task", _body(task))


@lru_cache(maxsize=65536)
def _train_id(spec: TrainSpec) -> str:
    return content_id("train", _body(spec))


@lru_cache(maxsize=262144)
def _run_id(spec: RunSpec) -> str:
    return content_id("run", _body(spec))


def scenario_family(scenario: str) -> str:
    """What methods and presets name: `worst_case:drop_rest` is one reading of `worst_case`."""
    return scenario.partition(":")[0]


def index_of(target: str, names: Sequence[str]) -> int | None:
    """The position of a name, or the number itself: papers count classes whose names only the folder has."""
    if target in names:
        return names.index(target)
    return int(target) if target.isdecimal() and int(target) < len(names) else None


def split_seed(task: Task, forget_seed: int) -> int:
    """The seed that draws a forget set: without method, parameters and model, so that all forget the same."""
    return derive_seed(forget_seed, "split", task.dataset, task.scenario, task.target, task.count)


def halves_seed(dataset: str) -> int:
    """The seed that halves a test set into tuning and reporting: one for each data set, whatever the run."""
    return derive_seed(0, "halves", dataset)


def validation_seed(dataset: str) -> int:
    """The seed that sets training images aside to choose an epoch by: one for each data set, so that all
    models of it forget and retain the same images.
    """
    return derive_seed(0, "halves", dataset, "validation")


def to_dict(spec: Any) -> Any:
    """A spec as plain JSON data, for the store and for workers."""
    if dataclasses.is_dataclass(spec) and not isinstance(spec, type):
        return {f.name: to_dict(getattr(spec, f.name)) for f in dataclasses.fields(spec)}
    return spec
