"""Data sets: what they load, which copies count as published, and how they refuse what they cannot read."""

from __future__ import annotations

import hashlib
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from tasks.api import DATASETS, Data, DataError
from tasks.datasets import cifar10, digits, imagefolder

# ---------- digits


@pytest.mark.parametrize(
    ("name", "digest"), [("digits", "f3380d643d13e6ad"), ("digits5", "302c2113147bbe5d")]
)
def test_digits_are_the_same_pixels_labels_and_split_everywhere(name: str, digest: str) -> None:
    assert DATASETS[name].load(None).digest() == digest


def test_digits_come_as_1000_training_and_797_test_images_of_one_byte_a_pixel() -> None:
    data = DATASETS["digits"].load(None)
    assert (len(data.train), len(data.test), data.shape) == (1000, 797, (1, 8, 8))
    assert data.train.images.dtype == torch.uint8
    assert data.official and not data.note and not DATASETS["digits"].needs_folder


def test_both_halves_of_digits_together_are_every_image_of_scikit_learn_once() -> None:
    data = DATASETS["digits"].load(None)
    mine = torch.cat([data.train.images, data.test.images]).numpy().reshape(1797, 64)
    theirs = np.round(load_digits().data * 255 / 16).astype(np.uint8)
    assert sorted(map(bytes, mine)) == sorted(map(bytes, theirs))


def test_the_split_of_digits_is_proportional_in_every_class() -> None:
    data = DATASETS["digits"].load(None)
    train, test = (torch.bincount(half.groups, minlength=10) for half in (data.train, data.test))
    assert ((train - (train + test) * 1000 / 1797).abs() < 1).all()


def test_digits5_labels_pairs_of_digits_and_keeps_the_digit_as_group() -> None:
    data, fine = DATASETS["digits5"].load(None), DATASETS["digits"].load(None)
    assert torch.equal(data.train.labels, fine.train.labels // 2)
    assert torch.equal(data.test.groups, fine.test.labels)
    assert data.classes == DATASETS["digits5"].classes == ("0-1", "2-3", "4-5", "6-7", "8-9")
    assert data.groups == DATASETS["digits5"].groups == tuple("0123456789")


def test_proportional_shares_add_up_and_give_the_rest_to_the_largest_remainders() -> None:
    assert digits.proportional(np.array([10, 10, 30]), 7).tolist() == [2, 1, 4]  # 1.4, 1.4, 4.2


# ---------- cifar10

BATCHES = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]


def batch(name: str, count: int = 4) -> dict[Any, Any]:
    rng = np.random.default_rng(BATCHES.index(name))
    images = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
    return {b"data": images, b"labels": rng.integers(0, 10, count).tolist()}


def write(folder: Path, name: str, content: Any, protocol: int = 2) -> None:
    (folder / name).write_bytes(pickle.dumps(content, protocol=protocol))


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    """A small folder in the published format; its data folder is the parent."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in BATCHES:
        write(folder, name, batch(name))
    write(
        folder, "batches.meta", {b"label_names": [name.encode() for name in cifar10.CLASSES], b"filler": b""}
    )
    return folder


def publish(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Make the files in `folder` the published ones."""
    from torchvision.datasets import CIFAR10

    digest = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    monkeypatch.setattr(CIFAR10, "train_list", [[name, digest[name]] for name in BATCHES[:5]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", digest["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "md5": digest["batches.meta"]})


