"""Live progress of a sweep: one line a kind on a terminal, plain lines elsewhere, all on stderr."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
from rich.text import Text

from harness.plan import Job, Plan
from harness.rows import FINISHED, Row
from harness.sweep import Listener

KINDS = {"original": "originals", "retrain": "retrains", "run": "runs"}
PLAIN_SECONDS = 5.0
RECENT = 200  # rows that a rate is taken from


class Pace:
    """Rate and time left of one kind, from its most recent rows."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.failed = total, 0, 0
        self._times: deque[float] = deque(maxlen=RECENT)

    def add(self, ok: bool) -> None:
        self.done += 1
        self.failed += not ok
        self._times.append(time.monotonic())

    def rate(self) -> float:
        """Rows a second."""
        if len(self._times) < 2:
            return 0.0
        return (len(self._times) - 1) / max(time.monotonic() - self._times[0], 1e-9)


@dataclass
class Left:
    """What is left of one kind, and what has been seen of it: jobs, and seconds foreseen and spent."""

    jobs: int = 0
    foreseen: float = 0.0  # of those left, as far as the plan knows
    unforeseen: int = 0  # of those left, how many the plan knows nothing of
    done_foreseen: float = 0.0
    done_spent: float = 0.0  # on jobs that were foreseen
    spent: float = 0.0  # on all
    seen: int = 0

    def plan(self, job: Job) -> None:
        self.jobs += 1
        self.foreseen += job.expected_seconds
        self.unforeseen += not job.expected_seconds

    def take(self, job: Job, seconds: float) -> None:
        self.jobs -= 1
        self.seen += 1
        self.spent += seconds
        self.foreseen -= job.expected_seconds
        self.unforeseen -= not job.expected_seconds
        if job.expected_seconds:
            self.done_foreseen += job.expected_seconds
            self.done_spent += seconds

    def seconds(self) -> float | None:
        """What the plan foresees, at the pace found so far; None where it knows nothing and none was seen."""
        if self.unforeseen > 0 and not self.seen:
            return None
        pace = self.done_spent / self.done_foreseen if self.done_foreseen else 1.0
        unknown = self.unforeseen * self.spent / self.seen if self.seen else 0.0
        return max(0.0, self.foreseen * pace + unknown)


class Eta:
    """Seconds left of a sweep: what the plan foresees of each kind, corrected by how long it really takes."""

    def __init__(self, plan: Plan, workers: int) -> None:
        self.workers = workers
        self._left: dict[str, Left] = {}
        for job in plan.jobs:
            self._left.setdefault(job.kind, Left()).plan(job)

    def add(self, job: Job, seconds: float) -> None:
        self._left[job.kind].take(job, seconds)

    def seconds(self) -> float | None:
        """None while a kind that is left can be neither foreseen nor has been seen."""
        parts = [left.seconds() for left in self._left.values() if left.jobs > 0]
        known = [part for part in parts if part is not None]
        return sum(known) / self.workers if len(known) == len(parts) else None


class RateColumn(ProgressColumn):
    def render(self, task: Any) -> Text:
        pace: Pace = task.fields["pace"]
        rate = pace.rate()
        if not rate:  # one row has no rate
            return Text("")
        return Text(f"{rate:5.1f}/s" if rate >= 1 else f"{60 * rate:5.1f}/min", style="cyan")


class FailedColumn(ProgressColumn):
    def render(self, task: Any) -> Text:
        failed = task.fields["pace"].failed
        return Text(f"{failed} failed", style="bold red") if failed else Text("")


class Display(Listener):
    """Draws what a sweep tells: a live display on a terminal, a plain line every few seconds elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = console.is_terminal
        self._paces: dict[str, Pace] = {}
        self._bars: Progress | None = None
        self._tasks: dict[str, Any] = {}
        self._eta: Eta | None = None
        self._last = 0.0

    def start(self, plan: Plan, workers: int) -> None:
        totals = Counter(job.kind for job in plan.jobs)
        self._paces = {kind: Pace(totals[kind]) for kind in KINDS if totals[kind]}
        self._eta = Eta(plan, workers)
        self._last = time.monotonic()
        if self.live:
            self._bars = Progress(
                TextColumn("{task.description:>9}"),
                BarColumn(bar_width=32),
                MofNCompleteColumn(),
                RateColumn(),
                TextColumn("{task.fields[eta]}"),
                FailedColumn(),
                console=self.console,
            )
            for kind, pace in self._paces.items():
                self._tasks[kind] = self._bars.add_task(KINDS[kind], total=pace.total, pace=pace, eta="")
            self._bars.start()

    def row(self, job: Job, row: Row) -> None:
        ok = row["status"] in FINISHED
        self._paces[job.kind].add(ok)
        if self._eta:
            self._eta.add(job, float(row.get("seconds_total") or 0.0))
        if not ok and row["status"] != "blocked":
            self.console.print(
                f"[red]failed[/] {job.spec.label}: {row.get('error_message')}", highlight=False
            )
        if self._bars:
            self._bars.update(self._tasks[job.kind], completed=self._paces[job.kind].done)

    def tick(self) -> None:
        now = time.monotonic()
        if now - self._last < (1.0 if self.live else PLAIN_SECONDS) or self._eta is None:
            return
        self._last = now
        left = clock(self._eta.seconds())
        if self._bars:
            for kind, task in self._tasks.items():
                pending = self._paces[kind].done < self._paces[kind].total
                self._bars.update(task, eta=f"sweep ends in {left}" if kind == "run" and pending else "")
            return
        self.console.print(f"{self.summary()} · {left} left", highlight=False, soft_wrap=True)

    def summary(self) -> str:
        """originals 4/4 · retrains 12/30 · runs 96/210, 1 failed"""
        parts = [
            f"{KINDS[kind]} {pace.done}/{pace.total}" + (f", {pace.failed} failed" if pace.failed else "")
            for kind, pace in self._paces.items()
        ]
        return " · ".join(parts)

    def say(self, text: str) -> None:
        self.console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        if self._bars:
            for task in self._tasks.values():
                self._bars.update(task, eta="")
            self._bars.stop()
        elif self._paces:
            self.console.print(self.summary(), highlight=False, soft_wrap=True)


def clock(seconds: float | None) -> str:
    """1 h 02 min, 3 min 20 s, 12 s; `time unknown` where nothing like it was measured."""
    if seconds is None:
        return "time unknown"
    whole = max(0, round(seconds))
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"
