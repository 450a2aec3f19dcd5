"""One machine's network falls silent in the middle of a sweep: nothing is said, no connection is closed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pandas as pd

from tests.cluster.bed import THERE, efface_process, expect, timed, wait_for

RUNS, SECONDS = 14, 2.0
BEFORE = 4  # runs that have ended when the cable is pulled
SILENCE = 20.0  # seconds; the default of 45 would only make the test longer
SUITE = f"""
seeds = {RUNS}
retrain_seeds = 1
models = ["mlp"]
methods = ["sleepy"]
[[task]]
dataset = "digits"
scenario = "full_class"
targets = ["3"]
"""
PLUGIN = f'''
import time
from dataclasses import dataclass

import torch
from methods.api import method


@method("sleepy", needs={{"forget"}}, scenarios={{"full_class"}})
@dataclass(frozen=True)
class Sleepy:
    """Shakes the weights, and takes its time."""

    def __call__(self, model, forget, retain, ctx):
        time.sleep({SECONDS})
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape, generator=ctx.generator), alpha=0.02)
        return model
'''


def check_partition(folder: Path) -> None:
    """The other worker goes on at once, and takes over what the silent one had."""
    (folder / "sleepy.toml").write_text(SUITE)
    (folder / "sleepy.py").write_text(PLUGIN)
    store = folder / "store/partition"
    words = ["submit", str(folder / "sleepy.toml"), *THERE, "--store", str(store)]
    words += ["--plugin", str(folder / "sleepy.py"), "--", "--silence", str(SILENCE)]
    with timed(f"sweep of {RUNS} runs of {SECONDS:g} s, one worker of two cut off"):
        sweep = efface_process(*words)
        wait_for(lambda: ended(store) >= BEFORE, 90, f"{BEFORE} runs on two workers")
        subprocess.run(["ip", "link", "set", "vh3", "down"], check=True)
        cut = pd.Timestamp.now(tz="UTC")
        said, _ = sweep.communicate(timeout=180)
    expect(sweep.returncode == 0, "the sweep ends well" + said[-3000:] * (sweep.returncode != 0))
    check_rows(runs_of(store), cut)


def ended(store: Path) -> int:
    return len(runs_of(store)) if (store / "rows").is_dir() else 0


def runs_of(store: Path) -> pd.DataFrame:
    if not list((store / "rows").glob("*.parquet")):
        return pd.DataFrame()
    return pd.read_parquet(store / "rows").query("kind == 'run'")


def check_rows(runs: pd.DataFrame, cut: pd.Timestamp) -> None:
    good = bool((runs["status"] == "ok").all()) and runs["run_id"].nunique() == len(runs) == RUNS
    expect(good, f"each of {RUNS} runs has one row, and it is ok")
    expect(int(runs["attempts"].max()) == 1, "none is charged with the loss of a machine")
    expect(set(runs["host"]) == {"h2", "h3"}, "both workers had taken part")
    late = runs[runs["started_at"] > cut].sort_values("started_at")
    expect(set(late["host"]) == {"h2"}, f"after the cut {len(late)} runs began, all on the other worker")
    longest = float(late["started_at"].diff().dt.total_seconds().max())
    expect(longest < 3 * SECONDS, f"it was never held up: a run began every {longest:.1f} s at the latest")
