"""Effect sizes and tests for two samples of numbers, paired or not.

A test that fails to reject says little: with every p-value stand an effect size and a distance. Wilcoxon,
"Individual Comparisons by Ranking Methods", 1945; Kerby, "The Simple Difference Formula", 2014 (matched-pairs
rank-biserial correlation); Cliff, "Dominance Statistics", 1993.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Comparison:
    """How the paired samples a and b differ; positive effects mean that a is larger."""

    n: int  # pairs
    p: float  # Wilcoxon signed-rank, two-sided
    rank_biserial: float  # matched pairs, from −1 to 1
    cliffs_delta: float  # unpaired, from −1 to 1
    wasserstein: float  # Wasserstein-1 distance, in the unit of the samples


def compare(a: Array, b: Array) -> Comparison:
    """All of them for paired samples (n,), (n,). Raises ValueError where there is nothing to pair."""
    _check(a, b)
    if len(a) != len(b):
        raise ValueError(f"samples of {len(a)} and {len(b)}, expected pairs: as many of each")
    return Comparison(
        len(a), wilcoxon_p(a, b), rank_biserial(a, b), cliffs_delta(a, b), wasserstein_distance(a, b)
    )


def wilcoxon_p(a: Array, b: Array) -> float:
    """Two-sided p of the signed-rank test on pairs; 1 where no pair differs."""
    from scipy.stats import wilcoxon

    if not np.any(a != b):
        return 1.0
    return float(wilcoxon(a, b).pvalue)


def rank_biserial(a: Array, b: Array) -> float:
    """(W₊ − W₋) / (W₊ + W₋), sums of the ranks of |a − b| where a > b and a < b; 0 where no pair differs."""
    from scipy.stats import rankdata

    differences = (a - b)[a != b]
    if not len(differences):
        return 0.0
    ranks = rankdata(np.abs(differences))
    return float(np.sum(ranks * np.sign(differences)) / ranks.sum())


def cliffs_delta(a: Array, b: Array) -> float:
    """P(a > b) − P(a < b) over all n·m pairs of a value of a (n,) and one of b (m,)."""
    from scipy.stats import rankdata

    _check(a, b)
    n, m = len(a), len(b)
    ranks = rankdata(np.concatenate([a, b]))  # ties share their mean rank: half a win each
    wins = ranks[:n].sum() - n * (n + 1) / 2
    return float(2 * wins / (n * m) - 1)


def wasserstein_distance(a: Array, b: Array) -> float:
    """Area between the two distribution functions, in the unit of the samples."""
    from scipy.stats import wasserstein_distance as distance

    _check(a, b)
    return float(distance(a, b))


def _check(a: Array, b: Array) -> None:
    if not len(a) or not len(b) or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError(
            f"samples of {len(a)} and {len(b)} values, expected finite ones, at least one of each"
        )
