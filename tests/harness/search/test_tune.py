"""How many trials a search tries at once, on which share of a device."""

from __future__ import annotations

import pytest

from harness.search.tune import Workers, _on
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
        ([HEAD], {}, None, 0.5, 1),
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
