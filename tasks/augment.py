"""Random crop, flip and rotation of a batch of stored images, as one gather of pixels.

In the order of the released code: a crop out of the image padded by four black pixels, a horizontal flip with
probability one half, a rotation by up to fifteen degrees (nearest pixel, black outside). The three are
composed backwards, from each output pixel to the stored pixel it shows, so that the images are touched once.
"""

from __future__ import annotations

import torch
from torch import Tensor

PAD = 4  # pixels
DEGREES = 15.0


def draw(count: int, generator: torch.Generator) -> Tensor:
    """Uniform numbers (count, 4) in [0, 1) from which `augment` makes its moves, drawn on the CPU."""
    return torch.rand(count, 4, generator=generator)


def augment(images: Tensor, draws: Tensor, crop: int | None = None) -> Tensor:
    """Images (B, C, H, W) uint8 moved at random by `draws` (B, 4), see `draw`; same type.

    `crop` is the side in pixels of what is cut out of the padded image; None keeps the shape.
    """
    height, width = images.shape[2:]
    tall, wide = crop or height, crop or width
    down = (draws[:, 0] * (height - tall + 2 * PAD + 1)).long() - PAD  # (B,), in [-4, 4] at the whole shape
    right = (draws[:, 1] * (width - wide + 2 * PAD + 1)).long() - PAD
    degrees = (2 * draws[:, 3] - 1) * DEGREES
    return move(images, down, right, draws[:, 2] < 0.5, degrees, (tall, wide))


def move(
    images: Tensor,
    down: Tensor,
    right: Tensor,
    flip: Tensor,
    degrees: Tensor,
    window: tuple[int, int] | None = None,
) -> Tensor:
    """Cut a window at (`down`, `right`) pixels, flip it, rotate it anticlockwise by `degrees`; all (B,).

    `window` is its height and width; None: those of the images.
    """
    height, width = images.shape[2:]
    tall, wide = window or (height, width)
    row, column = _rotated(degrees, tall, wide)  # (B, H', W') each, in the flipped window
    inside = _within(row, tall) & _within(column, wide)
    column = torch.where(flip[:, None, None], wide - 1 - column, column) + right[:, None, None]
    row = row + down[:, None, None]
    inside &= _within(row, height) & _within(column, width)
    source = (row * width + column).masked_fill_(~inside, 0).flatten(1)  # (B, H'·W')
    count, channels = images.shape[:2]
    moved = images.flatten(2).gather(2, source[:, None].expand(-1, channels, -1))
    return moved.view(count, channels, tall, wide) * inside[:, None]


def _rotated(degrees: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Row and column (B, H, W) int64 of the pixel that a rotation about the centre brings to each place."""
    y = torch.arange(height, device=degrees.device)[:, None] - (height - 1) / 2  # (H, 1)
    x = torch.arange(width, device=degrees.device) - (width - 1) / 2  # (W,)
    angle = torch.deg2rad(degrees)[:, None, None]
    sine, cosine = torch.sin(angle), torch.cos(angle)
    row = (sine * x + cosine * y + (height - 1) / 2).round().long()
    column = (cosine * x - sine * y + (width - 1) / 2).round().long()
    return row, column


def _within(place: Tensor, side: int) -> Tensor:
    return (place >= 0) & (place < side)
