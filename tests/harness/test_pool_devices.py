"""Runs that need a device to themselves beside others that share: each gets one in the end."""

from __future__ import annotations

import random
from typing import Any

import pytest

from harness.execute.ray import share_of
from harness.execute.slots import Answer
from harness.plan import Job
from harness.rows import Row
from harness.schedule import run
from harness.spec import TrainSpec
from tests.harness.pretend import GIB, Actor, Pretend, Ref, finish, jobs, pool_of

OOM: Row = {"status": "failed", "error_type": "oom"}


def test_a_job_that_needs_a_whole_device_gets_one_and_the_others_share() -> None:
    cluster = Pretend({"a": {"GPU": 2}}, grows_to={"GPU": 2})
    wanted = jobs(20) + [
        Job(TrainSpec("imagenet", "vit_b16", "vit_b16_imagenet@0", n, "bf16"), "s", careful=True)
        for n in range(2)
    ]
    finish(pool_of(cluster, share=0.25), wanted)
    careful = {job.id for job in wanted[20:]}
    shares = {id_: actor.share for id_, actor in cluster.given}
    assert {shares[id_] for id_ in careful} == {1.0}
    assert {share for id_, share in shares.items() if id_ not in careful} == {0.25}


def large(count: int) -> list[Job]:
    trainings = [TrainSpec("imagenet", "vit_b16", "vit_b16_imagenet@0", n, "bf16") for n in range(count)]
    return [Job(training, "s", careful=True) for training in trainings]


@pytest.mark.parametrize(("small_ones", "asked"), [(0, [4, 8]), (30, [10, 18])])
def test_jobs_that_need_whole_devices_make_a_cluster_grow_too(small_ones: int, asked: list[int]) -> None:
    """Beside small ones, half of the devices are theirs, and those that wait are demand as well."""
    cluster = Pretend({"a": {"GPU": 4}} if small_ones else {"head": {"CPU": 0}}, seconds=100)
    seen: list[int] = []

    def machine(name: str) -> None:
        seen.append(len(cluster.alive()))
        cluster.nodes_[name] = {"GPU": 4}

    cluster.events = [(60, lambda: machine("b")), (120, lambda: machine("c"))]
    finish(pool_of(cluster, share=0.5), large(12) + jobs(small_ones))
    assert seen == asked
    assert not [actor for actor in cluster.alive() if actor.node is None]  # and nothing waits at the end


def out_of_memory_beside_others(cluster: Pretend, those: set[str]) -> None:
    """These jobs are out of memory unless they have a device to themselves."""
    take = cluster.take

    def taken(ref: Ref) -> Any:
        found = take(ref)
        fails = ref.job is not None and ref.job.id in those and not ref.job.careful
        return Answer(dict(OOM), 0) if fails else found

    cluster.take = taken  # type: ignore[method-assign]


@pytest.mark.parametrize("gpus", [1, 2, 4])
def test_a_machine_that_is_lost_with_its_whole_devices_does_not_end_in_waiting(gpus: int) -> None:
    cluster = Pretend({"a": {"GPU": gpus}, "b": {"GPU": gpus}}, seconds=30)
    wanted = jobs(24 * gpus)
    out_of_memory_beside_others(cluster, {job.id for job in wanted[16 * gpus :]})
    pool = pool_of(cluster, share=0.5)
    lost: list[str] = []
    rows: dict[str, Row] = {}

    def on_tick() -> None:
        assert cluster.now < 3600, "it does not end"
        shared = [slot for slot in pool._slots if slot.queue and not slot.whole]
        homes = [slot.home.node for slot in pool._slots if slot.whole and slot.home]
        if not lost and homes and not shared and len(rows) > 12 * gpus:
            lost.append(homes[0])
            cluster.lose(homes[0])

    run(wanted, pool, lambda job, row: rows.__setitem__(job.id, row), on_tick, seconds=0.5)
    assert lost and {row["status"] for row in rows.values()} == {"ok"}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("gpus", "share"), [(2, 0.5), (4, 0.5), (4, 0.25)])
def test_whoever_is_placed_first_a_run_that_needs_a_device_gets_one(
    gpus: int, share: float, seed: int
) -> None:
    """Workers restart over their memory limit, and a cluster starts those that wait in any order."""
    cluster = Pretend({"a": {"GPU": gpus}}, resident=GIB)
    chance = random.Random(seed)
    inner = cluster.alive

    def alive() -> list[Actor]:
        found = inner()
        chance.shuffle(found)
        return found

    cluster.alive = alive  # type: ignore[method-assign]
    wanted = jobs(80)
    out_of_memory_beside_others(cluster, {job.id for job in wanted[::10]})
    take = cluster.take

    def taken(ref: Ref) -> Any:
        found = take(ref)
        return Answer(found.row, 3 * GIB) if isinstance(found, Answer) and chance.random() < 0.2 else found

    cluster.take = taken  # type: ignore[method-assign]
    rows = finish(pool_of(cluster, share=share, memory=2 * GIB), wanted)
    assert {row["status"] for row in rows.values()} == {"ok"}


def test_when_only_runs_that_need_a_device_are_left_all_devices_are_theirs() -> None:
    cluster = Pretend({"a": {"GPU": 4}}, seconds=60)
    wanted = jobs(60)
    out_of_memory_beside_others(cluster, {job.id for job in wanted[30:]})
    finish(pool_of(cluster, share=0.5), wanted)
    shared, alone = 60 * 60 / 8, 30 * 60 / 4
    assert cluster.now < 1.15 * (shared + alone)


def test_gpus_that_were_asked_for_are_waited_for() -> None:
    nodes = {"head": {"CPU": 8.0}}
    assert share_of(nodes, None, 0.5) == 0.0
    assert share_of(nodes, None, 0.5, "cuda") == 0.5
