"""Real processes on Ray: whatever is killed, what was reported is kept, and the end is as if undisturbed."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import psutil
import pytest

from harness.rows import SCORE_COLUMNS
from tests.processes import environment

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("survival")]  # they share an undisturbed sweep
EFFACE = [sys.executable, "-m", "harness.cli"]
SEEDS = 5
SUITE = f"""
seeds = {SEEDS}
models = ["mlp"]
methods = ["baseline", "retrain", "jit", "drowsy"]
[[task]]
dataset = "digits"
scenario = "full_class"
targets = ["3", "8"]
"""
RETRAINS = 2 * SEEDS
RUNS = 2 + 3 * RETRAINS  # the baseline draws nothing: one run for each target
MIDDLE = 15  # rows of 43
PLUGIN = '''
import time
from dataclasses import dataclass

import torch
from methods.api import method


@method("drowsy", needs={"forget"}, scenarios={"full_class"})
@dataclass(frozen=True)
class Drowsy:
    """Shakes the weights a little, and takes its time."""

    seconds: float = 1.2

    def __call__(self, model, forget, retain, ctx):
        time.sleep(self.seconds)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape, generator=ctx.generator), alpha=0.02)
        return model
'''
MEASURED = ["run_id", "kind", "method", "target", "seed", *SCORE_COLUMNS, "split_digest"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: a suite, a plugin, and a file that would shadow our package on the workers."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "small.toml").write_text(SUITE)
    (folder / "drowsy.py").write_text(PLUGIN)
    (folder / "tasks.py").write_text("raise SystemExit('the wrong tasks')")
    return folder


def sweep(folder: Path, store: str, *more: str) -> list[str]:
    return [*EFFACE, "sweep", "small.toml", "--plugin", "drowsy.py", "--store", store, *more]


class Running:
    """A sweep in a process group of its own, with what it has said so far."""

    def __init__(self, folder: Path, store: str, *more: str) -> None:
        self.log = folder / f"{store}.log"
        self.store = folder / store
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                sweep(folder, store, *more),
                cwd=folder,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment(),
            )

    def said(self) -> str:
        return self.log.read_text()

    def reported(self) -> int:
        """Runs that it has called done."""
        found = re.findall(r"runs (\d+)/", self.said())
        return int(found[-1]) if found else 0

    def until(self, holds: Callable[[], bool], seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < end, self.said()
            time.sleep(0.1)

    def workers(self) -> list[psutil.Process]:
        family = psutil.Process(self.process.pid).children(recursive=True)
        return [p for p in family if "ray::Worker" in " ".join(p.cmdline())]

    def end(self, seconds: float = 180) -> int:
        return self.process.wait(seconds)


def ended(process: psutil.Process) -> bool:
    """Dead, whether or not its parent has taken note of it yet."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    return True


@pytest.fixture
def started() -> Iterator[list[Running]]:
    """Whatever a test starts is gone afterwards."""
    running: list[Running] = []
    yield running
    for one in running:
        if one.process.poll() is None:
            os.killpg(one.process.pid, signal.SIGKILL)
            one.process.wait(30)


