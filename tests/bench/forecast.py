"""What `efface plan --simulate workers=N` foretells, against the sweep itself.

A first part of a suite (seeds 0 and 1) is swept, so that there are measured seconds; the rest is simulated,
and then swept by as many workers. Both times are from the start of the sweep to its last row.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass, replace
from typing import Any

from harness import imagined, launch, registry
from harness.plan import Plan, make_plan
from harness.selection import Selection
from harness.simulate import simulate, times_of
from harness.store import Store
from harness.suite import Suite, expand
from harness.suite_file import parse_suite
from harness.sweep import Listener
from tests.bench.timing import goal, spread, table

WORKERS = (1, 2)
GOAL = 0.15
METHODS = ["baseline", "retrain", "finetune", "amnesiac", "bad_teacher", "scrub", "ssd", "bdsh", "jit"]
SUITE = {
    "seeds": 6,
    "methods": METHODS,
    "task": [
        {
            "dataset": "digits",
            "scenario": "full_class",
            "targets": ["3", "8"],
            "models": ["vgg_mini", "vit_mini"],
        },
        {"dataset": "digits", "scenario": "random", "count": 50, "models": ["vgg_mini"]},
    ],
}
FIRST = Selection(seeds=(0, 1))


@dataclass(frozen=True)
class Pair:
    """One forecast and what it was about."""

    foretold: float  # seconds
    took: float
    jobs: int

    @property
    def ratio(self) -> float:
        return self.foretold / self.took


def compare(workers: int, suite: dict[str, Any] | None = None, on: str = "local") -> Pair:
    """Sweep the first seeds, simulate the others, sweep them."""
    catalogue = registry.load()
    parsed = parse_suite("bench", suite or SUITE, catalogue)
    where = launch.Where(on, workers, 1, "cpu")
    with tempfile.TemporaryDirectory(prefix="efface-bench-") as folder:
        _sweep(_plan(parsed, catalogue, folder, FIRST), folder, catalogue, where)
        rest = _plan(parsed, catalogue, folder, Selection())
        cluster = imagined.parse(f"workers={workers}")
        if on == "inline":
            cluster = replace(cluster, start=0.0)
        foretold = simulate(rest, cluster, times_of(rest, cluster.seed)).makespan
        return Pair(foretold, _sweep(rest, folder, catalogue, where), len(rest.jobs))


def _plan(suite: Suite, catalogue: Any, folder: str, only: Selection) -> Plan:
    return make_plan(suite, expand(suite, catalogue, only), Store.create(folder), catalogue)


def _sweep(plan: Plan, folder: str, catalogue: Any, where: launch.Where) -> float:
    """Seconds of a sweep all of whose jobs end well."""
    told = launch.settings(folder, None, None, where, 512, False, False, None)
    outcome = launch.sweep(plan, Store.open(folder), catalogue, told, where, Listener())
    if outcome.failures:
        raise AssertionError(
            f"{len(outcome.failures)} jobs failed: {outcome.failures[0][1]['error_message']}"
        )
    return outcome.seconds


def main(repeats: int) -> None:
    """Print one line for each number of workers."""
    found: dict[int, list[Pair]] = {workers: [] for workers in WORKERS}
    for _ in range(repeats):
        for workers, pairs in found.items():
            pairs.append(compare(workers))
    lines = [
        [
            str(workers),
            str(pairs[0].jobs),
            spread([pair.foretold for pair in pairs]),
            spread([pair.took for pair in pairs]),
            spread([pair.ratio for pair in pairs]),
        ]
        for workers, pairs in found.items()
    ]
    table(
        f"Simulated and real sweeps on Ray, {repeats} repeats; median (min-max)",
        ["workers", "pieces of work", "foretold s", "took s", "foretold / took"],
        lines,
    )
    for workers, pairs in found.items():
        middle = statistics.median(pair.ratio for pair in pairs)
        goal(abs(middle - 1) < GOAL, f"{workers} workers: within {GOAL:.0%}: {middle - 1:+.1%}")
