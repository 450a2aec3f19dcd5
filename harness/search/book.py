"""How much of a search is done, and whether there is room for another trial."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from harness.errors import Misuse
from harness.rows import Row
from harness.search.trials import TrialWriter

DEFAULT_TRIALS = 250  # of the paper


@dataclass(frozen=True)
class Budget:
    """How many trials, how many device-seconds, or both: a search ends at the first that is used up."""

    trials: int | None = DEFAULT_TRIALS
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.trials is not None and self.trials < 1:
            raise Misuse(f"--trials {self.trials}: expected at least 1")
        if self.seconds is not None and not self.seconds > 0:
            raise Misuse(f"--budget-seconds {self.seconds:g}: expected a number > 0")
        if self.trials is None and self.seconds is None:
            raise Misuse("no budget; type --trials N or --budget-seconds S")

    def text(self) -> str:
        parts = [f"{self.trials} trials"] if self.trials is not None else []
        parts += [f"{self.seconds:g} device-seconds"] if self.seconds is not None else []
        return " or ".join(parts)


@dataclass
class Book:
    """The trials of one search, those of earlier sessions included."""

    budget: Budget
    writer: TrialWriter
    tell: Callable[[Row], None] = lambda row: None
    out: int = 0  # trials that are being tried
    spent: float = field(init=False)

    def __post_init__(self) -> None:
        self.spent = sum(float(row["device_seconds"] or 0.0) for row in self.writer.rows)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Pickled as None: Tune pickles all that it is given, for a restore that never happens."""
        return (type(None), ())

    @property
    def done(self) -> int:
        return len(self.writer.rows)

    @property
    def room(self) -> bool:
        """Whether another trial may start."""
        trials, seconds = self.budget.trials, self.budget.seconds
        return (trials is None or self.done + self.out < trials) and (seconds is None or self.spent < seconds)

    def start(self) -> None:
        self.out += 1

    def finish(self, row: Row) -> None:
        """Take a finished trial; it is told of once it has been taken."""
        self.out -= 1
        self.spent += float(row["device_seconds"] or 0.0)
        self.writer.add(row)
        self.tell(row)
