"""The benchmark compares what is equal: its yardstick and the harness give the same numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd
import pytest
import torch

from harness.registry import Catalogue
from tests.bench import forecast, jit_step, methods, overhead, planning, scoring, timing, yardstick
from tests.bench.ground import Ground, ground


@pytest.fixture(scope="module")
def small() -> Iterator[Ground]:
    with ground("vgg_mini", 120, 60) as on:
        yield on


def test_the_yardstick_and_ours_give_the_same_scores(small: Ground) -> None:
    ours, plain = scoring.ours(small), yardstick.scores(small.model, scoring.images_of(small))
    assert scoring.differences(ours, plain, len(small.split.forget)).startswith(("equal", "mia differs by 1"))
    assert ours["test_acc"] > 0.5  # predictions that mean something


def test_another_score_is_not_taken_for_equal(small: Ground) -> None:
    scores = {"retain_acc": 0.9, "forget_acc": 0.8, "test_acc": 0.85, "mia": 0.5}
    with pytest.raises(AssertionError, match="test_acc"):
        scoring.differences(scores, scores | {"test_acc": 0.86}, 10)
    with pytest.raises(AssertionError, match="2 images apart"):
        scoring.differences(scores, scores | {"mia": 0.7}, 10)


def test_the_plain_vgg11_is_the_same_function_as_ours() -> None:
    from tasks.models.vgg11 import VGG11

    with torch.device("meta"):
        model = VGG11(10, 3)
    torch.manual_seed(0)
    weights = {name: _quick_weights(tuple(t.shape)) for name, t in model.state_dict().items()}
    model.load_state_dict(weights, assign=True)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        ours, plain = model.eval()(x), yardstick.plain(model)(x)
    assert ours.std() > 0.01
    assert torch.allclose(plain, ours, rtol=1e-4, atol=1e-5)


def _quick_weights(shape: tuple[int, ...]) -> torch.Tensor:
    """Random, but rows of a large layer repeat: a hundred million draws take a second."""
    drawn = torch.randn(min(shape[0], 8), *shape[1:]) * (2 / max(1, math.prod(shape[1:]))) ** 0.5
    return drawn.repeat(-(-shape[0] // len(drawn)), *[1] * (len(shape) - 1))[: shape[0]].contiguous()


def test_the_yardstick_sees_the_models_input(small: Ground) -> None:
    data = scoring.images_of(small)
    x, _ = next(iter(jit_step.step_of(small, 5).batches))
    theirs = torch.stack([data.train[i][0] for i in range(5)])
    assert torch.allclose(x, theirs, atol=1e-6)


def test_the_yardstick_walks_what_the_scores_need_and_no_more(small: Ground) -> None:
    train, test, forget = 120, 60, len(small.split.forget)
    accuracies, attack = test + test, (train - forget) + test + forget
    assert yardstick.loading(scoring.images_of(small)) == accuracies + attack


def test_one_jit_step_updates_as_the_plain_loop_does(small: Ground) -> None:
    _, _, difference = jit_step.compare(small, 8, 1)
    assert 0 <= difference <= jit_step.CLOSE


def test_overhead_is_what_workers_did_besides_the_work() -> None:
    # two workers for 0.1 s, five runs each of 20 ms, 15 of them work: 5 ms a run inside, nothing between
    start = pd.Timestamp("2026-01-01", tz="UTC")
    rows = pd.DataFrame(
        {
            "started_at": [start + pd.Timedelta(milliseconds=20 * (i // 2)) for i in range(10)],
            "seconds": 0.005,
            "seconds_scoring": 0.010,
            "seconds_total": 0.020,
        }
    )
    found = overhead.overhead(rows, workers=2)
    assert found.every == pytest.approx(5.0)
    assert found.inside == pytest.approx(5.0)
    later = rows.assign(started_at=start + 2 * (rows["started_at"] - start))  # as long again between runs
    assert overhead.overhead(later, workers=2).every == pytest.approx(2 * 180 / 10 - 15)


def test_the_first_runs_are_left_out_once_warm() -> None:
    start = pd.Timestamp("2026-01-01", tz="UTC")
    begins = [start + pd.Timedelta(milliseconds=20 * i) for i in range(100)]
    rows = pd.DataFrame(
        {"started_at": begins, "seconds": 0.01, "seconds_scoring": 0.0, "seconds_total": 0.02}
    )
    rows.loc[0, "started_at"] = start - pd.Timedelta(seconds=3)
    rows.loc[0, "seconds_total"] = 3.0
    found = overhead.overhead(rows, workers=1)
    assert found.steady == pytest.approx(10.0)
    assert found.every == pytest.approx(40.0, abs=1.0)


def test_as_many_runs_are_planned_as_were_asked_for(catalogue: Catalogue) -> None:
    from harness.suite import expand

    assert len(list(expand(planning.suite_of(catalogue, 300), catalogue))) == 300


def test_every_method_that_is_defined_there_is_measured(catalogue: Catalogue) -> None:
    measured = {job.spec.method for job in methods.jobs_of(catalogue)}
    defined = {name for name, cls in catalogue.methods.items() if methods.SCENARIO in cls.info.scenarios}
    assert measured == defined


def test_ratios_are_taken_pair_by_pair() -> None:
    assert timing.ratios([10.0, 30.0], [1.0, 2.0]) == [10.0, 15.0]
    assert timing.spread([3.0, 1.0, 2.0]) == "2 (1-3)"


def test_a_forecast_is_compared_with_a_sweep_of_the_very_same_work() -> None:
    task = {"dataset": "digits", "scenario": "full_class", "targets": ["3"], "models": ["mlp"]}
    suite = {"seeds": 4, "methods": ["retrain", "finetune"], "task": [task]}
    pair = forecast.compare(1, suite, "inline")
    assert pair.jobs == 2 * 2 + 2  # of seeds 2 and 3: retrain and finetune, and two models to retrain
    assert 0.2 < pair.ratio < 5.0
