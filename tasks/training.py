"""The one training loop: a model, batches and a recipe in, a trained model in eval mode out.

Learning rates and momenta are pure functions of the recipe and of where training stands, so that what the
published code really applied, two schedulers overwriting each other, can be written down and tested as
numbers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.loaders import TensorBatches, View, autocast
from tasks.recipes import Recipe

# OneCycleLR's own defaults
RISE = 0.3  # share of all steps in which the rate rises to its peak
START = 25.0  # peak rate over first rate
END = 1e4  # first rate over last rate
MOMENTA = (0.95, 0.85)  # at the ends, at the peak


def view_of(recipe: Recipe) -> View:
    """How the recipe's models see stored pixels, without augmentation."""
    return View(recipe.mean, recipe.std, recipe.size, crop=recipe.crop)


# -------------------- schedules


def learning_rate(recipe: Recipe, epoch: int, step: int, steps_per_epoch: int) -> float:
    """The rate applied at batch `step` of `epoch`, both counted from 0."""
    return SCHEDULES[recipe.schedule](recipe, epoch, step, steps_per_epoch)


def momentum(recipe: Recipe, epoch: int, step: int, steps_per_epoch: int) -> float:
    """The momentum applied at batch `step` of `epoch`; the released code cycles it against the rate."""
    if recipe.schedule != "reference_one_cycle":
        return recipe.momentum
    ends, peak = MOMENTA
    return _cycle(epoch * steps_per_epoch + step, recipe.epochs * steps_per_epoch, ends, peak, ends)


def _constant(recipe: Recipe, epoch: int, step: int, steps: int) -> float:
    return recipe.lr


def _cosine(recipe: Recipe, epoch: int, step: int, steps: int) -> float:
    return _anneal(recipe.lr, 0.0, (epoch * steps + step) / (recipe.epochs * steps))


def _one_cycle(recipe: Recipe, epoch: int, step: int, steps: int) -> float:
    first = recipe.lr / START
    return _cycle(epoch * steps + step, recipe.epochs * steps, first, recipe.lr, first / END)


def _reference_one_cycle(recipe: Recipe, epoch: int, step: int, steps: int) -> float:
    """OneCycle, overwritten by a warm-up in the first epoch and still at the first step of the second."""
    done = epoch * steps + step
    if done <= steps:
        return recipe.lr / START * done / steps
    return _one_cycle(recipe, epoch, step, steps)


def _reference_multistep(recipe: Recipe, epoch: int, step: int, steps: int) -> float:
    """Two warm-up epochs that end at twice the rate, then a fifth at each milestone; else constant."""
    if not recipe.milestones:
        return recipe.lr
    if epoch < 2:
        return recipe.lr * (epoch * steps + step) / steps
    return recipe.lr * 0.2 ** sum(milestone <= epoch for milestone in recipe.milestones)


SCHEDULES: dict[str, Callable[[Recipe, int, int, int], float]] = {
    "constant": _constant,
    "cosine": _cosine,
    "one_cycle": _one_cycle,
    "reference_one_cycle": _reference_one_cycle,
    "reference_multistep": _reference_multistep,
}


def _cycle(done: int, total: int, start: float, peak: float, end: float) -> float:
    """torch's OneCycleLR with cosine annealing, after `done` of `total` steps."""
    top = RISE * total - 1
    if done <= top:
        return _anneal(start, peak, done / top)
    return _anneal(peak, end, (done - top) / (total - 1 - top))


