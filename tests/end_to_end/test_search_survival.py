"""Searches in real processes: whatever is killed, they go on with what they had tried."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import psutil
import pytest

from tests.processes import environment

pytestmark = pytest.mark.slow
TRIALS = 24
SUITE = """
seeds = 2
models = ["mlp"]
methods = ["baseline", "retrain", "slow"]
[[task]]
dataset = "digits"
scenario = "full_class"
targets = ["3"]
"""
PLUGIN = '''
import time
from dataclasses import dataclass

import torch
from methods.api import method

SIZE = {"low": 0.01, "high": 1.0, "log": True}


@method("slow", needs={"forget"}, scenarios={"full_class"}, search={"size": SIZE})
@dataclass(frozen=True)
class Slow:
    """Shakes the weights a little, and takes its time."""

    size: float = 0.1

    def __call__(self, model, forget, retain, ctx):
        time.sleep(0.25)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape, generator=ctx.generator), alpha=self.size)
        return model
'''
EFFACE = [sys.executable, "-m", "harness.cli"]
IMPATIENT = [
    *(sys.executable, "-c"),
    "from harness.search import tune; tune.ENDLESS_SECONDS = 30; from harness.cli import entry; entry()",
]
COMMAND = [
    *("tune", "small.toml", "--plugin", "slow.py", "--method", "slow"),
    *("--trials", str(TRIALS), "--seeds", "100"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("user")
    (folder / "small.toml").write_text(SUITE)
    (folder / "slow.py").write_text(PLUGIN)
    (folder / "tasks.py").write_text("raise SystemExit('the wrong tasks')")
    return folder


def trials(folder: Path, store: str) -> pd.DataFrame:
    """What plain pandas reads at this moment, in the order in which it was drawn."""
    place = folder / store / "trials"
    if not place.is_dir() or not list(place.glob("*.parquet")):
        return pd.DataFrame({"number": []})
    return pd.read_parquet(place).sort_values("number", ignore_index=True)


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Whatever a test starts is gone afterwards."""
    running: list[subprocess.Popen[bytes]] = []
    yield running
    for one in running:
        if one.poll() is None:
            os.killpg(one.pid, signal.SIGKILL)
            one.wait(30)


def start(folder: Path, store: str, on: str, program: Sequence[str] = EFFACE) -> subprocess.Popen[bytes]:
    with (folder / f"{store}.log").open("wb") as log:
        words = [*program, *COMMAND, "--store", store, "--on", on]
        return subprocess.Popen(
            words, cwd=folder, stdout=log, stderr=log, start_new_session=True, env=environment()
        )


def until(process: subprocess.Popen[bytes], folder: Path, store: str, count: int) -> None:
    end = time.monotonic() + 120
    while len(trials(folder, store)) < count:
        said = (folder / f"{store}.log").read_text()
        assert process.poll() is None and time.monotonic() < end, said
        time.sleep(0.1)


def finish(folder: Path, store: str, on: str) -> str:
    words = [*EFFACE, *COMMAND, "--store", store, "--on", on]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_a_killed_search_goes_on_with_the_points_that_it_would_have_tried(
    folder: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    finish(folder, "undisturbed", "inline")
    first = start(folder, "killed", "inline")
    started.append(first)
    until(first, folder, "killed", 9)
    first.send_signal(signal.SIGKILL)
    first.wait(30)
    kept = trials(folder, "killed")
    said = finish(folder, "killed", "inline")
    assert f"going on after {len(kept)} trials" in said
    again, whole = trials(folder, "killed"), trials(folder, "undisturbed")
    assert again["number"].tolist() == list(range(TRIALS))
    columns = ["drawn", "params", "value", "retain_acc", "forget_acc", "mia", "runs"]
    pd.testing.assert_frame_equal(again[columns], whole[columns])
    assert again.loc[: len(kept) - 1, "started_at"].equals(kept["started_at"])  # nothing was tried twice


def workers_of(driver: subprocess.Popen[bytes]) -> list[psutil.Process]:
    family = psutil.Process(driver.pid).children(recursive=True)
    found = [p for p in family if "ImplicitFunc" in " ".join(p.cmdline())]
    assert found, [p.cmdline() for p in family]
    return found


def test_on_ray_no_finished_trial_is_lost_with_a_dead_worker_a_dead_driver_or_a_frozen_worker(
    folder: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    first = start(folder, "ray", "local")
    started.append(first)
    until(first, folder, "ray", 4)
    workers_of(first)[0].kill()
    until(first, folder, "ray", 10)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait(30)
    kept = trials(folder, "ray")
    assert (kept["status"] == "ok").all()  # the killed worker's trial was tried again
    second = start(folder, "ray", "local", IMPATIENT)
    started.append(second)
    until(second, folder, "ray", len(kept) + 3)
    workers_of(second)[0].suspend()
    assert second.wait(120) == 0, (folder / "ray.log").read_text()
    after = trials(folder, "ray")
    assert (after["status"] == "ok").all(), after["error_message"].dropna().tolist()
    assert sorted(after["number"]) == list(range(TRIALS))
    assert set(kept["started_at"]) <= set(after["started_at"])
    assert after["drawn"].nunique() == TRIALS


def test_ctrl_c_keeps_every_finished_trial_and_says_how_to_go_on(
    folder: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    first = start(folder, "stopped", "inline")
    started.append(first)
    until(first, folder, "stopped", 3)
    first.send_signal(signal.SIGINT)
    assert first.wait(60) == 130
    said = (folder / "stopped.log").read_text()
    assert "Every finished trial is kept" in said and "Traceback" not in said
    assert len(trials(folder, "stopped")) >= 3
