"""Expanding and planning 100,000 runs, against a new store and one that holds them all; and `efface --help`.

Each measurement is a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from tests.bench.timing import clock, goal, peak_mib, spread, table

RUNS = 100_000
SEEDS = 1000
GOALS = {"cpu": 10.0, "peak": 1024.0, "help": 0.5}
HELP_RUNS = 10


def suite_of(catalogue: Any, runs: int) -> Any:
    """`runs` runs on digits: 10 targets × 2 models × 4 methods, one with two settings × seeds."""
    from harness.suite_file import parse_suite

    methods = ["finetune", "jit", "amnesiac", "neggrad"]
    raw = {
        "seeds": max(1, runs // 100),
        "models": ["vgg_mini", "vit_mini"],
        "methods": methods,
        "grid": {"jit": {"lr": [1e-4, 1e-3]}},
        "task": [
            {"dataset": "digits", "scenario": "full_class", "targets": [str(digit) for digit in range(10)]}
        ],
    }
    return parse_suite("bench", raw, catalogue)


def plan_once(folder: str, runs: int) -> dict[str, float]:
    """Expansion and plan of a suite, as `efface plan` makes them; seconds and MiB, those of imports apart."""
    from harness import registry
    from harness.plan import make_plan
    from harness.store import Store
    from harness.suite import expand

    catalogue = registry.load()
    imports = peak_mib()
    suite = suite_of(catalogue, runs)
    store = Store.open(folder)
    took = clock(lambda: make_plan(suite, expand(suite, catalogue), store, catalogue))
    plan = took.result
    return {
        "seconds": took.wall,
        "cpu": took.cpu,
        "peak": peak_mib(),
        "imports": imports,
        "wanted": len(plan.wanted),
        "jobs": len(plan.jobs),
        "done": len(plan.done),
    }


def fill(folder: str, runs: int) -> None:
    """A store with a finished row for each run of the suite, all columns written; no runs: a new one."""
    from harness import registry
    from harness.plan import Job, make_plan
    from harness.provenance import driver_facts
    from harness.row_writer import SEGMENT_ROWS
    from harness.store import Store
    from harness.suite import expand
    from harness.sweep import identity

    store = Store.create(folder)
    if not runs:
        return
    catalogue = registry.load()
    suite = suite_of(catalogue, runs)
    plan = make_plan(suite, expand(suite, catalogue), None, catalogue)
    result = {**driver_facts(), **finished_facts()}
    jobs: Iterator[Job] = iter(plan.jobs)
    for number in range(0, len(plan.jobs), SEGMENT_ROWS):
        rows = [{**identity(job, catalogue), **result} for job in islice(jobs, SEGMENT_ROWS)]
        _write_segment(store, f"segment-{number:08d}.parquet", rows)


def finished_facts() -> dict[str, Any]:
    """What a finished run says of itself."""
    from harness.rows import SCORE_COLUMNS

    return {
        **dict.fromkeys(SCORE_COLUMNS, 0.5),
        **dict.fromkeys(("seconds", "seconds_scoring", "seconds_total"), 0.25),
        "status": "ok",
        "started_at": datetime.now(UTC),
        "samples_seen": 100,
        "exclusive": True,
        "device": "cpu",
        "threads": 1,
        "host": "here",
        "split_digest": "0" * 16,
        "data_digest": "0" * 16,
        "data_official": True,
        "metric_versions": json.dumps({"mia": 1, "retain_acc": 1}),
        "attempts": 1,
        "torch_version": "2",
    }


def _write_segment(store: Any, name: str, rows: list[dict[str, Any]]) -> None:
    import io

    import pyarrow.parquet as pq

    from harness.rows import table as arrow_table

    buffer = io.BytesIO()
    pq.write_table(arrow_table(rows), buffer, compression="zstd")
    store.write(f"rows/{name}", buffer.getvalue())


def child(*words: str) -> dict[str, Any]:
    """This module in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.planning", *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"planning {' '.join(words)}: {done.stderr.strip()[-2000:]}")
    return dict(json.loads(done.stdout or "{}"))


def help_seconds(runs: int) -> list[float]:
    """Wall seconds of `efface --help`, by the command that is installed beside this Python."""
    command = Path(sys.executable).with_name("efface")
    if not command.exists():
        raise SystemExit(f"no {command}; type make venv")
    took = []
    for _ in range(runs):
        began = time.perf_counter()
        subprocess.run([str(command), "--help"], capture_output=True, check=True)
        took.append(time.perf_counter() - began)
    return took


def main(runs: int, repeats: int) -> None:
    """Print a line for each store, and the help's time."""
    with tempfile.TemporaryDirectory(prefix="efface-bench-") as folder:
        stores = {"empty": f"{folder}/empty", "full": f"{folder}/full"}
        child("fill", stores["full"], str(runs))
        child("fill", stores["empty"], "0")
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in stores}
        for _ in range(repeats):
            for name, store in stores.items():
                found[name].append(child("plan", store, str(runs)))
    parts = ("seconds", "cpu", "peak", "imports")
    table(
        f"Expanding and planning {found['empty'][0]['wanted']:,} runs, {repeats} repeats; median (min-max)",
        ["store", "jobs", "done", "wall s", "CPU s", "peak MiB", "of it imports"],
        [
            [name, f"{each[0]['jobs']:,}", f"{each[0]['done']:,}"]
            + [spread([one[part] for one in each], ".1f") for part in parts]
            for name, each in found.items()
        ],
    )
    took = help_seconds(HELP_RUNS)
    print(f"efface --help: {spread(took, '.2f')} s, {HELP_RUNS} runs")
    for name, each in found.items():
        for part, unit in (("cpu", "s of CPU"), ("peak", "MiB")):
            value = statistics.median(one[part] for one in each)
            goal(value <= GOALS[part], f"{name} store: at most {GOALS[part]:g} {unit}: {value:.1f}")
    goal(
        statistics.median(took) <= GOALS["help"],
        f"--help within {GOALS['help']} s: {statistics.median(took):.2f}",
    )


if __name__ == "__main__":
    act, where, count = sys.argv[1:]
    if act == "fill":
        fill(where, int(count))
    else:
        print(json.dumps(plan_once(where, int(count))))
