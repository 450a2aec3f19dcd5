"""Sweeps in virtual time: what is said of makespan, chance and cost holds; bad input is one clear error."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from harness.errors import Misuse
from harness.forecast import forecast, forecast_text
from harness.imagined import Cluster, facts, parse
from harness.plan import Job, Plan, make_plan
from harness.registry import Catalogue
from harness.schedule import run
from harness.selection import Selection
from harness.simulate import Forecast, Simulated, Times, expected, longest_chain, simulate, times_of
from harness.spec import RunSpec, Task, TrainSpec
from harness.suite import expand
from harness.suite_file import load_suite

TASK = Task("digits", "mlp", "full_class", "3", None, "corrected")
FREE = {"between": 0.0, "driver": 0.0, "load": 0.0}


@pytest.fixture
def no_overhead(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {**facts(), **FREE}
    monkeypatch.setattr("harness.simulate.facts", lambda: told)


def jobs_of(originals: int, children: int) -> list[Job]:
    parents = [TrainSpec("digits", "mlp", "r@0", seed, "fp32") for seed in range(originals)]
    runs = [
        RunSpec(TASK, parent, "jit", 1, (), seed, "fp32") for parent in parents for seed in range(children)
    ]
    return [Job(spec, "s") for spec in (*parents, *runs)]


def plan_of(jobs: list[Job], small: Callable[..., Any]) -> Plan:
    return Plan(small(), jobs=jobs)


def lasting(jobs: list[Job], *seconds: float) -> Times:
    turn = itertools.cycle(seconds)
    return Times({job.id: next(turn) for job in jobs}, frozenset(job.id for job in jobs))


@pytest.fixture
def paper(catalogue: Catalogue) -> Plan:
    suite = load_suite("paper", catalogue)
    return make_plan(suite, expand(suite, catalogue, Selection(tables=("9",))), None, catalogue)


@pytest.mark.usefixtures("no_overhead")
class TestMakespan:
    def test_one_worker_takes_the_sum_and_two_half_of_it(self, small: Callable[..., Any]) -> None:
        jobs = jobs_of(2, 20)
        plan, times = plan_of(jobs, small), lasting(jobs, 10.0)
        alone = simulate(plan, Cluster(workers=1, start=7.0), times)
        assert alone.makespan == pytest.approx(7 + 420)
        assert alone.utilisation == pytest.approx(420 / 427)
        two = simulate(plan, Cluster(workers=2, start=7.0), times)
        assert two.makespan == pytest.approx(7 + 210)

    def test_a_child_waits_for_its_parent_however_many_workers_there_are(
        self, small: Callable[..., Any]
    ) -> None:
        jobs = jobs_of(1, 20)
        plan, times = plan_of(jobs, small), lasting(jobs, 10.0)
        assert longest_chain(plan, times) == 20
        assert simulate(plan, Cluster(workers=1000), times).makespan == pytest.approx(20)

    def test_nothing_waits_behind_a_long_job_while_another_worker_gets_free(
        self, small: Callable[..., Any]
    ) -> None:
        jobs = jobs_of(3, 0)
        plan, times = plan_of(jobs, small), lasting(jobs, 1000.0, 10.0, 1000.0)
        assert simulate(plan, Cluster(workers=2), times).makespan == pytest.approx(1010)

    def test_runs_that_share_a_gpu_share_its_speed(self, small: Callable[..., Any]) -> None:
        jobs = jobs_of(8, 0)
        plan, times = plan_of(jobs, small), lasting(jobs, 10.0)
        whole = simulate(plan, Cluster(nodes=1, gpus=4), times)
        shared = simulate(plan, Cluster(nodes=1, gpus=4, per_gpu=2), times)
        assert whole.makespan == shared.makespan == 20
        assert whole.hours == pytest.approx(4 * 20 / 3600)

    def test_nothing_to_do_takes_nothing(self, small: Callable[..., Any]) -> None:
        found = forecast(plan_of([], small), parse("workers=2"))
        assert found["makespan_seconds"] == found["utilisation"] == 0


def test_every_worker_of_a_node_that_is_lost_repeats_what_it_ran_and_all_ends_once(
    small: Callable[..., Any],
) -> None:
    jobs = jobs_of(4, 100)
    cluster = Cluster(nodes=4, gpus=8, spot_loss=20.0, start=60.0)
    times, rows = lasting(jobs, 50.0, 100.0, 10.0), []
    executor = Simulated(cluster, times)
    run(jobs, executor, lambda job, row: rows.append(job.id))
    assert sorted(rows) == sorted(job.id for job in jobs)
    assert executor.losses > 2 and executor.repeated > executor.losses and executor.lost > 0
    safe = simulate(plan_of(jobs, small), replace(cluster, spot_loss=0.0), times)
    assert safe.repeated == safe.lost == 0 and safe.makespan < executor.now
    assert executor.useful == pytest.approx(safe.useful)


def test_no_worker_ever_runs_two_jobs_at_once_or_one_before_its_node_is_there() -> None:
    jobs = jobs_of(3, 50)
    executor = Simulated(Cluster(nodes=2, gpus=3, start=30.0, spot_loss=30.0), lasting(jobs, 5.0, 20.0))
    spans: dict[int, list[tuple[float, float]]] = {}
    finish = executor._finish

    def spy(worker: Any, turn: int, time: float) -> Any:
        if turn == worker.turn:
            spans.setdefault(id(worker), []).append((worker.begun, time))
        return finish(worker, turn, time)

    executor._finish = spy  # type: ignore[method-assign]
    run(jobs, executor, lambda job, row: None)
    assert sum(map(len, spans.values())) == len(jobs)
    for each in spans.values():
        assert each[0][0] >= 30
        assert all(first[1] <= second[0] for first, second in itertools.pairwise(each))


def test_the_same_seed_gives_the_same_forecast_and_another_one_does_not(
    small: Callable[..., Any],
) -> None:
    jobs = jobs_of(4, 100)
    plan, times = plan_of(jobs, small), lasting(jobs, 50.0, 100.0, 10.0)

    def found(seed: int) -> Forecast:
        return expected(plan, Cluster(nodes=4, gpus=4, spot_loss=20.0, seed=seed), times)

    assert found(1) == found(1)
    assert found(1).makespan != found(2).makespan


def measured(kind: str, method: str | None, seconds: list[float]) -> list[dict[str, Any]]:
    same = {"kind": kind, "dataset": "digits", "model": "mlp", "method": method}
    return [{**same, "seconds_total": value} for value in seconds]


class Measured:
    """A store that has measured every kind of work."""

    def __init__(self, jit: list[float]) -> None:
        self.jit = jit

    def finished(self) -> dict[str, str]:
        return {}

    def has_model(self, spec_id: str) -> bool:
        return False

    has_outputs = has_model

    def measured_seconds(self) -> list[dict[str, Any]]:
        rows = [measured("train", None, [3.0, 3.0]), measured("run", "jit", self.jit)]
        return [row for part in rows for row in part]


def test_measured_seconds_are_dealt_out_so_that_their_mean_and_spread_are_kept(
    catalogue: Catalogue, small: Callable[..., Any]
) -> None:
    suite = small(methods=["jit"], seeds=8)
    jit = [0.5, 1.0, 1.5, 9.0]
    plan = make_plan(suite, expand(suite, catalogue, Selection()), Measured(jit), catalogue)
    times = times_of(plan, seed=0)
    runs = [times.seconds[job.id] for job in plan.jobs if job.kind == "run"]
    assert sorted(runs) == sorted(2 * jit)
    assert times.measured == {job.id for job in plan.jobs}
    assert times == times_of(plan, seed=0) != times_of(plan, seed=1)


def test_what_was_never_measured_is_estimated_or_refused(paper: Plan, planned: Callable[..., Plan]) -> None:
    times = times_of(paper, 0)
    assert not times.measured and all(seconds >= 0 for seconds in times.seconds.values())
    with pytest.raises(Misuse, match=r"cannot simulate: \d+ of \d+ .* sweep a part of them first"):
        times_of(planned(), 0)


def test_the_longest_run_starts_first_where_nothing_was_measured(paper: Plan) -> None:
    seconds = [paper.estimate(job) or 0.0 for job in paper.jobs if job.kind == "run"]
    assert seconds == sorted(seconds, reverse=True) and seconds[0] > 2 * seconds[-1]


def test_a_forecast_says_time_cost_and_how_it_scales_from_8_to_1024_gpus(paper: Plan) -> None:
    cluster = parse("nodes=16,gpus=8,per_gpu=1,spot_loss=0.05/h,price=5.67")
    found = forecast(paper, cluster)
    assert [row["size"] for row in found["scaling"]] == [8, 16, 32, 64, 128, 256, 512, 1024]
    at_128 = next(row for row in found["scaling"] if row["size"] == 128)
    assert at_128["makespan_seconds"] == found["makespan_seconds"]
    assert found["cost"] == pytest.approx(5.67 * 128 * found["makespan_seconds"] / 3600)
    assert found["scaling"][0]["efficiency"] == 1
    assert all(row["makespan_seconds"] >= found["longest_chain_seconds"] for row in found["scaling"])
    assert 0 < found["utilisation"] < 1
    text = forecast_text(found, cluster)
    assert "16 × 8 GPUs (128 workers)" in text and "at 5.67 a GPU-hour" in text and "1,024" in text


def test_workers_without_gpus_have_no_price_and_a_table_of_their_own(
    small: Callable[..., Any], catalogue: Catalogue
) -> None:
    suite = small(methods=["jit"], seeds=8)
    plan = make_plan(suite, expand(suite, catalogue, Selection()), Measured([1.0]), catalogue)
    found = forecast(plan, parse("workers=2"))
    assert found["cost"] is None and found["unit"] == "worker" and found["slots"] == 2
    assert [row["size"] for row in found["scaling"]] == [1, 2, 4, 8, 16, 32]
    assert "cost" not in forecast_text(found, parse("workers=2")).splitlines()[1]


def test_one_node_of_many_gpus_is_counted_in_whole_nodes(paper: Plan) -> None:
    found = forecast(paper, parse("nodes=1,gpus=3"))
    assert [row["size"] for row in found["scaling"]][:2] == [9, 18]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "either nodes and gpus, or workers"),
        ("nodes=16", "both nodes and gpus"),
        ("gpus=8", "both nodes and gpus"),
        ("workers=2,gpus=8", "either nodes and gpus, or workers"),
        ("nodes=16,gpu=8", "gpu=8: expected one of nodes, gpus"),
        ("nodes", "nodes: expected one of nodes, gpus"),
        ("nodes=0,gpus=8", "nodes=0: expected a whole number from 1 on"),
        ("nodes=1.5,gpus=8", "nodes=1.5: expected a whole number"),
        ("nodes=1,nodes=2,gpus=8", "nodes once"),
        ("nodes=1,gpus=8,spot_loss=often", "spot_loss=often: expected a number, 0 or more .an hour."),
        ("nodes=1,gpus=8,spot_loss=-1", "expected a number, 0 or more"),
        ("nodes=1,gpus=8,price=nan", "price=nan: expected a number"),
        ("nodes=1,gpus=8,price=inf", "price=inf: expected a number"),
        ("workers=2,price=1", "only with nodes and gpus"),
        ("nodes=99999,gpus=8", "at most 100,000 workers"),
    ],
)
def test_bad_input_is_one_error_that_says_what_to_type(text: str, expected: str) -> None:
    with pytest.raises(Misuse, match=f"^--simulate .*{expected}.*for example --simulate nodes=16"):
        parse(text)


def test_nodes_that_are_lost_before_a_run_can_end_are_refused(paper: Plan) -> None:
    with pytest.raises(Misuse, match="expected at most 3, so that it can end"):
        forecast(paper, parse("nodes=1,gpus=8,spot_loss=9999/h"))
