"""One sweep: lock the store, check the data, run what the plan says, stream rows into Parquet."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import Misuse
from harness.patience import StoreAway
from harness.plan import Job, Plan
from harness.provenance import driver_facts
from harness.registry import Catalogue
from harness.row_writer import RowWriter
from harness.rows import FINISHED, Row
from harness.schedule import Executor, run
from harness.spec import RunSpec, TrainSpec, index_of
from harness.store import MARKER, Store, StoreError
from harness.suite import Skip, draws

PAUSED_SECONDS = 0.1
QUIET_SECONDS = 15.0  # without a row, after which the store is looked at
LITTLE = 16 << 20  # bytes left on a disk
REFERENCE_NEEDS = {"baseline": "", "retrain": "retain"}


@dataclass(frozen=True)
class Options:
    """Where and how a sweep runs."""

    on: str = "auto"  # inline | local | auto | an address
    workers: int | None = None
    per_gpu: int = 1
    time_limit: float | None = None


@dataclass
class Outcome:
    """What became of a sweep."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)  # (kind, status)
    failures: list[tuple[Job, Row]] = field(default_factory=list)
    warnings: list[tuple[Job, Row]] = field(default_factory=list)
    seconds: float = 0.0
    reported: int = 0  # rows that are safe in a file, and told of

    @property
    def exit_code(self) -> int:
        return 1 if self.failures else 0


class Listener:
    """What a sweep tells while it runs; the command line draws it, tests ignore it."""

    def start(self, plan: Plan, workers: int) -> None: ...
    def row(self, job: Job, row: Row) -> None: ...
    def tick(self) -> None: ...
    def say(self, text: str) -> None: ...
    def stop(self) -> None: ...


def sweep(
    plan: Plan,
    store: Store,
    catalogue: Catalogue,
    make_executor: Callable[[], Executor],
    listener: Listener,
) -> Outcome:
    """Run a plan on a store that the caller has locked. Rows in files are safe whatever happens here."""
    outcome = Outcome()
    began = time.monotonic()
    writer = RowWriter(store)
    facts = driver_facts()
    executor: Executor | None = None
    watch = Watch(store, listener)
    held: deque[tuple[Job, Row]] = deque()  # finished, but not yet safe in a file: not reported

    def report() -> None:
        while held and writer.safe > outcome.reported:
            listener.row(*held.popleft())
            outcome.reported += 1

    def on_row(job: Job, result: Row) -> None:
        row = {**identity(job, catalogue), **facts, **result}
        outcome.counts[job.kind, row["status"]] += 1
        if row["status"] not in FINISHED:
            outcome.failures.append((job, row))
        if row.get("warning"):
            outcome.warnings.append((job, row))
        if not writer.add(row):
            listener.row(job, row)  # made again because a file was gone; its row is there already
            return
        held.append((job, row))

    def on_tick() -> None:
        writer.flush_if_due()
        report()
        listener.tick()
        watch.look(len(held) + outcome.reported, writer.paused)

    store.patience.tell = listener.say
    try:
        _write_skips(plan, writer, catalogue, facts)
        if plan.jobs:
            executor = watch.executor = make_executor()
            listener.start(plan, executor.slots)
            run(plan.jobs, executor, on_row, on_tick, paused=lambda: writer.paused)
        writer.flush()
    except BaseException:
        _save_the_rest(writer, listener)
        raise
    finally:
        try:
            report()
        finally:  # also when the disk is full: no worker may outlive its sweep
            listener.stop()
            if executor is not None:
                executor.close()
    outcome.seconds = time.monotonic() - began
    return outcome


class Watch:
    """Looks at workers and store when no row has come for a while: what waits cannot say so itself."""

    def __init__(self, store: Store, listener: Listener) -> None:
        self.store, self.listener = store, listener
        self.executor: Executor | None = None
        self._rows, self._since, self._due = 0, time.monotonic(), time.monotonic() + QUIET_SECONDS
        self._told = False

    def look(self, rows: int, paused: bool) -> None:
        """Say so once, until a row comes again."""
        if paused:
            time.sleep(PAUSED_SECONDS)  # not every executor takes its time where it has nothing to do
        now = time.monotonic()
        if rows != self._rows:
            self._rows, self._since, self._told = rows, now, False
            self._due = now + QUIET_SECONDS
        if now < self._due or self._told:
            return
        self._due = now + QUIET_SECONDS
        why = (self.executor and self.executor.trouble()) or self._trouble()
        if why:
            self._told = True
            self.listener.say(f"nothing has ended for {now - self._since:.0f} s; {why}")

    def _trouble(self) -> str | None:
        why = self._store_trouble()
        return why and f"store {self.store.url} {why}: workers wait until it can be written"

    def _store_trouble(self) -> str | None:
        if self.store.local is not None:
            free = shutil.disk_usage(self.store.local).free
            return f"has {free / 1e6:.1f} MB left" if free < LITTLE else None
        try:
            self.store.read(MARKER, wait=False)
        except StoreAway as error:
            return error.why
        return None


