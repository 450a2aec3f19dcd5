"""CIFAR-10 from the published Python files: 50,000 training and 10,000 test images of 32×32 pixels.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009,
https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

from pathlib import Path

from tasks.api import Data, dataset
from tasks.datasets.cifar import URL, Archive, as_data

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ARCHIVE = Archive("cifar10", "CIFAR-10", {"labels": len(CLASSES)})


@dataset("cifar10", source=URL, groups=CLASSES, find=ARCHIVE.find, download=ARCHIVE.download)
def cifar10(folder: Path | None) -> Data:
    """Images (N, 3, 32, 32) from `folder`/cifar-10-batches-py; groups are the classes.

    Raises DataError where the folder or one of its seven files is missing, truncated or foreign.
    """
    train, test, note = ARCHIVE.read(ARCHIVE.find(folder), {"label_names": CLASSES})
    return as_data((train, test), note, ("labels", "labels"), CLASSES, CLASSES)
