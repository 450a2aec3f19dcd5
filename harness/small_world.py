"""Data, a model and a split so small that any method can be tried on them in a moment."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn

from harness.registry import Catalogue
from harness.spec import derive_seed
from methods.api import Context
from tasks.api import Data, ImageSet, Split
from tasks.loaders import TensorBatches, View, batches_of, pixel_range
from tasks.recipes import Recipe
from tasks.scenarios import Request
from tasks.training import fit

CLASSES, SIDE, PER_GROUP = 3, 8, 70  # a class has more images than a batch, so that order matters
VIEW = View((0.5,), (0.5,))
RECIPE = Recipe(
    name="conformance",
    datasets=("*",),
    models=("*",),
    epochs=6,
    batch_size=16,
    lr=3e-3,
    source="large enough to learn three classes of noise patterns",
    optimizer="adamw",
)


@cache
def small_data() -> Data:
    """Six groups of noisy patterns in three classes, 1×8×8: small enough to train on at once."""
    random = np.random.default_rng(7)
    patterns = random.integers(40, 215, size=(2 * CLASSES, 1, SIDE, SIDE))

    def half(count: int) -> ImageSet:
        groups = np.repeat(np.arange(2 * CLASSES), count)
        noise = random.normal(0, 12, size=(len(groups), 1, SIDE, SIDE))
        images = np.clip(patterns[groups] + noise, 0, 255).astype(np.uint8)
        labels = torch.from_numpy(groups // 2)
        return ImageSet(torch.from_numpy(images), labels, torch.from_numpy(groups))

    names = tuple(map(str, range(2 * CLASSES)))
    return Data(half(PER_GROUP), half(6), names[:CLASSES], names, official=True)


@cache
def _trained(catalogue_id: int, build: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = build(CLASSES, (1, SIDE, SIDE))
        return fit(model, _walk(small_data().train, None), RECIPE)


def _walk(images: ImageSet, positions: Any, seed: int = 0) -> TensorBatches:
    return batches_of(images.images, images.labels, VIEW, positions=positions, batch_size=16, seed=seed)


def small_split(catalogue: Catalogue, scenario: str) -> Split:
    """The split of a registered scenario on the small data."""
    data, info = small_data(), catalogue.scenarios[scenario]
    entropies = np.linspace(0, 1, len(data.train)) if info.uses_original else None
    request = Request(
        train_labels=data.train.labels.numpy(),
        train_groups=data.train.groups.numpy(),
        test_labels=data.test.labels.numpy(),
        test_groups=data.test.groups.numpy(),
        target=None if info.target == "none" else 1,
        count=7 if info.needs_count else None,
        profile="corrected",
        seed=5,
        halves_seed=5,
        entropies=entropies,
    )
    found: Split = info.cut(request)
    return found


def small_run(catalogue: Catalogue, name: str, scenario: str, seed: int = 0) -> tuple[nn.Module, nn.Module]:
    """Run a method on the small data as a sweep would: (the model before, the model after)."""

    data, split = small_data(), small_split(catalogue, scenario)
    before = _trained(id(catalogue), catalogue.models["vgg_mini"].build)
    build = catalogue.models["vgg_mini"].build
    info = catalogue.methods[name].info
    given = {
        "forget": _walk(data.train, split.forget, derive_seed(seed, "order")),
        "retain": _walk(data.train, split.retain, derive_seed(seed, "order", 1)),
    }
    ctx = Context(
        num_classes=CLASSES,
        input_shape=(1, SIDE, SIDE),
        device=torch.device("cpu"),
        generator=torch.Generator().manual_seed(derive_seed(seed, "method")),
        new_model=lambda: build(CLASSES, (1, SIDE, SIDE)),
        train=lambda model, batches: fit(model, batches, RECIPE),  # type: ignore[arg-type]
        forget_class=1 if "class_id" in info.needs else None,
        pixel_range=pixel_range(VIEW, 1, torch.device("cpu")),
    )
    given = {key: value for key, value in given.items() if key in info.needs}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        method = catalogue.make(name, catalogue.defaults(name))
        after = method(copy.deepcopy(before).eval(), given.get("forget"), given.get("retain"), ctx)
    return before, after
