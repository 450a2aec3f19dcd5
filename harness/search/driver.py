"""One search from start to end: its references first, then trials until the budget is used up."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness import launch
from harness.errors import Misuse
from harness.plan import Plan, make_plan
from harness.provenance import code_digest
from harness.registry import Catalogue
from harness.rows import FINISHED, Row
from harness.search.book import Book, Budget
from harness.search.definition import Search, Wish, define
from harness.search.evaluate import Evaluator, scores_of
from harness.search.objectives import PARTS, Truth
from harness.search.spaces import check_file
from harness.search.trials import TrialWriter, finished_runs, read_search
from harness.store import Store, StoreError
from harness.suite import Suite, Wanted
from harness.sweep import Listener
from harness.workspace import Settings, Workspace, read_data


@dataclass(frozen=True)
class Bench:
    """What all searches of one command share."""

    suite: Suite
    catalogue: Catalogue
    store: Store
    told: Settings
    where: launch.Where
    budget: Budget
    listener: Listener | None = None  # of the sweep that makes the references
    weights: Sequence[str] = ()
    fetch: bool = False  # published weights that are missing


def groups_of(catalogue: Catalogue, told: Settings) -> Callable[[str], Sequence[str]]:
    """What can be forgotten of a data set; from the data where only they know."""

    def groups(dataset: str) -> Sequence[str]:
        info = catalogue.dataset(dataset)
        if info.groups is not None:
            return tuple(info.groups)
        if info.read_groups is not None:
            found: Sequence[str] = info.read_groups(told.folder(dataset))
            return found
        return tuple(read_data(catalogue, dataset, told.data_dir, source=told.source).groups)

    return groups


def define_all(
    suite: Suite, catalogue: Catalogue, wishes: Sequence[Wish], told: Settings
) -> tuple[list[Search], list[str]]:
    """The searches that are defined, and why others are not; where only one was asked for, Misuse."""
    found: list[Search] = []
    problems: list[str] = []
    for file in {wish.space_file for wish in wishes if wish.space_file is not None}:
        check_file(catalogue, file, list(dict.fromkeys(wish.method for wish in wishes)))
    for wish in wishes:
        try:
            found.append(define(suite, catalogue, wish, groups_of(catalogue, told)))
        except Misuse as error:
            if len(wishes) == 1:
                raise
            problems.append(str(error))
    return found, problems


def references(search: Search, suite: Suite, store: Store | None, catalogue: Catalogue) -> Plan:
    """What a search is judged against, as a plan: of each task the original, and a true retrain a seed."""
    if store:
        store.look_again()  # the searches before this one have trained some of it
    first = search.seeds[0]
    wanted = [
        Wanted(search.run(task, "baseline", 1, (), first), "default", search.original)
        for task in search.tasks
    ]
    for (task, seed), retrain in zip(search.cases, search.retrains, strict=False):
        wanted.append(Wanted(search.run(task, "retrain", 1, (), seed, retrain), "default", retrain))
    metrics = tuple(dict.fromkeys([*PARTS, *(m for m in suite.metrics if m in PARTS)]))
    return make_plan(replace(suite, metrics=metrics), wanted, store, catalogue)


def run(
    search: Search,
    bench: Bench,
    tell: Callable[[Row], None],
    begin: Callable[[Book], None],
    say: Callable[[str], None] = lambda text: None,
) -> Book:
    """Go on with a search. The caller has locked the store; what is in a file is safe whatever happens."""
    plan = references(search, bench.suite, bench.store, bench.catalogue)
    told = launch.check(plan, bench.store, bench.catalogue, bench.told, bench.weights, bench.fetch)
    made = launch.sweep(plan, bench.store, bench.catalogue, told, bench.where, bench.listener)
    if made.failures:
        job, row = made.failures[0]
        raise Misuse(f"{job.spec.label} failed, and {search.label} is judged by it: {row['error_message']}")
    past = read_search(bench.store, search.id)
    book = Book(bench.budget, TrialWriter(bench.store, search.id, past), tell, say, _code(told.plugins))
    begin(book)
    if book.room:
        truth, known = _truth(search, plan, bench.store), _known(search, bench.store, past)
        try:
            _engine(search, replace(bench, told=told), truth, known, book)
        except BaseException:
            _save_the_rest(book)
            raise
        book.writer.flush()
    return book


def _code(plugins: Sequence[str]) -> str:
    """16 hex digits over what tries the points."""
    sha = hashlib.sha256(code_digest().encode())
    for plugin in plugins:
        sha.update(Path(plugin).read_bytes())
    return sha.hexdigest()[:16]


def _save_the_rest(book: Book) -> None:
    """The search is stopped or has failed: one more try for its last trials, without waiting."""
    try:
        book.writer.flush(wait=False)
    except StoreError as error:
        book.say(f"the last trials are lost, and will be tried again: {error}")


def _engine(search: Search, bench: Bench, truth: Truth | None, known: dict[str, Row], book: Book) -> None:
    told = replace(bench.told, outputs_limit=0, keep_outputs=False, keep_weights=False)
    if bench.where.inline:
        from harness.search import inline

        space = Workspace(told, bench.catalogue, bench.store)
        inline.run(search, Evaluator(search, space, truth, known), book)
        return
    from harness.search import tune

    workers, gpus_each, exclusive = launch.slots(bench.where)
    told = replace(told, exclusive=exclusive)
    tune.run(search, tune.Workers(told, workers, bench.where.address, gpus_each), truth, known, book)


def _truth(search: Search, plan: Plan, store: Store) -> Truth | None:
    """Scores of the references, from their rows."""
    if not search.retrains:
        return None
    rows = {row["run_id"]: row for row in store.rows().to_pylist() if row["status"] == "ok"}
    prefix = search.objective.prefix
    for item in plan.wanted:
        if item.spec.id not in rows:
            raise Misuse(
                f"{item.spec.label} has diverged, and {search.label} is judged by it; another --seeds or "
                "--target may do, or --objective retrain_free"
            )
    found = [(item.spec, rows[item.spec.id]) for item in plan.wanted]

    def score(row: Row, part: str) -> float:
        value = row[prefix + part]
        if value is None:
            raise Misuse(
                f"{row['method']} of {search.task.label} has no {prefix + part} in {store.url}: its "
                "suite did not "
                "measure it; give another --store"
            )
        return float(value)

    retrained = {
        (spec.task.target, spec.seed): {part: score(row, part) for part in PARTS}
        for spec, row in found
        if spec.method == "retrain"
    }
    kept = [score(row, "retain_acc") for spec, row in found if spec.method == "baseline"]
    return Truth(retrained, statistics.fmean(kept))


def _known(search: Search, store: Store, past: Sequence[Row]) -> dict[str, Row]:
    """Scores of runs of this method that need not be computed again: from sweeps, and from past trials."""
    mine = {"method": search.method, "dataset": search.task.dataset, "model": search.task.model}
    needed: Any = search.objective.metrics
    found = {
        row["run_id"]: scores_of(row)
        for row in store.rows().to_pylist()
        if row["status"] in FINISHED and all(row[name] == value for name, value in mine.items())
    }
    complete = {i: row for i, row in found.items() if row["status"] != "ok" or all(n in row for n in needed)}
    return complete | finished_runs(past)
