"""What the training methods share: the loop, the mode, the schedule and the check that declared data arrived.

The harness may run a method under autocast, so losses are taken in float32. Autocast keeps the low-precision
copy of a weight until its outermost context ends and would go on using it after the weight has changed, so
every step here drops that copy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

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
    """Put `model` into "train" or "eval" mode: dropout and batch statistics follow.

    "freeze_bn" is train mode with the running batch statistics used as they are, and left alone.
    """
    if mode not in ("train", "eval", "freeze_bn"):
        raise ValueError(f"mode is {mode!r}, expected 'train' or 'eval' or 'freeze_bn'")
    model.train(mode != "eval")
    for layer in model.modules() if mode == "freeze_bn" else ():
        if isinstance(layer, _BatchNorm):
            layer.eval()
    return model


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No parameter of `model` gathers a gradient inside, though images may."""
    held = [p for p in model.parameters() if p.requires_grad]
    for p in held:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in held:
            p.requires_grad_()


def output_layer(model: nn.Module, num_classes: int, method: str) -> nn.Linear:
    """The last linear layer of `model`; ValueError where it does not give `num_classes` logits."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    if not layers or layers[-1].out_features != num_classes:
        found = f"a last linear layer of {layers[-1].out_features} outputs" if layers else "no linear layer"
        raise ValueError(
            f"{method}: {type(model).__name__} has {found}, expected {num_classes} "
            f"outputs; choose a model that ends in a linear layer, or another method"
        )
    return layers[-1]


def uses_batch_statistics(model: nn.Module) -> bool:
    """Whether an image's output, or a buffer, depends on what else is in its batch."""
    layers = (m for m in model.modules() if isinstance(m, _BatchNorm))
    return any(m.training or m.running_mean is None for m in layers)


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy over the batch, in nats: a float32 scalar."""
    return F.cross_entropy(model(x).float(), y)


def divergence(
    teacher: Tensor, student: Tensor, temperature: float = 1.0, reduction: str = "batchmean"
) -> Tensor:
    """KL(softmax(t/τ) ‖ softmax(s/τ)) in nats of logits t and s (B, K): a float32 scalar.

    Summed over the classes and averaged over the batch; with reduction "mean" divided by K too.
    """
    of_teacher = F.log_softmax(teacher.float() / temperature, dim=1)
    of_student = F.log_softmax(student.float() / temperature, dim=1)
    mean = F.kl_div(of_student, of_teacher, reduction="batchmean", log_target=True)
    return mean / teacher.shape[1] if reduction == "mean" else mean


@torch.no_grad()
def frozen_logits(model: nn.Module, batches: Batches) -> Tensor:
    """Logits (num_examples, K) float32 of `model`, which is left in eval mode, in the order of the walk."""
    set_mode(model, "eval")
    logits = [model(x).float() for x, _ in batches]
    torch.clear_autocast_cache()  # a copy kept from no_grad lets no gradient through in some PyTorch versions
    return torch.cat(logits) if logits else torch.empty(0, 0)


def numbered(batches: Batches) -> Batches:
    """The same examples, each labelled with its position, so that what is known of it can be looked up."""
    return batches.relabel(torch.arange(batches.num_examples, device=batches.labels().device))


def everything(forget: Batches, retain: Batches, batch_size: int, order: str) -> Batches:
    """D = D_r ∪ D_f in batches: `order` "shuffled", or "class_sorted", i.e. D_r by label, then D_f."""
    if order == "class_sorted":
        retain = retain.subset(retain.labels().argsort(stable=True))
    return retain.join(forget).rebatch(batch_size, shuffle=order == "shuffled")


def backward(loss_of: Callable[..., Tensor], micro_batch: int | None, *batch: Tensor) -> Tensor:
    """Add the gradient of the batch mean `loss_of(*batch)` to the parameters' own; the loss, a scalar.

    At most `micro_batch` examples go through at a time: the same gradient up to rounding, in less memory,
    unless batch statistics are in use.
    """
    whole = len(batch[0])
    total = torch.zeros((), device=batch[0].device)
    for part in zip(*(tensor.split(micro_batch or whole) for tensor in batch), strict=True):
        loss = loss_of(*part) * (len(part[0]) / whole)
        loss.backward()
        total += loss.detach()
    return total


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
    micro_batch: int | None = None,
) -> None:
    """Minimise the scalar `loss_of(model, x, y)`: one step a batch, `epochs` walks; the mode stays as it is.

    `schedule` moves on after every step, `log` hears the mean loss of each epoch; no gradients remain.
    With `micro_batch` a batch goes through in parts of that size; see `backward`.
    """
    for _ in range(epochs):
        losses: list[Tensor] = []
        for x, y in batches:
            optimizer.zero_grad(set_to_none=True)
            losses.append(backward(partial(loss_of, model), micro_batch, x, y))
            take_step(model, optimizer, grad_clip)
            if schedule is not None:
                schedule.step()
        log_mean(log, "loss", losses)
    optimizer.zero_grad(set_to_none=True)


def log_mean(log: Log | None, name: str, values: list[Tensor]) -> None:
    """Log the mean of scalars: one wait for the device, none where nobody listens or nothing was walked."""
    if log is not None and values:
        log(name, float(torch.stack(values).mean()))
