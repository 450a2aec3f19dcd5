"""A training around its loop: what it starts from, which images it sees, what chooses its epoch, and whether
it came out as expected.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from torch import nn

from harness.errors import Misuse
from harness.forget_sets import share_held_out, trained_on, validation
from harness.scoring import predict_half, predict_positions
from harness.spec import TrainSpec, derive_seed
from harness.workspace import Workspace
from tasks.api import Indices, Outputs, Split
from tasks.pretrained import Checkpoint, load_into


def original_of(spec: TrainSpec) -> TrainSpec:
    """The original that a retrain leaves something out of; an original is its own."""
    if spec.without is None or spec.original is not None:
        return spec.original or spec
    return dataclasses.replace(spec, without=None, split_seed=None)


def split_of(spec: TrainSpec, space: Workspace) -> Split | None:
    """What a retrain leaves out; None for an original."""
    if spec.without is None:
        return None
    if not space.recipe(spec).retrainable:
        raise Misuse(
            f"{spec.label}: its recipe takes published weights as they are, and these have seen the "
            "forgotten images; leave retrain, and scores that need it, out of the suite"
        )
    return space.split(spec.without, original_of(spec), spec.split_seed or 0)


def training_images(spec: TrainSpec, space: Workspace, split: Split | None) -> Indices | None:
    """Positions of the images to train on; None: all of them."""
    if split is not None:
        return split.retain
    share = share_held_out(space.recipe(spec))
    return None if share is None else trained_on(spec.dataset, space.loaded(spec.dataset).data, share)


def judge(spec: TrainSpec, space: Workspace, split: Split | None) -> Callable[[nn.Module], float]:
    """The accuracy by which a recipe chooses its epoch: on the test set, or on images set aside for that."""
    share = share_held_out(space.recipe(spec))
    size = space.eval_batch(spec)
    if share is None:
        return lambda model: accuracy(predict_half(model, spec, space, "test", size))
    positions = validation_images(spec, space, split, share)
    return lambda model: accuracy(predict_positions(model, spec, space, "train", positions, size))


def validation_images(spec: TrainSpec, space: Workspace, split: Split | None, share: float) -> Indices:
    """Images set aside from training; for a retrain only those of groups that stay."""
    data = space.loaded(spec.dataset).data
    positions = validation(spec.dataset, data, share)
    if split is None:
        return positions
    groups = data.train.groups.cpu().numpy()
    return positions[np.isin(groups[positions], np.unique(groups[split.retain]))]


def accuracy(outputs: Outputs) -> float:
    return float((outputs.logits.argmax(1) == outputs.labels).mean())


def starting_model(spec: TrainSpec, space: Workspace) -> tuple[nn.Module, Checkpoint | None]:
    """Fresh weights from the spec's own seeds, published ones (which?), or, as the published Retrain, the
    original's.
    """
    if spec.start != "fresh":
        assert spec.original is not None
        return space.private_copy(spec.original), None
    recipe = space.recipe(spec)
    seed = derive_seed(spec.train_seed, "init", spec.split_seed)
    if recipe.pretrained is None:
        return space.new_model(spec, seed), None
    published = space.published(recipe)
    return space.new_model(spec, seed, lambda model: load_into(model, published, recipe.head)), published


def surprise(spec: TrainSpec, space: Workspace, test_accuracy: float) -> str | None:
    """A warning where an original comes out otherwise than expected; not on limited or unofficial data."""
    data = space.loaded(spec.dataset).data
    if spec.without is not None or not data.official or data.limited is not None:
        return None
    return space.recipe(spec).surprise(spec.dataset, spec.model, test_accuracy)
