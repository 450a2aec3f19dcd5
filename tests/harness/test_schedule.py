"""The DAG loop, with an executor that only pretends: parents first, nothing lost, nothing repeated."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from harness.plan import Job
from harness.rows import Row
from harness.schedule import AHEAD, Done, run
from harness.spec import RunSpec, Task, TrainSpec

TASK = Task("digits", "mlp", "full_class", "3", None, "corrected")


def original(seed: int) -> Job:
    return Job(TrainSpec("digits", "mlp", "r@0", seed, "fp32"), "s")


def unlearning(parent: Job, seed: int) -> Job:
    assert isinstance(parent.spec, TrainSpec)
    return Job(RunSpec(TASK, parent.spec, "jit", 1, (), seed, "fp32"), "s")


class Pretend:
    """Finishes submitted jobs in random order; `answers` says what becomes of a job."""

    slots = 2

    def __init__(self, answer: Callable[[Job], Row] = lambda job: {"status": "ok"}) -> None:
        self.answer = answer
        self.outside: list[Job] = []
        self.submitted: list[Job] = []
        self.most = 0
        self._random = random.Random(0)

    def submit(self, job: Job) -> None:
        self.outside.append(job)
        self.submitted.append(job)
        self.most = max(self.most, len(self.outside))

    def wait(self, seconds: float) -> list[Done]:
        done = self._random.sample(self.outside, k=min(2, len(self.outside)))
        for job in done:
            self.outside.remove(job)
        return [Done(job, self.answer(job)) for job in done]

    def close(self) -> None: ...


def family(originals: int = 3, children: int = 20) -> list[Job]:
    parents = [original(seed) for seed in range(originals)]
    return parents + [unlearning(parent, seed) for parent in parents for seed in range(children)]


def finish(jobs: list[Job], executor: Pretend) -> list[tuple[Job, Row]]:
    rows: list[tuple[Job, Row]] = []
    run(jobs, executor, lambda job, row: rows.append((job, row)))
    return rows


def test_every_job_ends_in_exactly_one_row() -> None:
    jobs = family()
    rows = finish(jobs, Pretend())
    assert sorted(job.id for job, _ in rows) == sorted(job.id for job in jobs)


def test_a_child_is_never_submitted_before_its_parents_are_done() -> None:
    done: set[str] = set()
    executor = Pretend()
    inner = executor.submit

    def submit(job: Job) -> None:
        missing = {parent.id for parent in job.parents} - done
        assert not missing
        inner(job)

    executor.submit = submit  # type: ignore[method-assign]
    run(family(), executor, lambda job, row: done.add(job.id))
    assert len(done) == 63


def test_no_more_is_handed_out_than_a_few_jobs_a_slot() -> None:
    executor = Pretend()
    finish(family(children=100), executor)
    assert 2 < executor.most <= AHEAD * executor.slots


def test_a_failed_parent_blocks_its_descendants_and_nothing_else() -> None:
    jobs = family()
    bad = jobs[1].id
    rows = finish(jobs, Pretend(lambda job: {"status": "failed" if job.id == bad else "ok"}))
    states = {job.id: row["status"] for job, row in rows}
    children = [job.id for job in jobs if bad in {parent.id for parent in job.parents}]
    assert {states[child] for child in children} == {"blocked"}
    assert sum(state == "ok" for state in states.values()) == len(jobs) - 1 - len(children)
    blocked = next(row for job, row in rows if job.id == children[0])
    assert bad in blocked["error_message"]


@pytest.mark.parametrize(("status", "expected"), [("diverged", "ok"), ("failed", "blocked")])
def test_a_diverged_row_is_finished_and_a_failed_one_is_not(status: str, expected: str) -> None:
    jobs = family(originals=1, children=1)
    rows = finish(jobs, Pretend(lambda job: {"status": status if job is jobs[0] else "ok"}))
    assert [row["status"] for _, row in rows] == [status, expected]


def test_out_of_memory_is_tried_once_more_with_care_and_then_fails() -> None:
    executor = Pretend(lambda job: {"status": "failed", "error_type": "oom"})
    rows = finish([original(0)], executor)
    assert [(job.careful, job.attempt) for job in executor.submitted] == [(False, 1), (True, 2)]
    assert [row["error_type"] for _, row in rows] == ["oom"]


def test_a_second_try_that_fits_is_an_ok_row() -> None:
    jobs = family(originals=1, children=3)
    answer = {False: {"status": "failed", "error_type": "oom"}, True: {"status": "ok"}}
    rows = finish(jobs, Pretend(lambda job: answer[job.careful]))
    assert [row["status"] for _, row in rows] == ["ok"] * 4


def test_while_paused_nothing_is_handed_out_and_what_is_outside_comes_back() -> None:
    executor, done = Pretend(), []
    ticks, handed_out = iter(range(1000)), []

    def on_tick() -> None:
        handed_out.append(len(executor.submitted))

    pause = range(5, 20)
    run(
        family(),
        executor,
        lambda job, row: done.append(job.id),
        on_tick,
        paused=lambda: len(handed_out) in pause and next(ticks) >= 0,
    )
    assert handed_out[pause.start - 1] == handed_out[pause.stop - 1] < handed_out[pause.stop]
    assert next(ticks) > 0 and len(done) == 63


def test_an_exception_of_the_receiver_ends_the_loop() -> None:
    def stop(job: Job, row: Row) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(family(), Pretend(), stop)