def python2_pickle(images: np.ndarray, labels: list[int]) -> bytes:
    """A batch as Python 2 wrote it: byte strings where Python 3 has text, even for pixels."""

    def text(value: bytes) -> bytes:
        return b"T" + struct.pack("<I", len(value)) + value

    def integer(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n"
    empty += integer(0) + b"\x85" + text(b"b") + b"tR"
    byte = b"cnumpy\ndtype\n(" + text(b"u1") + integer(0) + integer(1) + b"tR("
    byte += integer(3) + text(b"|") + b"NNN" + integer(-1) + integer(-1) + integer(0) + b"tb"
    shape = b"".join(map(integer, images.shape)) + b"\x86"
    array = empty + b"(" + integer(1) + shape + byte + b"\x89" + text(images.tobytes()) + b"tb"
    numbers = b"](" + b"".join(map(integer, labels)) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + numbers + b"u."


def test_cifar10_reads_channel_planes_in_file_order(cifar: Path) -> None:
    data = DATASETS["cifar10"].load(cifar.parent)
    assert (len(data.train), len(data.test), data.shape) == (20, 4, (3, 32, 32))
    expected = batch("data_batch_2")
    assert torch.equal(data.train.images[4].flatten(), torch.tensor(expected[b"data"][0]))
    assert data.train.labels[4:8].tolist() == data.train.groups[4:8].tolist() == expected[b"labels"]
    assert data.classes == data.groups == DATASETS["cifar10"].groups


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_copy_with_text_keys_of_any_common_protocol_is_the_same_data(cifar: Path, protocol: int) -> None:
    original = DATASETS["cifar10"].load(cifar.parent).digest()
    for name in BATCHES:
        write(cifar, name, {key.decode(): value for key, value in batch(name).items()}, protocol)
    assert DATASETS["cifar10"].load(cifar.parent).digest() == original


def test_files_as_python_2_pickled_them_are_the_same_data(cifar: Path) -> None:
    original = DATASETS["cifar10"].load(cifar.parent).digest()
    for name in BATCHES:
        (cifar / name).write_bytes(python2_pickle(batch(name)[b"data"], batch(name)[b"labels"]))
    assert DATASETS["cifar10"].load(cifar.parent).digest() == original


def test_only_files_with_the_published_digests_are_official(
    cifar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, cifar)
    data = DATASETS["cifar10"].load(cifar.parent)
    assert data.official and data.note == ""
    write(cifar, "test_batch", batch("test_batch", count=3))
    data = DATASETS["cifar10"].load(cifar.parent)
    assert not data.official
    assert data.note.endswith("and 3 of 10,000 test images")


def test_a_full_sized_file_with_another_digest_is_named(cifar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, cifar)
    monkeypatch.setattr("tasks.datasets.cifar.TRAIN", 20)
    monkeypatch.setattr("tasks.datasets.cifar.TEST", 4)
    content = batch("data_batch_3")
    content[b"labels"][0] = 9 - content[b"labels"][0]
    write(cifar, "data_batch_3", content)
    assert DATASETS["cifar10"].load(cifar.parent).note == "another MD5 than published: data_batch_3"


@pytest.mark.parametrize("inside", [None, ".", "nowhere"])
def test_a_missing_cifar_folder_says_where_it_looked_and_what_to_type(
    tmp_path: Path, inside: str | None
) -> None:
    folder = tmp_path / inside if inside else None
    with pytest.raises(
        DataError, match=r"cifar-10-batches-py.*cs\.toronto\.edu.*--data-dir FOLDER"
    ) as caught:
        DATASETS["cifar10"].load(folder)
    assert folder is None or str(folder / "cifar-10-batches-py") in str(caught.value)


def test_giving_the_batches_folder_itself_names_the_folder_above(cifar: Path) -> None:
    with pytest.raises(DataError, match=r"itself holds the batches.*folder above it as --data-dir"):
        DATASETS["cifar10"].load(cifar)


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_missing_cifar_file_is_named(cifar: Path, name: str) -> None:
    (cifar / name).unlink()
    with pytest.raises(DataError, match=rf"looked for the file .*{name}, found: No such file"):
        DATASETS["cifar10"].load(cifar.parent)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_truncated_cifar_file_is_named(cifar: Path, share: float) -> None:
    path = cifar / "data_batch_2"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match=r"data_batch_2.*is truncated or no CIFAR-10 file.*--data-dir"):
        DATASETS["cifar10"].load(cifar.parent)


