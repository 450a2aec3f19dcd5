"""From a model to its scores: one forward pass over every image, then pure functions of what was stored."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from harness.plan import Job
from harness.rows import NAMES, Row
from harness.spec import RunSpec, TrainSpec
from harness.workspace import Workspace
from tasks.api import Indices, Outputs, Scored, Split
from tasks.loaders import predict
from tasks.training import view_of

ON_TUNING_HALF = ("retain_acc", "forget_acc", "mia")
Halves = dict[str, Outputs]


class Diverged(ArithmeticError):
    """The model is no longer finite."""


def predict_halves(model: nn.Module, spec: TrainSpec, space: Workspace, careful: bool) -> Halves:
    """Outputs on every training and test image: one forward pass each, which serves all scores."""
    size = max(1, space.eval_batch(spec) // (2 if careful else 1))
    halves = {half: predict_half(model, spec, space, half, size) for half in ("train", "test")}
    if not all(np.isfinite(outputs.logits).all() for outputs in halves.values()):
        raise Diverged("the model's outputs are not finite")
    return halves


def predict_half(model: nn.Module, spec: TrainSpec, space: Workspace, half: str, size: int) -> Outputs:
    """Outputs on one half, in batches of `size`."""
    return predict_positions(model, spec, space, half, None, size)


def predict_positions(
    model: nn.Module, spec: TrainSpec, space: Workspace, half: str, positions: Indices | None, size: int
) -> Outputs:
    """Outputs on some images of one half, in their order; None: on all of it."""
    batches = space.batches(spec.dataset, half, view_of(space.recipe(spec)), positions, size)
    logits = predict(model, batches, spec.precision)
    return Outputs(logits, batches.labels().cpu().numpy())


def score(job: Job, space: Workspace, split: Split, halves: Halves) -> tuple[Row, dict[str, float]]:
    """All scores of a run: those with a column of their own, and the others."""
    retrained = space.outputs(job.retrain) if job.retrain else None
    spec = job.spec
    assert isinstance(spec, RunSpec)
    profile = spec.task.profile
    found = compute(space, job.metrics, cut(profile, split, halves, retrained, _original(job, space)))
    if len(split.retain_val):
        tuning = [name for name in job.metrics if name in ON_TUNING_HALF]
        on_val = compute(space, tuning, cut(profile, split, halves, tuning=True))
        found |= {f"val_{name}": value for name, value in on_val.items() if name in ON_TUNING_HALF}
    columns = {name: _nullable(value) for name, value in found.items() if name in NAMES}
    return columns, {name: value for name, value in found.items() if name not in NAMES}


def _original(job: Job, space: Workspace) -> Halves | None:
    """Outputs of the original model, where a score needs them."""
    assert isinstance(job.spec, RunSpec)
    needed = any(space.catalogue.metrics[name].needs_original for name in job.metrics)
    return space.outputs(job.spec.original) if needed else None


def compute(space: Workspace, metrics: Any, scored: Scored) -> dict[str, float]:
    """One number for each column of each metric."""
    found: dict[str, float] = {}
    for name in metrics:
        value = space.catalogue.metrics[name].score(scored)
        found |= {name: float(value)} if isinstance(value, (int, float)) else dict(value)
    return found


def cut(
    profile: str,
    split: Split,
    halves: Halves,
    retrained: Halves | None = None,
    original: Halves | None = None,
    tuning: bool = False,
) -> Scored:
    """A model's outputs along a split, on the reporting or the tuning part of the test set."""
    train, test = halves["train"], halves["test"]
    return Scored(
        profile=profile,
        forget=train.take(split.forget),
        retain=train.take(split.retain),
        forget_test=test.take(split.forget_val if tuning else split.forget_test),
        retain_test=test.take(split.retain_val if tuning else split.retain_test),
        retrained=cut(profile, split, retrained, tuning=tuning) if retrained else None,
        original=cut(profile, split, original, tuning=tuning) if original else None,
    )


def _nullable(value: float) -> float | None:
    return None if value != value else value


def require_finite(model: nn.Module) -> None:
    """Raise Diverged where a parameter or buffer is not finite."""
    tensors = [t.detach() for t in [*model.parameters(), *model.buffers()] if t.is_floating_point()]
    if not all(bool(torch.isfinite(t.sum())) and bool(torch.isfinite(t).all()) for t in tensors):
        raise Diverged("the model's parameters are not finite")
