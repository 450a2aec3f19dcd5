"""BDSH: boundary shrink, give each forget image the label just across its nearest decision boundary.

Chen, Gao, Liu, Peng, Wang, "Boundary Unlearning: Rapid Forgetting of Deep Networks via Shifting the Decision
Boundary", CVPR 2023, https://arxiv.org/abs/2303.11570.

Assumes that the class across the boundary is what a model without the forgotten one would say. Zero-shot:
sees the forget images and their labels.

    p = pixels of x in [0, 1],   p' = clip_[0,1](p + ε·sign ∇_p CE(T(x), y)) rounded to 1/255
    ỹ = argmax_{c≠y} T_c(x'),    θ ← θ − η · ∇_θ mean_{(x,ỹ)∈B} CE(f_θ(x), ỹ),   B ⊂ D_f,  with momentum

The target model T is the model before the first step, so all ỹ are found in one pass and no copy is kept.
The authors' code differs; each difference is a field, and `reference` sets them as that code does.
`force_other`: its ỹ may be y, and then an image whose attack fails is trained on its true label.
`constants`: it finds pixels with mean (0.4914, 0.4822, 0.2265) and deviation (0.2023, 0.1994, 0.2010), a
misprint and not what its data are normalised with; for images without 3 channels there are no such constants
and the true range is used.
`mode`: it trains in train mode, where batch statistics become those of the forget set.
Its optional curvature penalty and sample weights, off unless asked for, are left out.
A later study takes η = 5e-5 for CIFAR-10 and ResNet18; the JiT paper gives no values of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.api import Batches, Context, check_fields, method
from methods.loops import cross_entropy, frozen, required, set_mode, train_epochs

RELEASED = ((0.4914, 0.4822, 0.2265), (0.2023, 0.1994, 0.2010))  # mean, deviation
LEVELS = 255


def attack(model: nn.Module, x: Tensor, y: Tensor, bounds: tuple[Tensor, Tensor], epsilon: float) -> Tensor:
    """x (B, C, H, W) moved by one signed gradient step of `epsilon` in pixel space, the loss of y (B,) going
    up.

    `bounds`: normalised values (C, 1, 1) of the pixels 0 and 1. The model stays as it is.
    """
    lowest, highest = bounds
    moving = x.detach().clone().requires_grad_()
    with frozen(model):
        loss = F.cross_entropy(model(moving).float(), y, reduction="sum")
        (slope,) = torch.autograd.grad(loss, moving)
    pixels = (x - lowest) / (highest - lowest) + epsilon * slope.sign()
    pixels = (pixels.clamp(0, 1) * LEVELS).round() / LEVELS
    return lowest + pixels * (highest - lowest)


@method(
    "bdsh",
    needs={"forget"},
    scenarios={"full_class", "sub_class", "random", "worst_case"},
    paper="https://arxiv.org/abs/2303.11570",
    reference={"force_other": False, "constants": "released", "mode": "train"},
)
@dataclass(frozen=True)
class BDSH:
    """SGD with momentum on the forget images, labelled with their nearest other class."""

    lr: float = 1e-5  # η
    epochs: int = 10
    momentum: float = 0.9
    batch_size: int = 64
    epsilon: float = 0.1  # ε, in pixel units: black is 0, white is 1
    force_other: bool = True  # ỹ ≠ y even where the attack fails
    constants: str = "true"  # where pixels lie after normalisation: true | released
    mode: str = "eval"  # eval | train

    def __post_init__(self) -> None:
        check_fields(self, lr=">= 0", epochs=">= 0", momentum=">= 0", batch_size="> 0", epsilon=">= 0")
        check_fields(self, constants="true | released", mode="eval | train")

    def __call__(
        self, model: nn.Module, forget: Batches | None, retain: Batches | None, ctx: Context
    ) -> nn.Module:
        forget = required(forget, "bdsh", "forget")
        set_mode(model, "eval")
        labels = self.targets(model, forget.rebatch(self.batch_size), ctx)
        batches = forget.relabel(labels).rebatch(self.batch_size, shuffle=True)
        set_mode(model, self.mode)
        sgd = torch.optim.SGD(model.parameters(), self.lr, momentum=self.momentum)
        train_epochs(model, batches, cross_entropy, sgd, self.epochs, log=ctx.log)
        return model

    def targets(self, model: nn.Module, batches: Batches, ctx: Context) -> Tensor:
        """ỹ (num_examples,) int64 in the order of the walk."""
        bounds = self._bounds(ctx)
        found = []
        for x, y in batches:
            near = attack(model, x, y, bounds, self.epsilon)
            with torch.no_grad():
                logits = model(near).float()  # (B, K)
            if self.force_other:
                logits = logits.scatter(1, y[:, None], -torch.inf)
            found.append(logits.argmax(1))
        torch.clear_autocast_cache()  # low-precision copies made here would let no gradient through
        return torch.cat(found) if found else batches.labels()

    def _bounds(self, ctx: Context) -> tuple[Tensor, Tensor]:
        """Normalised values (C, 1, 1) of the pixels 0 and 1."""
        if self.constants == "released" and ctx.input_shape[0] == len(RELEASED[0]):
            mean, deviation = (torch.tensor(row, device=ctx.device).view(-1, 1, 1) for row in RELEASED)
            return -mean / deviation, (1 - mean) / deviation
        if ctx.pixel_range is None:
            raise ValueError(
                "bdsh: ctx.pixel_range is None, expected the normalised values of pixels 0 and 1"
            )
        lowest, highest = (bound.to(ctx.device).view(-1, 1, 1) for bound in ctx.pixel_range)
        return lowest, highest
