"""Folders with one folder of image files for each class: finding, dividing and decoding them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.api import DataError, ImageSet
from tasks.datasets.digits import stratified
from tasks.lazy import UNREADABLE, read_rgb, unreadable

TEST_SHARE = 0.2
SPLIT_SEED = 80_20  # one split for everybody, so that rows can be compared
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
DECODERS = 4  # threads while a whole data set is decoded, before any run is timed
Files = list[list[Path]]  # of each class


@dataclass(frozen=True)
class Tree:
    """One root of class folders, and whose name stands before its errors."""

    name: str  # of the data set
    root: Path
    how: str  # what to type to get it right

    def classes(self) -> list[str]:
        """Names of the class folders in ASCII order, capital letters first: their ranks are the ids."""
        names = subfolders(self.root)
        if len(names) < 2:
            raise DataError(
                f"{self.name}: found the class folders {names} in {self.root}, expected at least 2; "
                f"{self.how}"
            )
        return names

    def files(self, classes: list[str]) -> Files:
        """Sorted paths of the images of each class, at any depth. DataError where a class has none."""
        return [self._images(name) for name in classes]

    def _images(self, name: str) -> list[Path]:
        found = {path.relative_to(self.root): path for path in (self.root / name).rglob("*")}
        images = [
            path
            for inner, path in found.items()
            if path.suffix.lower() in SUFFIXES
            and path.is_file()
            and not any(part.startswith(".") for part in inner.parts)
        ]
        if not images:
            kinds = " ".join(sorted(SUFFIXES))
            where = self.root / name
            raise DataError(f"{self.name}: no images in {where}, expected files with one of: {kinds}")
        return sorted(images, key=Path.as_posix)

    def divide(self, classes: list[str], files: Files) -> tuple[Files, Files]:
        """A stratified split that is the same for everybody, with images of each class in both halves."""
        sizes = np.array([len(of_class) for of_class in files])
        if small := [name for name, size in zip(classes, sizes, strict=True) if size < 2]:
            raise DataError(
                f"{self.name}: found 1 image in {self.root / small[0]}, expected at least 2 a class, "
                "for training and for testing; add images or remove the folder"
            )
        labels = np.repeat(np.arange(len(files)), sizes)
        counts = np.maximum(1, np.round(sizes * TEST_SHARE)).astype(np.int64)
        is_test = np.isin(np.arange(len(labels)), stratified(labels, counts, SPLIT_SEED))
        flags = np.split(is_test, np.cumsum(sizes)[:-1])
        train, test = (
            [
                [path for path, flag in zip(*of_class, strict=True) if flag == half]
                for of_class in zip(files, flags, strict=True)
            ]
            for half in (False, True)
        )
        return train, test

    def decode(self, files: Files, size: tuple[int, int]) -> ImageSet:
        """Every file as RGB, squeezed (bilinear, aspect not kept) to `size` (width, height)."""
        from PIL import Image

        def squeeze(image: Image.Image) -> Any:
            return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)

        paths = [path for of_class in files for path in of_class]
        pixels = np.empty((len(paths), size[1], size[0], 3), dtype=np.uint8)

        def fill(row: int) -> None:
            pixels[row] = self.named(lambda: read_rgb(paths[row], squeeze))

        with ThreadPoolExecutor(DECODERS) as pool:
            for _ in pool.map(fill, range(len(paths))):  # raises what a file raised
                pass
        labels = torch.from_numpy(np.repeat(np.arange(len(files)), [len(of_class) for of_class in files]))
        return ImageSet(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels, labels)

    def sizes(self, paths: list[Path]) -> set[tuple[int, int]]:
        """All (width, height) found; reads file headers only."""
        from PIL import Image

        found = set()
        for path in paths:
            try:
                with Image.open(path) as image:
                    found.add(image.size)
            except (*UNREADABLE, Image.DecompressionBombError) as error:
                raise DataError(f"{self.name}: {unreadable(path, error)}") from error
        return found

    def named(self, act: Callable[[], Any]) -> Any:
        """What `act` gives, with the data set's name before its errors."""
        try:
            return act()
        except DataError as error:
            raise DataError(f"{self.name}: {error}") from error


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in `folder` that are not hidden, in ASCII order."""
    return sorted(
        entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )
