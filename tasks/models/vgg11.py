"""VGG-11 without batch norm, its 1000-way classifier followed by one more linear layer.

Source: K. Simonyan and A. Zisserman, https://arxiv.org/abs/1409.1556, configuration A; layers and
initialisation by torchvision. The extra layer 1000→C is as in the JiT paper's released code, which calls
the network VGG16.

Exact folding: an image of 32 pixels leaves a feature map of 1×1, which the 7×7 adaptive pooling repeats 49
times. The first classifier layer then computes Σ_c Σ_p W[o, c, p]·f[c] = Σ_c (Σ_p W[o, c, p])·f[c], so
25088→4096 becomes 512→4096: the same function and gradients up to rounding, with 1/49 of the
multiplications.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from tasks.api import model

SMALLEST_SIDE = 32  # pixels; five poolings leave a map of 1×1

_steps = 0  # optimiser steps of this process


def _count_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    global _steps
    _steps += 1


# Fused optimisers write into a weight without raising its `_version`, so steps are counted as well.
register_optimizer_step_post_hook(_count_step)


class FoldableLinear(nn.Linear):
    """A linear layer that also takes each input feature once instead of several times in a row.

    The folded weight is cached while no gradient is wanted, and made anew after everything that PyTorch or an
    optimiser reports as a change of the weight. A write in place through `weight.data` is reported by nobody:
    call `eval()` or `train()` after it, both forget the folded weight.
    """

    # weight, alias of its storage, stamp, folded weight (out_features, features)
    _cache: tuple[Tensor, Tensor, tuple[int, int, int], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_features), or (B, features) each standing for its repetitions → (B, out_features)."""
        weight = self.weight if x.shape[-1] == self.in_features else self._folded(x.shape[-1])
        return nn.functional.linear(x, weight, self.bias)

    def _folded(self, features: int) -> Tensor:
        weight = self.weight
        wants_grad = torch.is_grad_enabled() and weight.requires_grad
        # A plain tensor is lent by torch.func for one call, not to keep. An inference tensor has no version.
        if wants_grad or not isinstance(weight, nn.Parameter) or weight.is_inference():
            self._cache = None
            return weight.view(self.out_features, features, -1).sum(2)
        stamp = (weight._version, weight.data_ptr(), _steps)
        if self._cache is None or self._cache[0] is not weight or self._cache[2] != stamp:
            with torch.inference_mode(False), torch.no_grad():
                folded = weight.view(self.out_features, features, -1).sum(2)
                # The alias keeps the storage alive after `weight.data = …`: no new one can get its address.
                self._cache = (weight, weight.detach(), stamp, folded)
        return self._cache[3]

    def train(self, mode: bool = True) -> Self:
        self._cache = None
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        self._cache = None  # else it would hold the old storage after a move to another device
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_cache"}


class VGG11(nn.Module):
    """torchvision's VGG-11 and a last layer 1000→C, folded wherever the feature map is 1×1."""

    def __init__(self, num_classes: int, channels: int) -> None:
        from torchvision.models import vgg11 as torchvision_vgg11

        super().__init__()
        net = torchvision_vgg11(weights=None, num_classes=1000)
        self.features, self.avgpool, self.classifier = net.features, net.avgpool, net.classifier
        if channels != 3:
            self.features[0] = _first_convolution(channels)
        self.classifier[0] = _foldable(net.classifier[0])
        self.head = nn.Linear(1000, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.features(x)  # (B, 512, h, w)
        if maps.shape[-2:] != (1, 1):
            maps = self.avgpool(maps)  # (B, 512, 7, 7)
        logits: Tensor = self.head(self.classifier(maps.flatten(1)))  # (B, C)
        return logits


def _first_convolution(channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, 64, kernel_size=3, padding=1)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's own
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def _foldable(linear: nn.Linear) -> FoldableLinear:
    """The same layer with the same parameters: 103 million weights are neither drawn twice nor copied."""
    layer = FoldableLinear(linear.in_features, linear.out_features, device="meta")
    layer.weight, layer.bias = linear.weight, linear.bias
    return layer


@model("vgg11", family="vgg", source="torchvision.models.vgg11 followed by a linear layer 1000→C", side=32)
def vgg11(num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """VGG-11 and a linear layer; 132,873,346 parameters with 3 channels and 10 classes."""
    channels, height, width = input_shape
    if min(height, width) < SMALLEST_SIDE:
        raise ValueError(
            f"vgg11: found images of {height}×{width} pixels, expected sides of at least {SMALLEST_SIDE}; "
            "resize the images or choose vgg_mini"
        )
    return VGG11(num_classes, channels)
