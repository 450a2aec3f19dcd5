"""EU-k: train the last blocks anew on the retained data, the others frozen.

Goel, Prabhu, Sanyal, Lim, Torr, Kumaraguru, "Towards Adversarial Evaluations for Inexact Machine Unlearning",
2022, https://arxiv.org/abs/2201.06640 (exact unlearning of the last k layers).

Assumes that early layers hold nothing of the forget set, so that retraining the late ones is retraining. Sees
the retained data, never the forget set.

    θ = (φ, ψ),  ψ of the last k blocks and the classifier:  ψ ← fresh weights;   then
    ψ ← argmin_ψ mean_{(x,y)∈D_r} CE(f_(φ,ψ)(x), y)   by the original's own recipe

What a block is in any architecture, see layers; the classifier is not counted in k. Here φ is a fixed
function: its dropout is off and its batch statistics are frozen, which is not stated.
`epochs`: "as long as the original" is the whole recipe of the task, augmentation and schedule included; a
number of epochs replaces it by SGD without augmentation. No setting leaves the model as it was.
Memory: two models for a moment, while the fresh weights are taken over.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from methods.api import Batches, Context, check_fields, method
from methods.cf_k import CFk
from methods.layers import only_last, replace_last
from methods.loops import required


@method(
    "eu_k",
    needs={"retain"},
    scenarios={"full_class", "sub_class", "random", "worst_case"},
    paper="https://arxiv.org/abs/2201.06640",
)
@dataclass(frozen=True)
class EUk:
    """The last blocks re-initialised and trained on the retained data."""

    k: int = 2  # blocks that are trained anew, besides the classifier
    epochs: int | None = None  # None: the task's own recipe; a number: SGD with what follows
    lr: float = 0.01  # η, at the first step
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 128
    schedule: str = "cosine"  # "constant", or "cosine": η falls to 0 over all steps
    mode: str = "train"  # of the blocks that learn: "train", "freeze_bn": only dropout on, "eval": neither

    def __post_init__(self) -> None:
        check_fields(self, k=">= 0", lr=">= 0", epochs=">= 0", momentum=">= 0", weight_decay=">= 0")
        check_fields(self, batch_size="> 0", schedule="constant | cosine", mode="train | freeze_bn | eval")

    def __call__(
        self, model: nn.Module, forget: Batches | None, retain: Batches | None, ctx: Context
    ) -> nn.Module:
        retain = required(retain, "eu_k", "retain")
        replace_last(model, ctx.new_model(), self.k)
        if self.epochs is not None:
            return CFk(**vars(self))(model, None, retain, ctx)
        with only_last(model, self.k):
            return ctx.train(model, retain)
