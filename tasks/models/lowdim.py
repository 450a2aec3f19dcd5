"""Models for points on a line or in a plane: a logistic regression, and a small smooth network."""

from __future__ import annotations

import math

from torch import nn

from tasks.api import model

HIDDEN = 32


@model("logistic", family="linear", source="multinomial logistic regression; with two classes a sigmoid")
def logistic(num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """(B, C, H, W) → flatten → (B, num_classes), affine."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), num_classes))


@model("mlp_tanh", family="mlp", source="two hidden layers of 32 with tanh, so that boundaries are smooth")
def mlp_tanh(num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """(B, C, H, W) → flatten → 32 → 32 → (B, num_classes), tanh between."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(input_shape), HIDDEN),
        nn.Tanh(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.Tanh(),
        nn.Linear(HIDDEN, num_classes),
    )
