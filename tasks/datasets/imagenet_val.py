"""Labels of ImageNet's validation images where they lie flat in `val`, as their archive unpacks.

The names, ILSVRC2012_val_00000001.JPEG and so on, say nothing of the class. The number in a name is a line of
the development kit's ground truth, which holds ids from 1 to 1000 in an order of its own; the kit's meta.mat
says which WordNet id each stands for. torchvision keeps the same labels, as WordNet ids, in meta.bin.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Sequence
from pathlib import Path

from tasks.images import DataError

NAME = re.compile(rb"ILSVRC2012_val_(\d{8})\.jpe?g", re.IGNORECASE)
KITS = ("ILSVRC2012_devkit_t12/data", "devkit/data", "data", ".")  # below the folder that holds `val`
TRUTH, META, SAVED = "ILSVRC2012_validation_ground_truth.txt", "meta.mat", "meta.bin"
HOW = (
    "unpack ILSVRC2012_devkit_t12.tar.gz beside it, or sort the images into one folder for each WordNet id, "
    'as torchvision.datasets.ImageNet(root, split="val") does when it unpacks'
)


def wnids_of(val: Path, names: Sequence[bytes]) -> list[str]:
    """The WordNet id of each image in `val`. DataError where labels are missing or a name has none."""
    labels = _labels(val.parent)
    if labels is None:
        kits = ", ".join(f"{val.parent / kit}" for kit in KITS[:2])
        raise DataError(
            f"imagenet: {val} holds {len(names):,} images and no class folders, and their labels are not "
            f"beside it: looked for {TRUTH} and {META} in {kits}, and for {val.parent / SAVED}; {HOW}"
        )
    return [_label(val, name, labels) for name in names]


def _label(val: Path, name: bytes, labels: Sequence[str]) -> str:
    found = NAME.fullmatch(name)
    number = int(found[1]) if found else 0
    if not 1 <= number <= len(labels):
        raise DataError(
            f"imagenet: {val / name.decode(errors='replace')} has no label, expected a name such as "
            f"ILSVRC2012_val_00000001.JPEG with a number from 1 to {len(labels)}; rename or remove it"
        )
    return labels[number - 1]


def _labels(root: Path) -> list[str] | None:
    """WordNet ids of the validation images by their number; None where neither source is there."""
    for kit in KITS:
        if (root / kit / TRUTH).is_file() and (root / kit / META).is_file():
            return _from_kit(root / kit)
    return _from_torchvision(root / SAVED) if (root / SAVED).is_file() else None


def _from_kit(kit: Path) -> list[str]:
    from scipy.io import loadmat

    try:
        rows = loadmat(kit / META, squeeze_me=True)["synsets"]
        ids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows}
        return [ids[int(line)] for line in (kit / TRUTH).read_text().split()]
    except (OSError, ValueError, KeyError, IndexError, TypeError, NotImplementedError) as error:
        raise DataError(
            f"imagenet: {kit} is not the development kit as published ({error!r}): expected {META} with "
            f"synsets, and in {TRUTH} one of their ids a line; {HOW}"
        ) from error


def _from_torchvision(path: Path) -> list[str]:
    """What torchvision saved; read as plain containers, so that nothing in it is run."""
    import torch

    try:
        _, wnids = torch.load(path, weights_only=True)
    except (OSError, ValueError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise DataError(f"imagenet: {path} is not what torchvision saves; remove it; {HOW}") from error
    return [str(wnid) for wnid in wnids]
