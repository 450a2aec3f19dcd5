"""Effect sizes and tests against values worked out by hand, and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from harness.statistics import cliffs_delta, compare, rank_biserial, wasserstein_distance, wilcoxon_p

A = np.array([1.0, 4.0, 2.0, 8.0])
B = np.array([2.0, 1.0, 2.0, 3.0])  # differences −1, 3, 0, 5: ranks 1, 2, 3 of those that differ


def test_rank_biserial_is_the_simple_difference_of_rank_sums() -> None:
    assert rank_biserial(A, B) == pytest.approx((2 + 3 - 1) / 6)
    assert rank_biserial(B, A) == -rank_biserial(A, B)
    assert rank_biserial(A + 10, B) == 1


def test_ties_among_the_differences_share_their_rank() -> None:
    assert rank_biserial(np.array([1.0, 0.0, 3.0]), np.array([0.0, 1.0, 0.0])) == pytest.approx(3 / 6)


def test_cliffs_delta_counts_every_pair() -> None:
    wins = np.sign(A[:, None] - B[None, :]).mean()
    assert cliffs_delta(A, B) == pytest.approx(wins)
    assert cliffs_delta(A, B[:2]) == pytest.approx(np.sign(A[:, None] - B[None, :2]).mean())
    assert cliffs_delta(A, A) == 0


def test_a_shift_is_its_own_wasserstein_distance() -> None:
    assert wasserstein_distance(A, A + 0.25) == pytest.approx(0.25)
    assert wasserstein_distance(A, A[::-1].copy()) == 0


def test_p_is_scipys_signed_rank_p() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 60))
    assert wilcoxon_p(a, b) == stats.wilcoxon(a, b).pvalue
    assert wilcoxon_p(a, b + 1) < 1e-4 < 0.05 < wilcoxon_p(a, b)


def test_equal_samples_do_not_differ() -> None:
    same = compare(A, A.copy())
    assert (same.n, same.p, same.rank_biserial, same.cliffs_delta, same.wasserstein) == (
        4,
        1.0,
        0.0,
        0.0,
        0.0,
    )


def test_the_sign_says_which_sample_is_larger() -> None:
    found = compare(A + 100, A)
    assert found.rank_biserial == 1 and found.cliffs_delta == 1 and found.wasserstein == pytest.approx(100)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (A, B[:3], "samples of 4 and 3, expected pairs"),
        (A[:0], B[:0], "at least one of each"),
        (np.array([1.0, np.nan]), B[:2], "expected finite ones"),
    ],
)
def test_what_cannot_be_compared_is_refused(a: np.ndarray, b: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(a, b)
