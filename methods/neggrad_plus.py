"""NegGrad+: descend the loss on the retained data while climbing it on the forget set.

Kurmanji, Triantafillou, Hayes, Triantafillou, "Towards Unbounded Machine Unlearning", NeurIPS 2023,
https://arxiv.org/abs/2302.09880 (a baseline there; β in its text is a here).

Assumes that descent on D_r holds what ascent on D_f would tear down. Nothing bounds the ascent, so a decides
between no forgetting and collapse. Sees both sets with labels.

    ℓ(θ) = a·(mean_{(x,y)∈B_r} CE(f_θ(x), y) + (w/2)·‖θ − θ_0‖²) − (1−a)·mean_{(x,y)∈B_f} CE(f_θ(x), y)
    θ ← θ − η · ∇_θ ℓ(θ),   B_r ⊂ D_r shuffled, each with the next B_f ⊂ D_f, over and over;  θ_0 the original

`anchor`: the released code draws the weights to θ_0 and not, as weight decay would, to 0; so does this.
w = 0.1 is reported of the paper's small experiments, and a = 0.9999, w = 5e-4 and 5 epochs of its large ones.
`loss`: a second variant of the released code, "difference", weighs both sets alike: CE_r + … − CE_f.
`mode`: that code keeps dropout and batch statistics frozen, and so does this; "train" is neither's.
`momentum`: no source states one, so none is taken.
Memory: one model, and θ_0 once more unless w = 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.api import Batches, Context, check_fields, method
from methods.loops import cross_entropy, required, set_mode, train_epochs


def over_and_over(batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    """Walk `batches` without an end; nothing where they hold nothing."""
    while batches.num_examples:
        yield from batches


class Contrast:
    """The loss: draws a forget batch each time it is called with a retained one."""

    def __init__(self, hyper: NegGradPlus, model: nn.Module, forget: Batches) -> None:
        self.on_retain, self.on_forget = (
            (hyper.alpha, 1 - hyper.alpha) if hyper.loss == "weighted" else (1.0, 1.0)
        )
        self.anchor = hyper.anchor
        self.forget = over_and_over(forget)
        self.params = [p for p in model.parameters() if p.requires_grad] if self.anchor else []
        self.start = [p.detach().clone() for p in self.params]

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """A float32 scalar for retained x (B, C, H, W) with labels y (B,)."""
        loss = self.on_retain * (cross_entropy(model, x, y) + self.anchor / 2 * self._distance())
        batch = next(self.forget, None)
        return loss if batch is None else loss - self.on_forget * cross_entropy(model, *batch)

    def _distance(self) -> Tensor | float:
        """‖θ − θ_0‖²."""
        moved = [(p - start).square().sum() for p, start in zip(self.params, self.start, strict=True)]
        return torch.stack(moved).sum() if moved else 0.0


@method(
    "neggrad_plus",
    needs={"forget", "retain"},
    scenarios={"full_class", "sub_class", "random", "worst_case"},
    paper="https://arxiv.org/abs/2302.09880",
)
@dataclass(frozen=True)
class NegGradPlus:
    """SGD on a weighted difference of the losses on both sets."""

    lr: float = 0.01  # η
    epochs: int = 10  # walks over the retained data
    alpha: float = 0.95  # a, share of the retained data in the loss
    anchor: float = 0.1  # w, pull towards the original weights
    loss: str = "weighted"  # "weighted": a and 1−a; "difference": 1 and 1
    momentum: float = 0.0
    batch_size: int = 128  # of each set
    grad_clip: float | None = None  # largest joint norm of the gradients, None: as they are
    mode: str = "eval"  # "eval": dropout off, batch statistics frozen; "train"; "freeze_bn": dropout only

    def __post_init__(self) -> None:
        check_fields(self, lr=">= 0", epochs=">= 0", alpha=">= 0", anchor=">= 0", momentum=">= 0")
        check_fields(self, alpha="<= 1", loss="weighted | difference", batch_size="> 0", grad_clip="> 0")
        check_fields(self, mode="train | freeze_bn | eval")

    def __call__(
        self, model: nn.Module, forget: Batches | None, retain: Batches | None, ctx: Context
    ) -> nn.Module:
        forget, retain = (
            required(forget, "neggrad_plus", "forget"),
            required(retain, "neggrad_plus", "retain"),
        )
        set_mode(model, self.mode)
        loss = Contrast(self, model, forget.rebatch(self.batch_size, shuffle=True))
        sgd = torch.optim.SGD(model.parameters(), self.lr, momentum=self.momentum)
        batches = retain.rebatch(self.batch_size, shuffle=True)
        train_epochs(model, batches, loss, sgd, self.epochs, grad_clip=self.grad_clip, log=ctx.log)
        return model
