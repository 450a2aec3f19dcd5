"""Live progress of a search: trials, the best value so far, time left; all on stderr."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from harness.progress import clock
from harness.rows import Row
from harness.search.book import Book

PLAIN_SECONDS = 5.0


class SearchDisplay:
    """A live bar on a terminal, a plain line every few seconds elsewhere."""

    def __init__(self, console: Console, label: str) -> None:
        self.console, self.label = console, label
        self._book: Book | None = None
        self._last = time.monotonic()
        self._first: tuple[float, int, float] | None = (
            None  # when, trials and seconds: workers take long to start
        )
        self._bar: Progress | None = None

    def begin(self, book: Book) -> None:
        self._book = book
        self._last = time.monotonic()
        if book.done:
            self.console.print(f"{self.label}: going on after {book.done} trials", highlight=False)
        if book.failed_before:
            self.console.print(
                f"{self.label}: {book.failed_before} trials that had failed are tried again", highlight=False
            )
        if self.console.is_terminal and book.room:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=32),
                MofNCompleteColumn(),
                TextColumn("{task.fields[best]}"),
                console=self.console,
            )
            self._bar.add_task(self.label, total=book.budget.trials, completed=book.done, best="")
            self._bar.start()

    def row(self, row: Row) -> None:
        assert self._book is not None
        if self._first is None:
            self._first = (time.monotonic(), self._book.done, self._book.spent)
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=self._book.done, best=self._state())
        elif time.monotonic() - self._last >= PLAIN_SECONDS:
            self._last = time.monotonic()
            total = f"/{self._book.budget.trials}" if self._book.budget.trials else ""
            self.console.print(
                f"{self.label}: trials {self._book.done}{total} · {self._state()}",
                highlight=False,
                soft_wrap=True,
            )

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

    def end(self) -> None:
        if self._bar:
            self._bar.stop()

    def _state(self) -> str:
        assert self._book is not None
        rows = self._book.writer.rows
        best = min((float(row["value"]) for row in rows), default=float("nan"))
        lost = sum(row["status"] != "ok" for row in rows)
        parts = [f"best {best:.2f}", f"{clock(self.seconds_left())} left"]
        return " · ".join([*parts, f"{lost} diverged or failed"] if lost else parts)

    def seconds_left(self) -> float | None:
        """At the pace since the first trial of this session, to the nearer end of the budget."""
        if self._book is None or self._first is None:
            return None
        book, (since, first, before) = self._book, self._first
        passed, done, spent = time.monotonic() - since, book.done - first, book.spent - before
        if not done:
            return None
        ends = []
        if book.budget.trials is not None:
            ends.append((book.budget.trials - book.done) * passed / done)
        if book.budget.seconds is not None and spent > 0:
            ends.append((book.budget.seconds - book.spent) * passed / spent)
        return max(0.0, min(ends)) if ends else None
