"""Workers that are at fault themselves: they neither take every job nor have others charged for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from harness.execute.losses import MAX_ATTEMPTS
from harness.execute.slots import Answer, Beat
from harness.rows import Row
from tests.harness.pretend import GIB, Actor, Pretend, Ref, attempts, finish, jobs, pool_of


def failing(error_type: str, message: str = "no") -> Row:
    return {"status": "failed", "error_type": error_type, "error_message": message}


def failing_on(cluster: Pretend, where: Any, row: Row) -> None:
    """Jobs of these actors fail within a moment."""
    take, execute = cluster.take, cluster.execute

    def executed(actor: Actor, job: Any) -> Ref:
        ref: Ref = execute(actor, job)
        if where(actor):
            ref.at = actor.free = cluster.now + 0.3
        return ref

    def taken(ref: Ref) -> Any:
        found = take(ref)
        return Answer(dict(row), 0) if ref.job is not None and where(ref.actor) else found

    cluster.execute, cluster.take = executed, taken  # type: ignore[method-assign]


def test_a_machine_with_other_data_does_not_eat_the_queue() -> None:
    cluster = Pretend({"a": {"CPU": 4}, "b": {"CPU": 1}}, seconds=120)
    failing_on(cluster, lambda actor: actor.node == "b", failing("Misuse", "the data differ"))
    rows = finish(pool_of(cluster), jobs(60))
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert max(attempts(rows)) == 2


def test_a_job_waits_for_no_machine_that_has_gone() -> None:
    """The one machine that had not failed with it is lost: it is tried again where it had failed."""
    cluster = Pretend({"a": {"CPU": 1}, "b": {"CPU": 1}}, seconds=60)
    failing_on(cluster, lambda actor: actor.node == "b" and cluster.now < 30, failing("OSError"))
    cluster.events = [(40, lambda: cluster.lose("a"))]
    rows = finish(pool_of(cluster), jobs(6))
    assert {row["status"] for row in rows.values()} == {"ok"}


def test_a_device_that_is_broken_for_good_is_left_with_its_process() -> None:
    cluster = Pretend({"a": {"GPU": 1}}, seconds=60)
    first: list[Actor] = []

    def broken(actor: Actor) -> bool:
        first[:] = first or [actor]
        return actor is first[0]

    failing_on(cluster, broken, failing("AcceleratorError", "CUDA error: an illegal memory access"))
    rows = finish(pool_of(cluster, share=1.0), jobs(10))
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert sorted(row["attempts"] for row in rows.values()) == [1] * 9 + [2]


def test_a_run_that_breaks_every_device_fails_with_its_own_words() -> None:
    cluster = Pretend({"a": {"GPU": 1}})
    failing_on(cluster, lambda actor: True, failing("AcceleratorError", "CUDA error: device-side assert"))
    (row,) = finish(pool_of(cluster, share=1.0), jobs(1)).values()
    assert (row["error_type"], row["attempts"]) == ("AcceleratorError", MAX_ATTEMPTS)


def test_a_mistake_in_a_method_fails_once() -> None:
    cluster = Pretend({"a": {"CPU": 2}})
    failing_on(cluster, lambda actor: True, failing("ValueError"))
    rows = finish(pool_of(cluster), jobs(20))
    assert attempts(rows) == {1} and len(cluster.given) == 20


def test_what_fails_on_every_machine_is_soon_put_down_to_the_runs() -> None:
    cluster = Pretend({"a": {"CPU": 2}, "b": {"CPU": 2}, "c": {"CPU": 2}})
    failing_on(cluster, lambda actor: True, failing("Misuse"))
    rows = finish(pool_of(cluster), jobs(200))
    assert {row["status"] for row in rows.values()} == {"failed"}
    assert len(cluster.given) < 300 and cluster.now < 400


def test_on_one_machine_nobody_else_could_do_better() -> None:
    cluster = Pretend({"a": {"CPU": 2}})
    failing_on(cluster, lambda actor: True, failing("Misuse"))
    assert attempts(finish(pool_of(cluster), jobs(20))) == {1}


def test_workers_that_take_long_to_start_get_longer_each_time() -> None:
    cluster = Pretend({"a": {"CPU": 2}})
    start = cluster.start

    def slow(share: float, alone: bool) -> Actor:
        actor = start(share, alone)
        actor.born += 500
        return actor

    cluster.start = slow  # type: ignore[method-assign]
    pool = pool_of(cluster)
    for _ in range(400):
        pool.wait(0.5)
    assert "were not there in time and were started again" in (pool.trouble() or "")
    assert {row["status"] for row in finish(pool, jobs(10)).values()} == {"ok"}
    assert len(cluster.actors) < 12


def test_a_lost_machine_is_no_lack_of_memory() -> None:
    """Above --memory-limit, not yet twice above it, when its machine goes."""
    cluster = Pretend({"a": {"CPU": 1}, "b": {"CPU": 1}}, seconds=50)
    start = cluster.start

    def large(share: float, alone: bool) -> Actor:
        actor = start(share, alone)
        actor.resident = 3 * GIB
        return actor

    cluster.start = large  # type: ignore[method-assign]
    cluster.events = [(30, lambda: cluster.lose("a"))]
    rows = finish(pool_of(cluster, memory=2 * GIB), jobs(3))
    assert {row["status"] for row in rows.values()} == {"ok"} and attempts(rows) == {1}


def beats(cluster: Pretend, **of: Any) -> None:
    """What every sign of life says."""
    take = cluster.take

    def taken(ref: Ref) -> Any:
        found = take(ref)
        more = {name: value() for name, value in of.items()}
        return replace(found, **more) if isinstance(found, Beat) else found

    cluster.take = taken  # type: ignore[method-assign]


def test_once_the_data_are_there_a_first_run_has_no_more_time_than_others() -> None:
    cluster = Pretend({"a": {"CPU": 1}}, seconds=1e6)
    beats(cluster, datasets=lambda: frozenset({"digits"} if cluster.now > 300 else ()))
    rows = finish(pool_of(cluster, workers=1, time=60, first=4 * 3600), jobs(1))
    assert [row["error_type"] for row in rows.values()] == ["timeout"]
    assert 360 < cluster.now < 400


def test_waiting_for_the_store_is_no_part_of_a_time_limit() -> None:
    cluster = Pretend({"a": {"CPU": 1}}, seconds=300)  # of which the store was away for 250
    beats(cluster, waited=lambda: min(250.0, max(0.0, cluster.now - 20)))
    rows = finish(pool_of(cluster, workers=1, time=60, first=0.0), jobs(1))
    assert [row["status"] for row in rows.values()] == ["ok"]
