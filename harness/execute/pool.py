"""A pool of long-lived workers: jobs out, rows back, whatever dies, falls silent, leaves or joins.

Workers and machines come and go. A job whose machine was lost is handed out again and keeps its attempts;
one that stood behind another in the queue of a dead worker had no part in it. One whose own worker died is
charged an attempt, and is a failed row after the third. A worker that gives no sign of life is given up: what
it may still answer is never read.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from harness.execute import stop
from harness.execute.births import Births
from harness.execute.devices import at_work, to_end
from harness.execute.faults import Faults
from harness.execute.limits import Limits, verdict
from harness.execute.losses import Losses
from harness.execute.room import lack_of_room, limit_of, needs_whole, sizes, total
from harness.execute.slots import Answer, Cluster, Died, Slot, dataset, resource, sort
from harness.plan import Job
from harness.rows import Row
from harness.schedule import Done

AHEAD = 2  # jobs in a worker's queue: one running, one ready, so that no worker waits for the driver
QUICK_SECONDS = 5.0  # behind a longer job nothing waits, as another worker may be free before
RESIZE_SECONDS = 2.0
IDLE_SECONDS = 120.0  # an idle worker would keep a machine of an autoscaling cluster running


class Pool:
    """Hands jobs to workers and takes their rows back. An Executor."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        workers: int | None,
        share: float = 0.0,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cluster, self.workers, self.share, self.limits = cluster, workers, share, limits
        self._clock = clock
        self._slots: list[Slot] = []
        self._queue: deque[Job] = deque()
        self._settled: list[Done] = []
        self._losses = Losses(self._queue, self._settled, clock)
        self._took: dict[Any, float] = {}  # seconds of the last job of each sort
        self._spoke: dict[str, float] = {}  # when any worker of a machine was heard last
        self._births = Births(limits.starting, clock)
        self._faults = Faults(clock)
        self._due = self._tick = clock()
        self._nodes = dict(cluster.nodes())
        self._most = limit_of(cluster.most(), share)
        self._room = self._sizes().places
        for _ in range(self._room if workers is None else workers):
            self._start()

    @property
    def slots(self) -> int:
        """Workers to hand out jobs for. At least one: jobs at hand are what a cluster grows by."""
        return max(1, self.workers or self._room)

    def submit(self, job: Job) -> None:
        self._queue.append(job)

    def wait(self, seconds: float) -> list[Done]:
        stop.check()
        self._excuse_a_gap()
        if self._clock() >= self._due:
            self._resize()
        self._assign()
        self._listen(0.0 if self._settled else seconds)
        self._judge()
        settled = list(self._settled)
        self._settled.clear()
        return settled

    def trouble(self) -> str | None:
        """No worker has room: machines are yet to come, or never will; or it takes too long to start."""
        if any(slot.queue for slot in self._slots):
            return None
        if any(slot.home for slot in self._slots):
            return "runs wait for workers that are yet to start" if self._queue else None
        return f"{self._births.text()}: {lack_of_room(self._nodes, self.share)}"

    def close(self) -> None:
        """Stop the workers, and the private cluster if there is one."""
        for slot in self._slots:
            self.cluster.kill(slot.actor)
        self.cluster.close()

    # -------------------- growing and shrinking

    def _resize(self) -> None:
        """Give up the workers of lost machines; start what there is room and work for."""
        now = self._clock()
        self._due = now + RESIZE_SECONDS
        self._nodes = dict(self.cluster.nodes()) or self._nodes  # none at all: its head is restarting
        for slot in list(self._slots):
            if slot.home and slot.home.node not in self._nodes:
                self._bury(slot, Died("node", "its machine is gone"))
        if self._losses.decide(self._nodes, self._spoke):
            self._due = min(self._due, now + 0.5)
        want = self._sizes()
        self._room = want.places + want.whole
        shared = [slot for slot in self._slots if not slot.whole and not slot.retiring]
        for slot in shared[max(want.shared, want.places) :]:
            if slot.home is None:  # nobody waits for it any more
                self._drop(slot)
        self._keep_whole(want.whole, want.spare)
        self._drop_idle(len(shared) - want.shared if want.whole else 0)
        # a new worker would take a part of the device that was emptied for one that needs all of it
        if self._births.due and at_work(self._slots) >= want.whole:
            for _ in range(want.shared - len(shared)):
                self._start()

    def _sizes(self) -> Any:
        given = (job for slot in self._slots for _, job in slot.queue)
        at_hand = [*self._queue, *self._losses.suspects(), *given]
        whole = sum(map(needs_whole, at_hand)) if 0 < self.share < 1 else 0
        return sizes(self._nodes, self.share, self.workers, self._most, len(at_hand), whole)

    def _start(self, whole: bool = False) -> None:
        alone = whole or not 0 < self.share < 1
        actor = self.cluster.start(1.0 if whole else self.share, alone)
        self._slots.append(Slot(actor, self.cluster.pulse(actor), self._clock(), whole))

    def _keep_whole(self, wanted: int, spare: int) -> None:
        """Start workers with a device to themselves, and empty devices for all but the `spare` ones."""
        whole = sorted((slot for slot in self._slots if slot.whole), key=lambda slot: slot.home is None)
        for slot in whole[wanted + spare :]:
            if slot.home is None:  # nobody waits for it any more
                self._drop(slot)
            else:
                slot.retiring = True
        for _ in range(len(whole), wanted + spare):
            self._start(whole=True)
        for slot in to_end(self._slots, int(total(self._nodes, "GPU")), wanted):
            slot.retiring = True

    def _drop_idle(self, too_many: int) -> None:
        """End idle workers that nobody needs; `too_many` share devices that others wait for."""
        now = self._clock()
        for slot in [slot for slot in self._slots if slot.idle]:
            unused = self.workers is None and not self._queue and now - slot.since > IDLE_SECONDS
            in_the_way = too_many > 0 and not slot.whole and not slot.retiring
            too_many -= in_the_way
            if slot.retiring or unused or in_the_way:
                self._drop(slot)

    def _drop(self, slot: Slot) -> None:
        self._slots.remove(slot)
        self.cluster.kill(slot.actor)

    # -------------------- assigning

    def _assign(self) -> None:
        """Give each free worker the first queued job whose original it holds, else the first."""
        for depth in range(AHEAD):
            for slot in self._slots:
                if not self._queue:
                    return
                if slot.home and not slot.retiring and len(slot.queue) == depth and self._takes(slot):
                    job = self._pick(slot)
                    if job is not None:
                        self._give(slot, job)

    def _takes(self, slot: Slot) -> bool:
        """Whether a job may wait here: behind none, or behind one that is soon over."""
        if self._faults.closed(slot):
            return False
        if not slot.queue:
            return True
        if slot.alone:
            return False
        job = slot.queue[0][1]
        return 0 < self._took.get(sort(job), job.expected_seconds) <= QUICK_SECONDS

    def _pick(self, slot: Slot) -> Job | None:
        """Look a little ahead for a job that needs what this worker holds; the order is kept otherwise."""
        first = None
        split = 0 < self.share < 1
        for number, job in enumerate(self._queue):
            if number >= 4 * self.slots and first is not None:
                break
            if (split and needs_whole(job) != slot.whole) or self._faults.refuses(slot, job, self._slots):
                continue
            if resource(job) in slot.holds:
                first = number
                break
            first = number if first is None else first
        if first is None:
            return None
        job = self._queue[first]
        del self._queue[first]
        return job

    def _give(self, slot: Slot, job: Job) -> None:
        if not slot.queue:
            slot.since = self._clock()
        slot.alone = job.careful
        slot.holds.add(resource(job))
        slot.queue.append((self.cluster.execute(slot.actor, job), job))

    # -------------------- listening

    def _listen(self, seconds: float) -> None:
        """Take what has arrived: rows, and signs of life."""
        heads = {slot.queue[0][0]: slot for slot in self._slots if slot.queue}
        pulses = {slot.pulse: slot for slot in self._slots if slot.pulse is not None}
        for ref in self.cluster.ready([*heads, *pulses], seconds):
            slot = heads.get(ref) or pulses[ref]
            if slot not in self._slots:
                continue  # given up just now
            try:
                found = self.cluster.take(ref)
            except Died as death:
                self._bury(slot, death)
                continue
            self._heard(slot, found)

    def _heard(self, slot: Slot, found: Any) -> None:
        slot.heard, slot.resident = self._clock(), found.resident
        if slot.home:
            self._spoke[slot.home.node] = slot.heard
        if isinstance(found, Answer):
            self._collect(slot, found.row)
            return
        if slot.beats(found):
            self._births.lived()

    def _collect(self, slot: Slot, row: Row) -> None:
        _, job = slot.queue.popleft()
        if self._faults.blames(slot, job, row, self._slots):
            self._replace(slot, job, row)
            return
        now = self._clock()
        self._took[sort(job)] = now - slot.since
        slot.since = now
        slot.datasets |= {dataset(job)}
        self._settled.append(Done(job, {**row, "attempts": job.attempt}))
        if self.limits.memory and slot.resident > self.limits.memory:
            slot.retiring, self._due = True, now  # it starts afresh once its queue is empty

    def _replace(self, slot: Slot, job: Job, row: Row) -> None:
        """The worker is at fault: what stood behind goes elsewhere, and so does the job, at a cost."""
        self._drop(slot)
        self._faults.note(slot, job, row)
        self._queue.extendleft(waiting for _, waiting in reversed(slot.queue))
        self._losses.charge(job, Died("process", str(row["error_message"])), row)

    def _excuse_a_gap(self) -> None:
        """Where this process itself slept or was held up, nobody is silent because of that."""
        now = self._clock()
        gap = now - self._tick
        self._tick = now
        if gap > self.limits.silence / 4:
            for slot in self._slots:
                slot.asked, slot.since = slot.asked + gap, slot.since + gap

    # -------------------- judging

    def _judge(self) -> None:
        """Ask for signs of life, and give up workers that are over one of their limits."""
        now = self._clock()
        period = min(5.0, self.limits.silence / 4)
        for slot in list(self._slots):
            death = verdict(slot, now, replace(self.limits, starting=self._births.starting))
            if death is not None:
                self._bury(slot, death)
            elif slot.pulse is None and now - slot.heard >= period:
                slot.pulse, slot.asked = self.cluster.pulse(slot.actor), now

    def _bury(self, slot: Slot, death: Died) -> None:
        """The worker is gone or given up: keep what stood in its queue, and charge its job or not."""
        self._drop(slot)
        self._due = min(self._due, self._clock() + 0.2)
        if slot.home is None:
            self._births.failed(death, len(self._slots))
        if not slot.queue:
            return
        (_, job), *behind = slot.queue
        self._queue.extendleft(waiting for _, waiting in reversed(behind))
        alone = len(self._nodes) < 2
        if death.kind == "timeout":
            self._losses.settle(job, "timeout", death.why)
        elif death.kind == "node":
            self._losses.forgive(job, death.why)
        elif death.kind == "memory" or (self.limits.memory and slot.resident > self.limits.memory):
            self._losses.settle(job, "oom", death.why)
        elif death.kind in ("process", "silent") and slot.home and not alone:
            self._losses.suspect(job, slot.home.node, death, slot.asked)
        else:
            self._losses.charge(job, death)
