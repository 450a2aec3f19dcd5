"""Batches over uint8 images that stay on their device: per batch one gather, one normalisation, one resize.

Nothing is done per image and nothing is copied up front: every subset of a data set is a tensor of positions
into the same images. The order of a shuffled walk is drawn on the CPU, so it is the same whatever device
holds the images. Where a data set is too large to be held, lazily decoded images take the tensor's place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.augment import augment, draw
from tasks.lazy import LazyImages

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class View:
    """How stored pixels become model input: to [0, 1], normalise, resize.

    `mean` and `std` hold one number per channel, or a single one for all channels.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int | None = None  # side length of the model input in pixels; None keeps the stored size
    augment: bool = False  # crop, flip and rotate at random, at the stored size
    crop: int | None = None  # side in pixels that augmentation cuts out of the padded image; None: as stored

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(f"view: {len(self.mean)} means, {len(self.std)} stds, expected as many of each")
        if min(self.std) <= 0:
            raise ValueError(f"view: std {self.std}, expected numbers > 0")


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # the cached tensors must stay usable where gradients are taken
def _scale_and_shift(view: View, channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """`x / 255` and `(x - mean) / std` as one multiply-add: two tensors (C, 1, 1)."""
    if len(view.mean) not in (1, channels):
        raise ValueError(
            f"images have {channels} channels but the recipe normalises {len(view.mean)}; "
            f"give mean and std one number, or {channels}"
        )
    mean = torch.tensor(view.mean, dtype=torch.float64).expand(channels)
    std = torch.tensor(view.std, dtype=torch.float64).expand(channels)
    scale, shift = 1 / (255 * std), -mean / std
    return tuple(t.float().view(channels, 1, 1).to(device) for t in (scale, shift))  # type: ignore[return-value]


def pixel_range(view: View, channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Lowest and highest value (C,), (C,) that a pixel of each channel can take in the model's input."""
    scale, shift = _scale_and_shift(view, channels, device)
    return shift.flatten(), (shift + 255 * scale).flatten()


def _model_input(images: Tensor, view: View) -> Tensor:
    """uint8 (B, C, H, W) → float32 (B, C, S, S)."""
    scale, shift = _scale_and_shift(view, images.shape[1], images.device)
    x = torch.addcmul(shift, images.float(), scale)
    if view.size is None or images.shape[2:] == (view.size, view.size):
        return x
    side = (view.size, view.size)
    return F.interpolate(x, size=side, mode="bilinear", align_corners=False, antialias=False)


@dataclass
class Tally:
    """How many images a set of walks has handed out."""

    images: int = 0


@dataclass(frozen=True, eq=False)
class TensorBatches:
    """A walk over some of the images of one tensor. See `batches_of` for the usual way to make one."""

    images: Tensor | LazyImages  # (N, C, H, W) uint8, shared by everything that is cut from it
    positions: Tensor  # (n,) int64, which images, in stored order
    targets: Tensor  # (n,) int64, one label for each position
    view: View
    batch_size: int
    order: torch.Generator  # on the CPU; shared, so that every walk has a fresh order
    shuffle: bool = False
    seen: Tally = field(default_factory=Tally)  # shared by everything that is cut from this

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            found = f"{tuple(self.images.shape)} {self.images.dtype}"
            raise ValueError(f"images are {found}, expected (N, C, H, W) torch.uint8")
        if self.targets.shape != self.positions.shape or self.positions.ndim != 1:
            sizes = f"{tuple(self.targets.shape)} labels for {tuple(self.positions.shape)} positions"
            raise ValueError(f"{sizes}, expected one label for each")
        if self.batch_size < 1:
            raise ValueError(f"batch size {self.batch_size}, expected >= 1")

    @property
    def num_examples(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        positions, targets, count = self.positions, self.targets, self.num_examples
        if self.shuffle:
            order = torch.randperm(count, generator=self.order).to(positions.device)
            positions, targets = positions[order], targets[order]
        # all random numbers of a walk travel to the device at once, not batch by batch
        draws = draw(count, self.order).to(positions.device) if self.view.augment else None
        cuts = [slice(start, start + self.batch_size) for start in range(0, count, self.batch_size)]
        for cut, images in zip(cuts, self._pixels(positions, cuts), strict=True):  # (B, C, H, W) uint8
            if draws is not None:
                images = augment(images, draws[cut], self.view.crop)
            self.seen.images += len(images)
            yield _model_input(images, self.view), targets[cut]

    def _pixels(self, positions: Tensor, cuts: list[slice]) -> Iterable[Tensor]:
        """Stored images of each cut, one cut after the other."""
        if isinstance(self.images, Tensor):
            return (self.images.index_select(0, positions[cut]) for cut in cuts)
        chosen = positions.cpu()
        return self.images.walk([chosen[cut] for cut in cuts])

    def rebatch(self, size: int, *, shuffle: bool = False) -> TensorBatches:
        return replace(self, batch_size=size, shuffle=shuffle)

    def relabel(self, labels: Tensor) -> TensorBatches:
        return replace(self, targets=labels.to(self.targets.device, torch.int64))

    def subset(self, positions: Tensor) -> TensorBatches:
        chosen = positions.to(self.positions.device, torch.int64)
        return replace(self, positions=self.positions[chosen], targets=self.targets[chosen])

    def join(self, other: TensorBatches) -> TensorBatches:
        if self.images is not other.images:
            raise ValueError(
                "these batches walk two different image tensors, expected one; cut both from one data set"
            )
        positions = torch.cat([self.positions, other.positions])
        return replace(self, positions=positions, targets=torch.cat([self.targets, other.targets]))

    def labels(self) -> Tensor:
        return self.targets

    def augmented(self, on: bool) -> TensorBatches:
        """The same examples with or without random crops, flips and rotations."""
        return replace(self, view=replace(self.view, augment=on))


def batches_of(
    images: Tensor | LazyImages,
    labels: Tensor,
    view: View,
    *,
    positions: NDArray[np.int64] | Tensor | None = None,
    batch_size: int = 128,
    seed: int = 0,
) -> TensorBatches:
    """Batches over `images` (N, C, H, W) uint8 with `labels` (N,), or those at `positions`, in that order.

    `seed` starts the stream from which the orders and augmentations of all walks are drawn.
    """
    chosen = torch.arange(len(images)) if positions is None else torch.as_tensor(positions, dtype=torch.int64)
    chosen = chosen.to(images.device)
    order = torch.Generator().manual_seed(seed)
    targets = labels.to(images.device, torch.int64)[chosen]
    return TensorBatches(images, chosen, targets, view, batch_size, order)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """The context in which a model runs: as it is for "fp32", torch.autocast for "bf16"."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r}, expected one of {', '.join(PRECISIONS)}")
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def predict(model: nn.Module, batches: TensorBatches, precision: str = "fp32") -> NDArray[np.float32]:
    """Logits (n, K) float32 in the order of the walk: one pass in eval mode, copied to the host once."""
    if batches.num_examples == 0:
        raise ValueError("nothing to predict: the batches hold no examples, expected at least one")
    model.eval()
    logits: Tensor | None = None
    done = 0
    # no_grad, not inference_mode: what a model caches here must still work where gradients are taken
    with torch.no_grad(), autocast(precision, batches.images.device):
        for x, _ in batches:
            out = model(x)  # (B, K)
            if logits is None:
                logits = torch.empty(batches.num_examples, out.shape[1], device=out.device)
            logits[done : done + len(out)] = out
            done += len(out)
    assert logits is not None
    return logits.cpu().numpy()
