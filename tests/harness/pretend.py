"""A cluster that only pretends, in virtual time, and sweeps on it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.execute.limits import Limits
from harness.execute.pool import Pool
from harness.execute.slots import Answer, Beat, Died
from harness.plan import Job
from harness.rows import Row
from harness.schedule import run
from harness.spec import RunSpec, Task, TrainSpec

GIB = 1 << 30
OK: Row = {"status": "ok"}


@dataclass(eq=False)
class Actor:
    share: float
    born: float  # when it can start
    node: str | None = None
    device: str = ""
    frozen: bool = False
    dead: str | None = None  # kind of death
    free: float = 0.0  # when its last job ends
    resident: int = 0


@dataclass(eq=False)
class Ref:
    actor: Actor
    at: float  # when it is there
    job: Job | None = None


@dataclass
class Pretend:
    """Machines with devices; a job takes `seconds`, a start takes 5, a tick of the clock is `ready`."""

    nodes_: dict[str, dict[str, float]]
    seconds: float = 10.0
    grows_to: dict[str, float] | None = None
    row: Row = field(default_factory=lambda: dict(OK))
    resident: int = 0
    birth: Died | None = None
    now: float = 0.0

    def __post_init__(self) -> None:
        self.actors: list[Actor] = []
        self.taken: list[Ref] = []
        self.given: list[tuple[str, Actor]] = []
        self.events: list[tuple[float, Any]] = []  # when, and what happens

    def clock(self) -> float:
        return self.now

    def start(self, share: float, alone: bool) -> Actor:
        actor = Actor(share, self.now + 5)
        self.actors.append(actor)
        return actor

    def alive(self) -> list[Actor]:
        return [actor for actor in self.actors if actor.dead is None]

    def _place(self, actor: Actor) -> None:
        """On the first machine with room, as Ray would."""
        for node, has in self.nodes_.items():
            here = [other for other in self.alive() if other.node == node]
            if not actor.share:
                if len(here) < has.get("CPU", 0):
                    actor.node = node
                    return
                continue
            for device in range(int(has.get("GPU", 0))):
                used = sum(other.share for other in here if other.device == str(device))
                if used + actor.share <= 1 + 1e-6:
                    actor.node, actor.device = node, str(device)
                    return

    def pulse(self, actor: Actor) -> Ref:
        return Ref(actor, max(self.now, actor.born))

    def execute(self, actor: Actor, job: Job) -> Ref:
        actor.free = max(self.now, actor.free) + self.seconds
        self.given.append((job.id, actor))
        return Ref(actor, actor.free, job)

    def ready(self, refs: Sequence[Ref], seconds: float) -> list[Ref]:
        while self.events and self.events[0][0] <= self.now:
            self.events.pop(0)[1]()
        for actor in self.alive():
            if actor.node is None and actor.born <= self.now:
                self._place(actor)
        found = [ref for ref in refs if self._there(ref)]
        self.now += 0.0 if found else max(seconds, 0.1)
        return found

    def _there(self, ref: Ref) -> bool:
        if ref.actor.dead:
            return True
        return ref.actor.node is not None and not ref.actor.frozen and ref.at <= self.now

    def take(self, ref: Ref) -> Any:
        if ref.actor.dead:
            raise Died(ref.actor.dead, f"{ref.actor.dead} is gone")
        if self.birth:
            ref.actor.dead = "birth"
            raise self.birth
        self.taken.append(ref)
        assert ref.actor.node is not None
        if ref.job is None:
            return Beat(ref.actor.node, ref.actor.device, ref.actor.resident)
        return Answer(dict(self.row), self.resident)

    def kill(self, actor: Actor) -> None:
        actor.dead = actor.dead or "process"

    def nodes(self) -> dict[str, dict[str, float]]:
        return dict(self.nodes_)

    def most(self) -> dict[str, float] | None:
        return self.grows_to

    def close(self) -> None: ...

    # what happens to it

    def lose(self, node: str, kind: str = "node") -> None:
        del self.nodes_[node]
        for actor in self.alive():
            if actor.node == node:
                actor.dead = kind

    def silence(self, node: str) -> None:
        for actor in self.alive():
            actor.frozen = actor.frozen or actor.node == node


TASK = Task("digits", "mlp", "full_class", "3", None, "corrected")
ORIGINAL = TrainSpec("digits", "mlp", "digits_mini@0", 0, "fp32")


def jobs(count: int, **over: Any) -> list[Job]:
    return [Job(RunSpec(TASK, ORIGINAL, "jit", 1, (), n, "fp32"), "s", **over) for n in range(count)]


def pool_of(cluster: Pretend, workers: int | None = None, share: float = 0.0, **limits: Any) -> Pool:
    return Pool(cluster, workers=workers, share=share, limits=Limits(**limits), clock=cluster.clock)


def finish(pool: Pool, wanted: list[Job]) -> dict[str, Row]:
    rows: dict[str, Row] = {}

    def on_row(job: Job, row: Row) -> None:
        assert job.id not in rows
        rows[job.id] = row

    ticks = itertools.count()

    def on_tick() -> None:
        assert next(ticks) < 100_000, "it does not end"

    run(wanted, pool, on_row, on_tick, seconds=0.5)
    assert set(rows) == {job.id for job in wanted}
    return rows


def attempts(rows: dict[str, Row]) -> set[int]:
    return {row["attempts"] for row in rows.values()}
