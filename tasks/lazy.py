"""Image files that stand where batches expect a tensor of pixels: each is decoded when it is asked for.

Decoding is left to threads, not to processes. Pillow lets go of the interpreter lock while it decodes and
resizes: of the 2.5 ms that a JPEG of 500×375 pixels takes one core, less than 0.2 need the lock, so that a
dozen threads do not wait for each other; to take pixels over from another process costs its reader as much
(0.1 ms). Threads also need no second copy of the file list, and end with their worker. While one batch is
computed on, the next ones are decoded into pinned memory, from which they are copied to the device without
waiting.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.images import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

AHEAD = 2  # batches that are decoded while another one is in use
MOST_THREADS = 16  # of one worker
# What Pillow raises on damaged files, besides OSError
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error)


@dataclass(frozen=True)
class Crop:
    """How a file of any size becomes a square: the shorter side to `resize` pixels, then the middle."""

    resize: int  # pixels of the shorter side
    size: int  # pixels of a side of the square that is cut from the middle
    resample: str  # "bilinear" or "bicubic", with Pillow's smoothing when an image gets smaller

    def __post_init__(self) -> None:
        if not 0 < self.size <= self.resize:
            raise ValueError(f"crop: size {self.size} of {self.resize} pixels, expected 0 < size <= resize")
        if self.resample not in ("bilinear", "bicubic"):
            raise ValueError(f"crop: resample {self.resample!r}, expected bilinear or bicubic")

    def __call__(self, image: Image) -> Image:
        from PIL.Image import Resampling

        width, height = image.size
        short = min(width, height)
        sides = (self.resize * width // short, self.resize * height // short)
        left, top = (round((side - self.size) / 2) for side in sides)
        resized = image if sides == image.size else image.resize(sides, Resampling[self.resample.upper()])
        return resized.crop((left, top, left + self.size, top + self.size))


@dataclass(frozen=True, eq=False)
class LazyImages:
    """N image files below `root`: in batches, what a tensor (N, 3, H, W) uint8 on `device` would be."""

    root: Path
    names: NDArray[np.bytes_]  # (N,) paths below the root, as the file system spells them
    sizes: NDArray[np.int64]  # (N,) bytes of each file
    crop: Crop
    device: torch.device = torch.device("cpu")  # noqa: RUF009  immutable
    threads: int = 1  # that decode; with one, the thread that asks does it

    dtype = torch.uint8
    ndim = 4

    def __len__(self) -> int:
        return len(self.names)

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.names), 3, self.crop.size, self.crop.size))

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels, were they decoded."""
        return self.shape.numel()

    def to(self, device: torch.device) -> LazyImages:
        """The same for another device. On a CPU, where a worker is one thread, that thread decodes too."""
        return replace(self, device=device, threads=1 if device.type == "cpu" else _threads())

    def take(self, positions: NDArray[np.int64]) -> LazyImages:
        """The images at `positions` alone, none of them decoded."""
        return replace(self, names=self.names[positions], sizes=self.sizes[positions])

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) uint8 of the images at `index` (B,), as `torch.Tensor.index_select`.

        Raises DataError where a file is no readable image, ValueError for another dimension than 0.
        """
        if dim != 0:
            raise ValueError(f"index_select over dimension {dim}, expected 0: images are chosen whole")
        return next(self.walk([index]))

    def walk(self, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        """Pixels (B, 3, H, W) of one batch of positions after another, the next ones being decoded ahead."""
        waiting: deque[_Batch] = deque()
        try:
            for part in parts:
                waiting.append(_Batch(self, part.tolist()))
                if self.threads == 1 or len(waiting) > AHEAD:
                    yield waiting.popleft().pixels()
            while waiting:
                yield waiting.popleft().pixels()
        finally:  # whoever walks may stop early
            for batch in waiting:
                batch.cancel()

    def whole(self) -> Tensor:
        """All pixels (N, 3, H, W) uint8 on the device. Only for as many as fit there."""
        every = torch.arange(len(self)).split(256) if len(self) else []
        none = torch.empty(0, *self.shape[1:], dtype=torch.uint8, device=self.device)
        return torch.cat([none, *self.walk(every)])

    def fingerprint(self) -> Iterator[bytes]:
        """What tells these images from others undecoded: paths, file sizes, and how they are cut."""
        yield repr((tuple(self.shape), self.crop)).encode()
        yield b"\0".join(self.names.tolist())
        yield np.ascontiguousarray(self.sizes, dtype="<i8").tobytes()

    def path(self, position: int) -> Path:
        return self.root / os.fsdecode(bytes(self.names[position]))

    def decode(self, position: int) -> NDArray[np.uint8]:
        """Pixels (3, H, W) of one image."""
        return read_rgb(self.path(position), self.crop).transpose(2, 0, 1)


class _Batch:
    """Images on their way from files to the device."""

    def __init__(self, images: LazyImages, positions: list[int]) -> None:
        self.images, self.positions = images, positions
        shape = (len(positions), *images.shape[1:])
        self.buffer = torch.empty(shape, dtype=torch.uint8, pin_memory=images.device.type == "cuda")
        self.rows = self.buffer.numpy()
        self.futures: list[Future[None]] = []
        if images.threads > 1:
            pool = _pool(images.threads)
            self.futures = [pool.submit(self._fill, row) for row in range(len(positions))]

    def _fill(self, row: int) -> None:
        self.rows[row] = self.images.decode(self.positions[row])

    def pixels(self) -> Tensor:
        """The batch on its device, once all its images are there."""
        for row in range(0 if self.futures else len(self.positions)):
            self._fill(row)
        try:
            for future in self.futures:
                future.result()
        except BaseException:
            self.cancel()
            raise
        return self.buffer.to(self.images.device, non_blocking=True)

    def cancel(self) -> None:
        for future in self.futures:
            future.cancel()


def read_rgb(path: Path, shape: Any) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) of `shape(image)` for the file at `path`; DataError where it is unreadable."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(shape(image.convert("RGB")))
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: BaseException) -> DataError:
    return DataError(f"{path} is no readable image ({error}); replace or remove it")


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="decode")


def _threads() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(2, min(MOST_THREADS, cores))
