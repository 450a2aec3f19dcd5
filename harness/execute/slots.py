"""What a pool knows of its workers, and what it asks of the cluster that they live on."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from harness.plan import Job
from harness.rows import Row
from harness.spec import RunSpec, TrainSpec


@dataclass(frozen=True, slots=True)
class Beat:
    """A sign of life: where the worker lives, on which device, and how much memory it holds."""

    node: str
    device: str
    resident: int  # bytes
    datasets: frozenset[str] = frozenset()  # that it has loaded
    waited: float = 0.0  # seconds, in all, that it has waited for the store


@dataclass(frozen=True, slots=True)
class Answer:
    """A row that came back, and the memory that its worker held afterwards."""

    row: Row
    resident: int


class Died(Exception):
    """A worker will not answer any more. `kind` says whose doing that was.

    `process`: its process ended. `birth`: it could not start. `node`: its machine is gone or out of reach.
    `memory`: Ray stopped it because its machine ran out of memory. `silent`: it gave no sign of life.
    `deadline`: its run took far longer than expected. `timeout`: its run was over --time-limit.
    """

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind, self.why = kind, why


class Cluster(Protocol):
    """Actors on machines that come and go. Nothing here may wait for a machine that is gone."""

    def start(self, share: float, alone: bool) -> Any:
        """A new actor on `share` of a GPU, or on a core where that is 0; `alone`: it shares with nobody."""

    def pulse(self, actor: Any) -> Any:
        """A reference that turns into a Beat as soon as the actor lives, also while it runs a job."""

    def execute(self, actor: Any, job: Job) -> Any:
        """A reference that turns into an Answer; an actor runs its jobs in order, one at a time."""

    def ready(self, refs: Sequence[Any], seconds: float) -> list[Any]:
        """Those that can be taken, as soon as there is one and after `seconds` at most."""
        ...

    def take(self, ref: Any) -> Any:
        """What a ready reference turned into; raises Died."""

    def kill(self, actor: Any) -> None:
        """Have an actor ended some time soon."""

    def nodes(self) -> Mapping[str, Mapping[str, float]]:
        """Resources of every living machine, by its id."""
        ...

    def most(self) -> Mapping[str, float] | None:
        """Resources that the cluster may grow to; None where that is not known."""
        ...

    def close(self) -> None: ...


@dataclass(eq=False)
class Slot:
    """One actor, what it was given in order, and what it has loaded."""

    actor: Any
    pulse: Any  # the reference to its next sign of life; None where none was asked for
    asked: float  # when that was
    whole: bool = False  # a device to itself, in a pool whose devices are shared
    home: Beat | None = None  # None until it has started
    queue: deque[tuple[Any, Job]] = field(default_factory=deque)
    holds: set[str] = field(default_factory=set)
    since: float = 0.0  # when the job at the head of the queue got there, or when the queue ran empty
    heard: float = 0.0  # the last sign of life
    resident: int = 0  # bytes, by that sign
    datasets: frozenset[str] = frozenset()  # loaded, or of jobs that it has finished
    waited: float = 0.0  # seconds that it had waited for the store by its last sign of life
    alone: bool = False  # nothing may stand behind its job
    retiring: bool = False  # it gets no more jobs

    def beats(self, beat: Beat) -> bool:
        """Take a sign of life, heard just now; whether it is the first one."""
        first, self.pulse = self.home is None, None
        if first:
            self.home, self.since = beat, self.heard
        if self.queue and dataset(self.queue[0][1]) in beat.datasets - self.datasets:
            self.since = self.heard  # its data are there: from now on it is the run that takes its time
        elif self.queue:
            self.since += max(0.0, beat.waited - self.waited)
        self.datasets |= beat.datasets
        self.waited = beat.waited
        return first

    @property
    def idle(self) -> bool:
        return self.home is not None and not self.queue


def resource(job: Job) -> str:
    """What a job needs loaded: its original, or its data set where it trains one."""
    if isinstance(job.spec, RunSpec):
        return job.spec.original.id
    assert isinstance(job.spec, TrainSpec)
    return job.spec.dataset


def dataset(job: Job) -> str:
    return job.spec.original.dataset if isinstance(job.spec, RunSpec) else job.spec.dataset


def sort(job: Job) -> tuple[str, ...]:
    """Jobs of one sort take about as long."""
    spec = job.spec
    if isinstance(spec, RunSpec):
        return (spec.method, spec.original.dataset, spec.original.model)
    assert isinstance(spec, TrainSpec)
    return (job.kind, spec.dataset, spec.model)


def failed(kind: str, message: str) -> Row:
    return {"status": "failed", "error_type": kind, "error_message": " ".join(message.split())[:500]}
