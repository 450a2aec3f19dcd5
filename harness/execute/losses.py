"""What becomes of a job whose worker is gone: handed out again, at its own cost or not, or a failed row."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace

from harness.execute.slots import Died, failed
from harness.plan import Job
from harness.rows import Row
from harness.schedule import Done

MAX_ATTEMPTS = 3  # the first, and two more after a worker died
MAX_LOSSES = 10  # machines that a job may lose before one is charged: it may be the job that kills them
INQUEST_SECONDS = 5.0  # after a process has died or fallen silent: was it the machine?


@dataclass(frozen=True, slots=True)
class Inquest:
    """A job that waits for it to be known whether its machine died."""

    job: Job
    node: str
    death: Died
    asked: float  # when the worker was asked for a sign of life that never came
    until: float

    def decide(self, living: Container[str], spoke: Mapping[str, float], now: float) -> str:
        """`machine`: it is gone, or silent as a whole. `process`: it is not. Else still open."""
        if self.node not in living:
            return "machine"
        if now < self.until:
            return "open"
        whole = self.death.kind == "silent" and spoke.get(self.node, 0.0) <= self.asked + INQUEST_SECONDS
        return "machine" if whole else "process"


class Losses:
    """Puts jobs back at the front of the queue, or among what is settled."""

    def __init__(self, queue: deque[Job], settled: list[Done], clock: Callable[[], float]) -> None:
        self._queue, self._settled, self._clock = queue, settled, clock
        self._open: list[Inquest] = []
        self._forgiven: Counter[str] = Counter()

    def suspects(self) -> list[Job]:
        return [one.job for one in self._open]

    def suspect(self, job: Job, node: str, death: Died, asked: float) -> None:
        """A process is gone: its own doing, or its machine's? That is known a little later."""
        self._open.append(Inquest(job, node, death, asked, self._clock() + INQUEST_SECONDS))

    def decide(self, living: Container[str], spoke: Mapping[str, float]) -> bool:
        """Decide what can be; whether something is still open."""
        waiting, self._open = self._open, []
        for one in waiting:
            found = one.decide(living, spoke, self._clock())
            if found == "machine":
                self.forgive(one.job, one.death.why)
            elif found == "process":
                self.charge(one.job, one.death)
            else:
                self._open.append(one)
        return bool(self._open)

    def forgive(self, job: Job, why: str) -> None:
        """Hand it out again; the loss of a machine is no fault of the job."""
        self._forgiven[job.id] += 1
        if self._forgiven[job.id] > MAX_LOSSES:
            self.charge(job, Died("process", f"{MAX_LOSSES} machines were lost under it; the last: {why}"))
        else:
            self._queue.appendleft(job)

    def charge(self, job: Job, death: Died, row: Row | None = None) -> None:
        """Hand it out again as a further attempt; after the last it has failed, as `row` says."""
        if job.attempt < MAX_ATTEMPTS:
            self._queue.appendleft(replace(job, attempt=job.attempt + 1))
        elif row is not None:
            self._settled.append(Done(job, {**row, "attempts": job.attempt}))
        else:
            self.settle(job, "timeout" if death.kind == "deadline" else "worker_died", death.why)

    def settle(self, job: Job, kind: str, why: str) -> None:
        self._settled.append(Done(job, {**failed(kind, why), "attempts": job.attempt}))
