"""The DAG loop: hands ready jobs to an executor, takes rows back, releases children, blocks descendants.

It knows nothing of Ray, torch or files: an executor is anything with `slots`, `submit` and `wait`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol

from harness.plan import Job
from harness.rows import FINISHED, Row

AHEAD = 4  # jobs handed out per slot, so that no slot waits for the driver


@dataclass(frozen=True, slots=True)
class Done:
    """A job that came back: with its row, whatever became of it."""

    job: Job
    row: Row


class Executor(Protocol):
    """Where jobs run. `submit` never blocks; `wait` gives back what has finished, after `seconds` at most;
    `trouble` says why nothing can finish, where that is so.
    """

    @property
    def slots(self) -> int: ...
    def submit(self, job: Job) -> None: ...
    def wait(self, seconds: float) -> list[Done]: ...
    def trouble(self) -> str | None: ...
    def close(self) -> None: ...


@dataclass
class Graph:
    """Which jobs wait for which. A parent that is not among the jobs is held by the store already."""

    waiting: dict[str, int] = field(default_factory=dict)
    children: dict[str, list[Job]] = field(default_factory=dict)
    ready: list[tuple[int, int, Job]] = field(default_factory=list)
    order: dict[str, int] = field(default_factory=dict)
    left: int = 0

    @classmethod
    def of(cls, jobs: Iterable[Job]) -> Graph:
        jobs = list(jobs)
        graph = cls(order={job.id: number for number, job in enumerate(jobs)}, left=len(jobs))
        for job in jobs:
            missing = [parent.id for parent in job.parents if parent.id in graph.order]
            for parent in missing:
                graph.children.setdefault(parent, []).append(job)
            graph.waiting[job.id] = len(missing)
            if not missing:
                graph.push(job)
        return graph

    def push(self, job: Job) -> None:
        heapq.heappush(self.ready, (self.order[job.id], job.attempt, job))

    def pop(self) -> Job:
        return heapq.heappop(self.ready)[2]

    def release(self, job: Job) -> None:
        """`job` is finished: its children wait for one parent less."""
        self.left -= 1
        for child in self.children.pop(job.id, ()):
            if child.id in self.waiting:
                self.waiting[child.id] -= 1
                if self.waiting[child.id] == 0:
                    self.push(child)

    def block(self, job: Job) -> list[Job]:
        """`job` has failed: take all its descendants out and return them."""
        self.left -= 1
        blocked: list[Job] = []
        stack = [job]
        while stack:
            for child in self.children.pop(stack.pop().id, ()):
                if self.waiting.pop(child.id, None) is not None:
                    blocked.append(child)
                    stack.append(child)
                    self.left -= 1
        return blocked


def run(
    jobs: Iterable[Job],
    executor: Executor,
    on_row: Callable[[Job, Row], None],
    on_tick: Callable[[], None] = lambda: None,
    seconds: float = 0.2,
    paused: Callable[[], bool] = lambda: False,
) -> None:
    """Run all jobs to the end. `on_row` gets every finished, failed and blocked job exactly once.

    While `paused` nothing is handed out; what is outside already comes back.
    """
    graph = Graph.of(jobs)
    outside = 0
    while graph.left:
        while graph.ready and outside < AHEAD * executor.slots and not paused():
            executor.submit(graph.pop())
            outside += 1
        for done in executor.wait(seconds):
            outside -= 1
            again = next_attempt(done)
            if again:
                graph.push(again)
                continue
            on_row(done.job, done.row)
            if done.row["status"] in FINISHED:
                graph.release(done.job)
                continue
            for job in graph.block(done.job):
                on_row(job, blocked_row(job, done))
        on_tick()


def next_attempt(done: Done) -> Job | None:
    """Out of memory: once more, alone on a device with half the evaluation batch."""
    if done.row.get("error_type") == "oom" and not done.job.careful:
        return replace(done.job, careful=True, attempt=done.job.attempt + 1)
    return None


def blocked_row(job: Job, cause: Done) -> Row:
    """The outcome of a job whose parent failed."""
    return {
        "status": "blocked",
        "error_type": "blocked",
        "error_message": f"{cause.job.spec.label} ({cause.job.id}) {cause.row['status']}: "
        f"{cause.row.get('error_message') or cause.row.get('error_type')}",
    }
