import warnings

import numpy as np
import pytest

from tasks.api import METRICS, Outputs, Scored
from tasks.metrics.accuracy import accuracy, batch_mean_accuracy, forget_acc, retain_acc
from tasks.metrics.accuracy import test_acc as all_acc
from tasks.metrics.agreement import activation_distance, agreement
from tasks.metrics.entropy import (
    entropy,
    forget_entropy,
    js_divergence,
    log_softmax,
    released_js,
    softmax,
    zrf,
)
from tasks.metrics.entropy_mia import attack_accuracy, entropy_auc, fit_attack, member_share, mia

HALVES = np.array([[0.5, 0.5]])
NINE = np.array([[0.9, 0.1]])


def outputs(predictions, labels, classes=4):
    logits = np.eye(classes, dtype=np.float32)[np.asarray(predictions)] * 3
    return Outputs(logits.reshape(-1, classes), np.asarray(labels, dtype=np.int64))


def nothing(classes=4):
    return Outputs(np.empty((0, classes), np.float32), np.empty(0, np.int64))


def of_entropy(*wanted):
    """Two-class outputs whose entropies are `wanted` nats, found by bisection on the gap of the logits."""
    rows = []
    for value in wanted:
        low, high = 0.0, 40.0
        for _ in range(80):
            gap = (low + high) / 2
            low, high = (gap, high) if entropy(np.array([[gap, 0.0]]))[0] > value else (low, gap)
        rows.append([low, 0.0])
    return Outputs(np.array(rows, np.float32), np.zeros(len(rows), np.int64))


def times(some, count):
    return some.take(np.zeros(count, dtype=np.int64))


def scored(retrained=None, profile="corrected", **parts):
    classes = parts["forget"].logits.shape[1]
    empty = {name: nothing(classes) for name in ("forget", "retain", "forget_test", "retain_test")}
    return Scored(profile=profile, **(empty | parts), retrained=retrained)


# -------------------- accuracy


def test_accuracies_are_fractions_of_samples_of_their_own_part():
    case = scored(
        forget=outputs([0, 0, 0, 1], [0, 0, 0, 0]),
        retain=outputs([1], [2]),
        forget_test=outputs([0, 1], [0, 0]),
        retain_test=outputs([2, 2, 3], [2, 2, 2]),
    )
    assert forget_acc(case) == 0.5
    assert retain_acc(case) == pytest.approx(2 / 3)
    assert all_acc(case) == pytest.approx(3 / 5)


def test_where_no_test_image_belongs_to_the_forgotten_their_own_accuracy_counts():
    case = scored(forget=outputs([0, 0, 0, 1], [0, 0, 0, 0]), retain_test=outputs([2, 3], [2, 2]))
    assert forget_acc(case) == 0.75
    assert all_acc(case) == retain_acc(case) == 0.5


def test_the_mean_over_batches_is_not_the_accuracy():
    predictions = np.zeros(100, dtype=np.int64)
    predictions[[*range(5), 99]] = 1  # 59 of the first 64 and 35 of the other 36 are right
    some = outputs(predictions, np.zeros(100))
    assert 100 * batch_mean_accuracy(some, 64) == pytest.approx(94.7049, abs=5e-5)
    assert 100 * accuracy(some) == pytest.approx(94.0)
    assert batch_mean_accuracy(some, 128) == accuracy(some)


def test_the_accuracy_of_nothing_is_no_number():
    assert np.isnan(accuracy(nothing()))
    with pytest.raises(ValueError, match="batch size 0"):
        batch_mean_accuracy(outputs([0], [0]), 0)


# -------------------- entropy


def test_entropy_in_nats_has_the_known_values():
    assert entropy(np.log(NINE))[0] == pytest.approx(0.3250830)
    for classes, value in ((10, 2.302585), (100, 4.605170)):
        assert entropy(np.full((1, classes), 7.0, np.float32))[0] == pytest.approx(value)