def rows(store: Path) -> pd.DataFrame:
    frame = pd.read_parquet(store / "rows")
    done = frame[frame["status"] == "ok"]
    assert not done["run_id"].duplicated().any()
    return done[MEASURED].sort_values("run_id", ignore_index=True)


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> pd.DataFrame:
    done = subprocess.run(
        sweep(folder, "undisturbed", "--on", "inline"),
        cwd=folder,
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    frame = rows(folder / "undisturbed")
    assert len(frame) == RUNS + 1 + RETRAINS  # and one original
    return frame


def test_a_killed_worker_costs_nothing_but_time(
    folder: Path, undisturbed: pd.DataFrame, started: list[Running]
) -> None:
    first = Running(folder, "worker", "--on", "local", "--workers", "2")
    started.append(first)
    first.until(lambda: len(list((first.store / "rows").glob("*.parquet"))) > 0)
    second = subprocess.run(
        sweep(folder, "worker"), cwd=folder, capture_output=True, text=True, env=environment()
    )
    assert second.returncode == 2 and "in use by another sweep" in second.stderr
    first.until(lambda: len(pd.read_parquet(first.store / "rows")) > MIDDLE)
    first.workers()[0].kill()
    reads = 0
    while first.process.poll() is None:  # plain pandas can read at any moment
        assert len(pd.read_parquet(first.store / "rows")) > MIDDLE
        reads += 1
    assert first.end() == 0, first.said()
    assert reads > 10
    pd.testing.assert_frame_equal(rows(first.store), undisturbed)
    attempts = pd.read_parquet(first.store / "rows")["attempts"]
    assert attempts.max() <= 2


def test_a_frozen_worker_is_replaced_and_its_run_done_elsewhere(
    folder: Path, undisturbed: pd.DataFrame, started: list[Running]
) -> None:
    first = Running(folder, "frozen", "--on", "local", "--workers", "2", "--silence", "8")
    started.append(first)
    first.until(lambda: first.reported() >= 5)
    frozen = first.workers()[0]
    frozen.suspend()
    assert first.end() == 0, first.said()
    assert ended(frozen)
    pd.testing.assert_frame_equal(rows(first.store), undisturbed)
    assert pd.read_parquet(first.store / "rows")["attempts"].max() == 2


@pytest.mark.parametrize("whole_group", [False, True], ids=["driver", "process group"])
def test_a_killed_sweep_keeps_what_it_reported_and_goes_on_where_it_stopped(
    folder: Path, undisturbed: pd.DataFrame, started: list[Running], whole_group: bool
) -> None:
    name = "group" if whole_group else "driver"
    first = Running(folder, name, "--on", "local", "--workers", "2")
    started.append(first)
    first.until(lambda: first.reported() >= 5)
    if whole_group:
        os.killpg(first.process.pid, signal.SIGKILL)
    else:
        os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait(30)
    kept = rows(first.store)
    assert first.reported() <= (kept["kind"] == "run").sum() < RUNS
    again = Running(folder, name, "--on", "inline")
    started.append(again)
    assert again.end() == 0, again.said()
    assert f"{(kept['kind'] == 'run').sum()} runs done before" in again.said()
    pd.testing.assert_frame_equal(rows(first.store), undisturbed)


@pytest.mark.parametrize("sent", ["ctrl_c", "sigterm"])
def test_ctrl_c_and_sigterm_stop_cleanly_and_say_how_to_go_on(
    folder: Path, undisturbed: pd.DataFrame, started: list[Running], sent: str
) -> None:
    first = Running(folder, sent, "--on", "local", "--workers", "2")
    started.append(first)
    first.until(lambda: first.reported() >= 5)
    if sent == "ctrl_c":  # a terminal sends it to every process of the group
        os.killpg(first.process.pid, signal.SIGINT)
    else:
        os.kill(first.process.pid, signal.SIGTERM)
    assert first.end(60) == 130
    assert "type the same command to go on" in first.said()
    assert "Traceback" not in first.said()
    kept = rows(first.store)
    assert first.reported() <= (kept["kind"] == "run").sum()
    leftovers = [
        p for p in psutil.process_iter(["cmdline"]) if f"{first.store}" in " ".join(p.info["cmdline"] or [])
    ]
    assert not leftovers
    like_it = undisturbed[undisturbed["run_id"].isin(kept["run_id"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, like_it)


def test_a_run_over_its_time_limit_is_a_failed_row_and_the_sweep_goes_on(
    folder: Path, started: list[Running]
) -> None:
    slow = folder / "slow.toml"
    slow.write_text(SUITE.replace(f"seeds = {SEEDS}", "seeds = 1") + "[params.drowsy]\nseconds = 60.0\n")
    command = [
        part if part != "small.toml" else "slow.toml" for part in sweep(folder, "limit", "--workers", "2")
    ]
    command += ["--on", "local", "--time-limit", "4", "--targets", "3"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment(), timeout=200)
    assert done.returncode == 1, done.stderr
    frame = pd.read_parquet(folder / "limit" / "rows").set_index("method")
    assert (frame.loc["drowsy", "status"], frame.loc["drowsy", "error_type"]) == ("failed", "timeout")
    assert frame.loc["jit", "status"] == "ok"
