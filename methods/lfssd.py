"""LFSSD: selective synaptic dampening without labels, by how strongly a weight moves the model's outputs.

Foster, Schoepf, Brintrup, "Loss-Free Machine Unlearning", ICLR 2024 (tiny papers),
https://arxiv.org/abs/2402.19308.

Assumes what SSD assumes, with sensitivity in place of Fisher information. Sees the images of both sets, never
a label.

    I_S = mean over x ∈ S of |∂/∂θ ‖f_θ(x)‖²|   for S = D_f, D = D_r ∪ D_f,  f_θ(x) the logits
    where I_f > α·I_D:   θ ← β·θ,   β = min(λ·I_D / I_f, 1)      (selection, then dampening)

`per`: the released code takes the absolute gradient of the mean over a batch, so that gradients of opposite
signs cancel, and batch size and order change the result; "sample" is free of that. By sample, as in ssd_det,
no α from |D|/|D_f| on selects anything.
`order`: it matters to batches alone. Batches sorted by class, those of SSD's released code, are the one place
where labels play a part: they say which images come together.
The paper takes α = 10, but 5 for classes of CIFAR-20 and 3.5 for random samples, and λ = 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.api import Batches, Context, check_fields, method
from methods.loops import everything, required, set_mode
from methods.ssd import dampen, trainable
from methods.ssd_det import importances


def squared_norm(logits: Tensor, labels: Tensor | None = None) -> Tensor:
    """Mean over the batch of ‖z‖² for logits z (B, K): a float32 scalar. Labels are not looked at."""
    return logits.float().square().sum(1).mean()


def sensitivity(model: nn.Module, batches: Batches) -> list[Tensor]:
    """Mean over batches of |∂/∂θ mean ‖z‖²|: float32, one a trainable parameter; 0 of no batches."""
    params = trainable(model)
    total = [torch.zeros_like(p, dtype=torch.float32) for p in params]
    count = 0
    for x, _ in batches:
        loss = squared_norm(model(x))
        grads = torch.autograd.grad(loss, params, allow_unused=True, materialize_grads=True)
        torch._foreach_add_(total, torch._foreach_abs([g.float() for g in grads]))
        count += 1
    torch._foreach_div_(total, max(count, 1))
    torch.clear_autocast_cache()
    return total


@method(
    "lfssd",
    needs={"forget", "retain"},
    scenarios={"full_class", "sub_class", "random", "worst_case"},
    paper="https://arxiv.org/abs/2402.19308",
    reference={"per": "batch", "order": "class_sorted"},
)
@dataclass(frozen=True)
class LFSSD:
    """Selective synaptic dampening, importance from the gradient of the outputs' squared norm."""

    alpha: float = 10.0  # α, how many times more important to D_f a weight must be; inf selects none
    lam: float = 1.0  # λ, dampening: smaller is stronger
    per: str = "sample"  # "sample", or "batch": absolute values of the mean gradients of batches
    batch_size: int = 128  # with per="batch"
    order: str = "shuffled"  # of D with per="batch": "shuffled", or "class_sorted" (D_r by label, then D_f)

    def __post_init__(self) -> None:
        check_fields(self, alpha=">= 0", lam=">= 0", batch_size="> 0", per="sample | batch")
        check_fields(self, order="shuffled | class_sorted")

    @property
    def stochastic(self) -> bool:
        """Whether two seeds can give two results."""
        return self.per == "batch" and self.order == "shuffled"

    def __call__(
        self, model: nn.Module, forget: Batches | None, retain: Batches | None, ctx: Context
    ) -> nn.Module:
        forget, retain = required(forget, "lfssd", "forget"), required(retain, "lfssd", "retain")
        set_mode(model, "eval")
        if self.per == "sample":
            of_forget, of_whole = importances(model, forget, retain, squared_norm, power=1)
        else:
            of_forget = sensitivity(model, forget.rebatch(self.batch_size))
            of_whole = sensitivity(model, everything(forget, retain, self.batch_size, self.order))
        chosen = dampen(trainable(model), of_forget, of_whole, self.alpha, self.lam)
        ctx.log("dampened_weights", float(chosen))
        return model
