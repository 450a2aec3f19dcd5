"""All-CNN with batch norm: nine layers, no pooling but the last, strides in place of max-pooling.

Source: J. Springenberg et al., Striving for Simplicity, https://arxiv.org/abs/1412.6806; widths, strides and
the linear classifier are those of the JiT paper's released code, which defines it and uses it in no table.
Its optional dropout is off there and left out here. Convolutions have no bias: batch norm would cancel it.
"""

from __future__ import annotations

from torch import nn

from tasks.api import model

ROWS = ((96, 3, 1), (96, 3, 1), (192, 3, 2), (192, 3, 1), (192, 3, 1), (192, 3, 2), (192, 3, 1), (192, 1, 1))
SMALLEST_SIDE = 4  # pixels; two strides of 2 leave a map of 1×1


def block(channels: int, width: int, kernel: int, stride: int) -> nn.Sequential:
    """Convolution of `kernel`×`kernel` that keeps the size but for `stride`, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )


@model("allcnn", family="cnn", source="All-CNN, https://arxiv.org/abs/1412.6806, with batch norm")
def allcnn(num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """96 – 96 – 192/2 – 192 – 192 – 192/2 – 192 – 192 (1×1) – mean – classes.

    1,620,010 parameters with 3 channels and 10 classes.
    """
    channels, height, width = input_shape
    if min(height, width) < SMALLEST_SIDE:
        raise ValueError(
            f"allcnn: found images of {height}×{width} pixels, expected sides of at least {SMALLEST_SIDE}; "
            "resize the images or choose another model"
        )
    widths = (channels, *(row[0] for row in ROWS))
    blocks = [block(before, *row) for before, row in zip(widths, ROWS, strict=False)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], num_classes))
