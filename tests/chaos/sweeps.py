"""The sweep that is disturbed: its suite, its driver as a process, and what its rows must be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

from harness.rows import SCORE_COLUMNS
from harness.store import Store

ROOT = Path(__file__).resolve().parents[2]
METHODS = ("jit", "neggrad", "random_labels_zs", "counted")
TARGETS = ("0", "3", "8")
MEASURED = ["run_id", "kind", "method", "target", "seed", *SCORE_COLUMNS, "split_digest"]
SUITE = """
seeds = {seeds}
retrain_seeds = 1
models = ["vgg_mini"]
methods = {methods}
[[task]]
dataset = "digits"
scenario = "full_class"
targets = {targets}
"""
PLUGIN = '''
import os
import time
from dataclasses import dataclass

import torch
from methods.api import method


@method("counted", needs={"forget"}, scenarios={"full_class"})
@dataclass(frozen=True)
class Counted:
    """Shakes the weights, leaves a mark each time it is started, and takes long enough to be killed."""

    def __call__(self, model, forget, retain, ctx):
        with open(os.environ["CHAOS_MARKS"], "ab", buffering=0) as marks:
            marks.write(b".")
        time.sleep(2.0)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape, generator=ctx.generator), alpha=0.02)
        return model
'''


def write_suite(folder: Path, runs: int) -> Path:
    """A suite of at least that many runs."""
    seeds = -(-runs // (len(METHODS) * len(TARGETS)))
    path = folder / "chaos.toml"
    (folder / "counted.py").write_text(PLUGIN)
    path.write_text(SUITE.format(seeds=seeds, methods=list(METHODS), targets=list(TARGETS)))
    return path


class Driver:
    """One `efface sweep` after the other, on the same store, as somebody types it again."""

    def __init__(self, suite: Path, store: str, on: str, silence: float = 20.0) -> None:
        self.store, self.log = store, suite.with_name(f"driver-{'s3' if '://' in store else 'disk'}.log")
        self._command = [sys.executable, "-m", "harness.cli", "sweep", str(suite), "--store", store]
        self._command += ["--plugin", str(suite.with_name("counted.py"))]
        self._command += ["--on", on, "--silence", str(silence)] if on != "inline" else ["--on", on]
        self.started = 0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.started += 1
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(
                self._command, cwd=self.log.parent, stdout=file, stderr=file, env=environment
            )

    def code(self) -> int | None:
        """How it ended; None while it runs."""
        assert self.process is not None
        return self.process.poll()

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]


def finished(store: str) -> int:
    """Rows of runs in the store, safe in files."""
    return sum(kind == "run" for kind in Store(store).rows(["kind"])["kind"].to_pylist())


def rows(store: str) -> pd.DataFrame:
    """All rows, those that are ok once each, in an order that any sweep has."""
    frame = Store(store).rows().to_pandas()
    repeated = frame[(frame["status"] == "ok") & frame["run_id"].duplicated(keep=False)]
    if len(repeated):
        raise AssertionError(f"ok more than once: {sorted(set(repeated['run_id']))}")
    return frame.sort_values("run_id", ignore_index=True)


def repeated(found: pd.DataFrame, marks: Path) -> str:
    """How often a run was started again, by the one method that leaves marks."""
    runs = int((found["method"] == "counted").sum())
    return f"of {runs} runs of one method, {marks.stat().st_size - runs} were started once more"


def compare(found: pd.DataFrame, wanted: pd.DataFrame) -> None:
    """Every run has its one ok row, with the scores of the undisturbed sweep."""
    bad = found[found["status"] != "ok"]
    if len(bad):
        raise AssertionError(f"not ok: {bad[['run_id', 'status', 'error_message']].to_dict('records')[:5]}")
    pd.testing.assert_frame_equal(found[MEASURED], wanted[MEASURED])
