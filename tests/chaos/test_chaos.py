"""A small sweep survives five kills; `make chaos` does the same at length, and on a server that fails."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.chaos.disturb import KINDS, plan_of
from tests.chaos.flaky import Flaky
from tests.chaos.sweeps import MEASURED, compare

ROOT = Path(__file__).resolve().parents[2]


def test_a_plan_of_kills_is_seeded_has_every_kind_and_leaves_the_end_alone() -> None:
    plan = plan_of(30, 300, seed=1)
    assert plan == plan_of(30, 300, seed=1) != plan_of(30, 300, seed=2)
    assert {kind for _, kind in plan} == set(KINDS)
    assert max(moment for moment, _ in plan) < 0.76 * 300


def test_the_failing_server_refuses_about_its_share() -> None:
    server = Flaky(lambda environ, start: [b"fine"], share=0.2, seed=0)

    def ask() -> bytes:
        environ: dict[str, Any] = {"PATH_INFO": "/x", "wsgi.input": io.BytesIO()}
        return next(iter(server(environ, lambda *_: None)))

    fine = sum(ask() == b"fine" for _ in range(500))
    assert (server.asked, server.refused) == (500, 500 - fine)
    assert 350 < fine < 450


def test_the_comparison_sees_a_score_that_differs_and_a_run_that_is_not_ok() -> None:
    good = pd.DataFrame([{**dict.fromkeys(MEASURED, 0.5), "status": "ok", "error_message": None}])
    compare(good, good)
    with pytest.raises(AssertionError):
        compare(good.assign(forget_acc=0.6), good)
    with pytest.raises(AssertionError, match="not ok"):
        compare(good.assign(status="failed"), good)


@pytest.mark.slow
def test_thirty_runs_survive_five_kills() -> None:
    command = [sys.executable, "-m", "tests.chaos", "--runs", "30", "--kills", "5", "--seconds", "240"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=290)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall("killed: ", done.stdout)) >= 4, done.stdout
    assert "rows are those of the undisturbed sweep" in done.stdout
