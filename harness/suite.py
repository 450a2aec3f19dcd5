"""A suite and its one expansion into runs and skips.

A suite is data: which methods, models, scenarios, targets and seeds. `harness.suite_file` reads it. `expand`
is one generator of plain nested loops; a pair that a method does not define comes out as a `Skip` with a
reason and never silently.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from harness.presets import ORIGINS, MethodTable, Preset, Resolved, load_presets, resolve
from harness.selection import EVERYTHING, Selection, check_selection, selects, serves
from harness.spec import (
    REFERENCES,
    Params,
    RunSpec,
    Task,
    TrainSpec,
    Value,
    content_id,
    scenario_family,
)


class Catalogue(MethodTable, Protocol):
    """What is asked of the registry here."""

    @property
    def scenarios(self) -> Mapping[str, Any]: ...
    @property
    def metrics(self) -> Mapping[str, Any]: ...
    def dataset(self, name: str) -> Any: ...
    def stochastic(self, method: str, params: Params) -> bool: ...
    def find_recipe(self, dataset: str, model: str, profile: str, role: str = "train") -> str: ...
    def retrainable(self, recipe: str) -> bool: ...


@dataclass(frozen=True)
class TaskRow:
    """One `[[task]]` of a suite: a scenario on a data set, with the models and targets it is run for."""

    dataset: str
    scenario: str
    models: tuple[str, ...]
    targets: tuple[str | None, ...]
    count: int | None
    methods: tuple[str, ...]
    title: str
    tables: tuple[str, ...] = ()  # of a paper, that it serves
    seeds: tuple[int, ...] | None = None  # None: the suite's
    train_seeds: tuple[int, ...] | None = None
    params: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)  # over the suite's
    params_from: tuple[str, ...] | None = None  # None: the suite's
    params_as: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Suite:
    """What to run, as data."""

    name: str
    title: str
    profile: str
    precision: str
    seeds: tuple[int, ...]
    train_seeds: tuple[int, ...]
    retrain_seeds: int | None  # fewer retrains than seeds: run s is compared with retrain s mod k
    metrics: tuple[str, ...]
    tasks: tuple[TaskRow, ...]
    params: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    grid: Mapping[str, Mapping[str, Sequence[Value]]] = field(default_factory=dict)  # all combinations
    vary: Mapping[str, Mapping[str, Sequence[Value]]] = field(default_factory=dict)  # one field at a time
    retrain_start: str = "fresh"
    vary_reference: bool = False  # vary each field that profile `reference` sets, one at a time
    params_from: tuple[str, ...] = ()  # default, published, tuned: whose presets are used; empty means all
    params_as: Mapping[str, Any] = field(default_factory=dict)  # facts of the setting whose presets are used
    presets: tuple[Preset, ...] = ()  # of the user's, over the shipped ones


@dataclass(frozen=True)
class Skip:
    """A pair that a method does not define, with the reason."""

    method: str
    task: Task
    reason: str

    @property
    def id(self) -> str:
        return content_id("skip", {"method": self.method, "task": self.task.id, "reason": self.reason})


@dataclass(frozen=True)
class Wanted:
    """One run that a suite asks for, with what is not part of its name."""

    spec: RunSpec
    origin: str  # of its hyper-parameters
    retrain: TrainSpec  # the model it is compared with
    tables: tuple[str, ...] = ()  # of a paper, that it serves


def expand(suite: Suite, catalogue: Catalogue, only: Selection = EVERYTHING) -> Iterator[Wanted | Skip]:
    """Every run of a suite, or the part of it that `only` selects."""
    check_selection(suite, only)
    for row in suite.tasks:
        if only.tables and not any(serves(table, asked) for table in row.tables for asked in only.tables):
            continue
        narrowed = _for_row(suite, row)
        for model in row.models:
            for target in row.targets:
                task = Task(row.dataset, model, row.scenario, target, row.count, suite.profile)
                if selects(only, task):
                    found = _expand_task(narrowed, catalogue, task, row.methods, only)
                    yield from (_noting(row.tables, item) for item in found) if row.tables else found


def _for_row(suite: Suite, row: TaskRow) -> Suite:
    """The suite with what one of its rows says otherwise."""
    params = {method: {**suite.params.get(method, {}), **fields} for method, fields in row.params.items()}
    return replace(
        suite,
        seeds=row.seeds or suite.seeds,
        train_seeds=row.train_seeds or suite.train_seeds,
        params={**suite.params, **params},
        params_from=suite.params_from if row.params_from is None else row.params_from,
        params_as=suite.params_as if row.params_as is None else row.params_as,
    )


def _noting(tables: tuple[str, ...], item: Wanted | Skip) -> Wanted | Skip:
    return replace(item, tables=tables) if isinstance(item, Wanted) else item


def _expand_task(
    suite: Suite, catalogue: Catalogue, task: Task, methods: Sequence[str], only: Selection
) -> Iterator[Wanted | Skip]:
    recipe = catalogue.find_recipe(task.dataset, task.model, suite.profile)
    for method in methods:
        if only.methods and method not in only.methods:
            continue
        if reason := why_not(catalogue, method, task) or _no_retrain(suite, catalogue, method, recipe):
            yield Skip(method, task, reason)
            continue
        for variant in _variants(suite, catalogue, method, task):
            for train_seed in suite.train_seeds:
                original = TrainSpec(task.dataset, task.model, recipe, train_seed, suite.precision)
                yield from _expand_seeds(suite, catalogue, task, method, variant, original, only)


def _expand_seeds(
    suite: Suite,
    catalogue: Catalogue,
    task: Task,
    method: str,
    variant: Resolved,
    original: TrainSpec,
    only: Selection,
) -> Iterator[Wanted]:
    count = suite.retrain_seeds or len(suite.seeds)
    seeds = suite.seeds if draws(catalogue, method, variant.params, task) else suite.seeds[:1]
    for number, seed in enumerate(seeds):
        if only.seeds and seed not in only.seeds:
            continue
        if method == "retrain" and number >= count:
            continue  # fewer retrains than seeds: run s is compared with retrain s mod k
        forget_seed = suite.seeds[number % count]
        retrain = retrain_of(suite, catalogue, task, original, forget_seed)
        version = 1 if method in REFERENCES else catalogue.methods[method].info.version
        spec = RunSpec(
            task=task,
            original=original,
            method=method,
            method_version=version,
            params=variant.params,
            seed=seed,
            precision=suite.precision,
            split_seed=None if forget_seed == seed else forget_seed,
            retrain=retrain if method == "retrain" else None,
        )
        yield Wanted(spec, variant.origin, retrain)


def retrain_of(
    suite: Suite, catalogue: Catalogue, task: Task, original: TrainSpec, forget_seed: int
) -> TrainSpec:
    """The original's recipe without the forget set, from fresh weights or (as published) from its own."""
    warm = suite.retrain_start == "warm"
    recipe = original.recipe
    if warm:
        recipe = catalogue.find_recipe(task.dataset, task.model, suite.profile, "retrain_warm")
    needs_original = warm or catalogue.scenarios[task.scenario].uses_original
    return TrainSpec(
        dataset=task.dataset,
        model=task.model,
        recipe=recipe,
        train_seed=original.train_seed,
        precision=original.precision,
        without=task,
        split_seed=forget_seed,
        start=suite.retrain_start,
        original=original if needs_original else None,
    )


