"""Data folders in a worker: lazily decoded images, limits, and stores that never mix two copies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import workspace as workspaces
from harness.errors import Misuse
from harness.registry import Catalogue
from harness.workspace import Settings, Workspace
from tasks.lazy import LazyImages
from tasks.loaders import View
from tests.harness.conftest import Ground
from tests.tasks.make_trees import cifar10_tree, imagenet_tree


@pytest.fixture
def imagenet_space(tmp_path: Path, catalogue: Catalogue) -> Callable[..., Workspace]:
    imagenet_tree(tmp_path / "data", train_each=3, classes=5)

    def make(**over: object) -> Workspace:
        told = Settings(str(tmp_path / "store"), data_dir=str(tmp_path / "data"), device="cpu", **over)  # type: ignore[arg-type]
        return Workspace(told, catalogue)

    return make


def test_a_worker_holds_few_images_and_decodes_many_lazily(
    imagenet_space: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    view = View((0.5,), (0.5,))
    space = imagenet_space()
    held, expected_walk = space.loaded("imagenet"), space.batches("imagenet", "train", view, size=4)
    assert isinstance(held.data.train.images, torch.Tensor)
    monkeypatch.setattr(workspaces, "HELD_BYTES", 1000)
    lazy = imagenet_space().loaded("imagenet")
    assert isinstance(lazy.data.train.images, LazyImages)
    assert lazy.digest == held.digest
    walk = imagenet_space().batches("imagenet", "train", view, size=4)
    for (x, y), (expected, labels) in zip(walk, expected_walk, strict=True):
        assert torch.equal(x, expected) and torch.equal(y, labels)
    assert x.shape == (3, 3, 224, 224)


def test_a_limited_imagenet_has_another_digest_and_is_marked(
    imagenet_space: Callable[..., Workspace],
) -> None:
    whole, few = imagenet_space().loaded("imagenet"), imagenet_space(limit=5).loaded("imagenet")
    assert few.data.train.labels.tolist() == few.data.test.labels.tolist() == [0, 1, 2, 3, 4]
    assert few.digest != whole.digest and few.data.limited == 5


def test_a_sweep_over_lazily_decoded_images_runs_through(
    catalogue: Catalogue, ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imagenet_tree(tmp_path / "data", train_each=3, classes=4)
    monkeypatch.setattr(workspaces, "HELD_BYTES", 0)
    outcome = ground.sweep(
        {"data_dir": str(tmp_path / "data"), "limit": 8, "device": "cpu"},
        models=["vgg_mini"],
        methods=["baseline", "jit"],
        task=[{"dataset": "imagenet", "scenario": "full_class", "targets": ["n01443537"]}],
    )
    rows = ground.rows()
    assert outcome.exit_code == 0 and set(rows.method) == {"baseline", "jit"}
    assert (rows.data_note == "limited to 8 per half").all() and not rows.data_official.any()


def test_limited_and_whole_data_never_share_a_store(ground: Ground, tmp_path: Path) -> None:
    cifar10_tree(tmp_path / "data")
    told = {"data_dir": str(tmp_path / "data"), "device": "cpu"}
    over: dict[str, Any] = {
        "models": ["vgg_mini"],
        "methods": ["baseline"],
        "task": [{"dataset": "cifar10", "scenario": "full_class", "targets": ["frog"]}],
    }
    ground.sweep({**told, "limit": 20}, **over)
    with pytest.raises(Misuse, match="give the same --data-dir and --limit as before"):
        ground.sweep(told, **over)
