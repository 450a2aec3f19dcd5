"""NegGrad: gradient ascent on the forget set.

Golatkar, Achille, Soatto, "Eternal Sunshine of the Spotless Net: Selective Forgetting in Deep Networks", CVPR
2020, https://arxiv.org/abs/1911.04933 (the baseline "negative gradient", without an equation number).

Assumes that climbing the loss on D_f undoes what descending it did. Nothing bounds the climb, so it collapses
the model when η is too large. Zero-shot: sees the forget images and their labels.

    θ ← θ + η · ∇_θ mean_{(x,y)∈B} CE(f_θ(x), y) − η·w·θ,   B ⊂ D_f,  with momentum

The released code of a later benchmark (SUPREME) takes η = 0.02, which is destructive; 1e-5 is what later
CIFAR-10 comparisons use.
That code decays the weights (w = 5e-4), which shrinks what the retained data need whatever the forget set is;
w = 0 here, so that the forget gradient is all that acts.
It runs in train mode, where the batch statistics of a normalised network become those of the forget set; eval
mode here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.api import Batches, Context, check_fields, method
from methods.loops import cross_entropy, required, set_mode, train_epochs


def negative_cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Minus the mean cross-entropy over the batch, in nats: a float32 scalar."""
    return -cross_entropy(model, x, y)


@method(
    "neggrad",
    needs={"forget"},
    scenarios={"full_class", "sub_class", "random", "worst_case"},
    paper="https://arxiv.org/abs/1911.04933",
    reference={"lr": 0.02, "weight_decay": 5e-4, "mode": "train"},
)
@dataclass(frozen=True)
class NegGrad:
    """SGD with momentum on minus the cross-entropy of the forget set."""

    lr: float = 1e-5  # η
    epochs: int = 5
    momentum: float = 0.9
    weight_decay: float = 0.0  # w
    batch_size: int = 128
    grad_clip: float | None = None  # largest joint norm of the gradients, None: as they are
    mode: str = "eval"  # "eval", or "train": dropout on, batch statistics follow the forget set

    def __post_init__(self) -> None:
        check_fields(
            self,
            lr=">= 0",
            epochs=">= 0",
            momentum=">= 0",
            weight_decay=">= 0",
            batch_size="> 0",
            grad_clip="> 0",
            mode="train | eval",
        )

    def __call__(
        self, model: nn.Module, forget: Batches | None, retain: Batches | None, ctx: Context
    ) -> nn.Module:
        batches = required(forget, "neggrad", "forget").rebatch(self.batch_size, shuffle=True)
        set_mode(model, self.mode)
        sgd = torch.optim.SGD(
            model.parameters(), self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )
        train_epochs(
            model, batches, negative_cross_entropy, sgd, self.epochs, grad_clip=self.grad_clip, log=ctx.log
        )
        return model
