"""Handwritten digits at 8×8 pixels, shipped inside scikit-learn: real images for a harness that is offline.

`digits` predicts the digit; `digits5` predicts one of five pairs of digits, so that half a class can be
forgotten.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, https://doi.org/10.24432/C50P49
(scikit-learn holds its test part, 1,797 images).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.api import Data, ImageSet, Indices, dataset

DIGITS = tuple(str(digit) for digit in range(10))
PAIRS = tuple(f"{digit}-{digit + 1}" for digit in range(0, 10, 2))
PAIR_OF = tuple(digit // 2 for digit in range(10))
SOURCE = "sklearn.datasets.load_digits, https://doi.org/10.24432/C50P49"
TRAIN_IMAGES = 1000
SPLIT_SEED = 1797  # part of the data set: another seed would make it another one
TOP_LEVEL = 16  # the images have 17 grey levels, 0..16


@dataset("digits", source=SOURCE, groups=DIGITS, needs_folder=False)
def digits(folder: Path | None = None) -> Data:
    """1,000 training and 797 test images (N, 1, 8, 8), 10 classes; `folder` is not used."""
    return _load(np.arange(10), DIGITS)


@dataset("digits5", source=SOURCE, groups=DIGITS, needs_folder=False, classes=PAIRS)
def digits5(folder: Path | None = None) -> Data:
    """The images and the split of `digits`, labelled by pair of digits (5 classes); `folder` is not used."""
    return _load(np.array(PAIR_OF), PAIRS)


def stratified(labels: Indices, counts: Indices, seed: int) -> Indices:
    """Sorted positions of `counts[c]` random examples of each class c, drawn for each class alone."""
    chosen = [
        np.random.default_rng([seed, c]).permutation(np.flatnonzero(labels == c))[:count]
        for c, count in enumerate(counts)
    ]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def proportional(sizes: Indices, total: int) -> Indices:
    """Shares (K,) of `total` in proportion to `sizes` (K,): the largest remainders round up."""
    counts, remainders = np.divmod(sizes * total, sizes.sum())
    round_up = np.argsort(-remainders, kind="stable")[: total - counts.sum()]
    counts[round_up] += 1
    return counts


def _load(label_of: NDArray[np.int64], classes: tuple[str, ...]) -> Data:
    from sklearn.datasets import load_digits  # not at the top: it costs a second that `--help` does not have

    bunch = load_digits()
    images = np.round(bunch.images * (255 / TOP_LEVEL)).astype(np.uint8)[:, None]  # (1797, 1, 8, 8)
    digit = bunch.target.astype(np.int64)
    train = stratified(digit, proportional(np.bincount(digit), TRAIN_IMAGES), SPLIT_SEED)
    test = np.setdiff1d(np.arange(len(digit)), train)
    halves = [
        ImageSet(*(torch.from_numpy(part) for part in (images[rows], label_of[digit[rows]], digit[rows])))
        for rows in (train, test)
    ]
    return Data(halves[0], halves[1], classes, DIGITS, official=True)
