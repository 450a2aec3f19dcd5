"""A suite, read from TOML, and its one expansion into runs and skips.

Suites are data: which methods, models, scenarios, targets and seeds. `expand` is one generator of plain
nested loops; a pair that a method does not define comes out as a `Skip` with a reason and never silently.
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from harness.errors import Misuse, did_you_mean, unknown
from harness.presets import SUITES, MethodTable, Resolved, resolve
from harness.spec import PRECISIONS, PROFILES, REFERENCES, Params, RunSpec, Task, TrainSpec, Value, content_id

DEFAULT_METRICS = ("retain_acc", "forget_acc", "test_acc", "mia", "forget_entropy")
SUITE_KEYS = {
    "title": str,
    "profile": str,
    "precision": str,
    "seeds": (int, list),
    "train_seeds": (int, list),
    "retrain_seeds": int,
    "methods": list,
    "models": list,
    "metrics": list,
    "task": list,
    "params": dict,
    "grid": dict,
    "retrain_start": str,
}
TASK_KEYS = {
    "dataset": str,
    "models": list,
    "scenario": str,
    "targets": list,
    "count": int,
    "methods": list,
    "title": str,
}


class Catalogue(MethodTable, Protocol):
    """What is asked of the registry here."""

    @property
    def scenarios(self) -> Mapping[str, Any]: ...
    @property
    def metrics(self) -> Mapping[str, Any]: ...
    def dataset(self, name: str) -> Any: ...
    def stochastic(self, method: str, params: Params) -> bool: ...
    def find_recipe(self, dataset: str, model: str, profile: str, role: str = "train") -> str: ...


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
    grid: Mapping[str, Mapping[str, Sequence[Value]]] = field(default_factory=dict)
    retrain_start: str = "fresh"


@dataclass(frozen=True)
class Selection:
    """A part of a suite, as given on the command line; empty means all."""

    methods: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    scenarios: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()


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


def suite_names(folder: Path = SUITES) -> list[str]:
    """Names of the shipped suites."""
    return sorted(path.stem for path in folder.glob("*.toml") if path.stem not in {"presets", "spaces"})


def load_suite(name: str, catalogue: Catalogue) -> Suite:
    """A shipped suite by name, or any TOML file by path."""
    path = Path(name).expanduser() if name.endswith(".toml") else SUITES / f"{name}.toml"
    if not path.is_file() or path.stem in {"presets", "spaces"}:
        hint = "no such file" if name.endswith(".toml") else did_you_mean(name, suite_names())
        raise Misuse(f"unknown suite {name!r}; {hint} (a suite of your own: give the path of its .toml file)")
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misuse(f"suite {path}: not valid TOML: {error}") from None
    return parse_suite(path.stem, raw, catalogue)


def parse_suite(name: str, raw: Mapping[str, Any], catalogue: Catalogue) -> Suite:
    """A suite from its parsed TOML; every unknown key, name and type is refused."""
    where = f"suite {name}"
    _check_keys(raw, SUITE_KEYS, where)
    if not raw.get("task"):
        raise Misuse(f"{where}: has no [[task]]; add one with dataset, scenario, models and targets")
    for key, choices in (
        ("profile", PROFILES),
        ("precision", PRECISIONS),
        ("retrain_start", ("fresh", "warm")),
    ):
        if key in raw and raw[key] not in choices:
            raise Misuse(f"{where}: {key} is {raw[key]!r}, expected {' or '.join(choices)}")
    for metric in raw.get("metrics", ()):
        _known("metric", metric, catalogue.metrics, where)
    for key in ("params", "grid"):
        for method in raw.get(key, {}):
            _known("method", method, catalogue.methods, f"{where}, [{key}.{method}]")
    tasks = tuple(
        _task_row(row, raw, catalogue, f"{where}, task {i}") for i, row in enumerate(raw["task"], 1)
    )
    seeds = _seeds(raw, "seeds", where)
    retrain_seeds = raw.get("retrain_seeds")
    if retrain_seeds is not None and not 1 <= retrain_seeds <= len(seeds):
        raise Misuse(f"{where}: retrain_seeds is {retrain_seeds}, expected 1 to {len(seeds)} (the seeds)")
    return Suite(
        name=name,
        title=raw.get("title", name),
        profile=raw.get("profile", "corrected"),
        precision=raw.get("precision", "fp32"),
        seeds=seeds,
        train_seeds=_seeds(raw, "train_seeds", where),
        retrain_seeds=retrain_seeds,
        metrics=tuple(raw.get("metrics", DEFAULT_METRICS)),
        tasks=tasks,
        params=raw.get("params", {}),
        grid=raw.get("grid", {}),
        retrain_start=raw.get("retrain_start", "fresh"),
    )


def _check_keys(raw: Mapping[str, Any], keys: Mapping[str, Any], where: str) -> None:
    for key, value in raw.items():
        if key not in keys:
            raise unknown("key", key, keys, where)
        if not isinstance(value, keys[key]) or isinstance(value, bool):
            kinds = keys[key] if isinstance(keys[key], tuple) else (keys[key],)
            names = " or ".join(kind.__name__ for kind in kinds)
            raise Misuse(f"{where}: {key} is {value!r}, expected {names}")


def _known(kind: str, name: str, table: Mapping[str, Any], where: str) -> None:
    if name not in table:
        raise unknown(kind, str(name), table, where)


def _seeds(raw: Mapping[str, Any], key: str, where: str) -> tuple[int, ...]:
    """`seeds = 3` means 0, 1, 2; a list is taken as it is."""
    value = raw.get(key, 1)
    seeds = tuple(range(value)) if isinstance(value, int) else tuple(value)
    if not seeds or any(not isinstance(s, int) or s < 0 for s in seeds) or len(set(seeds)) < len(seeds):
        raise Misuse(f"{where}: {key} is {value!r}, expected a positive count or a list of distinct seeds")
    return seeds


def _task_row(row: Any, suite: Mapping[str, Any], catalogue: Catalogue, where: str) -> TaskRow:
    _check_keys(row, TASK_KEYS, where)
    for key in ("dataset", "scenario"):
        if key not in row:
            raise Misuse(f'{where}: {key} missing; expected e.g. dataset = "digits", scenario = "random"')
    catalogue.dataset(row["dataset"])
    _known("scenario", row["scenario"], catalogue.scenarios, where)
    scenario = catalogue.scenarios[row["scenario"]]
    models = tuple(row.get("models", suite.get("models", ())))
    methods = tuple(row.get("methods", suite.get("methods", (*REFERENCES, *catalogue.methods))))
    if not models:
        raise Misuse(f'{where}: no models; expected e.g. models = ["vgg_mini"]')
    for model in models:
        _known("model", model, catalogue.models, where)
    for method in methods:
        _known("method", method, {**catalogue.methods, **dict.fromkeys(REFERENCES)}, where)
    if scenario.target != "optional group" and bool(row.get("targets")) != (scenario.target != "none"):
        verb = "takes no" if scenario.target == "none" else "needs"
        raise Misuse(f"{where}: scenario {scenario.name} {verb} targets")
    if scenario.needs_count != ("count" in row):
        raise Misuse(
            f"{where}: scenario {scenario.name} {'needs' if scenario.needs_count else 'takes no'} count"
        )
    if row.get("count", 1) < 1:
        raise Misuse(f"{where}: count is {row['count']}, expected a positive number of images")
    info = catalogue.dataset(row["dataset"])
    if scenario.target == "group" and info.groups is not None and info.classes is None:
        raise Misuse(f"{where}: {info.name} has nothing finer than its classes to forget; use full_class")
    named = tuple(
        _target(row["dataset"], scenario.target, target, catalogue, where)
        for target in row.get("targets", ())
    )
    title = row.get("title", f"{row['dataset']} {row['scenario']}")
    return TaskRow(
        row["dataset"], row["scenario"], models, named or (None,), row.get("count"), methods, title
    )


def _target(dataset: str, kind: str, target: Any, catalogue: Catalogue, where: str) -> str:
    """The name of a class or group; an index becomes the name, so that 69 and "rocket" name one run."""
    info = catalogue.dataset(dataset)
    names = info.classes if kind == "class" and info.classes else info.groups
    if names is None or target in names:
        return str(target)
    if str(target).isdigit() and int(target) < len(names):
        return str(names[int(target)])
    raise Misuse(f"{where}: {dataset} has no target {target!r}; {did_you_mean(str(target), names)}")


# -------------------- expansion


def expand(suite: Suite, catalogue: Catalogue, only: Selection = Selection()) -> Iterator[Wanted | Skip]:
    """Every run of a suite, or the part of it that `only` selects."""
    check_selection(suite, only)
    for row in suite.tasks:
        for model in row.models:
            for target in row.targets:
                task = Task(row.dataset, model, row.scenario, target, row.count, suite.profile)
                if _selected(task, only):
                    yield from _expand_task(suite, catalogue, task, row.methods, only)


def _expand_task(
    suite: Suite, catalogue: Catalogue, task: Task, methods: Sequence[str], only: Selection
) -> Iterator[Wanted | Skip]:
    recipe = catalogue.find_recipe(task.dataset, task.model, suite.profile)
    for method in methods:
        if only.methods and method not in only.methods:
            continue
        if reason := _why_not(catalogue, method, task):
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
        retrain = _retrain(suite, catalogue, task, original, forget_seed)
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


def _retrain(
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
    """The parameters of a method for a task: one set, or each point of the suite's grid."""
    if method in REFERENCES:
        yield Resolved((), "default", {})
        return
    fixed = dict(suite.params.get(method, {}))
    grid = suite.grid.get(method, {})
    for point in itertools.product(*grid.values()):
        yield resolve(catalogue, method, task, {**fixed, **dict(zip(grid, point, strict=True))})


