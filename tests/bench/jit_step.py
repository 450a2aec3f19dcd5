"""One step of JiT: ours, with copies in one pass, against the plain loop over copies with the same noise."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.api import Batches, Context
from methods.jit import JiT
from tasks.training import view_of
from tests.bench import yardstick
from tests.bench.ground import Ground, ground
from tests.bench.timing import Took, clock, goal, ratios, spread, table

BATCH = {"vgg11": 32, "vgg_mini": 64, "vit_mini": 64}
SAMPLES, SIGMA = 25, 0.5
LR = 1.0  # large: the update is read off as a difference of weights and must not drown in their rounding
SEED = 5
CLOSE = 1e-5


@dataclass(frozen=True)
class Step:
    """What both are given: one batch, so that one step is all there is."""

    batches: Batches
    x: Tensor
    ctx_parts: Mapping[str, object]

    def context(self) -> Context:
        return Context(generator=torch.Generator().manual_seed(SEED), **self.ctx_parts)  # type: ignore[arg-type]


def step_of(on: Ground, size: int) -> Step:
    """The first training images as the batch to forget."""
    view = view_of(on.space.recipe(on.original))
    batches = on.space.batches(on.original.dataset, "train", view).subset(torch.arange(size)).rebatch(size)
    x, _ = next(iter(batches))
    parts = {
        "num_classes": len(on.data.classes),
        "input_shape": on.data.shape,
        "device": torch.device("cpu"),
        "new_model": lambda: copy.deepcopy(on.model),
        "train": lambda model, batches: model,
    }
    return Step(batches, x, parts)


def ours(model: nn.Module, step: Step) -> Took:
    """Our method on a copy, the copy untimed."""
    own, jit = copy.deepcopy(model).eval(), JiT(lr=LR, sigma=SIGMA, samples=SAMPLES, batch_size=len(step.x))
    ctx = step.context()
    return clock(lambda: jit(own, step.batches, None, ctx))


def plain(model: nn.Module, step: Step) -> Took:
    """The loop on a copy of the plain network, the copy untimed."""
    own = copy.deepcopy(yardstick.plain(model)).eval()
    noise = torch.Generator().manual_seed(SEED)

    def loop() -> nn.Module:
        yardstick.jit_step(own, step.x, SAMPLES, SIGMA, LR, noise)
        return own

    return clock(loop)


@torch.no_grad()
def update_difference(start: nn.Module, ours: nn.Module, plain: nn.Module) -> float:
    """‖Δ − Δ'‖ / ‖Δ'‖ over all parameters, Δ' the plain loop's update."""
    apart = size = 0.0
    left, right = ours.state_dict(), plain.state_dict()
    for name, before in start.named_parameters():
        apart += float((left[name] - right[name]).double().square().sum())
        size += float((right[name] - before).double().square().sum())
    return (apart / size) ** 0.5


def compare(on: Ground, size: int, repeats: int) -> tuple[list[Took], list[Took], float]:
    """Plain and ours in turn, and the largest difference of their updates."""
    step = step_of(on, size)
    slow, fast, worst = [], [], 0.0
    for _ in range(repeats):
        a, b = plain(on.model, step), ours(on.model, step)
        worst = max(worst, update_difference(on.model, b.result, a.result))
        slow.append(Took(a.wall, a.cpu))  # weights of hundreds of MB are not kept
        fast.append(Took(b.wall, b.cpu))
    return slow, fast, worst


def main(models: list[str] | None, repeats: int) -> None:
    """Print one line a model."""
    rows, worst = [], 0.0
    for name in [name for name in BATCH if not models or name in models]:
        with ground(name, max(BATCH.values()), 10) as on:
            slow, fast, difference = compare(on, BATCH[name], repeats)
        plain_cpu, ours_cpu = [t.cpu for t in slow], [t.cpu for t in fast]
        times = [spread(plain_cpu), spread(ours_cpu), spread(ratios(plain_cpu, ours_cpu))]
        rows.append([name, str(BATCH[name]), *times, f"{difference:.1e}"])
        worst = max(worst, difference)
    table(
        f"One JiT step at 32 px, {SAMPLES} copies, same noise, {repeats} repeats; median (min-max)",
        ["model", "batch", "plain loop CPU s", "ours CPU s", "times faster", "update differs by"],
        rows,
    )
    goal(worst <= CLOSE, f"updates agree to {CLOSE:g} (relative): {worst:.1e}")
