"""Objectives, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from harness.search.objectives import COLLAPSE, OBJECTIVES, PENALTY, Scores, Truth
from tasks.api import Outputs, Scored
from tasks.metrics.masked import masked_distance

TRUTH = Truth(
    {
        ("3", 0): {"retain_acc": 0.90, "forget_acc": 0.0, "mia": 0.10},
        ("3", 1): {"retain_acc": 0.94, "forget_acc": 0.0, "mia": 0.30},
    },
    original_retain=0.96,
)


def scores(*runs: tuple[float, float, float], prefix: str = "val_", deterministic: bool = False) -> Scores:
    rows = [
        (
            ("3", seed),
            {f"{prefix}retain_acc": r, f"{prefix}forget_acc": f, f"{prefix}mia": m, "seconds": 0.5 + seed},
        )
        for seed, (r, f, m) in enumerate(runs)
    ]
    return Scores(rows, prefix, deterministic, TRUTH)


def test_the_gap_is_the_mean_of_three_distances_in_points_paired_by_seed() -> None:
    found = scores((0.88, 0.10, 0.10), (0.94, 0.02, 0.20))
    # seed 0: 2, 10, 0; seed 1: 0, 2, 10
    assert found.gaps() == pytest.approx({"retain_acc": 1.0, "forget_acc": 6.0, "mia": 5.0})
    assert OBJECTIVES["gap_to_retrain"].values(found) == pytest.approx({"gap": 4.0})


def test_a_run_that_stands_for_all_seeds_is_compared_with_the_mean_retrain() -> None:
    found = scores((0.90, 0.0, 0.20), deterministic=True)
    assert found.gaps() == pytest.approx({"retain_acc": 2.0, "forget_acc": 0.0, "mia": 0.0})


def test_of_several_classes_each_run_is_compared_with_the_retrain_of_its_own() -> None:
    parts = [dict(zip(("retain_acc", "forget_acc", "mia"), (r, 0.0, 0.1), strict=True)) for r in (0.9, 0.8)]
    truth = Truth({("0", 5): parts[0], ("2", 5): parts[1]}, original_retain=0.9)
    runs = [((target, 5), {f"val_{name}": value for name, value in parts[0].items()}) for target in "02"]
    for deterministic in (False, True):
        found = Scores(runs, "val_", deterministic, truth)
        assert found.gaps() == pytest.approx({"retain_acc": 5.0, "forget_acc": 0.0, "mia": 0.0})


def test_a_model_that_answers_nothing_gets_a_hundred_points_more() -> None:
    found = scores((0.10, 0.0, 0.10), (0.10, 0.0, 0.30))
    assert found.collapsed()
    assert OBJECTIVES["gap_to_retrain"].values(found)["gap"] == pytest.approx(82 / 3 + COLLAPSE)
    assert not scores((0.49, 0, 0), (0.49, 0, 0)).collapsed()


def test_the_front_has_each_part_and_the_seconds() -> None:
    values = OBJECTIVES["pareto"].values(scores((0.88, 0.10, 0.10), (0.94, 0.02, 0.20)))
    assert values == pytest.approx({"retain_acc": 1.0, "forget_acc": 6.0, "mia": 5.0, "seconds": 1.0})


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_a_trial_without_scores_is_worse_than_any_other_and_finite(name: str) -> None:
    worst = OBJECTIVES[name].worst()
    assert set(worst) == set(OBJECTIVES[name].names)
    assert all(np.isfinite(value) for value in worst.values())
    assert all(value == PENALTY for part, value in worst.items() if part != "seconds")
    assert worst.get("seconds", 1e6) > 24 * 3600


def test_the_distance_that_needs_no_retrain_is_to_the_original_without_the_class() -> None:
    """Original (0.5, 0.3, 0.2) without class 0 is (0, 0.6, 0.4); ours is (0.2, 0.4, 0.4): half of 0.4."""
    labels = np.zeros(1, np.int64)

    def outputs(*p: float) -> Outputs:
        return Outputs(np.log(np.array([p], np.float32)), labels)

    def scored(forget: Outputs, original: Scored | None = None) -> Scored:
        return Scored("corrected", forget, forget, forget, forget, original=original)

    original = scored(outputs(0.5, 0.3, 0.2))
    assert masked_distance(scored(outputs(0.2, 0.4, 0.4), original)) == pytest.approx(0.2, abs=1e-6)
    assert masked_distance(scored(outputs(1e-30, 0.6, 0.4), original)) == pytest.approx(0.0, abs=1e-6)
    unchanged = scored(outputs(0.5, 0.3, 0.2), original)
    assert masked_distance(unchanged) == pytest.approx(0.5, abs=1e-6)
    with pytest.raises(ValueError, match="no outputs of the original"):
        masked_distance(original)