def draws(catalogue: Catalogue, method: str, params: Params, task: Task) -> bool:
    """Whether runs that differ in their seed alone can differ in their result."""
    if catalogue.scenarios[task.scenario].depends_on_seed or method == "retrain":
        return True
    return method != "baseline" and catalogue.stochastic(method, params)


def _variants(suite: Suite, catalogue: Catalogue, method: str, task: Task) -> Iterator[Resolved]:
    """The parameters of a method for a task: one set, each point of a grid, or one field varied at a time."""
    if method in REFERENCES:
        yield Resolved((), "default", {})
        return
    fixed = dict(suite.params.get(method, {}))
    presets = _presets(suite)
    read_as = replace(task, **suite.params_as) if suite.params_as else None
    grid = suite.grid.get(method, {})
    for point in itertools.product(*grid.values()):
        yield resolve(
            catalogue, method, task, {**fixed, **dict(zip(grid, point, strict=True))}, presets, read_as
        )
    varied = suite.vary.get(method, {})
    if suite.vary_reference:
        quirks = catalogue.methods[method].info.reference
        varied = {**{name: [value] for name, value in quirks.items()}, **varied}
    for name, values in varied.items():
        for value in values:
            yield resolve(catalogue, method, task, {**fixed, name: value}, presets, read_as)


def _presets(suite: Suite) -> Sequence[Preset] | None:
    """The presets that a suite uses; None where it uses all shipped ones, as most do."""
    if not suite.params_from and not suite.presets:
        return None
    allowed = suite.params_from or ORIGINS
    return [preset for preset in (*load_presets(), *suite.presets) if preset.origin in allowed]


def why_not(catalogue: Catalogue, method: str, task: Task) -> str | None:
    if method in REFERENCES:
        return None
    info = catalogue.methods[method].info
    if scenario_family(task.scenario) not in info.scenarios:
        return f"{method} is defined for {', '.join(sorted(info.scenarios))}, not for {task.scenario}"
    if "class_id" in info.needs and task.target is None:
        return f"{method} needs the id of a class to forget; {task.scenario} has none"
    return None


def _no_retrain(suite: Suite, catalogue: Catalogue, method: str, recipe: str) -> str | None:
    if method != "retrain" or suite.retrain_start == "warm" or catalogue.retrainable(recipe):
        return None
    return f"recipe {recipe} takes published weights as they are: nothing is trained, so nothing is left out"
