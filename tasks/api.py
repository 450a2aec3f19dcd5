"""The contracts of a task: image sets, splits, outputs, and how data sets, models, scenarios and metrics
register.

Every registered thing is a frozen record in one of four tables, so that listing, checking and extending them
is the same for all: `@dataset`, `@model`, `@scenario`, `@metric`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tasks.images import Data as Data
from tasks.images import DataError as DataError
from tasks.images import DataMissing as DataMissing
from tasks.images import ImageSet as ImageSet

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Split:
    """Which examples are forgotten, retained and tested: sorted int64 positions in the train or the test
    half.
    """

    forget: Indices  # of the train half
    retain: Indices  # of the train half
    forget_test: Indices  # of the test half; empty where single images, not a class, are forgotten
    retain_test: Indices  # of the test half
    forget_val: Indices  # the tuning half of the test set; empty where the profile has none
    retain_val: Indices

    def digest(self) -> str:
        """16 hex digits over all six index arrays: equal for every method that forgets the same images."""
        sha = hashlib.sha256()
        for part in (
            self.forget,
            self.retain,
            self.forget_test,
            self.retain_test,
            self.forget_val,
            self.retain_val,
        ):
            sha.update(len(part).to_bytes(8, "little"))
            sha.update(np.ascontiguousarray(part, dtype=np.int64).data)
        return sha.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a model said of some examples. Every score is computed from these alone."""

    logits: NDArray[np.float32]  # (N, K)
    labels: Indices  # (N,)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, positions: Indices) -> Outputs:
        return Outputs(self.logits[positions], self.labels[positions])

    def join(self, other: Outputs) -> Outputs:
        return Outputs(
            np.concatenate([self.logits, other.logits]), np.concatenate([self.labels, other.labels])
        )


@dataclass(frozen=True, slots=True)
class Scored:
    """One model's outputs cut along a split: what a metric gets to see."""

    profile: str
    forget: Outputs
    retain: Outputs
    forget_test: Outputs
    retain_test: Outputs
    retrained: Scored | None = None  # the same cut of the retrained model, for metrics that need it
    original: Scored | None = None  # the same cut of the original model, for metrics that need it

    @property
    def test(self) -> Outputs:
        return self.forget_test.join(self.retain_test)


# -------------------- what can register


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """A data set: `load(folder)` gives its `Data`; `groups` names what can be forgotten, where that is known
    at once.
    """

    name: str
    load: Callable[[Path | None], Data]
    groups: tuple[str, ...] | None  # None: known only from the folder, see `read_groups`
    source: str  # where it comes from, for people
    needs_folder: bool
    classes: tuple[str, ...] | None = None  # names of the labels where they are coarser than the groups
    read_groups: Callable[[Path], tuple[str, ...]] | None = None
    find: Callable[[Path | None], Path] | None = None  # where it lies; raises DataMissing
    download: Callable[[Path], None] | None = None  # into a data folder, when asked for with --download


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model: `build(num_classes, (C, H, W))` gives it with fresh weights drawn from torch's global
    generator.
    """

    name: str
    build: Callable[[int, tuple[int, int, int]], nn.Module]
    family: str  # vgg, vit, resnet, cnn or mlp: what presets fall back on
    source: str
    side: int = 8  # pixels: the side of an image that `efface check` tries it on


@dataclass(frozen=True, slots=True)
class ScenarioInfo:
    """A scenario: `cut(request)` gives the training images to forget and what stays."""

    name: str
    cut: Callable[..., Split]
    target: str  # what a target names: "none", "class", "group", or "optional group"
    needs_count: bool
    uses_original: bool  # the split depends on the original model's outputs
    depends_on_seed: bool  # each seed forgets other images
    summary: str


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """A metric: `score(Scored)` gives one number, or one for each of `columns`."""

    name: str
    score: Callable[[Scored], float | Mapping[str, float]]
    columns: tuple[str, ...]
    version: int
    unit: str  # "fraction", "nats", "bits", …
    needs_retrain: bool
    summary: str
    needs_original: bool = False


DATASETS: dict[str, DatasetInfo] = {}
MODELS: dict[str, ModelInfo] = {}
SCENARIOS: dict[str, ScenarioInfo] = {}
METRICS: dict[str, MetricInfo] = {}
F = TypeVar("F", bound=Callable[..., Any])


def _enter(table: dict[str, Any], kind: str, name: str, entry: Any, made_by: Callable[..., Any]) -> None:
    if name in table:
        where = f"{made_by.__module__}.{made_by.__qualname__}"
        raise ValueError(f"{where}: the {kind} name {name!r} is taken; choose another")
    table[name] = entry


def dataset(
    name: str,
    *,
    source: str,
    groups: tuple[str, ...] | None,
    needs_folder: bool = True,
    classes: tuple[str, ...] | None = None,
    read_groups: Callable[[Path], tuple[str, ...]] | None = None,
    find: Callable[[Path | None], Path] | None = None,
    download: Callable[[Path], None] | None = None,
) -> Callable[[F], F]:
    """Register `load(folder) -> Data` as the data set `name`."""

    def register(load: F) -> F:
        info = DatasetInfo(name, load, groups, source, needs_folder, classes, read_groups, find, download)
        _enter(DATASETS, "data set", name, info, load)
        return load

    return register


def model(name: str, *, family: str, source: str, side: int = 8) -> Callable[[F], F]:
    """Register `build(num_classes, input_shape) -> nn.Module` as the model `name`.

    `side` is the side of an image in pixels that `efface check` tries it on.
    """

    def register(build: F) -> F:
        _enter(MODELS, "model", name, ModelInfo(name, build, family, source, side), build)
        return build

    return register


def scenario(
    name: str,
    *,
    summary: str,
    target: str = "none",
    needs_count: bool = False,
    uses_original: bool = False,
    depends_on_seed: bool = False,
) -> Callable[[F], F]:
    """Register `cut(request) -> Split` as the scenario `name`."""

    def register(cut: F) -> F:
        info = ScenarioInfo(name, cut, target, needs_count, uses_original, depends_on_seed, summary)
        _enter(SCENARIOS, "scenario", name, info, cut)
        return cut

    return register


def metric(
    name: str,
    *,
    summary: str,
    columns: tuple[str, ...] | None = None,
    version: int = 1,
    unit: str = "fraction",
    needs_retrain: bool = False,
    needs_original: bool = False,
) -> Callable[[F], F]:
    """Register `score(Scored) -> float`, or one number for each of `columns`, as the metric `name`."""

    def register(score: F) -> F:
        needs = (needs_retrain, summary, needs_original)
        info = MetricInfo(name, score, columns or (name,), version, unit, *needs)
        _enter(METRICS, "metric", name, info, score)
        return score

    return register
