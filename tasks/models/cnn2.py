"""The two-layer convolutional network of the JiT paper's entropy experiment (§4.2).

The paper gives no widths; these are the released code's.
."""

from __future__ import annotations

from torch import nn

from tasks.api import model


@model("cnn2", family="cnn", source="JiT §4.2, https://arxiv.org/abs/2402.01401")
def cnn2(num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """conv 32 – pool – conv 64 – pool – 128 – classes; at 3×32×32 the first linear layer is 4096→128."""
    channels, height, width = input_shape
    if height < 4 or width < 4 or height % 4 or width % 4:
        raise ValueError(
            f"cnn2: found images of {height}×{width} pixels, expected sides that are multiples of 4; "
            "resize the images or choose another model"
        )
    return nn.Sequential(
        nn.Conv2d(channels, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (height // 4) * (width // 4), 128),
        nn.ReLU(),
        nn.Linear(128, num_classes),
    )
