"""SSD-Det: selective synaptic dampening with the importances of its paper, sample by sample.

Foster, Schoepf, Brintrup, "Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening",
AAAI 2024, https://arxiv.org/abs/2308.07707.

Assumes what SSD assumes, and sees the same: both sets with labels.

    I_S = mean over (x,y) ∈ S of (∂/∂θ CE(f_θ(x), y))²   for S = D_f, D = D_r ∪ D_f
    where I_f > α·I_D:   θ ← β·θ,   β = min(λ·I_D / I_f, 1)      (selection, then dampening)

This is the diagonal of the empirical Fisher information. The released code squares the mean gradient of each
batch instead (see ssd); single examples leave nothing for order, batch size or seed to change, up to the
rounding of sums.
α does not transfer between the two: D holds D_f, so I_f/I_D ≤ |D|/|D_f| here, and no α from there on selects
anything. The default, the paper's for ResNet18, is fit for one class of a hundred, and idle for one of ten.
The sum over D_f serves both importances, so every example is walked once. Under bf16 autocast the importances
are taken in float32 all the same.
Memory: one model, two float32 numbers a weight, and twice the gradients of as many single examples as fit the
budget below, one at least.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from methods.api import Batches, Context, check_fields, method
from methods.loops import required, set_mode
from methods.ssd import dampen, trainable

GRADIENT_BYTES = {"cpu": 2**26, "cuda": 2**32}  # of the gradients of single examples held at a time
IMAGES_PER_PASS = 128  # however small the model

Score = Callable[[Tensor, Tensor], Tensor]  # logits (1, K), label (1,) → scalar


def images_per_pass(params: list[nn.Parameter]) -> int:
    """How many examples' gradients are held at a time; no result depends on it but by rounding."""
    size = sum(4 * p.numel() for p in params)
    budget = GRADIENT_BYTES["cpu" if not params or params[0].device.type == "cpu" else "cuda"]
    return max(1, min(IMAGES_PER_PASS, budget // max(size, 1)))


@torch.no_grad()
def sum_over_samples(model: nn.Module, batches: Batches, score_of: Score, power: int) -> list[Tensor]:
    """Σ over examples of |∂ score/∂θ|^power: float32, one a trainable parameter, in the model's order."""
    free = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def score(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        logits = functional_call(model, params, (x.unsqueeze(0),))  # (1, K)
        return score_of(logits, y.unsqueeze(0))

    gradients = vmap(grad(score), in_dims=(None, 0, 0))
    total = [torch.zeros_like(p, dtype=torch.float32) for p in free.values()]
    device = next((p.device.type for p in free.values()), "cpu")
    # Neither fused attention nor batch norm in mixed precision has a rule for one gradient a sample.
    with sdpa_kernel(SDPBackend.MATH), torch.autocast(device, enabled=False):
        for x, y in batches.rebatch(images_per_pass(trainable(model))):
            of_each = list(gradients(free, x, y).values())  # (B, *θ.shape) each
            powers = torch._foreach_abs(of_each) if power == 1 else torch._foreach_mul(of_each, of_each)
            torch._foreach_add_(total, [g.sum(0) for g in powers])
    return total


def importances(
    model: nn.Module, forget: Batches, retain: Batches, score_of: Score, power: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Mean over D_f, and over D = D_r ∪ D_f, of |∂ score/∂θ|^power; 0 where there are no examples."""
    of_forget = sum_over_samples(model, forget, score_of, power)
    of_whole = sum_over_samples(model, retain, score_of, power)
    torch._foreach_add_(of_whole, of_forget)
    torch._foreach_div_(of_whole, max(forget.num_examples + retain.num_examples, 1))
    torch._foreach_div_(of_forget, max(forget.num_examples, 1))
    return of_forget, of_whole


@method(
    "ssd_det",
    needs={"forget", "retain"},
    scenarios={"full_class", "sub_class", "random", "worst_case"},
    paper="https://arxiv.org/abs/2308.07707",
    stochastic=False,
)
@dataclass(frozen=True)
class SSDDet:
    """Selective synaptic dampening, importance from the gradients of single examples."""

    alpha: float = 10.0  # α, how many times more important to D_f a weight must be; inf selects none
    lam: float = 1.0  # λ, dampening: smaller is stronger

    def __post_init__(self) -> None:
        check_fields(self, alpha=">= 0", lam=">= 0")

    def __call__(
        self, model: nn.Module, forget: Batches | None, retain: Batches | None, ctx: Context
    ) -> nn.Module:
        forget, retain = required(forget, "ssd_det", "forget"), required(retain, "ssd_det", "retain")
        set_mode(model, "eval")
        of_forget, of_whole = importances(model, forget, retain, F.cross_entropy, power=2)
        chosen = dampen(trainable(model), of_forget, of_whole, self.alpha, self.lam)
        ctx.log("dampened_weights", float(chosen))
        return model
