"""Optuna's part of a search: what to try next, given every trial so far.

Each trial is drawn from a seed of its own, made of the sampler's seed and the trial's number. What is drawn
therefore depends on the trials before it and not on where the process stood: after a kill, one worker goes on
with the very points that it would have tried. NSGA-II counts by generations: these are kept with the trials.
"""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseGASampler, BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from harness.rows import Row
from harness.search.definition import Search
from harness.search.evaluate import Trial
from harness.search.spaces import Choice, Dimension
from harness.spec import derive_seed

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
MAKERS: Mapping[str, Callable[..., BaseSampler]] = {
    "tpe": TPESampler,
    "nsga2": NSGAIISampler,
    "random": RandomSampler,
}


class Numbered(BaseSampler):
    """A sampler that starts afresh for each trial, from a seed of that trial's number.

    `taken` are the numbers of past trials; new ones get the lowest that are free.
    """

    def __init__(self, kind: str, seed: int, taken: Iterable[int] = ()) -> None:
        self._make, self._seed = MAKERS[kind], seed
        self._taken = set(taken)
        self._of: dict[int, tuple[int, BaseSampler]] = {}
        self._generations: dict[int, int] = {}

    def trial(self, asked: int, drawn: Mapping[str, Any]) -> Trial:
        """The trial that is number `asked` of the study, under our number."""
        return Trial(self._of[asked][0], drawn, self._generations.get(asked))

    def _inner(self, trial: FrozenTrial) -> BaseSampler:
        return self._of[trial.number][1]

    def before_trial(self, study: Any, trial: FrozenTrial) -> None:
        number = next(n for n in itertools.count() if n not in self._taken)
        self._taken.add(number)
        inner = self._make(seed=derive_seed(self._seed, "search", number) % 2**32)
        self._of[trial.number] = (number, inner)
        inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: Any, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self._inner(trial).infer_relative_search_space(study, trial))

    def sample_relative(self, study: Any, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        inner = self._inner(trial)
        if isinstance(inner, BaseGASampler):
            self._generations[trial.number] = inner.get_trial_generation(study, trial)
        return dict(inner.sample_relative(study, trial, search_space))

    def sample_independent(self, study: Any, trial: FrozenTrial, param_name: str, distribution: Any) -> Any:
        return self._inner(trial).sample_independent(study, trial, param_name, distribution)

    def after_trial(
        self, study: Any, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._generations.pop(trial.number, None)
        self._of.pop(trial.number)[1].after_trial(study, trial, state, values)


def distributions(search: Search) -> dict[str, BaseDistribution]:
    """The search space in Optuna's terms."""
    return {name: _distribution(dim) for name, dim in search.space.dims}


def _distribution(dim: Dimension) -> BaseDistribution:
    if isinstance(dim, Choice):
        return CategoricalDistribution(list(dim.values))
    if dim.whole:
        return IntDistribution(int(dim.low), int(dim.high), log=dim.log, step=int(dim.step or 1))
    return FloatDistribution(dim.low, dim.high, log=dim.log, step=dim.step)


def sampler_of(search: Search, taken: Iterable[int] = ()) -> Numbered:
    return Numbered(search.sampler, search.sampler_seed, taken)


def open_study(search: Search, past: Sequence[Row], sampler: BaseSampler | None = None) -> optuna.Study:
    """A study in memory that knows the past trials of a search."""
    study = optuna.create_study(
        directions=["minimize"] * len(search.objective.names), sampler=sampler or sampler_of(search)
    )
    remember(study, search, past)
    return study


def remember(study: optuna.Study, search: Search, past: Sequence[Row]) -> None:
    """Tell a study of the past trials, and a genetic sampler of the parents that it had chosen by then."""
    study.add_trials([frozen(search, row) for row in past])
    breeder = MAKERS[search.sampler]()
    if isinstance(breeder, BaseGASampler):
        for generation in range(1 + max((row["generation"] or 0 for row in past), default=0)):
            breeder.get_parent_population(study, generation)


def tried_again(search: Search, trial: Trial, values: Mapping[str, Any]) -> FrozenTrial:
    """A trial that the sampler drew in an earlier session and that has been tried now."""
    scores = json.dumps({name: values[name] for name in search.objective.names})
    row = {"number": trial.number, "generation": trial.generation, "drawn": json.dumps(dict(trial.drawn))}
    return frozen(search, {**row, "values": scores, "status": "ok"})


def frozen(search: Search, row: Row) -> FrozenTrial:
    """A past trial, as Optuna keeps it: one without scores counts with its penalty."""
    bred = {NSGAIISampler._get_generation_key(): row["generation"]}
    return create_trial(
        state=TrialState.COMPLETE,
        values=values_of(search, row),
        params=json.loads(row["drawn"]),
        distributions=distributions(search),
        user_attrs={"number": int(row["number"]), "status": row["status"]},
        system_attrs=bred if row["generation"] is not None else None,
    )


def values_of(search: Search, row: Row) -> list[float]:
    """The numbers that a trial is judged by, in the order of the objective."""
    values = json.loads(row["values"])
    return [float(values[name]) for name in search.objective.names]
