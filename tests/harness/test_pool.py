"""The pool of workers on a cluster that only pretends, in virtual time: nothing is lost, whatever dies."""

from __future__ import annotations

from typing import Any

import pytest

from harness.errors import Misuse
from harness.execute.losses import MAX_ATTEMPTS, MAX_LOSSES
from harness.execute.slots import Died
from harness.plan import Job
from tests.harness.pretend import GIB, Actor, Pretend, Ref, attempts, finish, jobs, pool_of


def test_every_job_ends_in_one_row_and_workers_are_as_many_as_there_is_room() -> None:
    cluster = Pretend({"a": {"CPU": 2}, "b": {"CPU": 3}}, grows_to={"CPU": 5})
    rows = finish(pool_of(cluster), jobs(40))
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert len(cluster.actors) == 5
    assert cluster.now < 40 / 5 * 10 + 30


def test_a_machine_that_joins_is_used_and_one_that_leaves_costs_no_attempt() -> None:
    cluster = Pretend({"a": {"CPU": 1}})
    cluster.events = [(30, lambda: cluster.nodes_.update(b={"CPU": 4})), (95, lambda: cluster.lose("b"))]
    rows = finish(pool_of(cluster), jobs(40))
    assert attempts(rows) == {1}
    on_b = [actor for _, actor in cluster.given if actor.node == "b"]
    assert len(on_b) >= 16
    assert len(cluster.given) > 40  # what was lost was given again


@pytest.mark.parametrize("told", [{"CPU": 8.0}, None])  # most clusters do not say how far they may grow
def test_a_pool_grows_from_nothing_as_waiting_workers_are_its_demand(told: dict[str, float] | None) -> None:
    cluster = Pretend({"head": {"CPU": 0}}, grows_to=told)
    seen: list[int] = []

    def machine(name: str) -> None:
        seen.append(len(cluster.alive()))
        cluster.nodes_[name] = {"CPU": 4}

    cluster.events = [(60, lambda: machine("a")), (120, lambda: machine("b"))]
    rows = finish(pool_of(cluster), jobs(60))
    assert seen == [4, 8]  # asked for before they were there
    assert attempts(rows) == {1}
    assert not [actor for actor in cluster.alive() if actor.node is None]  # and nothing is at the end


def test_a_pool_that_waits_for_machines_says_what_it_waits_for() -> None:
    cluster = Pretend({"head": {"CPU": 0}})
    pool = pool_of(cluster, share=0.5)
    assert "each wants 0.5 GPU, and the cluster has 0 cores and 0 GPUs now" in (pool.trouble() or "")
    assert "--device cpu" in (pool.trouble() or "")
    cluster.nodes_["a"] = {"CPU": 4, "GPU": 1}
    finish(pool, jobs(2))
    assert pool.trouble() is None


def test_asked_for_workers_bound_the_demand() -> None:
    cluster = Pretend({"head": {"CPU": 0}})
    cluster.events = [(60, lambda: cluster.nodes_.update(a={"CPU": 16}))]
    finish(pool_of(cluster, workers=3), jobs(30))
    assert len({actor for _, actor in cluster.given}) == 3


def test_a_worker_that_dies_of_its_job_costs_an_attempt_and_the_third_is_a_failed_row() -> None:
    cluster = Pretend({"a": {"CPU": 1}})
    original = cluster.execute

    def execute(actor: Actor, job: Job) -> Ref:
        if job.id == bad.id:
            actor.dead = "process"
        return original(actor, job)

    cluster.execute = execute  # type: ignore[method-assign]
    wanted = jobs(6)
    bad = wanted[2]
    rows = finish(pool_of(cluster, workers=1), wanted)
    assert (rows[bad.id]["status"], rows[bad.id]["error_type"]) == ("failed", "worker_died")
    assert rows[bad.id]["attempts"] == MAX_ATTEMPTS
    assert {row["attempts"] for id_, row in rows.items() if id_ != bad.id} == {1}


def test_a_process_that_dies_moments_before_its_machine_costs_no_attempt() -> None:
    cluster = Pretend({"a": {"CPU": 2}, "b": {"CPU": 2}}, seconds=60)

    def processes_first() -> None:
        for actor in cluster.alive():
            if actor.node == "b":
                actor.dead = "process"

    cluster.events = [(20, processes_first), (22, lambda: cluster.nodes_.pop("b"))]
    rows = finish(pool_of(cluster), jobs(8))
    assert attempts(rows) == {1}


def test_a_process_that_dies_on_a_living_machine_does() -> None:
    cluster = Pretend({"a": {"CPU": 1}, "b": {"CPU": 1}}, seconds=60)
    cluster.events = [(20, lambda: setattr(cluster.actors[0], "dead", "process"))]
    rows = finish(pool_of(cluster), jobs(4))
    assert attempts(rows) == {1, 2}


def test_a_job_that_takes_its_machine_with_it_every_time_ends() -> None:
    cluster = Pretend({"a": {"CPU": 1}})
    original = cluster.execute

    def execute(actor: Actor, job: Job) -> Ref:
        actor.dead = "node"
        return original(actor, job)

    cluster.execute = execute  # type: ignore[method-assign]
    rows = finish(pool_of(cluster, workers=1), jobs(1))
    assert [row["error_type"] for row in rows.values()] == ["worker_died"]
    assert len(cluster.given) == MAX_LOSSES + MAX_ATTEMPTS


