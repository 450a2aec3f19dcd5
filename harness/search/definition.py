"""What is searched, as plain data: everything that decides which trials a search makes, and nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.errors import Misuse, did_you_mean, unknown
from harness.presets import load_presets, resolve
from harness.search.objectives import OBJECTIVES, Objective, find_objective
from harness.search.spaces import Space, find_space
from harness.spec import REFERENCES, Params, RunSpec, Task, TrainSpec, Value, content_id
from harness.suite import Suite, TaskRow, draws, retrain_of, why_not

SAMPLERS = ("tpe", "nsga2", "random")
SEEDS = (100, 101)  # of a trial's runs: none that a suite reports


@dataclass(frozen=True)
class Wish:
    """A search as typed; what is None is decided from the suite."""

    method: str
    model: str
    scenario: str
    dataset: str | None = None
    targets: tuple[str, ...] = ()
    objective: str | None = None
    sampler: str = "tpe"
    sampler_seed: int = 0
    seeds: tuple[int, ...] = SEEDS
    space_file: str | None = None


@dataclass(frozen=True)
class Search:
    """One search. Its id is the name of its file of trials; neither budget nor machine are part of it."""

    suite: str
    tasks: tuple[Task, ...]  # one, or a few that differ in their target: a trial is judged by all of them
    original: TrainSpec
    retrains: tuple[TrainSpec, ...]  # of each task one for each seed; none where the objective needs none
    method: str
    method_version: int
    base: Params  # what is neither searched nor fixed by the space
    given: Params  # of it, what the suite sets itself
    space: Space
    objective_name: str
    seeds: tuple[int, ...]
    deterministic: bool  # one run stands for all seeds
    sampler: str
    sampler_seed: int
    precision: str

    @property
    def task(self) -> Task:
        """The setting, by its first task."""
        return self.tasks[0]

    @property
    def target(self) -> str | None:
        """What is forgotten while searching: 0, or 0,2."""
        return ",".join(task.target for task in self.tasks if task.target is not None) or None

    @property
    def cases(self) -> tuple[tuple[Task, int], ...]:
        """What a trial is judged on: each task with each seed."""
        return tuple((task, seed) for task in self.tasks for seed in self.seeds)

    @property
    def objective(self) -> Objective:
        return OBJECTIVES[self.objective_name]

    @property
    def label(self) -> str:
        """For people: jit on digits/vgg_mini full_class 0,2."""
        return f"{self.method} on {replace(self.task, target=self.target).label}"

    @property
    def id(self) -> str:
        more = {"more": [task.id for task in self.tasks[1:]]} if len(self.tasks) > 1 else {}
        body = more | {
            "task": self.task.id,
            "original": self.original.id,
            "retrains": [retrain.id for retrain in self.retrains],
            "method": [self.method, self.method_version],
            "base": dict(self.base),
            "space": self.space.body(),
            "objective": self.objective_name,
            "seeds": list(self.seeds),
            "sampler": [self.sampler, self.sampler_seed],
            "precision": self.precision,
        }
        return content_id("search", body)

    def runs(self, drawn: Mapping[str, Value]) -> list[RunSpec]:
        """The runs of the trial that drew these values: of each task one for each seed."""
        params = self.space.params(self.base, drawn)
        once = self.deterministic
        return [
            self.run(task, self.method, self.method_version, params, seed)
            for task, seed in self.cases
            if not once or seed == self.seeds[0]
        ]

    def run(
        self,
        task: Task,
        method: str,
        version: int,
        params: Params,
        seed: int,
        retrain: TrainSpec | None = None,
    ) -> RunSpec:
        return RunSpec(task, self.original, method, version, params, seed, self.precision, None, retrain)


def define(suite: Suite, catalogue: Any, wish: Wish, groups: Any) -> Search:
    """A search for a suite. `groups(dataset)` names what can be forgotten of it; it may read the data.

    Raises Misuse where the suite has no such setting, the method is not defined there, the space or the
    objective cannot work, or what is searched on would be reported.
    """
    if wish.method in REFERENCES or wish.method not in catalogue.methods:
        raise unknown("method", wish.method, catalogue.methods, "--method")
    if wish.sampler not in SAMPLERS:
        raise Misuse(f"--sampler {wish.sampler}: expected {', '.join(SAMPLERS)}")
    row = _row(suite, wish)
    targets = _targets(suite, row, wish.targets, groups)
    tasks = tuple(
        Task(row.dataset, wish.model, row.scenario, target, row.count, suite.profile) for target in targets
    )
    task = tasks[0]
    if reason := why_not(catalogue, wish.method, task):
        raise Misuse(f"nothing to search: {reason}")
    recipe = catalogue.find_recipe(task.dataset, task.model, suite.profile)
    train_seed = _train_seed(suite, row, catalogue, recipe)
    original = TrainSpec(task.dataset, task.model, recipe, train_seed, suite.precision)
    objective = find_objective(wish.objective, task)
    if objective.needs_retrain and not catalogue.retrainable(recipe):
        raise Misuse(
            f"--objective {objective.name} needs a retrained model, and recipe {recipe} takes "
            "published weights as "
            "they are; type --objective retrain_free, or search on a data set whose models are trained"
        )
    fresh = replace(suite, retrain_start="fresh")
    retrains = tuple(
        retrain_of(fresh, catalogue, each, original, seed) for each in tasks for seed in wish.seeds
    )
    fixed = {**suite.params.get(wish.method, {}), **row.params.get(wish.method, {})}
    untuned = [preset for preset in load_presets() if preset.origin != "tuned"]
    base = resolve(catalogue, wish.method, task, fixed, untuned).params
    space = find_space(catalogue, wish.method, task, wish.space_file).without(fixed)
    if not space.dims:
        raise Misuse(
            f"nothing to search: suite {suite.name} sets {', '.join(fixed)} of {wish.method} itself, and a "
            "value found would not be used; leave it out of its params, or search in another suite"
        )
    search = Search(
        suite=suite.name,
        tasks=tasks,
        original=original,
        retrains=retrains if objective.needs_retrain else (),
        method=wish.method,
        method_version=catalogue.methods[wish.method].info.version,
        base=base,
        given=tuple(sorted(fixed.items())),
        space=space,
        objective_name=objective.name,
        seeds=wish.seeds,
        deterministic=not _draws(catalogue, wish.method, space, base, task),
        sampler=wish.sampler,
        sampler_seed=wish.sampler_seed,
        precision=suite.precision,
    )
    _check_seeds(suite, catalogue, search)
    return search


def _train_seed(suite: Suite, row: TaskRow, catalogue: Any, recipe: str) -> int:
    """Of the original model. Where it alone decides what is forgotten, one that the suite does not report."""
    reported = row.train_seeds or suite.train_seeds
    chosen_by_model = catalogue.scenarios[row.scenario].uses_original and row.targets == (None,)
    if not chosen_by_model or suite.profile != "corrected":
        return reported[0]
    if not catalogue.retrainable(recipe):
        raise Misuse(
            f"nothing to search: in {row.scenario} the model says what is forgotten, and recipe {recipe} "
            "has one model alone, which is reported; search where a target is forgotten, or where models are "
            "trained"
        )
    return next(seed for seed in itertools.count(SEEDS[0]) if seed not in reported)


def _draws(catalogue: Any, method: str, space: Space, base: Params, task: Task) -> bool:
    """Whether any point of a space draws: then every trial has all seeds, and all are judged alike."""
    first = {name: dim.ends()[0] for name, dim in space.dims}
    points = [{**first, name: value} for name, dim in space.dims for value in dim.ends()]
    return any(draws(catalogue, method, space.params(base, point), task) for point in points)


def asked_of(suite: Suite, wish: Wish) -> set[str]:
    """The data sets that a wish may be about."""
    return {
        row.dataset
        for row in suite.tasks
        if row.scenario == wish.scenario and wish.model in row.models and wish.dataset in (None, row.dataset)
    }


def _row(suite: Suite, wish: Wish) -> TaskRow:
    """The task row of the suite that a search is for."""
    rows = [row for row in suite.tasks if row.scenario == wish.scenario]
    if not rows:
        known = {row.scenario for row in suite.tasks}
        raise Misuse(
            f"--scenario: suite {suite.name} has no {wish.scenario!r}; {did_you_mean(wish.scenario, known)}"
        )
    of_model = [row for row in rows if wish.model in row.models]
    if not of_model:
        models = {model for row in rows for model in row.models}
        raise Misuse(
            f"--model: suite {suite.name} has no {wish.model!r} for {wish.scenario}; "
            f"{did_you_mean(wish.model, models)}"
        )
    datasets = list(dict.fromkeys(row.dataset for row in of_model))
    if wish.dataset is None and len(datasets) > 1:
        raise Misuse(
            f"suite {suite.name} has {wish.scenario} on {', '.join(datasets)}; type --dataset with one"
        )
    if wish.dataset is not None and wish.dataset not in datasets:
        raise Misuse(
            f"--dataset: suite {suite.name} has no {wish.dataset!r} there; "
            f"{did_you_mean(wish.dataset, datasets)}"
        )
    mine = [row for row in of_model if row.dataset == (wish.dataset or datasets[0])]
    counts = list(dict.fromkeys(row.count for row in mine))
    if len(counts) > 1:
        raise Misuse(
            f"suite {suite.name} forgets {', '.join(map(str, counts))} images in {wish.scenario}; a "
            "search is for one count: keep one in a suite of your own"
        )
    return mine[0]


def _targets(suite: Suite, row: TaskRow, asked: Sequence[str], groups: Any) -> Sequence[str | None]:
    """What is forgotten while searching: in profile corrected something that the suite does not report."""
    if row.targets == (None,):
        if asked:
            raise Misuse(f"--target {','.join(asked)}: scenario {row.scenario} takes no target")
        return (None,)
    reported = [
        target
        for each in suite.tasks
        if (each.dataset, each.scenario) == (row.dataset, row.scenario)
        for target in each.targets
        if target is not None
    ]
    if suite.profile != "corrected" and not asked:
        return reported[:1]  # as published: one of the classes that are reported
    names: Sequence[str] = groups(row.dataset)
    if not asked:
        free = [name for name in names if name not in reported]
        if not free:
            raise Misuse(
                f"suite {suite.name} reports every target of {row.dataset}; leave one out of "
                "`targets` to search on"
            )
        return free[:1]
    if len(set(asked)) < len(asked):
        raise Misuse(f"--target {','.join(asked)}: expected distinct names such as {','.join(names[:2])}")
    for target in asked:
        if target not in names:
            raise Misuse(f"--target: {row.dataset} has no {target!r}; {did_you_mean(target, names)}")
        if target in reported and suite.profile == "corrected":
            raise Misuse(
                f"--target {target}: suite {suite.name} reports it, and in profile corrected nothing that is "
                "reported is searched on; expected some of "
                f"{', '.join([n for n in names if n not in reported][:20])}"
            )
    return asked


def _check_seeds(suite: Suite, catalogue: Any, search: Search) -> None:
    if not search.seeds or len(set(search.seeds)) < len(search.seeds) or min(search.seeds) < 0:
        raise Misuse(f"--seeds {search.seeds}: expected distinct numbers such as 100,101")
    shared = set(search.seeds) & set(suite.seeds)
    forgets_by_seed = catalogue.scenarios[search.task.scenario].depends_on_seed
    if shared and forgets_by_seed and suite.profile == "corrected":
        raise Misuse(
            f"--seeds {', '.join(map(str, sorted(shared)))}: suite {suite.name} reports them, and in "
            f"{search.task.scenario} a seed is a forget set; expected others, such as 100,101"
        )
