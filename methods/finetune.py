"""Finetune: go on training on the retained data alone.

Golatkar, Achille, Soatto, "Eternal Sunshine of the Spotless Net: Selective Forgetting in Deep Networks", CVPR
2020, https://arxiv.org/abs/1911.04933 (a baseline there, without an equation number).

Assumes that what is no longer rehearsed fades. Sees the retained data, never the forget set.

    θ ← θ − η_k · (∇_θ mean_{(x,y)∈B} CE(f_θ(x), y) + w·θ),   B ⊂ D_r,  with momentum

The released code of the JiT benchmark keeps η = 0.02 constant, which costs several points of retained
accuracy; the default here is a tenth of it, falling to 0 along a cosine.
That code evaluates after each epoch inside its timed region; nothing is evaluated here.
Its sub-class script uses batches of 64 (`batch_size`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from methods.api import Batches, Context, check_fields, method
from methods.loops import cosine, cross_entropy, num_steps, required, set_mode, train_epochs


@method(
    "finetune",
    needs={"retain"},
    scenarios={"full_class", "sub_class", "random", "worst_case"},
    paper="https://arxiv.org/abs/1911.04933",
    reference={"lr": 0.02, "schedule": "constant"},
)
@dataclass(frozen=True)
class Finetune:
    """SGD with momentum on the retained data."""

    lr: float = 2e-3  # η, at the first step
    epochs: int = 5
    momentum: float = 0.9
    weight_decay: float = 5e-4  # w
    batch_size: int = 128
    schedule: str = "cosine"  # "constant", or "cosine": η falls to 0 over all steps
    mode: str = "train"  # "train", or "eval": dropout off, batch statistics frozen

    def __post_init__(self) -> None:
        check_fields(
            self,
            lr=">= 0",
            epochs=">= 0",
            momentum=">= 0",
            weight_decay=">= 0",
            batch_size="> 0",
            schedule="constant | cosine",
            mode="train | eval",
        )

    def __call__(
        self, model: nn.Module, forget: Batches | None, retain: Batches | None, ctx: Context
    ) -> nn.Module:
        batches = required(retain, "finetune", "retain").rebatch(self.batch_size, shuffle=True)
        set_mode(model, self.mode)
        sgd = torch.optim.SGD(
            model.parameters(), self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )
        steps = num_steps(batches, self.batch_size, self.epochs)
        schedule = cosine(sgd, steps) if self.schedule == "cosine" else None
        train_epochs(model, batches, cross_entropy, sgd, self.epochs, schedule, log=ctx.log)
        return model
