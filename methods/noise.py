"""Noise images that carry a class's loss up or down: what UNSIR and EMMN train on. Registers no method.

Tarun, Chundawat, Mandal, Kankanhalli, "Fast Yet Effective Machine Unlearning", IEEE TNNLS 2023,
https://arxiv.org/abs/2111.08947; Chundawat, Tarun, Mandal, Kankanhalli, "Zero-Shot Machine Unlearning",
IEEE TIFS 2023, https://arxiv.org/abs/2201.05629.

    n ← Adam(n, ∇_n [ ±CE(f_θ(n), c) + w·‖n‖² ]),   n ~ N(0, I) at first      (− maximises, + minimises)

Adam works entry by entry, so images of all classes are learned at once with the result of one at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain, islice, repeat

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from methods.api import Batches, Context
from methods.loops import Log, cross_entropy, frozen, log_mean, set_mode, take_step, uses_batch_statistics

# 3×32×32 images learned at once: fit for a CPU's cache, or for the activations of a large model.
IMAGES_PER_PASS = {"cpu": 128, "gpu": 512}


def forgotten_class(ctx: Context, method: str) -> int:
    """The id of the class to forget; ValueError where the context has none."""
    if ctx.forget_class is None:
        raise ValueError(f"{method}: ctx.forget_class is None, expected the id of the class to forget")
    return ctx.forget_class


@dataclass(frozen=True)
class Recipe:
    """How noise is learned."""

    count: int  # images of each class
    sign: float  # of the cross-entropy: −1 maximises it, +1 minimises it
    steps: int
    lr: float  # Adam step, in normalised pixel units
    penalty: float = 0.0  # w, on the squared norm of an image
    mode: str = "eval"  # of the network: eval | train
    leave_gradients: bool = False  # let the steps fill the network's own gradient buffers, and leave them so


def learn_noise(model: nn.Module, labels: Tensor, recipe: Recipe, ctx: Context) -> Tensor:
    """Noise (G·count, C, H, W) for each of `labels` (G,) in turn; parameters and their flags stay as they
    are.
    """
    y = labels.repeat_interleave(recipe.count)
    start = torch.randn((len(y), *ctx.input_shape), generator=ctx.generator, device=ctx.device)
    set_mode(model, recipe.mode)
    budget = IMAGES_PER_PASS["cpu" if ctx.device.type == "cpu" else "gpu"] * 3 * 32 * 32
    size = max(1, budget // start[:1].numel())
    if uses_batch_statistics(model):
        size = recipe.count  # a class is a batch of its own
    with nullcontext() if recipe.leave_gradients else frozen(model):
        learned = [
            descend(model, *part, recipe) for part in zip(start.split(size), y.split(size), strict=True)
        ]
    return torch.cat(learned)


def descend(model: nn.Module, start: Tensor, y: Tensor, recipe: Recipe) -> Tensor:
    """Noise learned from `start` (B, C, H, W) for the labels y (B,); the loss is a mean over a class."""
    noise = start.clone().requires_grad_()
    adam = torch.optim.Adam([noise], recipe.lr)
    for _ in range(recipe.steps):
        adam.zero_grad(set_to_none=True)
        loss = recipe.sign * F.cross_entropy(model(noise).float(), y, reduction="sum")
        loss = loss + recipe.penalty * noise.square().sum()
        (loss / recipe.count).backward()
        adam.step()
    return noise.detach()


def used_images(noise: Tensor, count: int, which: str) -> Tensor:
    """Of each `count` images of noise (G·count, C, H, W) "all", or the first C, as many as an image has
    channels.
    """
    if which == "all":
        return noise
    return noise.unflatten(0, (-1, count))[:, : noise.shape[1]].flatten(0, 1)


@dataclass(frozen=True)
class Mixture:
    """Each noise image `copies` times, and retained images among them, in a fresh order on every walk."""

    images: Tensor  # (N, C, H, W)
    labels: Tensor  # (N,)
    copies: int
    batch_size: int
    ctx: Context
    retain: Batches | None = None

    @property
    def num_noise(self) -> int:
        """How many items of a walk are noise."""
        return len(self.images) * self.copies

    @property
    def num_examples(self) -> int:
        """How many items a walk has."""
        return self.num_noise + (self.retain.num_examples if self.retain else 0)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator, device = self.ctx.generator, self.ctx.device
        order = torch.randperm(self.num_examples, generator=generator, device=device).cpu()
        for items in order.split(self.batch_size) if len(order) else ():
            noise = (items[items < self.num_noise] % max(len(self.images), 1)).to(device)
            kept = items[items >= self.num_noise] - self.num_noise
            parts = [(self.images[noise], self.labels[noise])]
            if self.retain is not None and len(kept):
                parts += self.retain.subset(kept).rebatch(len(kept))
            x, y = zip(*parts, strict=True)
            yield torch.cat(x), torch.cat(y)


def train_on(
    model: nn.Module,
    mixture: Mixture,
    optimizer: Optimizer,
    epochs: int,
    max_steps: int | None = None,
    log: Log | None = None,
) -> None:
    """Cross-entropy steps over `epochs` walks, at most `max_steps` in all; no gradients remain.

    Gradients are cleared after each step, so whatever lies in the buffers enters the first one.
    """
    losses: list[Tensor] = []
    for x, y in islice(chain.from_iterable(repeat(mixture, epochs)), max_steps):
        loss = cross_entropy(model, x, y)
        loss.backward()
        take_step(model, optimizer)
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
    optimizer.zero_grad(set_to_none=True)
    log_mean(log, "loss", losses)
