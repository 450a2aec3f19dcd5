"""How close predictions are to those of the retrained model, sample by sample."""

from __future__ import annotations

import numpy as np

from tasks.api import Indices, Outputs, Scored, metric
from tasks.metrics.entropy import softmax


@metric(
    "agreement",
    needs_retrain=True,
    summary="share of test and forgotten images on which the retrained model predicts the same",
)
def agreement(scored: Scored) -> float:
    """Completeness (Cao and Yang, 2015) on the reported test images and the forgotten training images."""
    retrained = _retrained(scored, "agreement")
    ours, theirs = (_predictions(each.test.join(each.forget)) for each in (scored, retrained))
    return float((ours == theirs).mean())


@metric(
    "activation_distance",
    needs_retrain=True,
    unit="L2 of probabilities",
    summary="mean distance to the retrained model's probabilities on the forgotten images",
)
def activation_distance(scored: Scored) -> float:
    """mean ‖softmax(f(x)) − softmax(f_retrained(x))‖₂ over the forgotten training images; from 0 to √2."""
    retrained = _retrained(scored, "activation_distance")
    difference = softmax(scored.forget.logits) - softmax(retrained.forget.logits)
    return float(np.linalg.norm(difference, axis=1).mean())


def _predictions(outputs: Outputs) -> Indices:
    return np.argmax(outputs.logits, axis=1)


def _retrained(scored: Scored, name: str) -> Scored:
    if scored.retrained is None:
        raise ValueError(f"{name}: found no outputs of a retrained model; plan a retrain for this task")
    return scored.retrained
