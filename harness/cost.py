"""What a run will cost: the median of measured ones like it, else an estimate from forward operations.

An estimate is images × passes × forward operations of the model / the device's assumed throughput. It needs
no torch: operations were counted once (`efface flops`) and lie beside the suites with the sizes of data sets.
"""

from __future__ import annotations

import csv
import statistics
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.spec import REFERENCES, RunSpec, Spec, Task, Value, scenario_family

FOLDER = Path(__file__).with_name("suites") / "cost"
STEP = 3  # a training step costs as much as three forward passes: one forward, about two backward
FLOPS_HEADER = ("model", "side", "flops")


@dataclass(frozen=True)
class Sizes:
    """How many images a task is about."""

    forget: int
    retain: int
    test: int
    classes: int


@dataclass(frozen=True)
class Facts:
    """What an estimate rests on."""

    flops: Mapping[tuple[str, int], float]  # (model, side) → of one forward pass of one image
    datasets: Mapping[str, Mapping[str, int]]
    tflops: Mapping[str, float]  # precision → sustained 10^12 operations a second
    device: str


Fields = Mapping[str, Any]
Passes = Callable[[Sizes, Fields], float]


def _ssd(n: Sizes, p: Fields) -> float:
    """One backward pass over D_f and one over all of D."""
    return STEP * (2 * n.forget + n.retain)


def _jit(n: Sizes, p: Fields) -> float:
    perturbed = 1 if p["detach_perturbed"] else STEP
    return float(p["epochs"] * n.forget * (STEP + p["samples"] * perturbed))


def _unsir(n: Sizes, p: Fields) -> float:
    kept = min(p["share"] * n.retain, (p["per_class"] or n.retain) * n.classes)
    noise = p["noise_images"] * p["copies"]
    return float(STEP * (p["noise_steps"] * p["noise_images"] + p["epochs"] * (noise + 2 * kept)))


def _gkt(n: Sizes, p: Fields) -> float:
    """A generator's step goes through teacher and student; the generators themselves are left out."""
    each = 2 * STEP * p["generator_steps"] + (STEP + 1) * p["student_steps"]
    return float(p["pseudo_batches"] * p["batch_size"] * each)


def _emmn(n: Sizes, p: Fields) -> float:
    made = p["images_per_class"] * (p["forget_steps"] + (n.classes - 1) * p["retain_steps"])
    trained = p["epochs"] * n.classes * p["images_per_class"] * p["copies"]
    if p["max_steps"] is not None:
        trained = min(trained, p["max_steps"] * p["batch_size"])
    return float(STEP * (made + trained))


# method → images that go through one forward pass
PASSES: dict[str, Passes] = {
    "bad_teacher": lambda n, p: (STEP * p["epochs"] + 2) * (n.forget + p["retain_share"] * n.retain),
    "bdsh": lambda n, p: n.forget * (STEP * p["epochs"] + STEP + 1),
    "delete": lambda n, p: n.forget * (STEP + 1) * p["epochs"],
    "emmn": _emmn,
    "fisher": lambda n, p: STEP * n.classes * (p["images"] or n.retain),
    "gkt": _gkt,
    "jit": _jit,
    "neggrad_plus": lambda n, p: 2 * STEP * p["epochs"] * n.retain,
    "scrub": lambda n, p: (STEP + 1) * (p["msteps"] * n.forget + p["epochs"] * n.retain),
    "unsir": _unsir,
    **dict.fromkeys(("assd", "lfssd", "ssd", "ssd_det"), _ssd),
}


