"""SalUn: random labels, confined to the weights that the forget set's gradient points at.

Fan, Liu, Zhang, Wong, Wei, Liu, "SalUn: Empowering Machine Unlearning via Gradient-Based Weight Saliency in
Both Image Classification and Generation", ICLR 2024, https://arxiv.org/abs/2310.12508.

Assumes that what must be forgotten sits where the loss on D_f is steep. Sees both sets with labels.

    g = |Σ_{(x,y)∈D_f} ∂/∂θ CE(f_θ(x), y)|   at the original θ, in eval mode
    m_i = 1 for the ⌊ρ·P⌋ largest of the P entries of g over all parameters together, else 0
    θ ← θ − η_k · m ⊙ (∇_θ mean_{(x,y)∈B} CE(f_θ(x), y) + w·θ),  with momentum, on the walks of random_labels

What m leaves out keeps its bits: neither weight decay nor momentum reaches it. The released code comes to the
same by putting these weights back and clearing their momentum after each step.
`mask_decay`: an earlier release masks the gradient of the loss alone, so that w goes on shrinking the others.
`weigh_batches`: that code adds up the means of the batches, so that images of a short last one count more.
Equal entries of g are taken in the model's order, so that ties, e.g. zeros of dead units, do not exceed ρ.
`walk`, `labels`, `schedule`: see random_labels.
Memory: one model; g once as float32 while the mask is made, then one byte a weight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD

from methods.api import Batches, Context, check_fields, method
from methods.loops import cross_entropy, required, set_mode
from methods.random_labels import RandomLabels
from methods.ranks import largest
from methods.ssd import trainable


def saliency(model: nn.Module, batches: Batches, weigh_batches: bool = True) -> list[Tensor]:
    """|∂/∂θ Σ CE| over all examples, or over the means of all batches: float32, one a trainable parameter."""
    params = trainable(model)
    total = [torch.zeros_like(p, dtype=torch.float32) for p in params]
    for x, y in batches:
        loss = cross_entropy(model, x, y) * (len(y) if weigh_batches else 1)
        grads = torch.autograd.grad(loss, params, allow_unused=True, materialize_grads=True)
        torch._foreach_add_(total, [g.float() for g in grads])
    torch._foreach_abs_(total)
    torch.clear_autocast_cache()
    return total


def confine(
    params: list[nn.Parameter], masks: list[Tensor], decay: float, mask_decay: bool
) -> Callable[..., None]:
    """A hook for before an optimizer's step: adds `decay`·θ to the gradients and clears them off `masks`."""
    outside = [~mask for mask in masks]

    @torch.no_grad()
    def before_step(*_: Any) -> None:
        for p, out in zip(params, outside, strict=True):
            if p.grad is not None:
                if mask_decay:
                    p.grad.add_(p, alpha=decay).masked_fill_(out, 0.0)
                else:
                    p.grad.masked_fill_(out, 0.0).add_(p, alpha=decay)

    return before_step


@method(
    "salun",
    needs={"forget", "retain"},
    scenarios={"full_class", "sub_class", "random", "worst_case"},
    paper="https://arxiv.org/abs/2310.12508",
    reference={"labels": "any", "schedule": "constant", "weigh_batches": False},
)
@dataclass(frozen=True)
class SalUn:
    """SGD with momentum on random labels and retained data, for the salient weights only."""

    lr: float = 0.013  # η, at the first step
    rho: float = 0.5  # ρ, share of the weights that may change
    epochs: int = 10
    momentum: float = 0.9
    weight_decay: float = 5e-4  # w
    batch_size: int = 256
    walk: str = "mixed"  # "mixed", or "two_passes": over the forget set, then over the retained data
    labels: str = "wrong"  # "wrong": never the true one; "any": drawn from all classes
    schedule: str = "cosine"  # "constant", or "cosine": η falls to 0 over all steps
    mode: str = "train"  # of the training: "train", "freeze_bn": only dropout on, "eval": neither
    weigh_batches: bool = True  # for the mask, weigh each batch by its size
    mask_decay: bool = True  # mask the weight decay too

    def __post_init__(self) -> None:
        check_fields(self, lr=">= 0", rho=">= 0", epochs=">= 0", momentum=">= 0", weight_decay=">= 0")
        check_fields(self, rho="<= 1", batch_size="> 0", walk="mixed | two_passes", labels="wrong | any")
        check_fields(self, schedule="constant | cosine", mode="train | freeze_bn | eval")

    def __call__(
        self, model: nn.Module, forget: Batches | None, retain: Batches | None, ctx: Context
    ) -> nn.Module:
        forget, retain = required(forget, "salun", "forget"), required(retain, "salun", "retain")
        params = trainable(model)
        masks = self.masks(model, forget)
        sgd = SGD(params, self.lr, momentum=self.momentum)
        sgd.register_step_pre_hook(confine(params, masks, self.weight_decay, self.mask_decay))
        own = {"rho", "weigh_batches", "mask_decay"}
        rest = RandomLabels(**{name: value for name, value in vars(self).items() if name not in own})
        return rest.train(model, forget, retain, sgd, ctx)

    def masks(self, model: nn.Module, forget: Batches) -> list[Tensor]:
        """Which entries of each trainable parameter may change: bool."""
        set_mode(model, "eval")
        steepness = saliency(model, forget.rebatch(self.batch_size), self.weigh_batches)
        return largest(steepness, int(self.rho * sum(g.numel() for g in steepness)))
