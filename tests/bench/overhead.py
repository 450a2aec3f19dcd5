"""What the harness adds to a run, by a suite of a method that does nothing: on two Ray workers, and inline.

Overhead of a run = (workers × (last end − first start) − Σ(seconds + seconds_scoring)) / runs, from rows of
runs: what passes between two runs of a worker, and what a run takes besides its method and its scoring.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from harness import launch, registry
from harness.plan import make_plan
from harness.store import Store
from harness.suite import expand
from harness.suite_file import parse_suite
from harness.sweep import Listener
from methods.api import METHODS
from tests.bench.timing import Took, clock, goal, spread, table

GOAL_MS = 10.0
WARM_UP = 20  # first runs, in which each worker imports libraries and loads data and the original
PARTS = ("every", "steady", "inside", "work")
HEADS = ("all runs", "once warm", "of it in worker", "method + scoring")
NAME = "bench_nothing"
PLUGIN = f'''
from dataclasses import dataclass

from methods.api import method


@method("{NAME}", needs={{"forget"}}, scenarios={{"full_class"}})
@dataclass(frozen=True)
class Nothing:
    """Gives the model back as it is."""

    def __call__(self, model, forget, retain, ctx):
        return model
'''


@dataclass(frozen=True)
class Overhead:
    """Milliseconds a run."""

    every: float  # over all runs
    steady: float  # over those that start after the first runs have ended
    inside: float  # of `steady`, in the worker: total − method − scoring
    work: float  # method and scoring, median
    runs: int


def overhead(rows: pd.DataFrame, workers: int) -> Overhead:
    """From rows of runs: started_at, seconds, seconds_scoring, seconds_total."""
    rows = rows.sort_values("started_at")
    warm = _ends(rows.head(WARM_UP)).max()
    steady = rows[rows["started_at"] >= warm] if len(rows) > 2 * WARM_UP else rows
    work = steady["seconds"] + steady["seconds_scoring"]
    return Overhead(
        every=_per_run(rows, workers),
        steady=_per_run(steady, workers),
        inside=1000 * float((steady["seconds_total"] - work).mean()),
        work=1000 * float(work.mean()),
        runs=len(rows),
    )


def _per_run(rows: pd.DataFrame, workers: int) -> float:
    wall = (_ends(rows).max() - rows["started_at"].min()).total_seconds()
    work = float((rows["seconds"] + rows["seconds_scoring"]).sum())
    return 1000 * (workers * wall - work) / len(rows)


def _ends(rows: pd.DataFrame) -> Any:
    return rows["started_at"] + pd.to_timedelta(rows["seconds_total"], unit="s")


def sweep(on: str, workers: int, runs: int) -> tuple[pd.DataFrame, Took]:
    """Rows of runs of one sweep on a store that is thrown away, and what the sweep took this process."""
    with tempfile.TemporaryDirectory(prefix="efface-bench-") as folder:
        plugin = Path(folder) / "bench_plugin.py"
        plugin.write_text(PLUGIN, encoding="utf-8")
        catalogue = registry.load([plugin])
        try:
            return _sweep(
                Path(folder) / "store", plugin, catalogue, launch.Where(on, workers, 1, "cpu"), runs
            )
        finally:
            _unload(plugin)


def _sweep(
    folder: Path, plugin: Path, catalogue: Any, where: launch.Where, runs: int
) -> tuple[pd.DataFrame, Took]:
    task = {"dataset": "digits", "scenario": "full_class", "targets": ["3"], "models": ["mlp"]}
    suite = parse_suite("bench", {"seeds": runs, "methods": [NAME], "task": [task]}, catalogue)
    store = Store.create(str(folder))
    plan = make_plan(suite, expand(suite, catalogue), store, catalogue)
    told = launch.settings(str(folder), None, [str(plugin)], where, 512, False, False, None)
    took = clock(lambda: launch.sweep(plan, store, catalogue, told, where, Listener()))
    rows = Store.open(str(folder)).rows().to_pandas()
    rows = rows[rows["kind"] == "run"]
    if len(rows) != runs or set(rows["status"]) != {"ok"}:
        raise AssertionError(
            f"{len(rows)} rows, {rows['status'].value_counts().to_dict()}; expected {runs} ok"
        )
    return rows, took


def _unload(plugin: Path) -> None:
    """The method is there for this benchmark alone."""
    METHODS.pop(NAME, None)
    sys.modules.pop(f"efface_plugin_{plugin.stem}", None)


def main(runs: int, repeats: int) -> None:
    """Print one line for Ray and one for inline."""
    found: dict[str, list[Overhead]] = {"local": [], "inline": []}
    sweeps: dict[str, list[Took]] = {"local": [], "inline": []}
    workers = {"local": 2, "inline": 1}
    for _ in range(repeats):
        for on in found:
            rows, took = sweep(on, workers[on], runs)
            found[on].append(overhead(rows, workers[on]))
            sweeps[on].append(took)
    names = {"local": "2 Ray workers", "inline": "inline"}
    lines = [
        [
            names[on],
            *(spread([getattr(each, part) for each in found[on]]) for part in PARTS),
            spread([1000 * took.cpu / runs for took in sweeps[on]]),
            spread([took.wall for took in sweeps[on]]),
        ]
        for on in found
    ]
    table(
        f"Harness overhead, {runs} runs that do nothing on digits/mlp, {repeats} repeats; "
        "milliseconds a run, median (min-max)",
        ["where", *HEADS, "CPU of this process", "sweep s"],
        lines,
    )
    for on, each in found.items():
        for part, words in (("every", "all runs"), ("steady", "once warm")):
            middle = statistics.median(getattr(one, part) for one in each)
            goal(middle < GOAL_MS, f"{names[on]}, {words}: under {GOAL_MS:g} ms a run: {middle:.1f}")
