"""A sweep in virtual time: the real plan and the real loop on a cluster that only keeps the books.

Seconds of a run are those of measured ones like it, dealt out from a shuffled pack, so that a simulation has
the spread of what was measured and exactly its mean; else the estimate from forward operations. Nodes start,
are lost at a constant rate and are replaced; what ran on a lost node runs again.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from statistics import fmean
from typing import Any

from harness import schedule
from harness.errors import Misuse
from harness.execute.pool import AHEAD, QUICK_SECONDS
from harness.imagined import Cluster, facts
from harness.plan import Job, Plan
from harness.schedule import Done
from harness.spec import RunSpec, TrainSpec

DRAWS = 5  # simulations that a forecast with node losses is the mean of
NUMBERS = ("makespan", "useful", "lost", "repeated", "losses")
HOPELESS = 3.0  # losses expected within the longest run, from which on a simulation would hardly end


# -------------------- how long each run takes


@dataclass(frozen=True)
class Times:
    """Seconds of each job, by id, and which of them are measured ones."""

    seconds: Mapping[str, float]
    measured: frozenset[str]


def times_of(plan: Plan, seed: int) -> Times:
    """Measured seconds dealt to the jobs of each kind in turn, else estimates."""
    packs: dict[int, tuple[Sequence[float], count[int]]] = {}
    shuffle, seconds, measured, unknown = random.Random(seed), {}, set(), []
    for job in plan.jobs:
        like = plan.cost.like(job.spec)
        if like:
            if id(like) not in packs:
                packs[id(like)] = shuffle.sample(like, len(like)), count()
            values, turn = packs[id(like)]
            seconds[job.id] = values[next(turn) % len(values)]
            measured.add(job.id)
            continue
        guess = plan.cost.estimate(job.spec)
        if guess is None:
            unknown.append(job)
        seconds[job.id] = guess or 0.0
    if unknown:
        raise Misuse(
            f"cannot simulate: {len(unknown)} of {len(plan.jobs)} pieces of work are of kinds that were "
            f"never measured and cannot be estimated ({unknown[0].spec.label}, …); sweep a part of them "
            f"first, e.g. efface sweep {plan.suite.name} --seeds 0, and give its --store"
        )
    return Times(seconds, frozenset(measured))


# -------------------- the executor


@dataclass
class Worker:
    """One slot of a node: what it was given, in order, and what it holds."""

    node: int
    queue: deque[Job] = field(default_factory=deque)
    holds: set[str] = field(default_factory=set)
    up: bool = False
    begun: float = 0.0  # when the job at the head of the queue began
    turn: int = 0  # raised when that job ends or is lost, so that what was foreseen of it is void


class Waiting:
    """Jobs in the order they came; gives the first that needs something held, else the first."""

    def __init__(self) -> None:
        self._jobs: dict[int, Job] = {}
        self._order: list[int] = []
        self._by_resource: dict[str, list[int]] = {}
        self._last, self._first = count(1), count(-1, -1)

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: Job, front: bool = False) -> None:
        number = next(self._first if front else self._last)
        self._jobs[number] = job
        heapq.heappush(self._order, number)
        heapq.heappush(self._by_resource.setdefault(resource(job), []), number)

    def pick(self, holds: set[str]) -> Job:
        fitting = [self._head(self._by_resource[name]) for name in holds if name in self._by_resource]
        number = min((n for n in fitting if n is not None), default=None)
        return self._jobs.pop(number if number is not None else self._head(self._order) or 0)

    def _head(self, numbers: list[int]) -> int | None:
        while numbers and numbers[0] not in self._jobs:
            heapq.heappop(numbers)
        return numbers[0] if numbers else None


def resource(job: Job) -> str:
    """What a job needs loaded: its original, or its data set where it trains one."""
    if isinstance(job.spec, RunSpec):
        return job.spec.original.id
    assert isinstance(job.spec, TrainSpec)
    return job.spec.dataset


class Simulated:
    """An executor in virtual time: `wait` goes to the next moment at which something has finished."""

    def __init__(self, cluster: Cluster, times: Times) -> None:
        self.cluster, self.times, self.facts = cluster, times, facts()
        self.now = 0.0
        self.useful, self.lost, self.repeated, self.losses = 0.0, 0.0, 0, 0
        each = cluster.gpus * cluster.per_gpu or cluster.workers
        self._workers = [Worker(number // each) for number in range(cluster.slots)]
        self._nodes = [self._workers[n * each : (n + 1) * each] for n in range(cluster.nodes)]
        self._waiting = Waiting()
        self._hungry: list[deque[Worker]] = [deque() for _ in range(AHEAD)]
        self._events: list[tuple[float, int, str, Any, int]] = []
        self._number = count()
        self._chance = random.Random(cluster.seed)
        for node in range(cluster.nodes):
            self._at(cluster.start, "up", node)

    @property
    def slots(self) -> int:
        return self.cluster.slots

    def submit(self, job: Job) -> None:
        self._waiting.add(job)

    def wait(self, seconds: float) -> list[Done]:
        """What has finished by the next moment at which anything has; `seconds` are those of a real clock."""
        done: list[Done] = []
        self._assign()
        while self._events and (not done or self._events[0][0] <= self.now):
            time, _, act, what, turn = heapq.heappop(self._events)
            self.now = max(self.now, time)
            if act == "done":
                done += self._finish(what, turn, time)
            else:
                {"up": self._start, "lost": self._lose}[act](what, time)
                self._assign()
        self.now += self.facts["driver"] * len(done)
        return done

    def trouble(self) -> str | None:
        return None

    def close(self) -> None:
        self._events.clear()

    def _at(self, time: float, act: str, what: Any, turn: int = 0) -> None:
        heapq.heappush(self._events, (time, next(self._number), act, what, turn))

    # -------------------- workers

    def _assign(self) -> None:
        """Idle workers first, then one job more for each."""
        for depth, hungry in enumerate(self._hungry):
            while hungry and self._waiting:
                worker = hungry.popleft()
                if worker.up and len(worker.queue) == depth:
                    self._give(worker, self._waiting.pick(worker.holds))

    def _give(self, worker: Worker, job: Job) -> None:
        worker.queue.append(job)
        if len(worker.queue) == 1:
            self._begin(worker, self.now)
        self._offer(worker)

    def _offer(self, worker: Worker) -> None:
        """A worker may take one job, and a second one behind one that is soon over."""
        soon = not worker.queue or self._seconds(worker.queue[0]) <= QUICK_SECONDS
        if len(worker.queue) < AHEAD and soon:
            self._hungry[len(worker.queue)].append(worker)

    def _seconds(self, job: Job) -> float:
        return self.times.seconds[job.id] * self.cluster.stretch

    def _begin(self, worker: Worker, time: float) -> None:
        job = worker.queue[0]
        worker.begun = time + self.facts["between"]
        took = self._seconds(job)
        if resource(job) not in worker.holds:
            worker.holds.add(resource(job))
            took += 0.0 if job.id in self.times.measured else self.facts["load"]
        self._at(worker.begun + took, "done", worker, worker.turn)

    def _finish(self, worker: Worker, turn: int, time: float) -> list[Done]:
        if turn != worker.turn:
            return []  # its node was lost meanwhile
        job = worker.queue.popleft()
        worker.turn += 1
        self.useful += time - worker.begun
        if worker.queue:
            self._begin(worker, time)
        self._offer(worker)
        return [Done(job, {"status": "ok"})]

    # -------------------- nodes

    def _start(self, node: int, time: float) -> None:
        for worker in self._nodes[node]:
            worker.up = True
            self._hungry[0].append(worker)
        if self.cluster.spot_loss:
            self._at(time + self._chance.expovariate(self.cluster.spot_loss / 3600), "lost", node)

    def _lose(self, node: int, time: float) -> None:
        """A node is gone with what it ran and held; another one takes its place."""
        self.losses += 1
        for worker in self._nodes[node]:
            if worker.queue:
                self.repeated += 1
                self.lost += max(0.0, time - worker.begun)
            for job in reversed(worker.queue):
                self._waiting.add(job, front=True)
            worker.queue.clear()
            worker.holds.clear()
            worker.up = False
            worker.turn += 1
        self._at(time + self.cluster.start, "up", node)


# -------------------- what came out


@dataclass(frozen=True)
class Forecast:
    """A simulated sweep."""

    cluster: Cluster
    makespan: float  # seconds
    useful: float  # worker-seconds of runs that ended
    lost: float  # worker-seconds of runs that did not
    repeated: float  # runs
    losses: float  # nodes

    @property
    def utilisation(self) -> float:
        return self.useful / (self.cluster.slots * self.makespan) if self.makespan else 0.0

    @property
    def hours(self) -> float:
        """GPU-hours, or worker-hours where there are no GPUs: from the beginning to the end, idle or not."""
        return self.cluster.size * self.makespan / 3600

    @property
    def cost(self) -> float | None:
        return None if self.cluster.price is None else self.cluster.price * self.hours


def simulate(plan: Plan, cluster: Cluster, times: Times) -> Forecast:
    """Run a plan on a cluster in virtual time."""
    longest = max(times.seconds.values(), default=0.0) * cluster.stretch / 3600
    if cluster.spot_loss * longest > HOPELESS:
        raise Misuse(
            f"--simulate spot_loss={cluster.spot_loss:g}/h: a node is lost {cluster.spot_loss * longest:.1f} "
            f"times while the longest run takes its {longest:.1f} h; expected at most {HOPELESS:g}, "
            "so that it can end"
        )
    executor = Simulated(cluster, times)
    schedule.run(plan.jobs, executor, lambda job, row: None)
    return Forecast(cluster, executor.now, executor.useful, executor.lost, executor.repeated, executor.losses)


def expected(plan: Plan, cluster: Cluster, times: Times) -> Forecast:
    """The mean of a few simulations where chance has a say, else the only one there is."""
    draws = DRAWS if cluster.spot_loss else 1
    found = [simulate(plan, replace(cluster, seed=cluster.seed + n), times) for n in range(draws)]
    means = [fmean(getattr(one, name) for one in found) for name in NUMBERS]
    return Forecast(cluster, *means)


def longest_chain(plan: Plan, times: Times) -> float:
    """Seconds that no number of workers can go below: a run after its parents, one after the other."""
    ends: dict[str, float] = {}
    for job in plan.jobs:  # parents stand before their children
        ready = max((ends.get(parent.id, 0.0) for parent in job.parents), default=0.0)
        ends[job.id] = ready + times.seconds[job.id]
    return max(ends.values(), default=0.0)
