"""Any tree with one folder of image files per class.

Two layouts are read: ROOT/train/CLASS/* with ROOT/test/CLASS/* (or `val` for `test`), and ROOT/CLASS/*, of
which a fixed fifth of each class becomes the test half. A class's id is the rank of its folder's name in
ASCII order, capital letters first. Images are found at any depth below their class folder; hidden files and
other file types are skipped.

Pixels: every file is decoded to RGB. Where all files have one size, they keep it. Where sizes differ, every
image is squeezed (bilinear, aspect not kept) to one square whose side is the shortest side found, but at most
64 pixels.
"""

from __future__ import annotations

from pathlib import Path

from tasks.api import Data, DataError, DataMissing, dataset
from tasks.datasets.tree import Tree, subfolders

LARGEST_SIDE = 64  # pixels, where images must be resized
HOW = "give --data-dir ROOT where ROOT holds CLASS/*.png, or train/CLASS/*.png and test/CLASS/*.png"


def read_groups(folder: Path) -> tuple[str, ...]:
    """Names of the classes by id, from directory listings alone."""
    return tuple(_halves(folder)[0].classes())


def find(folder: Path | None) -> Path:
    """The tree, which is the given folder itself; raises DataMissing where there is none."""
    if folder is None:
        raise DataMissing(f"imagefolder: no data folder was given; {HOW}")
    if not folder.is_dir():
        raise DataMissing(f"imagefolder: looked for the folder {folder}, but there is none; {HOW}")
    return folder


@dataset(
    "imagefolder",
    source="any tree with one folder of images per class",
    groups=None,
    read_groups=read_groups,
    find=find,
)
def imagefolder(folder: Path | None) -> Data:
    """Images (N, 3, H, W) of the tree at `folder`; groups are the classes.

    Raises DataError where the folder, a class or an image of a class is missing, or an image cannot be read.
    """
    tree, test_tree = _halves(find(folder))
    classes = tree.classes()
    train = tree.files(classes)
    if test_tree is None:
        train, test = tree.divide(classes, train)
    else:
        _check_same_classes(tree.root, classes, test_tree.root)
        test = test_tree.files(classes)
    size = _common_size(tree, [path for half in (train, test) for files in half for path in files])
    note = "class-per-folder tree, no published digest"
    halves = (tree.decode(train, size), tree.decode(test, size))
    return Data(*halves, tuple(classes), tuple(classes), official=False, note=note)


def _halves(folder: Path) -> tuple[Tree, Tree | None]:
    """Both halves; None for the test half where the tree has only one."""
    root = find(folder)
    train = root / "train"
    if not train.is_dir() or not subfolders(train):  # `train` may be a class, the vehicle
        return Tree("imagefolder", root, HOW), None
    for name in ("test", "val"):
        if (root / name).is_dir():
            return Tree("imagefolder", train, HOW), Tree("imagefolder", root / name, HOW)
    raise DataError(f"imagefolder: found {train}, but neither {root / 'test'} nor {root / 'val'}; {HOW}")


def _check_same_classes(train_root: Path, classes: list[str], test_root: Path) -> None:
    in_test = set(subfolders(test_root))
    for extra, there, missing_from in (
        (in_test - set(classes), test_root, train_root),
        (set(classes) - in_test, train_root, test_root),
    ):
        if extra:
            raise DataError(
                f"imagefolder: the classes {sorted(extra)} are in {there} but not in {missing_from}, "
                "expected the same class folders in both; add or remove those folders"
            )


def _common_size(tree: Tree, paths: list[Path]) -> tuple[int, int]:
    """(width, height) that all images get; reads file headers only."""
    sizes = tree.sizes(paths)
    if len(sizes) == 1:
        return sizes.pop()
    side = min(LARGEST_SIDE, *(min(size) for size in sizes))
    return side, side
