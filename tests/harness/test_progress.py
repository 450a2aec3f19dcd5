"""The time left is what the plan foresees, corrected by what the work really takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from harness.plan import Plan
from harness.progress import Eta, clock


@pytest.fixture
def plan(planned: Callable[..., Plan]) -> Plan:
    return planned(seeds=4, methods=["retrain", "finetune"])


def foreseen(plan: Plan, seconds: float) -> Plan:
    plan.jobs[:] = [replace(job, expected_seconds=seconds) for job in plan.jobs]
    return plan


def test_nothing_is_known_before_anything_was_measured(plan: Plan) -> None:
    assert Eta(plan, 2).seconds() is None


def test_a_plan_with_measured_costs_is_believed_at_first(plan: Plan) -> None:
    assert Eta(foreseen(plan, 3.0), 2).seconds() == pytest.approx(3.0 * len(plan.jobs) / 2)


def test_work_that_takes_ten_times_as_long_as_foreseen_corrects_the_rest_at_once(plan: Plan) -> None:
    eta = Eta(foreseen(plan, 1.0), 1)
    runs = [job for job in plan.jobs if job.kind == "run"]
    others = len(plan.jobs) - len(runs)
    eta.add(runs[0], 10.0)
    assert eta.seconds() == pytest.approx(others + 10.0 * (len(runs) - 1))


def test_kinds_not_measured_before_are_foreseen_by_their_mean(plan: Plan) -> None:
    eta = Eta(plan, 1)
    seen = {job.kind: job for job in plan.jobs}
    for job in seen.values():
        eta.add(job, 5.0)
    assert eta.seconds() == pytest.approx(5.0 * (len(plan.jobs) - len(seen)))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "time unknown"), (12.4, "12 s"), (200, "3 min 20 s"), (3720, "1 h 02 min"), (-1, "0 s")],
)
def test_a_clock_reads_like_one(seconds: float | None, words: str) -> None:
    assert clock(seconds) == words
