"""What data look like: images with labels, in memory or decoded when they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from tasks.lazy import LazyImages


class DataError(ValueError):
    """A data folder is missing, truncated or foreign. The message says what was found, expected, and what to
    type.
    """


class DataMissing(DataError):
    """There is nothing where a data set was looked for."""


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images with what the model predicts and what a scenario selects by."""

    images: Tensor | LazyImages  # (N, C, H, W) uint8
    labels: Tensor  # (N,) int64, what the model predicts
    groups: Tensor  # (N,) int64, what a scenario selects by (fine labels under cifar20)

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> ImageSet:
        return ImageSet(self.images.to(device), self.labels.to(device), self.groups.to(device))

    def held(self, most: int) -> ImageSet:
        """The same with pixels in memory, where lazily decoded ones take at most `most` bytes there."""
        if isinstance(self.images, Tensor) or self.images.nbytes > most:
            return self
        return ImageSet(self.images.whole(), self.labels, self.groups)

    def take(self, positions: NDArray[np.int64]) -> ImageSet:
        """The images at `positions`, in that order."""
        images: Tensor | LazyImages
        if isinstance(self.images, Tensor):
            images = self.images[torch.from_numpy(positions)]
        else:
            images = self.images.take(positions)
        return ImageSet(images, self.labels[positions], self.groups[positions])


@dataclass(frozen=True, slots=True)
class Data:
    """A loaded data set: both official halves, names of its classes and groups, and where it stands to the
    original.
    """

    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]  # names of the labels, by id
    groups: tuple[str, ...]  # names of the groups, by id
    official: bool  # True only where every file is the published one, as far as that was published
    note: str = ""  # what is not official about it, for people
    limited: int | None = None  # `--limit N` per half, else None
    partial: bool = False  # some of the published images are not there

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a stored image."""
        _, channels, height, width = self.train.images.shape
        return int(channels), int(height), int(width)

    def digest(self) -> str:
        """16 hex digits of SHA-256 over pixels, labels and groups: moving the files does not change it.

        Of lazily decoded images it is over paths and file sizes, and nothing is decoded.
        """
        sha = hashlib.sha256()
        for half in (self.train, self.test):
            for part in (half.images, half.labels, half.groups):
                for piece in _content(part) if isinstance(part, Tensor) else part.fingerprint():
                    sha.update(piece)
        return sha.hexdigest()[:16]

    def limit(self, count: int) -> Data:
        """`count` images of each half, marked as limited: its first ones.

        A half that is stored group by group would so be one class: of it, the first image of every group,
        then the second of every group, and so on. None of the others is decoded.
        """
        train, test = (_first(half, count) for half in (self.train, self.test))
        note = f"limited to {count} per half"
        return replace(self, train=train, test=test, official=False, note=note, limited=count)


def _content(part: Tensor) -> Iterator[bytes | memoryview]:
    yield repr((tuple(part.shape), str(part.dtype))).encode()
    yield part.cpu().contiguous().numpy().data


def _first(half: ImageSet, count: int) -> ImageSet:
    groups = half.groups.cpu().numpy()
    if (np.diff(groups) < 0).any():
        return half.take(np.arange(min(count, len(half))))
    _, start, size = np.unique(groups, return_index=True, return_counts=True)
    rank = np.arange(len(groups)) - np.repeat(start, size)  # of an image within its group
    return half.take(np.sort(np.lexsort((groups, rank))[:count]))
