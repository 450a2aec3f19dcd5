"""Small copies of published data sets, in their exact layouts, made of scikit-learn's handwritten digits.

Class c of a data set shows the digit c % 10 in the colour number c // 10, so that its classes can be learnt.
Every function takes the data folder (what a user gives as --data-dir), makes one data set below it and
returns the data set's own folder.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from tasks.datasets import cifar10, cifar100
from tasks.datasets.imagenet import SYNSETS

Pixels = NDArray[np.uint8]
PINS = tuple(f"pins_{'Person' if n < 90 else 'person'} {n:03d}" for n in range(105))  # ranks in ASCII order


@cache
def _digits() -> list[Pixels]:
    """The images (n, 8, 8) uint8 of each digit."""
    bunch = load_digits()
    levels = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    return [levels[bunch.target == digit] for digit in range(10)]


def picture(label: int, number: int, side: int = 32) -> Pixels:
    """Image `number` of class `label`: (side, side, 3) uint8."""
    of_digit = _digits()[label % 10]
    grey = of_digit[number % len(of_digit)]
    colour = 0.25 + 0.75 * np.random.default_rng(label // 10).random(3)
    small = Image.fromarray(np.round(grey[:, :, None] * colour).astype(np.uint8))
    return np.asarray(small.resize((side, side), Image.Resampling.BILINEAR))


def _interleaved(classes: int, each: int, first: int) -> Iterator[tuple[int, int]]:
    """(label, number) of `each` images a class, class after class and again: unsorted, as in CIFAR."""
    return ((label, number) for number in range(first, first + each) for label in range(classes))


# -------------------- CIFAR


def cifar10_tree(folder: Path, train_each: int = 5, test_each: int = 2) -> Path:
    """`cifar-10-batches-py` with its five training files; `train_each` is rounded up to a multiple of 5."""
    root = folder / "cifar-10-batches-py"
    root.mkdir(parents=True)
    per_file = -(-train_each // 5)
    files = [(f"data_batch_{n}", per_file, (n - 1) * per_file) for n in range(1, 6)]
    for name, each, first in [*files, ("test_batch", test_each, 5 * per_file)]:
        chosen = list(_interleaved(10, each, first))
        fields = {"labels": [label for label, _ in chosen], "data": _planes(chosen)}
        _pickle(root / name, {"batch_label": name, **fields, "filenames": _names(chosen)})
    names = list(cifar10.CLASSES)
    _pickle(root / "batches.meta", {"num_cases_per_batch": 10000, "label_names": names, "num_vis": 3072})
    return root


def cifar100_tree(folder: Path, train_each: int = 2, test_each: int = 1) -> Path:
    """`cifar-100-python` with `train`, `test` and `meta`: what cifar100 and cifar20 read."""
    root = folder / "cifar-100-python"
    root.mkdir(parents=True)
    for name, each, first in (("train", train_each, 0), ("test", test_each, train_each)):
        chosen = list(_interleaved(100, each, first))
        fine = [label for label, _ in chosen]
        coarse = [cifar100.COARSE_OF[label] for label in fine]
        labels = {"fine_labels": fine, "coarse_labels": coarse, "data": _planes(chosen)}
        _pickle(root / name, {"filenames": _names(chosen), "batch_label": name, **labels})
    names = {"fine_label_names": list(cifar100.FINE), "coarse_label_names": list(cifar100.COARSE)}
    _pickle(root / "meta", names)
    return root


def _planes(chosen: Sequence[tuple[int, int]]) -> Pixels:
    """Rows (n, 3072) uint8: the red, the green and the blue plane of each image."""
    return np.stack([picture(*which).transpose(2, 0, 1).reshape(-1) for which in chosen])


def _names(chosen: Sequence[tuple[int, int]]) -> list[str]:
    return [f"digit_s_{number:06d}_{label}.png" for label, number in chosen]


def _pickle(path: Path, content: dict[str, Any]) -> None:
    """Text where Python 2 wrote byte strings: torchvision reads both alike."""
    path.write_bytes(pickle.dumps(content, protocol=2))


# -------------------- trees of JPEG files


def pins_tree(folder: Path, each: int = 5, people: int = 105) -> Path:
    """`105_classes_pins_dataset` with `each` faces a person, in sizes that differ, for the first `people`."""
    root = folder / "105_classes_pins_dataset"
    for label, name in enumerate(PINS[:people]):
        person = root / name
        person.mkdir(parents=True)
        for number in range(each):
            face = Image.fromarray(picture(label, number, 40 + (7 * label + 3 * number) % 20))
            face.save(person / f"{name.removeprefix('pins_')}{number}_{number}.jpg", quality=95)
    return root


def imagenet_tree(
    folder: Path,
    train_each: int = 2,
    val_each: int = 1,
    classes: int = 1000,
    size: tuple[int, int] = (64, 48),
) -> Path:
    """`imagenet/train` and `imagenet/val` with one folder for each of the first `classes` WordNet ids.

    `size` is the (width, height) of every second image; the others are turned.
    """
    root = folder / "imagenet"
    position = 0
    for half, each in (("train", train_each), ("val", val_each)):
        for label, wnid in enumerate(SYNSETS[:classes]):
            of_class = root / half / wnid
            of_class.mkdir(parents=True)
            for number in range(each):
                position += 1
                shown = number + (train_each if half == "val" else 0)
                name = f"{wnid}_{number}.JPEG" if half == "train" else f"ILSVRC2012_val_{position:08d}.JPEG"
                image = Image.fromarray(picture(label, shown, max(size)))
                image.resize(size if number % 2 == 0 else size[::-1]).save(of_class / name, quality=95)
    return root