class Program:
    """Unpickled without care, it writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.target), "w")


def test_a_pickle_that_carries_a_program_is_refused_before_it_runs(cifar: Path) -> None:
    write(cifar, "data_batch_1", {b"data": Program(cifar / "broken-in"), b"labels": []})
    with pytest.raises(DataError, match=r"data_batch_1.*asks for .*open, which no CIFAR file does"):
        DATASETS["cifar10"].load(cifar.parent)
    assert not (cifar / "broken-in").exists()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([1, 2], "holds a list, expected a dictionary"),
        ({b"data": np.zeros((2, 3072), np.uint8)}, r"keys \['data'\], expected also \['labels'\]"),
        (
            {b"data": np.zeros((2, 100), np.uint8), b"labels": [0, 1]},
            r"uint8 array \(2, 100\), expected .*3072",
        ),
        ({b"data": np.zeros((2, 3072)), b"labels": [0, 1]}, r"float64 array \(2, 3072\), expected uint8"),
        ({b"data": b"pixels", b"labels": [0, 1]}, "has data bytes, expected uint8"),
        (
            {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]},
            "labels list of 1, expected as many as its 2",
        ),
        ({b"data": np.zeros((0, 3072), np.uint8), b"labels": []}, "0 images, and not none"),
        (
            {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 10]},
            r"the label 10, expected integers 0\.\.9",
        ),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, -1]}, "the label -1"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 0.5]}, "the label 0.5"),
    ],
)
def test_foreign_content_in_a_batch_is_refused_with_found_and_expected(
    cifar: Path, content: Any, complaint: str
) -> None:
    write(cifar, "test_batch", content)
    with pytest.raises(DataError, match=rf"test_batch .*{complaint}"):
        DATASETS["cifar10"].load(cifar.parent)


@pytest.mark.parametrize("names", [None, ["apple"] * 10, list(reversed(cifar10.CLASSES))])
def test_class_names_of_another_data_set_are_refused(cifar: Path, names: list[str] | None) -> None:
    write(cifar, "batches.meta", {"label_names": names})
    with pytest.raises(DataError, match=r"batches\.meta names the classes .*expected \('airplane'"):
        DATASETS["cifar10"].load(cifar.parent)


# ---------- imagefolder


def paint(path: Path, colour: tuple[int, int, int] = (9, 8, 7), size: tuple[int, int] = (12, 12)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three classes of 10 images; pixel (red, green) of an image is (class, number)."""
    for rank, name in enumerate(("Zoe", "ann", "bob")):
        for number in range(10):
            paint(tmp_path / name / f"{number}.png", (rank, number, 0))
    return tmp_path


def load_folder(root: Path) -> Data:
    return DATASETS["imagefolder"].load(root)


def test_class_ids_are_ranks_in_ascii_order(tree: Path) -> None:
    data = load_folder(tree)
    assert data.classes == data.groups == imagefolder.read_groups(tree) == ("Zoe", "ann", "bob")
    assert torch.equal(data.train.images[:, 0, 0, 0].long(), data.train.labels)
    assert torch.equal(data.train.groups, data.train.labels)


def test_a_tree_without_halves_is_cut_80_to_20_in_each_class_without_overlap(tree: Path) -> None:
    data = load_folder(tree)
    assert torch.bincount(data.train.labels).tolist() == [8, 8, 8]
    assert torch.bincount(data.test.labels).tolist() == [2, 2, 2]
    seen = torch.cat([half.images[:, :2, 0, 0] for half in (data.train, data.test)])
    assert len(torch.unique(seen, dim=0)) == 30


def test_the_cut_of_a_tree_is_fixed_and_moving_it_changes_nothing(tree: Path) -> None:
    first = load_folder(tree).digest()
    assert load_folder(tree.rename(tree.with_name("moved"))).digest() == first


def test_a_tree_without_published_digests_is_never_official(tree: Path) -> None:
    data = load_folder(tree)
    assert not data.official
    assert data.note == "class-per-folder tree, no published digest"


