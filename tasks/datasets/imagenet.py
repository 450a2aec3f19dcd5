"""ImageNet (ILSVRC 2012): 1,281,167 training and 50,000 validation images of 1,000 classes.

Read from FOLDER/imagenet (or FOLDER itself) with `train/WNID/*` and `val/WNID/*`, the layout that
torchvision's ImageNet and the usual scripts unpack to. The validation images may also lie flat in `val`, with
the development kit beside it (`tasks.datasets.imagenet_val`). A class is named by its WordNet id, such as
n01440764, and numbered as in every published checkpoint, also where only some of the class folders are there.

Nothing is decoded when the data are loaded: files are listed, and each is decoded when a batch needs it
(`tasks.lazy`), to 224×224 pixels as `imagenet.toml` says. The digest is over paths, file sizes and labels.

Source: O. Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015,
https://www.image-net.org/challenges/LSVRC/2012/.
"""

from __future__ import annotations

import os
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from tasks.api import Data, DataError, DataMissing, ImageSet, dataset
from tasks.datasets.imagenet_val import wnids_of
from tasks.lazy import Crop, LazyImages

URL = "https://www.image-net.org/challenges/LSVRC/2012/"
ROWS = tomllib.loads(Path(__file__).with_name("imagenet.toml").read_text(encoding="utf-8"))
SYNSETS: tuple[str, ...] = tuple(ROWS["classes"]["wnids"].split())
CROP = Crop(**ROWS["crop"])
PUBLISHED: tuple[int, int] = (ROWS["published"]["train"], ROWS["published"]["val"])
SUFFIXES = (b".jpeg", b".jpg", b".png")
LISTERS = 16  # threads that list class folders: a network disk answers slowly, but many at once
HOW = (
    f"get ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from {URL} (an account is needed, so "
    "--download cannot), unpack them with torchvision.datasets.ImageNet, and give --data-dir FOLDER where "
    "FOLDER/imagenet holds train/n01440764/*.JPEG and val/n01440764/*.JPEG"
)


def find(folder: Path | None) -> Path:
    """The folder that holds `train` and `val`; raises DataMissing where there is none."""
    if folder is None:
        raise DataMissing(f"imagenet: no data folder was given; {HOW}")
    for root in (folder / "imagenet", folder):
        if (root / "train").is_dir() and (root / "val").is_dir():
            return root
    raise DataMissing(f"imagenet: looked for train and val in {folder / 'imagenet'}, found neither; {HOW}")


@dataset("imagenet", source=URL, groups=SYNSETS, find=find)
def imagenet(folder: Path | None) -> Data:
    """Images (N, 3, 224, 224), decoded when they are used; 1,000 classes, and the groups are the classes.

    Raises DataError where the folder is missing, holds anything but WordNet ids, or a half has no images.
    """
    root = find(folder)
    train, test = _half(root / "train"), _half(root / "val")
    found = (len(train), len(test))
    note = "" if found == PUBLISHED else _note(*found)
    partial = found[0] < PUBLISHED[0] or found[1] < PUBLISHED[1]
    return Data(train, test, SYNSETS, SYNSETS, official=not note, note=note, partial=partial)


def _note(train: int, val: int) -> str:
    return f"{train:,} of {PUBLISHED[0]:,} training and {val:,} of {PUBLISHED[1]:,} validation images"


def _half(root: Path) -> ImageSet:
    """All files of one half, class by class and by name, none of them opened."""
    names = _class_folders(root)
    with ThreadPoolExecutor(LISTERS) as pool:
        listed = list(pool.map(lambda name: _files(root, name), names))
    if names:
        files = [(name, *entry) for name, of_class in zip(names, listed, strict=True) for entry in of_class]
    else:
        files = _flat(root)
    if not files:
        raise DataError(f"imagenet: no images in {root}, expected files such as n01440764/*.JPEG; {HOW}")
    ids = {wnid: rank for rank, wnid in enumerate(SYNSETS)}
    paths = np.array([path for _, path, _ in files], dtype=np.bytes_)
    sizes = np.array([size for _, _, size in files], dtype=np.int64)
    label = torch.tensor([ids[name] for name, _, _ in files], dtype=torch.int64)
    return ImageSet(LazyImages(root, paths, sizes, CROP), label, label)


def _flat(root: Path) -> list[tuple[str, bytes, int]]:
    """(WordNet id, name, bytes) of images that lie in `root` itself; only validation images may."""
    files = _files(root, "")
    if files and root.name != "val":
        raise DataError(f"imagenet: {root} holds {len(files):,} images and no class folders; {HOW}")
    labels = wnids_of(root, [path for path, _ in files]) if files else []
    if strange := sorted(set(labels) - set(SYNSETS)):
        raise DataError(
            f"imagenet: the labels beside {root} name {strange[0]}, which is no class of ILSVRC 2012"
        )
    return sorted((label, *entry) for label, entry in zip(labels, files, strict=True))


def _class_folders(root: Path) -> list[str]:
    """The class folders in order of their ids; refuses a folder that is none."""
    with os.scandir(root) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    if strange := sorted(set(names) - set(SYNSETS)):
        raise DataError(
            f"imagenet: found the folder {root / strange[0]}, expected only WordNet ids of ILSVRC 2012, such "
            "as n01440764; for classes of your own use the data set imagefolder"
        )
    return names


def _files(root: Path, name: str) -> list[tuple[bytes, int]]:
    """(path below the root, bytes) of the images in one folder, by name; "" is the root itself."""
    before = os.fsencode(name) + b"/" if name else b""
    with os.scandir(os.fsencode(root / name)) as entries:
        images = [
            (before + entry.name, entry.stat().st_size)
            for entry in entries
            if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(b".") and entry.is_file()
        ]
    return sorted(images)
