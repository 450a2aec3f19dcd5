"""What a task forgets and what stays: out of the images that a model was trained on, and of no others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import Misuse
from harness.spec import Task, halves_seed, index_of, split_seed, validation_seed
from tasks.api import Data, Indices, Split
from tasks.recipes import Recipe
from tasks.scenarios import Request
from tasks.training import held_out


def share_held_out(recipe: Recipe) -> float | None:
    """The share of training images that a recipe chooses its epoch by; None where it does not."""
    return recipe.validation if recipe.checkpoint == "best_val" else None


def validation(dataset: str, data: Data, share: float | None) -> Indices:
    """Training images that no model of the data set is trained on, because epochs are chosen by them."""
    if share is None:
        return np.empty(0, dtype=np.int64)
    return held_out(data.train.groups.cpu().numpy(), share, validation_seed(dataset))


def trained_on(dataset: str, data: Data, share: float | None) -> Indices:
    """All other training images: only what a model has seen can be forgotten or retained."""
    kept = np.ones(len(data.train), dtype=bool)
    kept[validation(dataset, data, share)] = False
    return np.flatnonzero(kept)


def cut(
    task: Task,
    scenario: Any,
    data: Data,
    forget_seed: int,
    share: float | None = None,
    entropies: NDArray[np.floating] | None = None,
) -> Split:
    """The split of a task; `entropies` (N,) of all training images, where the scenario goes by them."""
    kept = trained_on(task.dataset, data, share)
    request = Request(
        train_labels=data.train.labels.cpu().numpy()[kept],
        train_groups=data.train.groups.cpu().numpy()[kept],
        test_labels=data.test.labels.cpu().numpy(),
        test_groups=data.test.groups.cpu().numpy(),
        target=target_index(task, data, scenario.target),
        count=task.count,
        profile=task.profile,
        seed=split_seed(task, forget_seed),
        halves_seed=halves_seed(task.dataset),
        entropies=None if entropies is None else entropies[kept],
    )
    found: Split = scenario.cut(request)
    return replace(found, forget=kept[found.forget], retain=kept[found.retain])


def target_index(task: Task, data: Data, kind: str) -> int | None:
    """The id of a task's target among the classes or the groups of its data."""
    if task.target is None:
        return None
    names = data.classes if kind == "class" else data.groups
    index = index_of(task.target, names)
    if index is None:
        raise Misuse(f"{task.dataset} has no {kind} {task.target!r}; it has {', '.join(names)}")
    labels = data.train.labels if kind == "class" else data.train.groups
    if not bool(np.any(labels.cpu().numpy() == index)):
        raise Misuse(f"{task.dataset}: {kind} {task.target!r} has no training image in these data")
    return index
