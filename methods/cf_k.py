"""CF-k: go on training the last blocks on the retained data, the others frozen.

Goel, Prabhu, Sanyal, Lim, Torr, Kumaraguru, "Towards Adversarial Evaluations for Inexact Machine Unlearning",
2022, https://arxiv.org/abs/2201.06640 (catastrophic forgetting of the last k layers).

Assumes that what is no longer rehearsed fades, and that late layers hold most of it. Sees the retained data,
never the forget set.

    θ = (φ, ψ),  ψ of the last k blocks and the classifier:
    ψ ← ψ − η_j · (∇_ψ mean_{(x,y)∈B} CE(f_θ(x), y) + w·ψ),   B ⊂ D_r,  with momentum

What a block is in any architecture, see layers; the classifier is not counted in k.
Here φ is a fixed function: its dropout is off and its batch statistics are frozen, which is not stated.
Momentum and weight decay are not stated for it either, and are finetune's.
`schedule`: none is stated, so profile `reference` keeps η constant; by default it falls to 0, as finetune's
does and for the same reason.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.optim import SGD

from methods.api import Batches, Context, check_fields, method
from methods.layers import only_last
from methods.loops import cosine, cross_entropy, num_steps, required, set_mode, train_epochs


@method(
    "cf_k",
    needs={"retain"},
    scenarios={"full_class", "sub_class", "random", "worst_case"},
    paper="https://arxiv.org/abs/2201.06640",
    reference={"schedule": "constant"},
)
@dataclass(frozen=True)
class CFk:
    """SGD with momentum on the retained data, for the last blocks only."""

    k: int = 2  # blocks that learn, besides the classifier
    lr: float = 0.01  # η, at the first step
    epochs: int = 10
    momentum: float = 0.9
    weight_decay: float = 5e-4  # w
    batch_size: int = 128
    schedule: str = "cosine"  # "constant", or "cosine": η falls to 0 over all steps
    mode: str = "train"  # of the blocks that learn: "train", "freeze_bn": only dropout on, "eval": neither

    def __post_init__(self) -> None:
        check_fields(self, k=">= 0", lr=">= 0", epochs=">= 0", momentum=">= 0", weight_decay=">= 0")
        check_fields(self, batch_size="> 0", schedule="constant | cosine", mode="train | freeze_bn | eval")

    def __call__(
        self, model: nn.Module, forget: Batches | None, retain: Batches | None, ctx: Context
    ) -> nn.Module:
        batches = required(retain, "cf_k", "retain").rebatch(self.batch_size, shuffle=True)
        set_mode(model, self.mode)
        with only_last(model, self.k) as learning:
            sgd = SGD(learning, self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
            steps = num_steps(batches, self.batch_size, self.epochs)
            schedule = cosine(sgd, steps) if self.schedule == "cosine" else None
            train_epochs(model, batches, cross_entropy, sgd, self.epochs, schedule, log=ctx.log)
        return model
