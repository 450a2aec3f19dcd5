"""CIFAR-100, CIFAR-20, Pins and ImageNet, read from small trees in their published layouts."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from tasks.api import DATASETS, DataError, DataMissing
from tasks.datasets import cifar100, imagenet, pins
from tasks.lazy import LazyImages
from tests.tasks.make_trees import PINS, cifar10_tree, cifar100_tree, imagenet_tree, picture, pins_tree

# ---------- cifar100 and cifar20


def test_the_super_classes_are_a_partition_of_the_100_classes_into_fives() -> None:
    members = [[fine for fine in range(100) if cifar100.COARSE_OF[fine] == coarse] for coarse in range(20)]
    assert sorted(fine for five in members for fine in five) == list(range(100))
    assert {len(five) for five in members} == {5}
    assert members[0] == [4, 30, 55, 72, 95] and members[19] == [41, 69, 81, 85, 89]


@pytest.mark.parametrize(
    ("name", "fine", "coarse", "of"),
    [
        ("rocket", 69, 19, "vehicles_2"),
        ("mushroom", 51, 4, "fruit_and_vegetables"),
        ("baby", 2, 14, "people"),
        ("lamp", 40, 5, "household_electrical_devices"),
        ("sea", 71, 10, "large_natural_outdoor_scenes"),
    ],
)
def test_the_forget_classes_of_the_paper_have_its_ids(name: str, fine: int, coarse: int, of: str) -> None:
    assert cifar100.FINE.index(name) == fine
    assert cifar100.COARSE_OF[fine] == coarse and cifar100.COARSE[coarse] == of


def test_cifar100_labels_by_class_and_cifar20_by_super_class_of_the_same_images(tmp_path: Path) -> None:
    cifar100_tree(tmp_path)
    fine, coarse = DATASETS["cifar100"].load(tmp_path), DATASETS["cifar20"].load(tmp_path)
    assert (len(fine.train), len(fine.test), fine.shape) == (200, 100, (3, 32, 32))
    assert torch.equal(fine.train.images, coarse.train.images)
    assert torch.equal(fine.train.labels, coarse.train.groups) and fine.classes == coarse.groups
    assert coarse.train.labels.tolist() == [cifar100.COARSE_OF[g] for g in fine.train.labels.tolist()]
    assert (len(fine.classes), len(coarse.classes)) == (100, 20)
    assert DATASETS["cifar20"].classes == coarse.classes and DATASETS["cifar20"].groups == coarse.groups
    assert fine.digest() != coarse.digest()


def test_pixels_of_cifar100_are_colour_planes_in_file_order(tmp_path: Path) -> None:
    cifar100_tree(tmp_path)
    data = DATASETS["cifar100"].load(tmp_path)
    assert data.test.labels[69] == 69
    assert torch.equal(data.test.images[69], torch.tensor(picture(69, 2)).permute(2, 0, 1))


@pytest.mark.parametrize("name", ["cifar100", "cifar20"])
def test_a_small_copy_of_cifar100_is_partial_and_says_how_small(tmp_path: Path, name: str) -> None:
    cifar100_tree(tmp_path)
    data = DATASETS[name].load(tmp_path)
    assert data.partial and not data.official
    assert data.note == "200 of 50,000 training and 100 of 10,000 test images"


def test_cifar100_with_the_published_md5s_is_official(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import CIFAR100

    root = cifar100_tree(tmp_path)
    md5 = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in root.iterdir()}
    monkeypatch.setattr(CIFAR100, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {"filename": "meta", "md5": md5["meta"]})
    data = DATASETS["cifar20"].load(tmp_path)
    assert data.official and not data.partial and data.note == ""


def test_an_image_in_the_wrong_super_class_is_refused(tmp_path: Path) -> None:
    root = cifar100_tree(tmp_path)
    content = pickle.loads((root / "test").read_bytes())
    content["coarse_labels"][69] = 14
    (root / "test").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(DataError, match=r"image 69 of .*test is a rocket in people, expected vehicles_2"):
        DATASETS["cifar20"].load(tmp_path)


def test_cifar100_without_coarse_labels_is_refused(tmp_path: Path) -> None:
    root = cifar100_tree(tmp_path)
    content = pickle.loads((root / "train").read_bytes())
    del content["coarse_labels"]
    (root / "train").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(DataError, match=r"expected also \['coarse_labels'\]"):
        DATASETS["cifar100"].load(tmp_path)


def test_a_missing_cifar100_names_folder_archive_and_option(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match=r"cifar20: looked for .*cifar-100-python, .*cifar-100-python\.tar"):
        DATASETS["cifar20"].load(tmp_path)
    with pytest.raises(DataError, match=r"itself holds the batches.*folder above it as --data-dir"):
        DATASETS["cifar100"].load(cifar100_tree(tmp_path))


def test_a_download_is_the_published_archive_with_its_md5_into_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(
        "torchvision.datasets.utils.download_and_extract_archive", lambda *a, **k: asked.append((a, k))
    )
    for name in ("cifar10", "cifar20"):
        download = DATASETS[name].download
        assert download is not None
        download(tmp_path / "new")
    urls = [url for (url, _), _ in asked]
    assert [url.rpartition("/")[2] for url in urls] == ["cifar-10-python.tar.gz", "cifar-100-python.tar.gz"]
    assert asked[0][0][1] == str(tmp_path / "new")
    assert [len(options["md5"]) for _, options in asked] == [32, 32]


def test_a_failed_download_says_what_to_do_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", refuse)
    download = DATASETS["cifar10"].download
    assert download is not None
    with pytest.raises(DataError, match=r"could not download .*: no route; get cifar-10-python\.tar"):
        download(tmp_path)


def test_cifar10_in_the_published_layout_is_read_by_torchvision_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import CIFAR10

    cifar10_tree(tmp_path)
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda _: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    theirs, mine = CIFAR10(tmp_path), DATASETS["cifar10"].load(tmp_path)
    assert np.array_equal(theirs.data, mine.train.images.permute(0, 2, 3, 1).numpy())
    assert theirs.targets == mine.train.labels.tolist() and tuple(theirs.classes) == mine.classes


def test_cifar100_in_the_published_layout_is_read_by_torchvision_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import CIFAR100

    cifar100_tree(tmp_path)
    monkeypatch.setattr(CIFAR100, "_check_integrity", lambda _: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    theirs, mine = CIFAR100(tmp_path, train=False), DATASETS["cifar100"].load(tmp_path)
    assert np.array_equal(theirs.data, mine.test.images.permute(0, 2, 3, 1).numpy())
    assert theirs.targets == mine.test.labels.tolist() and tuple(theirs.classes) == mine.classes


# ---------- pins


def test_people_are_numbered_in_ascii_order_and_named_without_the_prefix(tmp_path: Path) -> None:
    pins_tree(tmp_path)
    data = DATASETS["pins"].load(tmp_path)
    assert data.classes == data.groups == pins.read_groups(tmp_path)
    assert data.classes == tuple(name.removeprefix("pins_") for name in sorted(PINS))
    assert data.classes.index("Person 089") < data.classes.index("person 090")  # capitals come first
    assert data.shape == (3, 36, 36)


def test_pins_images_are_squeezed_by_pillow_as_torchvision_does(tmp_path: Path) -> None:
    root = pins_tree(tmp_path, each=2, people=2)
    data = DATASETS["pins_nosplit"].load(tmp_path)
    with Image.open(root / PINS[1] / "Person 0011_1.jpg") as image:
        expected = transforms.Resize((36, 36))(image.convert("RGB"))
    assert torch.equal(data.train.images[3].permute(1, 2, 0), torch.tensor(np.asarray(expected)))


def test_pins_divides_every_person_80_to_20_and_repeatably(tmp_path: Path) -> None:
    pins_tree(tmp_path, each=10, people=4)
    data = DATASETS["pins"].load(tmp_path)
    assert torch.bincount(data.train.labels).tolist() == [8] * 4
    assert torch.bincount(data.test.labels).tolist() == [2] * 4
    assert DATASETS["pins"].load(tmp_path).digest() == data.digest()
    both = torch.cat([half.images.flatten(1) for half in (data.train, data.test)])
    every = DATASETS["pins_nosplit"].load(tmp_path).train.images.flatten(1)
    assert sorted(map(bytes, both.numpy())) == sorted(map(bytes, every.numpy()))


def test_pins_nosplit_tests_on_what_it_trains_on_and_says_so(tmp_path: Path) -> None:
    pins_tree(tmp_path, each=3, people=3)
    data = DATASETS["pins_nosplit"].load(tmp_path)
    assert len(data.train) == len(data.test) == 9
    assert torch.equal(data.train.images, data.test.images)
    assert "the test images are the training images" in DATASETS["pins_nosplit"].source
    assert "80 %" in DATASETS["pins"].source


def test_pins_is_official_by_the_number_of_people_and_images_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pins_tree(tmp_path, each=2)
    data = DATASETS["pins"].load(tmp_path)
    assert data.partial and data.note == "210 of 17,534 images, 105 of 105 people"
    monkeypatch.setattr(pins, "IMAGES", 210)
    assert DATASETS["pins"].load(tmp_path).official
    assert DATASETS["pins_nosplit"].load(tmp_path).official
    (tmp_path / pins.FOLDERS[0] / PINS[0] / "Person 0000_0.jpg").unlink()
    assert not DATASETS["pins_nosplit"].load(tmp_path).official


def test_pins_may_lie_in_a_folder_of_the_shorter_name(tmp_path: Path) -> None:
    pins_tree(tmp_path, each=2, people=2).rename(tmp_path / "pins")
    assert len(DATASETS["pins"].load(tmp_path).train) == 2


@pytest.mark.parametrize("name", ["pins", "pins_nosplit"])
def test_missing_pins_name_the_folder_and_where_to_get_them(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataMissing, match=rf"{name}: looked for .*105_classes_pins_dataset.*kaggle\.com"):
        DATASETS[name].load(tmp_path)
    with pytest.raises(DataMissing, match=rf"{name}: no data folder"):
        DATASETS[name].load(None)
    with pytest.raises(DataError, match="itself holds the people"):
        DATASETS[name].load(pins_tree(tmp_path, each=2, people=2))


def test_a_damaged_face_is_named_with_its_data_set(tmp_path: Path) -> None:
    root = pins_tree(tmp_path, each=2, people=2)
    (root / PINS[1] / "Person 0010_0.jpg").write_bytes(b"\xff\xd8 no face")
    with pytest.raises(DataError, match=r"pins: .*Person 0010_0\.jpg is no readable image"):
        DATASETS["pins"].load(tmp_path)


# ---------- imagenet


def lazy(folder: Path, half: str = "train") -> LazyImages:
    images = getattr(DATASETS["imagenet"].load(folder), half).images
    assert isinstance(images, LazyImages)
    return images


def test_the_thousand_classes_are_distinct_and_in_order() -> None:
    names = imagenet.SYNSETS
    assert len(names) == 1000 and names == tuple(sorted(set(names)))
    assert (names[0], names[207], names[999]) == ("n01440764", "n02099601", "n15075141")


def test_imagenet_is_listed_class_by_class_and_by_name_without_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = imagenet_tree(tmp_path, train_each=3, val_each=2, classes=4)
    monkeypatch.setattr(Image, "open", None)  # whoever opens an image fails
    data = DATASETS["imagenet"].load(tmp_path)
    assert (len(data.train), len(data.test), data.shape) == (12, 8, (3, 224, 224))
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    images = lazy(tmp_path)
    assert images.path(4) == root / "train" / "n01443537" / "n01443537_1.JPEG"
    assert len(data.classes) == 1000 and data.digest() == DATASETS["imagenet"].load(tmp_path).digest()


def test_a_class_keeps_its_published_id_where_other_classes_are_missing(tmp_path: Path) -> None:
    root = imagenet_tree(tmp_path, classes=9)
    for half in ("train", "val"):
        for wnid in imagenet.SYNSETS[:7]:
            for path in (root / half / wnid).iterdir():
                path.unlink()
            (root / half / wnid).rmdir()
    assert DATASETS["imagenet"].load(tmp_path).train.labels.tolist() == [7, 7, 8, 8]


@pytest.mark.parametrize("size", [(64, 48), (300, 500), (260, 260), (500, 333)])
def test_an_image_is_what_torchvision_makes_of_resize_248_bicubic_and_centre_crop_224(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    root = imagenet_tree(tmp_path, train_each=1, classes=2, size=size)
    usual = transforms.Compose(
        [transforms.Resize(248, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(224)]
    )
    with Image.open(root / "train" / "n01443537" / "n01443537_0.JPEG") as image:
        expected = torch.tensor(np.asarray(usual(image.convert("RGB")))).permute(2, 0, 1)
    assert torch.equal(lazy(tmp_path).index_select(0, torch.tensor([1]))[0], expected)


def test_the_digest_follows_names_sizes_and_labels_but_not_the_place(tmp_path: Path) -> None:
    root = imagenet_tree(tmp_path / "a", classes=3)
    first = DATASETS["imagenet"].load(tmp_path / "a").digest()
    root.rename(tmp_path / "imagenet")
    assert DATASETS["imagenet"].load(tmp_path).digest() == first
    path = tmp_path / "imagenet" / "train" / "n01440764" / "n01440764_0.JPEG"
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0")
    assert DATASETS["imagenet"].load(tmp_path).digest() != first
    path.write_bytes(whole)
    path.rename(path.with_name("n01440764_9.JPEG"))
    assert DATASETS["imagenet"].load(tmp_path).digest() != first


def test_imagenet_is_official_by_the_number_of_images_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imagenet_tree(tmp_path, classes=3)
    data = DATASETS["imagenet"].load(tmp_path)
    assert data.partial and data.note == "6 of 1,281,167 training and 3 of 50,000 validation images"
    monkeypatch.setattr(imagenet, "PUBLISHED", (6, 3))
    assert DATASETS["imagenet"].load(tmp_path).official


def test_the_data_folder_may_be_the_tree_itself(tmp_path: Path) -> None:
    root = imagenet_tree(tmp_path, classes=2)
    assert DATASETS["imagenet"].load(root).digest() == DATASETS["imagenet"].load(tmp_path).digest()


def test_a_missing_imagenet_says_what_to_get_and_where_to_put_it(tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        with pytest.raises(DataMissing, match=r"ILSVRC2012_img_train\.tar.*FOLDER/imagenet holds train"):
            DATASETS["imagenet"].load(folder)


def test_a_class_folder_that_is_no_wordnet_id_is_refused(tmp_path: Path) -> None:
    root = imagenet_tree(tmp_path, classes=2)
    (root / "train" / "tench").mkdir()
    with pytest.raises(DataError, match=r"train/tench, expected only WordNet ids.*the data set imagefolder"):
        DATASETS["imagenet"].load(tmp_path)


def test_a_half_without_images_is_refused(tmp_path: Path) -> None:
    root = imagenet_tree(tmp_path, classes=1, val_each=1)
    next((root / "val").rglob("*.JPEG")).unlink()
    with pytest.raises(DataError, match=r"no images in .*val, expected files such as"):
        DATASETS["imagenet"].load(tmp_path)


# ---------- --limit


def test_a_limit_deals_images_of_a_sorted_tree_out_over_its_classes(tmp_path: Path) -> None:
    imagenet_tree(tmp_path, train_each=3, val_each=3, classes=4)
    whole = DATASETS["imagenet"].load(tmp_path)
    cut = whole.limit(6)
    assert cut.train.labels.tolist() == cut.test.labels.tolist() == [0, 0, 1, 1, 2, 3]
    assert cut.limited == 6 and not cut.official and cut.note == "limited to 6 per half"
    assert cut.digest() != whole.digest()
    assert torch.equal(
        cut.train.images.index_select(0, torch.tensor([2])),
        whole.train.images.index_select(0, torch.tensor([3])),
    )


def test_a_limit_keeps_the_first_images_of_an_unsorted_half(tmp_path: Path) -> None:
    cifar100_tree(tmp_path)
    whole = DATASETS["cifar100"].load(tmp_path)
    assert torch.equal(whole.limit(150).train.images, whole.train.images[:150])
    assert len(whole.limit(150).test) == 100


def test_a_limited_imagenet_decodes_no_other_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imagenet_tree(tmp_path, train_each=4, val_each=4, classes=5)
    opened: list[Path] = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda path: (opened.append(path), real(path))[1])
    data = DATASETS["imagenet"].load(tmp_path).limit(7)
    assert not opened
    held = data.train.held(1 << 28)
    assert isinstance(held.images, torch.Tensor) and len(held.images) == len(opened) == 7
    assert data.train.held(1000) is data.train
