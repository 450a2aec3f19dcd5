"""How many trials a search tries at once, on which share of a device, and when one is given up."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from harness.execute.room import DEMAND
from harness.search.tune import ENDLESS_SECONDS, LONG_SECONDS, MANY_TIMES, Deadline, Workers, _on
from harness.workspace import Settings

HEAD = {"CPU": 0.0}
CORES, GPUS = {"CPU": 4.0}, {"CPU": 48.0, "GPU": 4.0}


@pytest.mark.parametrize(
    ("nodes", "most", "asked", "share", "at_once"),
    [
        ([HEAD, CORES, CORES], None, None, 0.0, 8),  # no GPU is there or will come: cores
        ([HEAD, GPUS], None, None, 0.5, 8),  # two trials on each of four GPUs
        ([HEAD, GPUS], None, 3, 0.5, 3),
        ([HEAD], {"CPU": 96.0, "GPU": 8.0}, None, 0.5, 16),  # machines are yet to come
        ([HEAD], None, None, 0.5, DEMAND),  # how many may come nobody says
    ],
)
def test_trials_fill_the_machines_that_are_there_or_may_come(
    nodes: list[dict[str, float]],
    most: dict[str, float] | None,
    asked: int | None,
    share: float,
    at_once: int,
) -> None:
    workers = Workers(Settings("store"), asked, "10.0.0.1:6379", gpus_each=0.5)
    found = _on(workers, {str(i): node for i, node in enumerate(nodes)}, most)
    assert (found.gpus_each, found.concurrent) == (share, at_once)


@pytest.mark.parametrize(
    ("longest", "patience"),
    [
        (None, LONG_SECONDS),  # nothing is known yet
        (0.2, ENDLESS_SECONDS),
        (10.0, 10.0 * MANY_TIMES),
    ],
)
def test_a_trial_without_end_loses_its_worker_once_and_is_tried_again(
    longest: float | None, patience: float
) -> None:
    now, killed = [0.0], []
    deadline = Deadline(killed.append, lambda: now[0])
    hung, fine, done = (
        SimpleNamespace(trial_id=name, temporary_state=SimpleNamespace(ray_actor=f"actor of {name}"))
        for name in ("hung", "fine", "done")
    )
    if longest is not None:
        deadline.start(done)
        deadline.end(done, longest)
    deadline.start(hung)
    now[0] = patience
    deadline.start(fine)
    deadline.look([done, hung, fine])
    assert killed == []
    now[0] = patience + 1
    for _ in range(3):
        deadline.look([done, hung, fine])
    assert killed == ["actor of hung"]
    deadline.start(hung)  # on another worker, with as much time
    now[0] = 2 * patience
    deadline.look([hung])
    assert killed == ["actor of hung"]
