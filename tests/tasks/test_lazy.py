"""Lazily decoded images stand where batches expect a tensor."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tasks import lazy
from tasks.api import DATASETS, DataError
from tasks.lazy import Crop, LazyImages
from tasks.loaders import TensorBatches, View, batches_of, predict
from tests.tasks.make_trees import imagenet_tree

VIEW = View((0.5,), (0.5,), size=16)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> LazyImages:
    folder = tmp_path_factory.mktemp("lazy")
    imagenet_tree(folder, train_each=5, classes=4)
    found = DATASETS["imagenet"].load(folder).train.images
    assert isinstance(found, LazyImages)
    return found


def threaded(images: LazyImages, count: int) -> LazyImages:
    from dataclasses import replace

    return replace(images, threads=count)


def walks(images: LazyImages | torch.Tensor, **options: object) -> TensorBatches:
    return batches_of(images, torch.arange(len(images)), VIEW, batch_size=6, seed=4, **options)  # type: ignore[arg-type]


def test_lazy_images_have_the_shape_and_type_of_the_tensor_they_stand_for(images: LazyImages) -> None:
    whole = images.whole()
    assert whole.shape == images.shape == (20, 3, 224, 224)
    assert whole.dtype == images.dtype == torch.uint8 and whole.ndim == images.ndim
    assert images.nbytes == whole.nbytes and len(images) == len(whole)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_walk_over_files_equals_the_walk_over_their_pixels(
    images: LazyImages, threads: int, shuffle: bool
) -> None:
    files = walks(threaded(images, threads)).rebatch(6, shuffle=shuffle).augmented(shuffle)
    pixels = walks(images.whole()).rebatch(6, shuffle=shuffle).augmented(shuffle)
    for (x, y), (expected, labels) in zip(files, pixels, strict=True):
        assert torch.equal(x, expected) and torch.equal(y, labels)
    assert files.seen.images == pixels.seen.images == 20


def test_subsets_relabelled_and_joined_batches_are_those_of_the_pixels(images: LazyImages) -> None:
    def cut(batches: TensorBatches) -> TensorBatches:
        part = batches.subset(torch.tensor([7, 3, 11]))
        return part.relabel(torch.tensor([1, 0, 1])).join(batches.subset(torch.tensor([0])))

    (x, y), (expected, labels) = (
        next(iter(cut(walks(source)))) for source in (threaded(images, 2), images.whole())
    )
    assert torch.equal(x, expected) and y.tolist() == labels.tolist() == [1, 0, 1, 0]


def test_a_model_predicts_the_same_from_files_as_from_pixels(images: LazyImages) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 4))
    np.testing.assert_array_equal(
        predict(model, walks(threaded(images, 2))), predict(model, walks(images.whole()))
    )


def test_the_next_batches_are_decoded_while_one_is_in_use(
    images: LazyImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    ahead = threading.Event()
    real = LazyImages.decode

    def note(self: LazyImages, position: int) -> np.ndarray:
        pixels = real(self, position)
        done.append(position)
        if len(done) == 2 * (lazy.AHEAD + 1):
            ahead.set()
        return pixels

    monkeypatch.setattr(LazyImages, "decode", note)
    walk = threaded(images, 2).walk(torch.arange(20).split(2))
    next(walk)
    assert ahead.wait(10), "nothing was decoded ahead"
    walk.close()
    assert len(done) < 20, "a walk that ended early decoded everything"


def test_one_thread_decodes_nothing_ahead(images: LazyImages, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    real = LazyImages.decode
    monkeypatch.setattr(
        LazyImages, "decode", lambda self, position: (done.append(position), real(self, position))[1]
    )
    walk = images.walk(torch.arange(20).split(4))
    next(walk)
    assert done == [0, 1, 2, 3]


def test_a_cpu_worker_decodes_in_its_own_thread(images: LazyImages) -> None:
    assert threaded(images, 8).to(torch.device("cpu")).threads == 1


@pytest.mark.parametrize("threads", [1, 2])
def test_a_damaged_file_is_named_by_the_batch_that_needs_it(tmp_path: Path, threads: int) -> None:
    root = imagenet_tree(tmp_path, train_each=4, classes=2)
    (root / "train" / "n01443537" / "n01443537_1.JPEG").write_bytes(b"\xff\xd8 nothing")
    found = DATASETS["imagenet"].load(tmp_path).train.images
    assert isinstance(found, LazyImages)
    walk = threaded(found, threads).walk(torch.arange(8).split(2))
    assert [len(next(walk)) for _ in range(2)] == [2, 2]
    with pytest.raises(DataError, match=r"n01443537_1\.JPEG is no readable image .*replace or remove it"):
        next(walk)


def test_grey_images_become_three_channels(tmp_path: Path) -> None:
    root = imagenet_tree(tmp_path, train_each=1, classes=2)
    Image.new("L", (300, 300), 77).save(root / "train" / "n01440764" / "n01440764_0.JPEG")
    found = DATASETS["imagenet"].load(tmp_path).train.images
    assert found.index_select(0, torch.tensor([0])).unique().tolist() == [77]


def test_only_whole_images_can_be_selected(images: LazyImages) -> None:
    with pytest.raises(ValueError, match="dimension 2, expected 0"):
        images.index_select(2, torch.tensor([0]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [((224, 256, "bicubic"), "256 of 224 pixels"), ((256, 224, "lanczos"), "expected bilinear or bicubic")],
)
def test_a_crop_that_cannot_be_made_is_refused(fields: tuple[int, int, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Crop(*fields)


def test_another_crop_is_another_data_set(images: LazyImages) -> None:
    from dataclasses import replace

    other = replace(images, crop=Crop(256, 224, "bilinear"))
    assert b"".join(other.fingerprint()) != b"".join(images.fingerprint())


def test_no_images_at_all_are_an_empty_tensor(images: LazyImages) -> None:
    assert images.take(np.empty(0, dtype=np.int64)).whole().shape == (0, 3, 224, 224)
    assert list(batches_of(images, torch.arange(20), VIEW, positions=np.empty(0, dtype=np.int64))) == []