def _why_not(catalogue: Catalogue, method: str, task: Task) -> str | None:
    if method in REFERENCES:
        return None
    info = catalogue.methods[method].info
    if task.scenario not in info.scenarios:
        return f"{method} is defined for {', '.join(sorted(info.scenarios))}, not for {task.scenario}"
    if "class_id" in info.needs and task.target is None:
        return f"{method} needs the id of a class to forget; {task.scenario} has none"
    return None


def _selected(task: Task, only: Selection) -> bool:
    return (
        (not only.models or task.model in only.models)
        and (not only.datasets or task.dataset in only.datasets)
        and (not only.scenarios or task.scenario in only.scenarios)
        and (not only.targets or task.target in only.targets)
    )


def check_selection(suite: Suite, only: Selection) -> None:
    """Refuse a selection that names what the suite does not have."""
    has: dict[str, set[Any]] = {
        "methods": {method for row in suite.tasks for method in row.methods},
        "models": {model for row in suite.tasks for model in row.models},
        "datasets": {row.dataset for row in suite.tasks},
        "scenarios": {row.scenario for row in suite.tasks},
        "targets": {target for row in suite.tasks for target in row.targets if target is not None},
        "seeds": set(suite.seeds),
    }
    for name, known in has.items():
        for value in getattr(only, name):
            if value not in known:
                hint = did_you_mean(str(value), map(str, known))
                raise Misuse(f"--{name}: suite {suite.name} has no {name[:-1]} {value!r}; {hint}")
