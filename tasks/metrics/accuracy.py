"""Accuracies as fractions of samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tasks.api import Outputs, Scored, metric


@metric("retain_acc", summary="accuracy on the retained test images")
def retain_acc(scored: Scored) -> float:
    return accuracy(scored.retain_test)


@metric("forget_acc", summary="accuracy on the forgotten class's test images, else on the forgotten images")
def forget_acc(scored: Scored) -> float:
    return accuracy(scored.forget_test if len(scored.forget_test) else scored.forget)


@metric("test_acc", summary="accuracy on all reported test images")
def test_acc(scored: Scored) -> float:
    return accuracy(scored.test)


def accuracy(outputs: Outputs) -> float:
    """Correct predictions over samples; NaN where there are none."""
    return float(_correct(outputs).mean()) if len(outputs) else float("nan")


def batch_mean_accuracy(outputs: Outputs, batch_size: int) -> float:
    """What the released code prints: the mean over batches of their accuracies, a short last one included."""
    if batch_size < 1 or not len(outputs):
        raise ValueError(f"batch size {batch_size} on {len(outputs)} outputs, expected at least one of each")
    correct = _correct(outputs)
    starts = range(0, len(correct), batch_size)
    return float(np.mean([correct[start : start + batch_size].mean() for start in starts]))


def _correct(outputs: Outputs) -> NDArray[np.bool_]:
    return np.equal(outputs.logits.argmax(axis=1), outputs.labels)
