"""RunSpecs minus what the store holds = Plan: what is done, ready or waiting, and what it will cost."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from harness.cost import Cost
from harness.rows import FINISHED
from harness.spec import Spec, TrainSpec
from harness.suite import Skip, Suite, Wanted


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of work for an executor: a spec, and what its row says besides the spec."""

    spec: Spec
    suite: str
    metrics: tuple[str, ...] = ()
    origin: str | None = None  # of the hyper-parameters
    retrain: TrainSpec | None = None  # whose outputs a score needs
    expected_seconds: float = 0.0
    attempt: int = 1
    careful: bool = False  # after an out-of-memory: alone on its device, half the evaluation batch

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def parents(self) -> tuple[TrainSpec, ...]:
        extra = (self.retrain,) if self.retrain else ()
        return tuple(dict.fromkeys(self.spec.parents + extra))

    @property
    def kind(self) -> str:
        """`original`, `retrain` or `run`: what a progress line counts."""
        return self.spec.kind


class Holdings(Protocol):
    """What is asked of a store here."""

    def finished(self) -> Mapping[str, str]:
        """Status of every finished run, by id."""
        ...

    def has_model(self, spec_id: str) -> bool: ...
    def has_outputs(self, spec_id: str) -> bool: ...
    def measured_seconds(self) -> Sequence[Mapping[str, Any]]:
        """kind, dataset, model, method, seconds_total of measured rows."""
        ...


@dataclass
class Share:
    """What one table of a paper needs: runs, by id, and of the work that is missing, each job by id."""

    runs: set[str] = field(default_factory=set)
    missing: dict[str, Job] = field(default_factory=dict)


@dataclass
class Plan:
    """What a sweep will do. Jobs stand in an order in which parents come before their children."""

    suite: Suite
    jobs: list[Job] = field(default_factory=list)
    done: list[Wanted] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)
    wanted: list[Wanted] = field(default_factory=list)
    measured: int = 0  # rows that the cost estimate rests on
    cost: Cost = field(default_factory=lambda: Cost([]))

    @property
    def datasets(self) -> set[str]:
        """The data sets of everything that is wanted, done or not."""
        return {wanted.spec.task.dataset for wanted in self.wanted}

    def counts(self) -> dict[str, Counter[str]]:
        """For each kind: how many are to be run, how many of them can start at once."""
        missing = {job.id for job in self.jobs}
        tally: dict[str, Counter[str]] = {}
        for job in self.jobs:
            waits = any(parent.id in missing for parent in job.parents)
            tally.setdefault(job.kind, Counter())["waiting" if waits else "ready"] += 1
        return tally

    def seconds(self) -> float | None:
        """Estimated worker-seconds, or None where a kind of work has never been measured."""
        if any(job.expected_seconds <= 0 for job in self.jobs):
            return None
        return sum(job.expected_seconds for job in self.jobs)

    def estimate(self, job: Job) -> float | None:
        """Seconds of a job: measured, else estimated from forward operations, else None."""
        return job.expected_seconds or self.cost.estimate(job.spec)

    def by_table(self) -> dict[str, Share]:
        """What each table of a paper needs, by name; what two tables share is in both."""
        jobs = {job.id: job for job in self.jobs}
        shares: dict[str, Share] = {}
        for wanted in self.wanted:
            for table in wanted.tables:
                share = shares.setdefault(table, Share())
                share.runs.add(wanted.spec.id)
                if wanted.spec.id in jobs:
                    _gather(jobs[wanted.spec.id], jobs, share.missing)
        return dict(sorted(shares.items(), key=lambda item: table_key(item[0])))


def make_plan(suite: Suite, wanted: Iterable[Wanted | Skip], store: Holdings | None, catalogue: Any) -> Plan:
    """Compare what a suite wants with what the store holds."""
    plan = Plan(suite)
    finished = store.finished() if store else {}
    needs_retrain = any(catalogue.metrics[name].needs_retrain for name in suite.metrics)
    cost = plan.cost = Cost(store.measured_seconds() if store else [], catalogue)
    plan.measured = cost.rows
    seen: set[str] = set()
    trains: dict[str, Job] = {}
    runs: list[Job] = []
    for item in wanted:
        if isinstance(item, Skip):
            plan.skips.append(item)
            continue
        plan.wanted.append(item)
        if item.spec.id in seen:
            continue
        seen.add(item.spec.id)
        if finished.get(item.spec.id) in FINISHED:
            plan.done.append(item)
            continue
        job = Job(
            item.spec,
            suite.name,
            suite.metrics,
            item.origin,
            item.retrain if needs_retrain else None,
            cost.of(item.spec),
        )
        runs.append(job)
        for parent in job.parents:
            _close(parent, suite, store, finished, trains, cost)
    plan.jobs = [*_order(trains.values(), plan), *_longest_first(runs, plan)]
    return plan


def _close(
    spec: TrainSpec,
    suite: Suite,
    store: Holdings | None,
    finished: Mapping[str, str],
    trains: dict[str, Job],
    cost: Cost,
) -> None:
    """Add a missing parent, and its parents, to the work."""
    if spec.id in trains or _is_held(spec, store, finished):
        return
    for parent in spec.parents:
        _close(parent, suite, store, finished, trains, cost)
    trains[spec.id] = Job(spec, suite.name, expected_seconds=cost.of(spec))


def _is_held(spec: TrainSpec, store: Holdings | None, finished: Mapping[str, str]) -> bool:
    """A trained model counts as done while its row and the files that its children read are there."""
    if store is None or finished.get(spec.id) not in FINISHED:
        return False
    return store.has_outputs(spec.id) and (spec.without is not None or store.has_model(spec.id))


def _order(jobs: Iterable[Job], plan: Plan) -> list[Job]:
    """Originals first (everything waits for them), then retrains, longest expected first."""
    return sorted(_longest_first(jobs, plan), key=lambda job: job.kind != "original")


def _longest_first(jobs: Iterable[Job], plan: Plan) -> list[Job]:
    """By what was measured, else by what is estimated: a long run that starts last holds up the end."""
    return sorted(jobs, key=lambda job: -(plan.estimate(job) or 0.0))


def _gather(job: Job, jobs: Mapping[str, Job], into: dict[str, Job]) -> None:
    """A job and all of its parents that are still to be done."""
    if job.id in into:
        return
    into[job.id] = job
    for parent in job.parents:
        if parent.id in jobs:
            _gather(jobs[parent.id], jobs, into)


def table_key(name: str) -> tuple[int, str]:
    """2b stands between 2a and 10."""
    digits = "".join(itertools.takewhile(str.isdecimal, name))
    return (int(digits) if digits else 0, name)
