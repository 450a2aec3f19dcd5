"""ASSD: selective synaptic dampening that chooses its own threshold.

Schoepf, Foster, Brintrup, "Parameter-tuning-free data entry error unlearning with adaptive selective synaptic
dampening", 2024, https://arxiv.org/abs/2402.10098.

Assumes what SSD assumes, and that the share of weights to dampen follows from the share of data to forget.
Sees both sets with labels.

    I_f, I_D as in ssd;   p = 100 − ln(1 + 100·|D_f|/|D|),   D = D_r ∪ D_f
    α = the p-th percentile of all finite I_f/I_D, over all parameters together
    where I_f > α·I_D:   θ ← β·θ,   β = min(λ·I_D / I_f, 1)      (selection, then dampening)

A weight with I_D = 0 < I_f has no finite ratio: it does not move α, and is dampened. 0/0 counts for neither.
The percentile is exact for any number of weights, and lies on a straight line between the two nearest ratios.
`order`, `batch_size`: as in ssd, and with the same effect; `reference` sorts D by class, as SSD's code does.
Memory: one model, and three float32 numbers a weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from methods.api import Batches, Context, check_fields, method
from methods.loops import everything, required, set_mode
from methods.ranks import percentile
from methods.ssd import dampen, importance, trainable


def kept_percent(num_forget: int, num_all: int) -> float:
    """p = 100 − ln(1 + 100·|D_f|/|D|): the percentile below which weights are kept."""
    return 100 - math.log1p(100 * num_forget / max(num_all, 1))


@method(
    "assd",
    needs={"forget", "retain"},
    scenarios={"full_class", "sub_class", "random", "worst_case"},
    paper="https://arxiv.org/abs/2402.10098",
    reference={"order": "class_sorted"},
)
@dataclass(frozen=True)
class ASSD:
    """Selective synaptic dampening with α from the sizes of the two sets."""

    lam: float = 1.0  # λ, dampening: smaller is stronger
    batch_size: int = 128
    order: str = "shuffled"  # of D: "shuffled", or "class_sorted" (D_r by label, then D_f)

    def __post_init__(self) -> None:
        check_fields(self, lam=">= 0", batch_size="> 0", order="shuffled | class_sorted")

    @property
    def stochastic(self) -> bool:
        """Whether two seeds can give two results."""
        return self.order == "shuffled"

    def __call__(
        self, model: nn.Module, forget: Batches | None, retain: Batches | None, ctx: Context
    ) -> nn.Module:
        forget, retain = required(forget, "assd", "forget"), required(retain, "assd", "retain")
        set_mode(model, "eval")
        of_forget = importance(model, forget.rebatch(self.batch_size))
        of_whole = importance(model, everything(forget, retain, self.batch_size, self.order))
        percent = kept_percent(forget.num_examples, forget.num_examples + retain.num_examples)
        alpha = percentile(torch._foreach_div(of_forget, of_whole), percent)
        chosen = dampen(trainable(model), of_forget, of_whole, alpha, self.lam)
        torch.clear_autocast_cache()
        ctx.log("alpha", alpha)
        ctx.log("dampened_weights", float(chosen))
        return model
