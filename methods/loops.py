"""What the training methods share: the loop, the mode, the schedule and the check that declared data arrived.

The harness may run a method under autocast, so losses are taken in float32. Autocast keeps the low-precision
copy of a weight until its outermost context ends and would go on using it after the weight has changed, so
every step here drops that copy.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from methods.api import Batches

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
Log = Callable[[str, float], None]


def required(batches: Batches | None, method: str, part: str) -> Batches:
    """`batches`, or a ValueError where the caller withheld the `part` ("forget", "retain") of a `method`."""
    if batches is None:
        raise ValueError(f"{method}: {part} is None, expected Batches; call {method} with {part}=...")
    return batches


def set_mode(model: nn.Module, mode: str) -> nn.Module:
    """Put `model` into "train" or "eval" mode: dropout and batch statistics follow."""
    if mode not in ("train", "eval"):
        raise ValueError(f"mode is {mode!r}, expected 'train' or 'eval'")
    return model.train(mode == "train")


def uses_batch_statistics(model: nn.Module) -> bool:
    """Whether an image's output, or a buffer, depends on what else is in its batch."""
    layers = (m for m in model.modules() if isinstance(m, _BatchNorm))
    return any(m.training or m.running_mean is None for m in layers)


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy over the batch, in nats: a float32 scalar."""
    return F.cross_entropy(model(x).float(), y)


def cosine(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Learning rate η·(1 + cos(π·k/steps))/2 at step k = 0, 1, …: η at the first step, 0 after the last."""
    return LambdaLR(optimizer, lambda k: 0.5 * (1.0 + math.cos(math.pi * min(k / max(steps, 1), 1.0))))


def num_steps(batches: Batches, batch_size: int, epochs: int) -> int:
    """Optimizer steps in `epochs` walks over `batches` of `batch_size`, a short last batch counted."""
    return epochs * math.ceil(batches.num_examples / batch_size)


def take_step(model: nn.Module, optimizer: Optimizer, grad_clip: float | None = None) -> None:
    """One optimizer step, on gradients whose joint norm is cut to `grad_clip` in place where one is given."""
    if grad_clip is not None:
        clip_grad_norm_(model.parameters(), grad_clip)
    optimizer.step()
    torch.clear_autocast_cache()


def train_epochs(
    model: nn.Module,
    batches: Batches,
    loss_of: Loss,
    optimizer: Optimizer,
    epochs: int,
    schedule: LRScheduler | None = None,
    grad_clip: float | None = None,
    log: Log | None = None,
) -> None:
    """Minimise the scalar `loss_of(model, x, y)`: one step a batch, `epochs` walks; the mode stays as it is.

    `schedule` moves on after every step, `log` hears the mean loss of each epoch; no gradients remain.
    """
    for _ in range(epochs):
        losses: list[Tensor] = []
        for x, y in batches:
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(model, x, y)
            loss.backward()
            take_step(model, optimizer, grad_clip)
            if schedule is not None:
                schedule.step()
            losses.append(loss.detach())
        log_mean(log, "loss", losses)
    optimizer.zero_grad(set_to_none=True)


def log_mean(log: Log | None, name: str, values: list[Tensor]) -> None:
    """Log the mean of scalars: one wait for the device, none where nobody listens or nothing was walked."""
    if log is not None and values:
        log(name, float(torch.stack(values).mean()))
