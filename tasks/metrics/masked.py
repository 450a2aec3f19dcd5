"""How far a model is from what its original would say if it did not know the forgotten class."""

from __future__ import annotations

import numpy as np

from tasks.api import Scored, metric
from tasks.metrics.entropy import softmax

HIDDEN = 1000.0  # below every logit: its probability is 0 in float64


@metric(
    "masked_distance",
    needs_original=True,
    unit="total variation of probabilities",
    summary="mean distance, on forgotten images, to the original's outputs with their own class left out",
)
def masked_distance(scored: Scored) -> float:
    """mean ½‖softmax(f(x)) − softmax(f_original(x) without class y)‖₁ over the forgotten training images, 0
    to 1.

    It needs the original model and the forgotten images alone, and so can be had where nothing of the
    retained data is left. Where a class is forgotten, a retrained model cannot name it either; what it says
    instead is taken to be what the original deems next likely.
    """
    if scored.original is None:
        raise ValueError("masked_distance: found no outputs of the original model")
    logits, labels = scored.original.forget.logits, scored.original.forget.labels
    own = np.eye(logits.shape[1], dtype=bool)[labels]  # (N, K)
    hidden = np.where(own, logits.min() - HIDDEN, logits)
    difference = softmax(scored.forget.logits) - softmax(hidden)
    return float(0.5 * np.abs(difference).sum(axis=1).mean())