def _anneal(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


# -------------------- loop


def fit(
    model: nn.Module,
    batches: TensorBatches,
    recipe: Recipe,
    *,
    precision: str = "fp32",
    evaluate: Callable[[nn.Module], float] | None = None,
    log: Callable[[str, float], None] | None = None,
) -> nn.Module:
    """Train `model` in place on `batches` after `recipe`, and return it in eval mode.

    The recipe decides on batch size, shuffling and augmentation, whatever the batches bring.
    `evaluate(model)` gives the accuracy by which a recipe with checkpoint "best_…" chooses its epoch, the
    first one among equals. The role "retrain_warm" keeps the weights it is given but for the last linear
    layer, drawn anew from torch's generator.
    """
    if recipe.checkpoint != "last" and evaluate is None:
        raise ValueError(
            f"recipe {recipe.name!r} keeps the checkpoint {recipe.checkpoint!r} but nothing evaluates it; "
            "pass evaluate=, or choose a recipe with checkpoint 'last'"
        )
    if recipe.role == "retrain_warm":
        fresh_head(model)
    walk = batches.rebatch(recipe.batch_size, shuffle=True).augmented(recipe.augment)
    optimizer = _optimizer(model, recipe)
    best, best_score = None, -math.inf
    for epoch in range(recipe.epochs):
        loss = _epoch(model, walk, recipe, epoch, optimizer, precision)
        if log is not None:
            log("train_loss", float(loss))
        if recipe.checkpoint != "last" and evaluate is not None:
            score = evaluate(model.eval())
            if score > best_score:
                best, best_score = copy.deepcopy(model.state_dict()), score
    if best is not None:
        model.load_state_dict(best)
    return model.eval()


def _epoch(
    model: nn.Module,
    walk: TensorBatches,
    recipe: Recipe,
    epoch: int,
    optimizer: torch.optim.Optimizer,
    precision: str,
) -> Tensor:
    """One walk over the data; the mean loss over its batches, still on the device."""
    model.train()
    steps = _steps(walk)
    total = torch.zeros((), device=walk.images.device)
    for step, (x, y) in zip(range(steps), walk, strict=False):
        _set(optimizer, learning_rate(recipe, epoch, step, steps), momentum(recipe, epoch, step, steps))
        optimizer.zero_grad(set_to_none=True)
        with autocast(precision, x.device):
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        total += loss.detach()
    return total / steps


def _steps(walk: TensorBatches) -> int:
    """Batches per epoch. A last batch of one image is left out: batch normalisation cannot take it."""
    whole, rest = divmod(walk.num_examples, walk.batch_size)
    if walk.num_examples == 0:
        raise ValueError("nothing to train on: the batches hold no examples, expected at least one")
    return whole + (rest > 1 or whole == 0)


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    fused = all(p.device.type in ("cpu", "cuda") for p in parameters)
    if recipe.optimizer == "adamw":
        betas = (recipe.momentum, 0.999)
        return torch.optim.AdamW(
            parameters, recipe.lr, betas=betas, weight_decay=recipe.weight_decay, fused=fused
        )
    return torch.optim.SGD(
        parameters, recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, fused=fused
    )


def _set(optimizer: torch.optim.Optimizer, lr: float, inertia: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
        if "betas" in group:
            group["betas"] = (inertia, group["betas"][1])
        else:
            group["momentum"] = inertia


def fresh_head(model: nn.Module) -> None:
    """Draw the last linear layer anew, and nothing else: what the published Retrain re-initialises."""
    head = model.get_submodule(last_linear(model))
    assert isinstance(head, nn.Linear)
    head.reset_parameters()


def last_linear(model: nn.Module) -> str:
    """The name of the last linear layer, which gives the logits."""
    linear: list[str] = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError(f"{type(model).__name__} has no nn.Linear, expected one as its last layer")
    return linear[-1]


# -------------------- validation


def held_out(groups: NDArray[np.int64], share: float, seed: int) -> NDArray[np.int64]:
    """Sorted positions that a recipe with checkpoint "best_val" sets aside to choose its epoch by.

    `share` of each group of `groups` (N,), rounded down, but at least one image of a group of two or more.
    Where no group has two, one image in all. ValueError where there is but one image.
    """
    if len(groups) < 2:
        raise ValueError(
            f"{len(groups)} training images, expected at least 2: the best epoch is chosen by some that are "
            "not trained on"
        )
    key = np.random.default_rng(seed).random(len(groups))
    order = np.lexsort((key, groups))  # by group, at random within it
    _, start, size = np.unique(groups[order], return_index=True, return_counts=True)
    rank = np.arange(len(groups)) - np.repeat(start, size)
    taken = np.where(size > 1, np.maximum(1, np.floor(size * share)), 0).astype(np.int64)
    if not taken.any():
        taken[int(np.argmin(key[order]))] = 1
    return np.sort(order[rank < np.repeat(taken, size)])