def _write_skips(plan: Plan, writer: RowWriter, catalogue: Catalogue, facts: Row) -> None:
    for skip in plan.skips:
        writer.add({**skip_row(skip, plan, catalogue), **facts})
    writer.flush()
    writer.safe = 0  # from here on it counts rows of jobs


def _save_the_rest(writer: RowWriter, listener: Listener) -> None:
    """The sweep is stopped or has failed: one more try for its last rows, without waiting."""
    try:
        writer.flush(wait=False)
    except StoreError as error:
        listener.say(f"the last rows are lost, and their runs will be run again: {error}")


def identity(job: Job, catalogue: Catalogue) -> Row:
    """What a row says of its spec, whatever came of it."""
    spec = job.spec
    row: Row = {
        "run_id": job.id,
        "suite": job.suite,
        "parents": ",".join(parent.id for parent in job.parents),
        "attempts": job.attempt,
        "precision": spec.precision,
    }
    if isinstance(spec, TrainSpec):
        task = spec.without
        row |= {"kind": "train", "dataset": spec.dataset, "model": spec.model, "recipe": spec.recipe}
        row |= {"train_seed": spec.train_seed, "split_seed": spec.split_seed}
        if task:
            row |= {
                "scenario": task.scenario,
                "target": task.target,
                "count": task.count,
                "profile": task.profile,
            }
        return row
    assert isinstance(spec, RunSpec)
    row |= {"kind": "run", "recipe": spec.original.recipe, "train_seed": spec.original.train_seed}
    row |= {"seed": spec.seed, "split_seed": spec.forget_seed, "method_version": spec.method_version}
    row |= {"params": json.dumps(dict(spec.params)), "params_origin": job.origin}
    row["deterministic"] = not draws(catalogue, spec.method, spec.params, spec.task)
    return row | _task_facts(spec.task, spec.method, catalogue)


def _task_facts(task: Any, method: str, catalogue: Catalogue) -> Row:
    needs = REFERENCE_NEEDS.get(method)
    if needs is None:
        info = catalogue.methods[method].info
        needs, zero_shot = "+".join(sorted(info.needs)), info.zero_shot
    else:
        zero_shot = None
    facts = {
        name: getattr(task, name) for name in ("dataset", "model", "scenario", "target", "count", "profile")
    }
    return {**facts, "method": method, "needs": needs, "zero_shot": zero_shot}


def skip_row(skip: Skip, plan: Plan, catalogue: Catalogue) -> Row:
    """A pair that a method does not define, as a row with its reason."""
    row: Row = {
        "run_id": skip.id,
        "kind": "skip",
        "status": "skipped",
        "suite": plan.suite.name,
        "error_type": "skipped",
        "error_message": skip.reason,
    }
    return row | _task_facts(skip.task, skip.method, catalogue)


def check_data(plan: Plan, store: Store, read: Callable[[str], Any]) -> dict[str, str]:
    """Every data set of the plan must be there, and be the one that the store's rows came from. Gives their
    digests.
    """
    known = store.digests()
    found: dict[str, str] = {}
    for dataset in sorted(plan.datasets):
        data = read(dataset)
        digest = found[dataset] = data.digest()
        if dataset in known and known[dataset] != digest:
            raise Misuse(
                f"data set {dataset} is not the one that {store.url} has results for (digest {digest}, its "
                f"rows have {known[dataset]}); give the same --data-dir and --limit as before, "
                "or another --store"
            )
        for wanted in plan.wanted:
            _check_target(wanted.spec, data, dataset)
    return found


def _check_target(spec: RunSpec, data: Any, dataset: str) -> None:
    target = spec.task.target
    if spec.task.dataset != dataset or target is None:
        return
    if index_of(target, data.classes) is None and index_of(target, data.groups) is None:
        raise Misuse(f"data set {dataset} has no target {target!r}; it has {', '.join(data.groups[:20])}")


def worker_count(asked: int | None, limit: int | None = None) -> int:
    """As many workers as cores, unless asked otherwise."""
    if asked is not None and asked < 1:
        raise Misuse(f"--workers {asked}: expected at least 1")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return asked or min(cores, limit or cores)


def invocation() -> str:
    """The command that was typed, for messages that say how to go on."""
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
