"""How many workers a pool should have: as many as the cluster has room for, and a few more where it may
grow.

A worker that waits for room is what an autoscaler reads as demand. Unlike a request for resources it ends
with its driver, so that a killed sweep keeps no machine running.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from harness.cost import load_facts
from harness.plan import Job
from harness.spec import RunSpec
from tasks.recipes import load_recipes

DEMAND = (
    4  # workers asked for beyond the room of a small cluster; of a larger one, as many as it has room for
)
# forward operations of one image, above which a piece of work gets a device to itself: ViT-B/16 at 224 px has
# 3.5e10, ViT-L/16 1.2e11
WHOLE_TRAINING = 2e10
WHOLE_RUN = 1e11

Nodes = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a pool should have now."""

    shared: int  # workers, those included that wait for room
    places: int  # of them, what there is room for
    whole: int  # workers with a device to themselves, in a pool whose devices are shared
    spare: int = 0  # more of these, that wait for machines to come


def resource_of(share: float) -> str:
    return "GPU" if share else "CPU"


def places(nodes: Nodes, share: float) -> int:
    """How many workers fit: a share of a GPU cannot span two machines."""
    name, each = resource_of(share), share or 1.0
    return sum(int(has.get(name, 0.0) / each + 1e-6) for has in nodes.values())


def total(nodes: Nodes, name: str) -> float:
    return sum(has.get(name, 0.0) for has in nodes.values())


def lack_of_room(nodes: Nodes, share: float) -> str:
    """What a worker that waits for room wants, and what there is."""
    there = f"{total(nodes, 'CPU'):g} cores and {total(nodes, 'GPU'):g} GPUs"
    want = f"{share:g} GPU" if share else "a core"
    hint = "; if it has no GPUs and never will, type --device cpu" if share else ""
    return f"each wants {want}, and the cluster has {there} now{hint}"


def limit_of(most: Mapping[str, float] | None, share: float) -> int | None:
    """How many workers a cluster may have once it has grown, where it says so."""
    return None if most is None else int(most.get(resource_of(share), 0.0) / (share or 1.0) + 1e-6)


def sizes(
    nodes: Nodes, share: float, limit: int | None, most: int | None, jobs: int, whole_jobs: int
) -> Sizes:
    """`limit` is what --workers says, `most` what the cluster may grow to; `jobs` are at hand."""
    gpus = int(total(nodes, "GPU"))
    whole = _whole(gpus, whole_jobs, jobs) if 0 < share < 1 else 0
    room = max(0, places(nodes, share) - round(whole / share if whole else 0))
    if limit is not None:
        top = max(0, limit - round(whole / share if whole else 0))
    else:
        top = room if whole else room + max(DEMAND, room)
        top = min(top, max(room, most)) if most is not None else top
    # where some wait for whole devices, no others wait beside them: these would take the halves that get free
    spare = min(whole_jobs - whole, max(DEMAND, gpus)) if whole else 0
    for bound in (limit, most):
        spare = spare if bound is None else max(0, min(spare, int(bound * share + 1e-6) - max(gpus, whole)))
    return Sizes(min(top, jobs - min(jobs, whole_jobs) if whole else jobs), min(top, room), whole, spare)


def _whole(gpus: int, whole_jobs: int, jobs: int) -> int:
    """All devices where nothing else waits, else half of them; a device that is yet to come is one."""
    if not whole_jobs:
        return 0
    return min(whole_jobs, max(1, gpus if whole_jobs >= jobs else gpus // 2))


def needs_whole(job: Job) -> bool:
    """Out of memory before, or so large a model that two would hardly fit."""
    if job.careful:
        return True
    spec = job.spec
    original = spec.original if isinstance(spec, RunSpec) else spec
    most = WHOLE_RUN if isinstance(spec, RunSpec) else WHOLE_TRAINING
    return _forward(original.model, original.dataset, original.recipe) >= most


@lru_cache(maxsize=512)
def _forward(model: str, dataset: str, recipe: str) -> float:
    """Forward operations of one image; 0 where nobody counted them."""
    facts = load_facts()
    known = load_recipes().get(recipe.partition("@")[0])
    side = (known and known.size) or facts.datasets.get(dataset, {}).get("side", 0)
    return facts.flops.get((model, side), 0.0)
