"""The executor that needs no Ray: one job after the other, in this process."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from harness.errors import OverTime
from harness.execute import stop
from harness.patience import Patience
from harness.plan import Job
from harness.schedule import Done
from harness.stages import execute
from harness.workspace import Workspace


class Inline:
    """Runs a job when it is waited for, so that rows and progress come one by one."""

    slots = 1

    def __init__(self, space: Workspace, time_limit: float | None = None) -> None:
        self.space, self.time_limit = space, time_limit
        self._queue: deque[Job] = deque()
        stop.listen()

    def submit(self, job: Job) -> None:
        self._queue.append(job)

    def wait(self, seconds: float) -> list[Done]:
        """The next finished job; `seconds` is what a blocking executor may wait, and is not needed here."""
        stop.check()
        if not self._queue:
            return []
        job = self._queue.popleft()
        with _alarm(self.time_limit, self.space.store.patience):
            return [Done(job, execute(job, self.space))]

    def trouble(self) -> str | None:
        return None

    def close(self) -> None:
        self._queue.clear()


@contextmanager
def _alarm(seconds: float | None, patience: Patience) -> Iterator[None]:
    """Raise OverTime in this thread after `seconds`, not counting those in which the store was away."""
    if seconds is None:
        yield
        return
    counted = patience.waited

    def ring(number: int, frame: FrameType | None) -> None:
        nonlocal counted
        more, counted = patience.waited - counted, patience.waited
        if more > 0:
            signal.setitimer(signal.ITIMER_REAL, more)
            return
        raise OverTime(f"longer than the time limit of {seconds:g} s (--time-limit)")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
