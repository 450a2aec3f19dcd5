"""A multilayer perceptron with two hidden layers of 64, for images of any shape."""

from __future__ import annotations

import math

from torch import nn

from tasks.api import model

HIDDEN = 64


@model("mlp", family="mlp", source="two hidden layers of 64")
def mlp(num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """(B, C, H, W) → flatten → 64 → 64 → (B, num_classes), ReLU between."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(input_shape), HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, num_classes),
    )
