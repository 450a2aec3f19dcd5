"""What is measured on: real digits, 1×8×8 as they are or grown to 3×32×32, and models fitted to them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from harness import registry
from harness.spec import RunSpec, Task, TrainSpec
from harness.store import Store
from harness.workspace import Loaded, Settings, Workspace
from tasks.api import Data, ImageSet, Split
from tasks.datasets.digits import digits
from tasks.training import view_of

SIDE = 32
DATASETS = {8: "digits", SIDE: "digits32"}  # the latter is known to this benchmark alone
FORGOTTEN = "3"


def colour(images: Tensor) -> NDArray[np.uint8]:
    """Grey (N, 1, 8, 8) uint8 → (N, 32, 32, 3) uint8, the shape in which CIFAR is stored."""
    grown = [
        Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR).convert("RGB")
        for image in images[:, 0].numpy()
    ]
    return np.stack([np.asarray(image) for image in grown])


def some_digits(side: int, train: int, test: int) -> Data:
    """The first images of each half of `digits`, enlarged where `side` says so."""
    small = digits()
    halves = []
    for half, count in ((small.train, train), (small.test, test)):
        if not 1 <= count <= len(half):
            raise SystemExit(f"{count} images asked for, expected 1 to {len(half)}")
        images = half.images[:count]
        if side == SIDE:
            images = torch.from_numpy(colour(images)).permute(0, 3, 1, 2).contiguous()
        halves.append(ImageSet(images, half.labels[:count], half.groups[:count]))
    return Data(halves[0], halves[1], small.classes, small.groups, official=False, note=f"some at {side} px")


@dataclass(frozen=True)
class Ground:
    """A workspace that holds the images, one model, and the run that is scored."""

    space: Workspace
    data: Data
    original: TrainSpec
    run: RunSpec
    model: nn.Module

    @property
    def split(self) -> Split:
        return self.space.split(self.run.task, self.original, 0)

    @property
    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Per channel."""
        recipe = self.space.recipe(self.original)
        channels = self.data.shape[0]
        return tuple(np.broadcast_to(recipe.mean, channels)), tuple(np.broadcast_to(recipe.std, channels))


@contextmanager
def ground(model: str, train: int, test: int, side: int = SIDE) -> Iterator[Ground]:
    """One model on images of 8 or 32 pixels, ready to be scored as the baseline of a class to forget."""
    catalogue = registry.load()
    with tempfile.TemporaryDirectory(prefix="efface-bench-") as folder:
        space = Workspace(Settings(folder, device="cpu"), catalogue, Store.create(folder))
        data, name = some_digits(side, train, test), DATASETS[side]
        space._data[name] = Loaded(data, data.digest())
        recipe = catalogue.find_recipe(name, model, "reference")
        original = TrainSpec(name, model, recipe, 0, "fp32")
        task = Task(name, model, "full_class", FORGOTTEN, None, "reference")
        run = RunSpec(task, original, "baseline", 1, (), 0, "fp32")
        built = space.new_model(original, 0).eval()
        probe(built, space, original)
        yield Ground(space, data, original, run, built)


def probe(model: nn.Module, space: Workspace, original: TrainSpec) -> None:
    """Fit the last linear layer by ridge regression: predictions that mean something, without training."""
    last = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]
    seen: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
    batches = space.batches(original.dataset, "train", view_of(space.recipe(original)))
    with torch.no_grad():
        for x, _ in batches:
            model(x)
        hook.remove()
        features = torch.cat(seen).double()  # (N, F)
        middle, size = features.mean(0), features.std(0) + 1e-6
        inputs = (features - middle) / size
        targets = 12 * (nn.functional.one_hot(batches.labels(), last.out_features).double() - 0.1)  # (N, K)
        kernel = inputs @ inputs.T  # (N, N): fewer images than features
        kernel.diagonal().add_(len(inputs))
        weight = (inputs.T @ torch.linalg.solve(kernel, targets)) / size[:, None]  # (F, K)
        last.weight.copy_(weight.T)
        last.bias.copy_(-(middle @ weight))