def test_entropy_is_finite_and_zero_where_softmax_underflows():
    sure = np.array([[1e4, 0.0, -1e4], [-3e38, 3e38, 0.0]], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert entropy(sure).tolist() == [0.0, 0.0]


def test_adding_a_constant_to_the_logits_changes_no_entropy():
    logits = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    np.testing.assert_allclose(entropy(logits + 100), entropy(logits), atol=1e-4)


def test_probabilities_sum_to_one_and_their_logs_fit():
    logits = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    np.testing.assert_allclose(softmax(logits).sum(1), 1)
    np.testing.assert_allclose(np.exp(log_softmax(logits)), softmax(logits))


def test_forget_entropy_is_the_mean_over_the_forgotten_training_images():
    case = scored(forget=of_entropy(0.2, 0.4), retain=of_entropy(0.1), forget_test=of_entropy(0.6))
    assert forget_entropy(case) == pytest.approx(0.3, abs=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_logits_are_an_error_and_not_a_score(bad):
    broken = Outputs(np.array([[bad, 0.0]], np.float32), np.zeros(1, np.int64))
    case = scored(forget=broken, retain=of_entropy(0.1), retain_test=of_entropy(0.5))
    for score in (mia, forget_entropy):
        with pytest.raises(ValueError, match="non-finite logits"):
            score(case)


def test_js_divergence_and_the_released_variant_have_the_known_values():
    assert js_divergence(HALVES, NINE) == pytest.approx(0.1467931, abs=1e-7)
    assert js_divergence(HALVES, NINE) * np.log(2) == pytest.approx(0.1017492, abs=1e-7)
    assert released_js(HALVES, NINE) == pytest.approx(0.0589866, abs=1e-7)
    assert 1 - released_js(HALVES, NINE) == pytest.approx(0.9410134, abs=1e-7)
    assert zrf(HALVES, NINE) == pytest.approx(1 - 0.1467931, abs=1e-7)


def test_js_divergence_is_symmetric_and_from_zero_to_one_bit():
    sure, opposite = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    assert js_divergence(sure, sure) == 0
    assert js_divergence(sure, opposite) == pytest.approx(1)
    assert js_divergence(HALVES, NINE) == pytest.approx(js_divergence(NINE, HALVES))
    both = js_divergence(np.concatenate([sure, HALVES]), np.concatenate([opposite, HALVES]))
    assert both == pytest.approx(0.5)


def test_a_probability_of_zero_makes_only_the_released_variant_infinite():
    sure = np.array([[1.0, 0.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert released_js(sure, HALVES) == np.inf
        assert np.isfinite(js_divergence(sure, HALVES))


# -------------------- membership inference

MEMBERS, NON_MEMBERS, JUDGED = np.full(900, 0.1), np.full(100, 0.5), np.array([0.2, 0.29, 0.31])


def threshold(members, non_members):
    attack = fit_attack(members, non_members)
    return float(-attack.intercept_[0] / attack.coef_[0, 0])


def test_the_attack_has_the_known_threshold_and_score():
    assert threshold(MEMBERS, NON_MEMBERS) == pytest.approx(0.30, abs=5e-4)
    assert member_share(MEMBERS, NON_MEMBERS, JUDGED) == pytest.approx(2 / 3)


def test_the_attack_turns_round_where_members_have_the_higher_entropy():
    assert member_share(np.full(900, 0.5), np.full(100, 0.1), JUDGED) == pytest.approx(1 / 3)


def test_replicating_one_side_does_not_move_the_threshold():
    # weights are balanced, so that only the strength of the regularisation relative to the data changes
    assert threshold(np.full(9000, 0.1), NON_MEMBERS) == pytest.approx(
        threshold(MEMBERS, NON_MEMBERS), abs=2e-3
    )


def case_of(profile, **parts):
    sure, unsure = times(of_entropy(0.1), 900), times(of_entropy(0.5), 100)
    return scored(profile=profile, **({"retain": sure, "retain_test": unsure} | parts))


def test_mia_scores_the_forgotten_images_from_logits():
    scores = mia(case_of("corrected", forget=of_entropy(0.2, 0.29, 0.31)))
    assert set(scores) == set(METRICS["mia"].columns)
    assert scores["mia"] == pytest.approx(2 / 3)
    assert scores["mia_attack_acc"] == 1.0
    assert np.isnan(scores["mia_auc"])
    assert scores["mia_degenerate"] == 0.0


def test_only_the_reference_profile_counts_the_forgotten_class_among_the_non_members():
    forgotten = {"forget": of_entropy(0.29), "forget_test": times(of_entropy(0.05), 300)}
    shares = {profile: mia(case_of(profile, **forgotten))["mia"] for profile in ("reference", "corrected")}
    expected = {
        "reference": member_share(MEMBERS, np.repeat([0.05, 0.5], [300, 100]), np.array([0.29])),
        "corrected": member_share(MEMBERS, NON_MEMBERS, np.array([0.29])),
    }
    assert shares == expected
    assert shares["reference"] != shares["corrected"]


def test_auc_compares_forgotten_training_images_with_test_images_of_their_class():
    case = case_of("corrected", forget=of_entropy(0.1, 0.2), forget_test=of_entropy(0.15, 0.3))
    assert mia(case)["mia_auc"] == pytest.approx(0.75)
    assert entropy_auc(np.array([0.1]), np.array([0.1])) == 0.5


def test_the_attack_is_judged_on_samples_it_was_not_fitted_on():
    members, non_members = np.full(20, 0.1), np.full(20, 0.5)
    members[1::2] = 0.5  # the held-out members look like non-members
    assert attack_accuracy(members, non_members) == pytest.approx(0.5)
    assert np.isnan(attack_accuracy(members[:1], non_members))


def test_constant_entropies_are_flagged_and_not_a_crash():
    same = times(of_entropy(0.3), 50)
    scores = mia(scored(retain=same, retain_test=same, forget=of_entropy(0.3)))
    assert scores["mia_degenerate"] == 1.0
    assert scores["mia"] in (0.0, 1.0)


def test_an_attack_without_non_members_is_refused():
    with pytest.raises(ValueError, match="900 members and 0 non-members"):
        fit_attack(MEMBERS, np.empty(0))


# -------------------- against the retrained


def test_agreement_is_the_share_of_equal_predictions_on_test_and_forgotten_images():
    def case(forget, forget_test, retain_test, **retrained):
        parts = {"forget": forget, "forget_test": forget_test, "retain_test": retain_test}
        return scored(**{name: outputs(p, np.zeros(len(p))) for name, p in parts.items()}, **retrained)

    other = case([0, 1], [2], [3, 3])
    assert agreement(case([0, 1], [2], [3, 3], retrained=other)) == 1.0
    assert agreement(case([0, 2], [2], [3, 0], retrained=other)) == pytest.approx(3 / 5)


def test_activation_distance_has_the_known_value():
    label = np.zeros(1, np.int64)
    other = scored(forget=Outputs(np.log(NINE).astype(np.float32), label))
    case = scored(forget=Outputs(np.log(HALVES).astype(np.float32), label), retrained=other)
    assert activation_distance(case) == pytest.approx(0.5656854, abs=1e-6)


def test_without_a_retrained_model_there_is_nothing_to_agree_with():
    for score in (agreement, activation_distance):
        with pytest.raises(ValueError, match="plan a retrain"):
            score(scored(forget=outputs([0], [0])))


def test_the_catalogue_says_which_metrics_need_a_retrained_model():
    names = (
        "retain_acc",
        "forget_acc",
        "test_acc",
        "mia",
        "forget_entropy",
        "agreement",
        "activation_distance",
    )
    assert {name for name in names if METRICS[name].needs_retrain} == {"agreement", "activation_distance"}
    assert METRICS["forget_entropy"].unit == "nats"