class Cost:
    """Expected seconds of a piece of work, measured or estimated."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], catalogue: Any = None) -> None:
        self.rows = len(rows)
        self.catalogue = catalogue
        groups: dict[tuple[Any, ...], list[float]] = {}
        for row in rows:
            for key in self._keys(row["kind"], row["dataset"], row["model"], row["method"]):
                groups.setdefault(key, []).append(row["seconds_total"])
        self._groups = groups
        self._medians = {key: statistics.median(values) for key, values in groups.items()}

    @staticmethod
    def _keys(kind: str, dataset: str, model: str, method: str | None) -> list[tuple[Any, ...]]:
        return [(kind, dataset, model, method), (kind, model, method)]

    def _nearest(self, spec: Spec) -> tuple[Any, ...] | None:
        """The nearest kind of run that was measured."""
        if isinstance(spec, RunSpec):
            keys = self._keys("run", spec.task.dataset, spec.task.model, spec.method)
        else:
            keys = self._keys("train", spec.dataset, spec.model, None)
        return next((key for key in keys if key in self._medians), None)

    def of(self, spec: Spec) -> float:
        """Median seconds of the nearest kind of run that was measured, 0 where none was."""
        key = self._nearest(spec)
        return self._medians[key] if key else 0.0

    def like(self, spec: Spec) -> Sequence[float]:
        """All measured seconds of that kind of run, none where none was; the same list for the same kind."""
        key = self._nearest(spec)
        return self._groups[key] if key else ()

    def estimate(self, spec: Spec) -> float | None:
        """Seconds from forward operations; None where model or data set are not among the counted ones."""
        facts = load_facts()
        original = spec.original if isinstance(spec, RunSpec) else spec
        dataset = facts.datasets.get(original.dataset)
        if dataset is None or self.catalogue is None:
            return None
        recipe = self.catalogue.recipes[original.recipe.partition("@")[0]]
        flops = facts.flops.get((original.model, recipe.size or dataset["side"]))
        if flops is None:
            return None
        images = forward_images(spec, dataset, recipe, self.catalogue)
        return images * flops / (facts.tflops[spec.precision] * 1e12)


def forward_images(spec: Spec, dataset: Mapping[str, int], recipe: Any, catalogue: Any) -> float:
    """Images through one forward pass, for the work itself and for its outputs on all images."""
    if isinstance(spec, RunSpec) and spec.method in REFERENCES:
        return 0.0  # their outputs are there already
    outputs = dataset["train"] + dataset["test"]
    aside = recipe.validation if recipe.checkpoint == "best_val" else 0.0  # of the training images
    used = {**dataset, "train": round(dataset["train"] * (1 - aside))}
    if isinstance(spec, RunSpec):
        return outputs + method_images(spec.method, sizes(spec.task, used), dict(spec.params), catalogue)
    seen = sizes(spec.without, used).retain if spec.without else used["train"]
    judged = dataset["test"] if recipe.checkpoint == "best_test" else aside * dataset["train"]
    return float(outputs + recipe.epochs * (STEP * seen + judged))


def method_images(method: str, n: Sizes, params: Mapping[str, Value], catalogue: Any) -> float:
    """Images through one forward pass: as PASSES says, else epochs of training on what the method gets."""
    if method in PASSES:
        return PASSES[method](n, params)
    needs = catalogue.methods[method].info.needs
    given = n.forget * ("forget" in needs) + n.retain * ("retain" in needs)
    epochs = params.get("epochs")
    return STEP * given * (epochs if isinstance(epochs, int) else 1)


def sizes(task: Task, dataset: Mapping[str, int]) -> Sizes:
    """What is forgotten and what stays: as many images in every class and in every group."""
    train, classes = dataset["train"], dataset["classes"]
    parts = {"full_class": classes, "sub_class": dataset.get("groups", classes)}
    family = scenario_family(task.scenario)
    forget = train // parts[family] if family in parts else task.count or 1
    rest = train // classes if task.scenario.endswith(":drop_rest") else forget
    return Sizes(forget, train - rest, dataset["test"], classes)


@lru_cache(maxsize=1)
def load_facts(folder: Path = FOLDER) -> Facts:
    """The committed counts and sizes."""
    told = tomllib.loads((folder / "cost.toml").read_text(encoding="utf-8"))
    with (folder / "flops.csv").open(newline="", encoding="utf-8") as file:
        flops = {(row["model"], int(row["side"])): float(row["flops"]) for row in csv.DictReader(file)}
    return Facts(flops, told["dataset"], told["device"]["tflops"], told["device"]["name"])
