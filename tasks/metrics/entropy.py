"""Entropy of predictions, and the distances between predictions that are made of it.

True forms follow Lin (1991), Divergence measures based on the Shannon entropy; `released_js` is the variant
in public code, kept to read published numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tasks.api import Scored, metric

Array = NDArray[np.floating]


@metric("forget_entropy", summary="mean entropy of predictions on the forgotten training images", unit="nats")
def forget_entropy(scored: Scored) -> float:
    return float(entropy(scored.forget.logits).mean())


def log_softmax(logits: Array) -> NDArray[np.float64]:
    """Log-probabilities (N, K) in float64. Raises ValueError on NaN and infinite logits."""
    if not np.isfinite(logits).all():
        raise ValueError("non-finite logits")
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_p: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log_p


def softmax(logits: Array) -> NDArray[np.float64]:
    """Probabilities (N, K) in float64."""
    return np.exp(log_softmax(logits))


def entropy(logits: Array) -> NDArray[np.float64]:
    """H = −Σ p ln p of each prediction: (N, K) → (N,) nats, from 0 to ln K."""
    log_p = log_softmax(logits)
    return -np.sum(np.exp(log_p) * log_p, axis=1)


def js_divergence(p: Array, q: Array) -> float:
    """½KL(P‖M) + ½KL(Q‖M), M = (P+Q)/2, in bits, from 0 to 1; mean over samples, p and q (N, K)."""
    m = (p + q) / 2
    return float(((_kl(p, m) + _kl(q, m)) / 2).mean() / np.log(2))


def zrf(p: Array, q: Array) -> float:
    """Zero retrain forgetting: 1 − JS of the model's predictions and those of an untrained one."""
    return 1 - js_divergence(p, q)


def released_js(p: Array, q: Array) -> float:
    """JS as released: ½KL(M‖P) + ½KL(M‖Q) in nats, averaged over all N·K entries; infinite where a p is 0."""
    m = (p + q) / 2
    with np.errstate(divide="ignore"):
        return float((_kl(m, p) + _kl(m, q)).mean() / 2 / p.shape[1])


def _kl(a: Array, b: Array) -> Array:
    """Σ a ln(a/b) of each sample, (N, K), (N, K) → (N,); an entry with a = 0 adds nothing."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    ratio = np.divide(a, b, out=np.full_like(a, np.inf), where=b > 0)
    return np.sum(a * np.log(ratio, out=np.zeros_like(a), where=a > 0), axis=1)
