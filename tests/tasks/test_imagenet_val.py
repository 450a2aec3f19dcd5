"""ImageNet's validation images that lie flat, with their labels beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from tasks.api import DATASETS, DataError
from tasks.datasets import imagenet  # noqa: F401  (it registers itself)
from tests.tasks.make_trees import imagenet_tree


def flatten(root: Path) -> list[str]:
    """Lay the validation images flat, as their archive unpacks; their WordNet ids by their numbers."""
    wnids = []
    for path in sorted((root / "val").rglob("*.JPEG"), key=lambda path: path.name):
        wnids.append(path.parent.name)
        path.rename(root / "val" / path.name)
    for folder in [path for path in (root / "val").iterdir() if path.is_dir()]:
        folder.rmdir()
    renumbered = sorted((root / "val").iterdir())
    for number, path in enumerate(renumbered, 1):
        path.rename(path.with_name(f"ILSVRC2012_val_{number:08d}.JPEG"))
    return wnids


def development_kit(root: Path, wnids: list[str]) -> Path:
    """ILSVRC2012_devkit_t12/data: ids in an order of their own, one of them of a group of classes."""
    kit = root / "ILSVRC2012_devkit_t12" / "data"
    kit.mkdir(parents=True)
    known = [*sorted(set(wnids), reverse=True), "n00001740"]
    kinds = [("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "f8")]
    rows = [
        (number, wnid, "a word", "what it means", wnid == "n00001740") for number, wnid in enumerate(known, 1)
    ]
    savemat(kit / "meta.mat", {"synsets": np.array(rows, dtype=kinds)[:, None]})
    lines = [f"{known.index(wnid) + 1}\n" for wnid in wnids]
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(lines))
    return kit


@pytest.mark.parametrize("source", ["development kit", "torchvision"])
def test_flat_validation_images_have_the_labels_that_lie_beside_them(tmp_path: Path, source: str) -> None:
    root = imagenet_tree(tmp_path, classes=4, val_each=2)
    sorted_out = DATASETS["imagenet"].load(tmp_path)
    pixels = sorted_out.test.images.index_select(0, torch.arange(8))
    wnids = flatten(root)
    if source == "torchvision":
        torch.save((dict.fromkeys(wnids, ("a word",)), wnids), root / "meta.bin")
    else:
        development_kit(root, wnids)
    data = DATASETS["imagenet"].load(tmp_path)
    assert data.test.labels.tolist() == sorted_out.test.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert torch.equal(data.test.images.index_select(0, torch.arange(8)), pixels)


def test_flat_validation_images_without_labels_say_what_to_unpack(tmp_path: Path) -> None:
    flatten(imagenet_tree(tmp_path, classes=2))
    with pytest.raises(DataError, match=r"val holds 2 images and no class .*devkit_t12\.tar\.gz beside"):
        DATASETS["imagenet"].load(tmp_path)


def test_a_flat_validation_image_without_a_number_or_a_line_is_refused(tmp_path: Path) -> None:
    root = imagenet_tree(tmp_path, classes=3)
    kit = development_kit(root, flatten(root))
    (root / "val" / "ILSVRC2012_val_00000003.JPEG").rename(root / "val" / "ILSVRC2012_val_00000004.JPEG")
    with pytest.raises(DataError, match=r"val_00000004\.JPEG has no label, expected .* from 1 to 3"):
        DATASETS["imagenet"].load(tmp_path)
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n9\n")
    with pytest.raises(DataError, match=r"is not the development kit as published \(KeyError\(9\)\)"):
        DATASETS["imagenet"].load(tmp_path)
    for path in kit.iterdir():
        path.unlink()
    (root / "meta.bin").write_bytes(b"not what torch saves")
    with pytest.raises(DataError, match=r"meta\.bin is not what torchvision saves"):
        DATASETS["imagenet"].load(tmp_path)


def test_training_images_that_are_not_sorted_into_classes_are_refused(tmp_path: Path) -> None:
    root = imagenet_tree(tmp_path, classes=2)
    for folder in list((root / "train").iterdir()):
        for path in folder.iterdir():
            path.rename(root / "train" / path.name)
        folder.rmdir()
    with pytest.raises(DataError, match=r"train holds 4 images and no class folders; get ILSVRC2012"):
        DATASETS["imagenet"].load(tmp_path)
