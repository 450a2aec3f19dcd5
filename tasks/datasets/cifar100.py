"""CIFAR-100 from the published Python files: 50,000 training and 10,000 test images of 32×32 pixels.

`cifar100` predicts the 100 classes. `cifar20` predicts the 20 published super-classes of the same images, so
that one of the five classes inside a super-class can be forgotten.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009,
https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

from pathlib import Path

import torch

from tasks.api import Data, DataError, dataset
from tasks.datasets.cifar import URL, Archive, Half, as_data

# Names by id: the ids are ranks in alphabetical order
SUPER_CLASSES = {
    "aquatic_mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
    "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
    "food_containers": ("bottle", "bowl", "can", "cup", "plate"),
    "fruit_and_vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    "household_electrical_devices": ("clock", "keyboard", "lamp", "telephone", "television"),
    "household_furniture": ("bed", "chair", "couch", "table", "wardrobe"),
    "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    "large_carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
    "large_man-made_outdoor_things": ("bridge", "castle", "house", "road", "skyscraper"),
    "large_natural_outdoor_scenes": ("cloud", "forest", "mountain", "plain", "sea"),
    "large_omnivores_and_herbivores": ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    "medium_mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
    "non-insect_invertebrates": ("crab", "lobster", "snail", "spider", "worm"),
    "people": ("baby", "boy", "girl", "man", "woman"),
    "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    "small_mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    "trees": ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    "vehicles_1": ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    "vehicles_2": ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
}
COARSE = tuple(SUPER_CLASSES)
FINE = tuple(sorted(name for names in SUPER_CLASSES.values() for name in names))
_COARSE_BY_NAME = {name: rank for rank, names in enumerate(SUPER_CLASSES.values()) for name in names}
COARSE_OF = tuple(_COARSE_BY_NAME[name] for name in FINE)  # by id of the class
LABELS = {"fine_labels": len(FINE), "coarse_labels": len(COARSE)}
OF_100 = Archive("cifar100", "CIFAR-100", LABELS)
OF_20 = Archive("cifar20", "CIFAR-100", LABELS)
SOURCE_20 = f"{URL}: the images of cifar100 labelled by their 20 published super-classes"


@dataset("cifar100", source=URL, groups=FINE, find=OF_100.find, download=OF_100.download)
def cifar100(folder: Path | None) -> Data:
    """Images (N, 3, 32, 32) from `folder`/cifar-100-python, 100 classes; groups are the classes.

    Raises DataError where the folder or one of its three files is missing, truncated or foreign.
    """
    return _load(OF_100, folder, "fine_labels", FINE)


@dataset("cifar20", source=SOURCE_20, groups=FINE, classes=COARSE, find=OF_20.find, download=OF_20.download)
def cifar20(folder: Path | None) -> Data:
    """The images of `cifar100` with their 20 super-classes as labels; groups are the 100 classes.

    Raises DataError as `cifar100`.
    """
    return _load(OF_20, folder, "coarse_labels", COARSE)


def _load(archive: Archive, folder: Path | None, labels: str, classes: tuple[str, ...]) -> Data:
    root = archive.find(folder)
    train, test, note = archive.read(root, {"fine_label_names": FINE, "coarse_label_names": COARSE})
    for file, half in (("train", train), ("test", test)):
        _check_super_classes(archive, root / file, half)
    return as_data((train, test), note, (labels, "fine_labels"), classes, FINE)


def _check_super_classes(archive: Archive, path: Path, half: Half) -> None:
    """Both labels of an image must be those of one published class."""
    fine, found = half["fine_labels"], half["coarse_labels"]
    wrong = torch.nonzero(torch.tensor(COARSE_OF)[fine] != found).flatten()
    if len(wrong):
        first = int(wrong[0])
        name = FINE[int(fine[first])]
        raise DataError(
            f"{archive.name}: image {first} of {path} is a {name} in {COARSE[int(found[first])]}, "
            f"expected {COARSE[_COARSE_BY_NAME[name]]}; {archive.how}"
        )
