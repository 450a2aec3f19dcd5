"""How much of a search is done, and whether there is room for another trial."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from harness.errors import Misuse
from harness.rows import Row
from harness.search.evaluate import Trial
from harness.search.trials import TrialWriter, finished_runs
from harness.spec import RunSpec

DEFAULT_TRIALS = 250  # of the paper
HOPELESS = 10  # trials of which none has a score: the method is at fault, not the points
STALE = 100  # trials in a row at points that had been tried: the space has no other, or the sampler no idea
# errors of workers, disks and networks, which say nothing about the point
PASSING = {"worker_error", "OSError", "FileNotFoundError", "PermissionError", "ConnectionError"}
PASSING |= {"StoreError", "DataError", "DataMissing"}


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
    """The trials of one search, those of earlier sessions included.

    What failed in an earlier session by no fault of its point is tried again first, under the same number:
    after a lost worker or a failing disk, once the code has changed, or where nothing else had come out.
    """

    budget: Budget
    writer: TrialWriter
    tell: Callable[[Row], None] = lambda row: None  # of a finished trial
    say: Callable[[str], None] = lambda text: None  # what else people should know
    code: str = ""  # digest of what tries the points: efface and plugins
    out: int = 0  # trials that are being tried
    spent: float = field(init=False)

    def __post_init__(self) -> None:
        rows = sorted(self.writer.rows, key=lambda row: int(row["number"]))
        failed = [row for row in rows if self._deserves_another(row)]
        points = [(row["number"], json.loads(row["drawn"]), row["generation"]) for row in failed]
        self._again = deque(Trial(*point) for point in points)
        self._void = {int(row["number"]) for row in failed}
        self._failures = 0  # of this session, as long as none of its trials has ended otherwise
        self._scores: dict[str, Row] = {}  # of runs, by their ids
        self._points: set[str] = set()
        self._stale = 0  # trials in a row, up to now, at points that had been tried
        for row in self.past:
            self._count(row)
        self.spent = sum(float(row["device_seconds"] or 0.0) for row in self.past)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Pickled as None: Tune pickles all that it is given, for a restore that never happens."""
        return (type(None), ())

    @property
    def past(self) -> list[Row]:
        """The trials that count, in the order in which they were drawn."""
        rows = [row for row in self.writer.rows if row["number"] not in self._void]
        return sorted(rows, key=lambda row: int(row["number"]))

    @property
    def numbers(self) -> list[int]:
        """Those that are taken."""
        return [int(row["number"]) for row in self.writer.rows]

    @property
    def done(self) -> int:
        return len(self.writer.rows) - len(self._void)

    @property
    def failed_before(self) -> int:
        """Trials to be tried again."""
        return len(self._void)

    @property
    def room(self) -> bool:
        """Whether another trial may start."""
        trials, seconds = self.budget.trials, self.budget.seconds
        left = (trials is None or self.done + self.out < trials) and (seconds is None or self.spent < seconds)
        return left and not self.exhausted

    @property
    def exhausted(self) -> bool:
        """Whether nothing new was drawn for so long that nothing will be."""
        return self._stale >= STALE

    def again(self) -> Trial | None:
        """The next trial that has failed before."""
        return self._again.popleft() if self._again else None

    def start(self) -> None:
        self.out += 1

    def finish(self, row: Row) -> None:
        """Take a finished trial, and tell of it; it is safe with the next flush."""
        self.out -= 1
        self.spent += float(row["device_seconds"] or 0.0)
        self._void.discard(int(row["number"]))
        self._count(row)
        self._scores |= finished_runs([row])
        self.writer.add({**row, "code": self.code})
        failed = row["status"] == "failed"
        self._failures = self._failures + 1 if failed and self._failures >= 0 else -1
        self.tell(row)
        if self._stale == STALE:
            self.say(f"{STALE} trials in a row were at points that had been tried: the search ends here")

    def flush(self) -> None:
        """Make trials safe once a second, and end a search that cannot come to anything."""
        self.writer.flush_if_due()
        if self._failures >= HOPELESS and self._nothing_came_out():
            raise Misuse(
                f"the first {HOPELESS} trials have all failed ({self.writer.rows[-1]['error_message']}); "
                "put that right and type the same command: they are tried again"
            )

    def scores_of(self, runs: Iterable[RunSpec]) -> dict[str, Row]:
        """Of these runs, the scores that this session has computed, whoever did."""
        return {spec.id: self._scores[spec.id] for spec in runs if spec.id in self._scores}

    def _count(self, row: Row) -> None:
        self._stale = self._stale + 1 if row["params"] in self._points else 0
        self._points.add(row["params"])

    def _nothing_came_out(self) -> bool:
        return all(row["status"] == "failed" for row in self.writer.rows)

    def _deserves_another(self, row: Row) -> bool:
        if row["status"] != "failed" or row["error_type"] in ("oom", "timeout"):
            return False
        return row["error_type"] in PASSING or row["code"] != self.code or self._nothing_came_out()
