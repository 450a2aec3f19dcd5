"""Any tree with one folder of image files per class, such as PinsFaceRecognition.

Two layouts are read: ROOT/train/CLASS/* with ROOT/test/CLASS/* (or `val` for `test`), and ROOT/CLASS/*, of
which a fixed fifth of each class becomes the test half. A class's id is the rank of its folder's name in
ASCII order, capital letters first. Images are found at any depth below their class folder; hidden files and
other file types are skipped.

Pixels: every file is decoded to RGB. Where all files have one size, they keep it. Where sizes differ, every
image is squeezed (bilinear, aspect not kept) to one square whose side is the shortest side found, but at most
64 pixels.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch

from tasks.api import Data, DataError, ImageSet, dataset
from tasks.datasets.digits import stratified

TEST_SHARE = 0.2
SPLIT_SEED = 80_20  # one split for everybody, so that rows can be compared
LARGEST_SIDE = 64  # pixels, where images must be resized
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
HOW = "give --data-dir ROOT where ROOT holds CLASS/*.png, or train/CLASS/*.png and test/CLASS/*.png"
# What Pillow raises on damaged files, besides OSError
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error)
Files = list[list[Path]]  # of each class


def read_groups(folder: Path) -> tuple[str, ...]:
    """Names of the classes by id, from directory listings alone."""
    return tuple(_class_folders(_halves(folder)[0]))


@dataset(
    "imagefolder",
    source="any tree with one folder of images per class",
    groups=None,
    read_groups=read_groups,
)
def imagefolder(folder: Path | None) -> Data:
    """Images (N, 3, H, W) of the tree at `folder`; groups are the classes.

    Raises DataError where the folder, a class or an image of a class is missing, or an image cannot be read.
    """
    if folder is None:
        raise DataError(f"imagefolder: no data folder was given; {HOW}")
    train_root, test_root = _halves(folder)
    classes = tuple(_class_folders(train_root))
    train = _image_files(train_root, classes)
    if test_root is None:
        train, test = _divide(train_root, classes, train)
    else:
        _check_same_classes(train_root, classes, test_root)
        test = _image_files(test_root, classes)
    size = _common_size([path for half in (train, test) for files in half for path in files])
    note = "class-per-folder tree, no published digest"
    return Data(_decode(train, size), _decode(test, size), classes, classes, official=False, note=note)


def _subfolders(folder: Path) -> list[str]:
    return sorted(
        entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )


def _halves(folder: Path) -> tuple[Path, Path | None]:
    """The roots of both halves; None for the test half where the tree has only one."""
    if not folder.is_dir():
        raise DataError(f"imagefolder: looked for the folder {folder}, but there is none; {HOW}")
    train = folder / "train"
    if not train.is_dir() or not _subfolders(train):  # `train` may be a class, the vehicle
        return folder, None
    for name in ("test", "val"):
        if (folder / name).is_dir():
            return train, folder / name
    raise DataError(f"imagefolder: found {train}, but neither {folder / 'test'} nor {folder / 'val'}; {HOW}")


def _class_folders(root: Path) -> list[str]:
    names = _subfolders(root)
    if len(names) < 2:
        raise DataError(f"imagefolder: found the class folders {names} in {root}, expected at least 2; {HOW}")
    return names


def _check_same_classes(train_root: Path, classes: tuple[str, ...], test_root: Path) -> None:
    in_test = set(_subfolders(test_root))
    for extra, there, missing_from in (
        (in_test - set(classes), test_root, train_root),
        (set(classes) - in_test, train_root, test_root),
    ):
        if extra:
            raise DataError(
                f"imagefolder: the classes {sorted(extra)} are in {there} but not in {missing_from}, "
                "expected the same class folders in both; add or remove those folders"
            )


def _image_files(root: Path, classes: tuple[str, ...]) -> Files:
    files = []
    for name in classes:
        found = {path.relative_to(root): path for path in (root / name).rglob("*")}
        images = [
            path
            for inner, path in found.items()
            if path.suffix.lower() in SUFFIXES
            and path.is_file()
            and not any(part.startswith(".") for part in inner.parts)
        ]
        if not images:
            kinds = " ".join(sorted(SUFFIXES))
            raise DataError(f"imagefolder: no images in {root / name}, expected files with one of: {kinds}")
        files.append(sorted(images, key=Path.as_posix))
    return files


def _divide(root: Path, classes: tuple[str, ...], files: Files) -> tuple[Files, Files]:
    """A stratified split with at least one image of each class in both halves."""
    sizes = np.array([len(of_class) for of_class in files])
    if small := [name for name, size in zip(classes, sizes, strict=True) if size < 2]:
        raise DataError(
            f"imagefolder: found 1 image in {root / small[0]}, expected at least 2 a class, "
            "for training and for testing; add images or remove the folder"
        )
    labels = np.repeat(np.arange(len(files)), sizes)
    picked = stratified(labels, np.maximum(1, np.round(sizes * TEST_SHARE)).astype(np.int64), SPLIT_SEED)
    is_test = np.isin(np.arange(len(labels)), picked)
    flags = np.split(is_test, np.cumsum(sizes)[:-1])
    halves = [
        [
            [path for path, flag in zip(*of, strict=True) if flag == half]
            for of in zip(files, flags, strict=True)
        ]
        for half in (False, True)
    ]
    return halves[0], halves[1]


def _common_size(paths: list[Path]) -> tuple[int, int]:
    """(width, height) that all images get; reads file headers only."""
    from PIL import Image

    sizes = set()
    for path in paths:
        try:
            with Image.open(path) as image:
                sizes.add(image.size)
        except (*UNREADABLE, Image.DecompressionBombError) as error:
            raise _unreadable(path, error) from error
    if len(sizes) == 1:
        return sizes.pop()
    side = min(LARGEST_SIDE, *(min(size) for size in sizes))
    return side, side


def _decode(files: Files, size: tuple[int, int]) -> ImageSet:
    from PIL import Image

    paths = [path for of_class in files for path in of_class]
    pixels = np.empty((len(paths), size[1], size[0], 3), dtype=np.uint8)
    for row, path in enumerate(paths):
        try:
            with Image.open(path) as image:
                rgb = image.convert("RGB")
        except (*UNREADABLE, Image.DecompressionBombError) as error:
            raise _unreadable(path, error) from error
        pixels[row] = np.asarray(rgb if rgb.size == size else rgb.resize(size, Image.Resampling.BILINEAR))
    labels = torch.from_numpy(np.repeat(np.arange(len(files)), [len(of_class) for of_class in files]))
    return ImageSet(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels, labels)


def _unreadable(path: Path, error: BaseException) -> DataError:
    return DataError(f"imagefolder: {path} is no readable image ({error}); replace or remove it")
