"""Pins Face Recognition: 17,534 photographs of 105 people, one folder for each.

Every image is squeezed to 36×36 pixels (Pillow, bilinear, aspect not kept), as in Foster et al. (TMLR 2025).
A person's id is the rank of the folder's name in ASCII order, capital letters first; the person is named as
the folder, without the prefix `pins_`. The data are published without a division into halves, hence two
names:

- `pins` divides each person's images 80 to 20 by a fixed seed;
- `pins_nosplit` is what the released code of that paper does: all images are the training half, and the same
  images are the test half. Accuracies and memberships on it are measured on what was trained on.

Source: https://www.kaggle.com/datasets/hereisburak/pins-face-recognition.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tasks.api import Data, DataError, DataMissing, dataset
from tasks.datasets.tree import Files, Tree

URL = "https://www.kaggle.com/datasets/hereisburak/pins-face-recognition"
FOLDERS = ("105_classes_pins_dataset", "pins")  # as published, and a shorter name
PREFIX = "pins_"
SIDE = 36  # pixels
PEOPLE, IMAGES = 105, 17_534  # published; no digests are
HOW = (
    f"get it from {URL} (an account is needed, so --download cannot), unpack it, "
    f"and give --data-dir FOLDER where FOLDER holds {FOLDERS[0]}"
)


def _find(name: str, folder: Path | None) -> Path:
    """The published folder below the data folder; raises DataMissing where there is none.

    Raises DataError where the data folder is the published one itself.
    """
    if folder is None:
        raise DataMissing(f"{name}: no data folder was given, expected one that holds {FOLDERS[0]}; {HOW}")
    roots = [folder / one for one in FOLDERS]
    for root in roots:
        if root.is_dir():
            return root
    if any(folder.glob(f"{PREFIX}*/")):
        raise DataError(
            f"{name}: looked for {roots[0]}, but {folder} itself holds the people; "
            f"rename it to {FOLDERS[0]} if need be and give the folder above it as --data-dir"
        )
    raise DataMissing(f"{name}: looked for {roots[0]} and {roots[1]}, but there is neither; {HOW}")


def read_groups(folder: Path) -> tuple[str, ...]:
    """Names of the people by id, from directory listings alone."""
    return _names(Tree("pins", _find("pins", folder), HOW).classes())


@dataset(
    "pins",
    source=f"{URL}: 80 % of each person's images train, 20 % test, divided by a fixed seed",
    groups=None,
    read_groups=read_groups,
    find=partial(_find, "pins"),
)
def pins(folder: Path | None) -> Data:
    """Images (N, 3, 36, 36) in two halves that share none; groups are the classes, i.e. people.

    Raises DataError where the folder is missing, a person has fewer than two images, or one cannot be read.
    """
    tree, people, files = _read("pins", folder)
    train, test = tree.divide(people, files)
    return _data(tree, people, train, test)


@dataset(
    "pins_nosplit",
    source=f"{URL}: as released code reads it, the test images are the training images (no split)",
    groups=None,
    read_groups=read_groups,
    find=partial(_find, "pins_nosplit"),
)
def pins_nosplit(folder: Path | None) -> Data:
    """All images (N, 3, 36, 36) as the training half, and the same ones as the test half.

    Raises DataError where the folder or a person's images are missing, or an image cannot be read.
    """
    tree, people, files = _read("pins_nosplit", folder)
    return _data(tree, people, files, None)


def _read(name: str, folder: Path | None) -> tuple[Tree, list[str], Files]:
    tree = Tree(name, _find(name, folder), HOW)
    people = tree.classes()
    return tree, people, tree.files(people)


def _data(tree: Tree, people: list[str], train: Files, test: Files | None) -> Data:
    first = tree.decode(train, (SIDE, SIDE))
    second = first if test is None else tree.decode(test, (SIDE, SIDE))
    images = len(first) + (0 if test is None else len(second))
    official = (len(people), images) == (PEOPLE, IMAGES)
    note = "" if official else f"{images:,} of {IMAGES:,} images, {len(people)} of {PEOPLE} people"
    names = _names(people)
    lacking = images < IMAGES or len(people) < PEOPLE
    return Data(first, second, names, names, official=official, note=note, partial=lacking)


def _names(people: list[str]) -> tuple[str, ...]:
    """Folder names without their prefix, where all of them have it."""
    if all(name.startswith(PREFIX) for name in people):
        return tuple(name.removeprefix(PREFIX) for name in people)
    return tuple(people)