@pytest.mark.parametrize("test_name", ["test", "val"])
def test_a_tree_with_halves_keeps_them(tmp_path: Path, test_name: str) -> None:
    for name in ("cat", "dog"):
        paint(tmp_path / "train" / name / "deeper" / "a.png", (1, 1, 1))
        paint(tmp_path / test_name / name / "a.JPG", (200, 200, 200))
    data = load_folder(tmp_path)
    assert data.train.images.float().mean() == 1
    assert data.test.images.float().mean() == 200
    assert imagefolder.read_groups(tmp_path) == ("cat", "dog")


def test_a_class_called_train_is_a_class(tmp_path: Path) -> None:
    for name in ("plane", "train"):
        for number in range(2):
            paint(tmp_path / name / f"{number}.png")
    data = load_folder(tmp_path)
    assert data.classes == ("plane", "train")
    assert (len(data.train), len(data.test)) == (2, 2)


def test_images_of_one_size_keep_it_and_grey_ones_become_rgb(tmp_path: Path) -> None:
    for name in ("a", "b"):
        paint(tmp_path / name / "1.png", size=(20, 10))
        Image.new("L", (20, 10), 50).save(tmp_path / name / "2.png")
    assert load_folder(tmp_path).shape == (3, 10, 20)


@pytest.mark.parametrize(("short", "side"), [(14, 14), (90, 64)])
def test_images_of_several_sizes_become_squares_of_the_shortest_side_up_to_64(
    tmp_path: Path, short: int, side: int
) -> None:
    for name in ("a", "b"):
        paint(tmp_path / name / "1.png", size=(100, short))
        paint(tmp_path / name / "2.png", size=(100, 100))
    assert load_folder(tmp_path).shape == (3, side, side)


def test_hidden_files_and_other_file_types_are_skipped(tree: Path) -> None:
    before = load_folder(tree).digest()
    for name in ("notes.txt", "._0.png", "Thumbs.db"):
        (tree / "ann" / name).write_text("no image")
    (tree / ".cache").mkdir()
    assert load_folder(tree).digest() == before


def test_a_file_that_is_called_an_image_and_is_none_is_named(tree: Path) -> None:
    (tree / "ann" / "fake.jpg").write_text("no image")
    with pytest.raises(DataError, match=r"ann/fake\.jpg is no readable image .*replace or remove it"):
        load_folder(tree)


def test_a_truncated_image_is_named(tree: Path) -> None:
    path = tree / "bob" / "3.png"
    noise = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"bob/3\.png is no readable image"):
        load_folder(tree)


def test_a_missing_tree_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data folder was given; give --data-dir ROOT"):
        DATASETS["imagefolder"].load(None)
    with pytest.raises(DataError, match=r"looked for the folder .*nowhere.*--data-dir ROOT"):
        load_folder(tmp_path / "nowhere")


def test_a_tree_without_class_folders_is_refused(tmp_path: Path) -> None:
    paint(tmp_path / "1.png")
    with pytest.raises(DataError, match=r"class folders \[\] in .*expected at least 2"):
        load_folder(tmp_path)


def test_a_class_with_one_image_cannot_be_cut(tree: Path) -> None:
    paint(tree / "carl" / "1.png")
    with pytest.raises(DataError, match=r"1 image in .*carl, expected at least 2"):
        load_folder(tree)


def test_a_class_without_images_is_refused(tree: Path) -> None:
    (tree / "carl").mkdir()
    with pytest.raises(DataError, match=r"no images in .*carl"):
        load_folder(tree)


@pytest.mark.parametrize(("half", "lacking"), [("test", "train"), ("train", "test")])
def test_a_class_in_one_half_only_is_named(tmp_path: Path, half: str, lacking: str) -> None:
    for where in ("train", "test"):
        for name in ("cat", "dog"):
            paint(tmp_path / where / name / "1.png")
    paint(tmp_path / half / "emu" / "1.png")
    with pytest.raises(DataError, match=rf"\['emu'\] are in .*{half} but not in .*{lacking}"):
        load_folder(tmp_path)


def test_a_training_half_without_a_test_half_is_refused(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        paint(tmp_path / "train" / name / "1.png")
    with pytest.raises(DataError, match=r"found .*train, but neither .*test nor .*val"):
        load_folder(tmp_path)
