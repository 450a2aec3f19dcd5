"""BDEXP: boundary expanding, send the forget images to a class that is added and then cut off again.

Chen, Gao, Liu, Peng, Wang, "Boundary Unlearning: Rapid Forgetting of Deep Networks via Shifting the Decision
Boundary", CVPR 2023, https://arxiv.org/abs/2303.11570.

Assumes that pulling an image to a new class scatters it over the old ones once the new class is gone.
Zero-shot: sees the forget images, never a label.

    widen:  W ← [W; u], b ← [b; 0],   u ~ N(0, 2/(d + K + 1)) for the last layer's W (K, d)
    θ ← θ − η · ∇_θ mean_{x∈B} CE(f_θ(x), K),   B ⊂ D_f,  with momentum        (classes are 0, …, K−1)
    prune:  W ← W without u,  b ← b without its last entry

The authors' code trains in train mode, where batch statistics become those of the forget set; eval mode here
(`mode`).
A later study takes η = 8e-4 for CIFAR-10 and ResNet18; 1e-5 is the authors'.
The model comes back as it came: same class, same names and shapes, K outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.api import Batches, Context, check_fields, method
from methods.loops import cross_entropy, output_layer, required, set_mode, train_epochs


@contextmanager
def widened(layer: nn.Linear, generator: torch.Generator) -> Iterator[None]:
    """Inside, `layer` has one output more, with a Xavier-normal weight and no bias; afterwards it is cut off.

    The other outputs' weights are the same bits before and after both.
    """
    width = layer.out_features
    weight = torch.empty_like(layer.weight[:1])
    weight.normal_(0.0, (2 / (layer.in_features + width + 1)) ** 0.5, generator=generator)
    _resize(layer, torch.cat([layer.weight.detach(), weight]), _with_zero(layer.bias))
    try:
        yield
    finally:
        bias = None if layer.bias is None else layer.bias.detach()[:width].clone()
        _resize(layer, layer.weight.detach()[:width].clone(), bias)


def _with_zero(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else torch.cat([bias.detach(), bias.new_zeros(1)])


def _resize(layer: nn.Linear, weight: Tensor, bias: Tensor | None) -> None:
    layer.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=layer.bias.requires_grad)
    layer.out_features = len(weight)


@method(
    "bdexp",
    needs={"forget"},
    scenarios={"full_class", "sub_class", "random", "worst_case"},
    paper="https://arxiv.org/abs/2303.11570",
    reference={"mode": "train"},
)
@dataclass(frozen=True)
class BDEXP:
    """SGD with momentum on the forget images, all of them labelled as a new class."""

    lr: float = 1e-5  # η
    epochs: int = 10
    momentum: float = 0.9
    batch_size: int = 64
    mode: str = "eval"  # eval | train

    def __post_init__(self) -> None:
        check_fields(self, lr=">= 0", epochs=">= 0", momentum=">= 0", batch_size="> 0", mode="eval | train")

    def __call__(
        self, model: nn.Module, forget: Batches | None, retain: Batches | None, ctx: Context
    ) -> nn.Module:
        forget = required(forget, "bdexp", "forget")
        added = torch.full_like(forget.labels(), ctx.num_classes)
        batches = forget.relabel(added).rebatch(self.batch_size, shuffle=True)
        set_mode(model, self.mode)
        with widened(output_layer(model, ctx.num_classes, "bdexp"), ctx.generator):
            sgd = torch.optim.SGD(model.parameters(), self.lr, momentum=self.momentum)
            train_epochs(model, batches, cross_entropy, sgd, self.epochs, log=ctx.log)
        return model
