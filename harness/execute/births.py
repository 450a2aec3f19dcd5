"""Workers that do not start: how long one may take, when the next is tried, and when it is hopeless."""

from __future__ import annotations

from collections.abc import Callable

from harness.errors import Misuse
from harness.execute.limits import LONG_SECONDS
from harness.execute.slots import Died

FEW = 3  # workers that died at birth, before it is said that none can start
LONGEST_PAUSE = 60.0


class Births:
    """What is known of them in one sweep."""

    def __init__(self, starting: float, clock: Callable[[], float]) -> None:
        self.starting = starting  # seconds that one may take; twice as long after each that took longer
        self._clock = clock
        self._lived = self._failures = self._slow = 0
        self._next = clock()

    @property
    def due(self) -> bool:
        """Whether another one may be tried."""
        return self._clock() >= self._next

    def lived(self) -> None:
        self._lived, self._failures = self._lived + 1, 0

    def failed(self, death: Died, workers: int) -> None:
        """Start the next one later and later; Misuse where none of `workers` can start."""
        if death.kind == "silent":  # not there in time: it may be torch on a slow disk, or no room
            self._slow += 1
            self.starting = min(2 * self.starting, LONG_SECONDS)
        if death.kind != "birth":
            return
        if "runs other code" in death.why:
            raise Misuse(f"a worker refused to start: {death.why}; install the same efface on every node")
        self._failures += 1
        if not self._lived and self._failures >= max(FEW, workers):
            raise Misuse(f"no worker can start: {death.why}")
        self._next = self._clock() + min(LONGEST_PAUSE, 2.0**self._failures)

    def text(self) -> str:
        """What to say where no worker has started."""
        slow = f" ({self._slow} were not there in time and were started again)" if self._slow else ""
        return f"no worker has started yet{slow}"