def test_a_frozen_worker_is_given_up_and_its_late_row_is_never_read() -> None:
    cluster = Pretend({"a": {"CPU": 2}})
    frozen = cluster.actors
    cluster.events = [
        (12, lambda: setattr(frozen[0], "frozen", True)),
        (100, lambda: setattr(frozen[0], "frozen", False)),
    ]
    rows = finish(pool_of(cluster, workers=2, silence=30), jobs(30))
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert cluster.now < 30 / 2 * 10 + 60  # the other one went on meanwhile
    late = [ref for ref in cluster.taken if ref.actor is frozen[0] and ref.at > 12]
    assert not late
    assert sorted(attempts(rows)) == [1, 2]


def test_a_silent_machine_costs_no_attempt_and_does_not_hold_up_the_others() -> None:
    cluster = Pretend({"a": {"CPU": 3}, "b": {"CPU": 3}})
    cluster.events = [(27, lambda: cluster.silence("b"))]  # and the cluster never says that it is dead
    rows = finish(pool_of(cluster, silence=30), jobs(60))
    assert attempts(rows) == {1}
    assert cluster.now < 60 / 3 * 10 + 60


def test_nobody_is_silent_because_this_process_slept() -> None:
    cluster = Pretend({"a": {"CPU": 2}})

    def sleep() -> None:
        for actor in cluster.alive():
            actor.free += 500
        cluster.now += 500

    cluster.events = [(22, sleep)]
    rows = finish(pool_of(cluster, workers=2, silence=30, time=40), jobs(20))
    assert attempts(rows) == {1}
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert len(cluster.actors) == 2


def test_fetching_the_data_of_a_first_run_is_no_part_of_its_time_limit() -> None:
    cluster = Pretend({"a": {"CPU": 1}}, seconds=100)
    rows = finish(pool_of(cluster, workers=1, time=20, first=3600), jobs(3))
    # the second one is over it, and the third has a worker of its own
    assert sorted(str(row.get("error_type")) for row in rows.values()) == ["None", "None", "timeout"]


def test_a_run_over_its_time_limit_is_a_failed_row() -> None:
    cluster = Pretend({"a": {"CPU": 1}}, seconds=100)
    rows = finish(pool_of(cluster, workers=1, time=20), jobs(1))
    assert [row["error_type"] for row in rows.values()] == ["timeout"]
    assert cluster.now < 70


def test_a_run_far_over_its_expectation_is_tried_again_and_then_fails() -> None:
    cluster = Pretend({"a": {"CPU": 1}}, seconds=1e9)
    rows = finish(pool_of(cluster, workers=1), jobs(1, expected_seconds=2.0))
    assert [(row["error_type"], row["attempts"]) for row in rows.values()] == [("timeout", MAX_ATTEMPTS)]


def test_a_worker_above_its_memory_limit_starts_afresh_after_its_run() -> None:
    cluster = Pretend({"a": {"CPU": 1}}, resident=3 * GIB)
    rows = finish(pool_of(cluster, workers=1, memory=2 * GIB), jobs(5))
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert attempts(rows) == {1}
    assert len(cluster.actors) >= 4


def test_a_run_at_twice_the_memory_limit_is_tried_once_more_and_is_then_out_of_memory() -> None:
    cluster = Pretend({"a": {"CPU": 1}}, seconds=50)
    start = cluster.start

    def large(share: float, alone: bool) -> Actor:
        actor = start(share, alone)
        actor.resident = 5 * GIB
        return actor

    cluster.start = large  # type: ignore[method-assign]
    rows = finish(pool_of(cluster, workers=1, memory=2 * GIB), jobs(1))
    assert [(row["error_type"], row["attempts"]) for row in rows.values()] == [("oom", 2)]


def test_workers_that_cannot_start_end_the_sweep_with_their_own_words() -> None:
    cluster = Pretend({"a": {"CPU": 2}}, birth=Died("birth", "ImportError: no module named torch"))
    with pytest.raises(Misuse, match=r"no worker can start.*no module named torch"):
        finish(pool_of(cluster, workers=2), jobs(3))


def test_a_quick_job_waits_behind_another_and_a_long_one_never_does() -> None:
    for seconds, most in ((1.0, 2), (60.0, 1)):
        cluster = Pretend({"a": {"CPU": 1}}, seconds=seconds)
        deepest = 0
        original = cluster.execute

        def execute(
            actor: Actor, job: Job, cluster: Pretend = cluster, inner: Any = original, each: float = seconds
        ) -> Ref:
            nonlocal deepest
            ref: Ref = inner(actor, job)
            deepest = max(deepest, round((ref.at - cluster.now) / each + 0.49))
            return ref

        cluster.execute = execute  # type: ignore[method-assign]
        finish(pool_of(cluster, workers=1), jobs(8))
        assert deepest == most


@pytest.mark.parametrize(("failures", "works"), [(1, True), (2, False)])
def test_a_slow_start_of_ray_is_tried_once_more_and_then_told(failures: int, works: bool) -> None:
    class Slow:
        calls = 0

        def init(self, **options: object) -> None:
            self.calls += 1
            if self.calls <= failures:
                raise Exception("The current node timed out during startup.")

        def shutdown(self) -> None: ...

    from harness.execute.ray import _init

    slow = Slow()
    if works:
        _init(slow, {}, None)
    else:
        with pytest.raises(Misuse, match="cannot start or reach Ray: The current node timed out"):
            _init(slow, {}, None)
    assert slow.calls == 2
    with pytest.raises(Misuse):
        _init(Slow(), {}, "10.0.0.1:6379")  # of a cluster that is not ours, at once
