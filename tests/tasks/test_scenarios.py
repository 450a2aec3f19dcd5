import dataclasses

import numpy as np
import pytest

from tasks.api import SCENARIOS
from tasks.scenarios import (
    Request,
    full_class,
    halves,
    random,
    released_count,
    sub_class,
    worst_case,
    worst_case_drop_rest,
)

RNG = np.random.default_rng(0)
TRAIN = RNG.permutation(np.repeat(np.arange(100), 500))  # groups of CIFAR-100's size
TEST = RNG.permutation(np.repeat(np.arange(100), 100))
FINE = Request(TRAIN, TRAIN, TEST, TEST, target=None, count=None, profile="reference", seed=0, halves_seed=0)
COARSE = dataclasses.replace(FINE, train_labels=TRAIN // 5, test_labels=TEST // 5)
CORRECTED = {"profile": "corrected"}
PARTS = ("forget", "retain", "forget_test", "retain_test", "forget_val", "retain_val")


def ask(request=FINE, **changes):
    return dataclasses.replace(request, **changes)


def sizes(split):
    return tuple(len(getattr(split, part)) for part in PARTS)


def entropies():
    return np.random.default_rng(1).random(len(TRAIN))


REQUESTS = [
    (full_class, ask(target=7)),
    (full_class, ask(COARSE, target=3, **CORRECTED)),
    (sub_class, ask(COARSE, target=69)),
    (sub_class, ask(COARSE, target=69, **CORRECTED)),
    (random, ask(count=100)),
    (random, ask(count=100, **CORRECTED)),
    (worst_case, ask(count=50, target=69, entropies=entropies())),
    (worst_case, ask(count=50, target=69, entropies=entropies(), **CORRECTED)),
    (worst_case, ask(count=50, entropies=entropies())),
    (worst_case_drop_rest, ask(count=50, target=69, entropies=entropies())),
    (worst_case_drop_rest, ask(COARSE, count=50, target=3, entropies=entropies(), **CORRECTED)),
]


@pytest.mark.parametrize(
    ("scenario", "request_", "expected"),
    [
        (full_class, ask(target=69), (500, 49_500, 100, 9_900, 0, 0)),
        (full_class, ask(target=69, **CORRECTED), (500, 49_500, 50, 4_950, 50, 4_950)),
        (full_class, ask(COARSE, target=19), (2_500, 47_500, 500, 9_500, 0, 0)),
        (sub_class, ask(COARSE, target=69), (500, 49_500, 100, 9_900, 0, 0)),
        (random, ask(count=100), (83, 49_917, 0, 10_000, 0, 0)),
        (random, ask(count=100, **CORRECTED), (100, 49_900, 0, 5_000, 0, 5_000)),
        (worst_case, ask(count=50, target=69, entropies=entropies()), (50, 49_950, 0, 10_000, 0, 0)),
        (
            worst_case_drop_rest,
            ask(count=50, target=69, entropies=entropies()),
            (50, 49_500, 100, 9_900, 0, 0),
        ),
        (
            worst_case_drop_rest,
            ask(count=50, target=69, entropies=entropies(), **CORRECTED),
            (50, 49_500, 50, 4_950, 50, 4_950),
        ),
        (
            worst_case,
            ask(count=50, target=69, entropies=entropies(), **CORRECTED),
            (50, 49_950, 0, 5_000, 0, 5_000),
        ),
        (worst_case, ask(count=50, entropies=entropies()), (50, 49_950, 0, 10_000, 0, 0)),
    ],
)
def test_the_parts_have_the_published_sizes(scenario, request_, expected):
    assert sizes(scenario(request_)) == expected


@pytest.mark.parametrize(("scenario", "request_"), REQUESTS)
def test_every_part_is_sorted_int64_and_no_image_is_in_two(scenario, request_):
    split = scenario(request_)
    for part in PARTS:
        positions = getattr(split, part)
        assert positions.dtype == np.int64
        assert (np.diff(positions) > 0).all()
    assert not np.intersect1d(split.forget, split.retain).size
    tested = np.concatenate([getattr(split, part) for part in PARTS[2:]])
    assert np.array_equal(np.sort(tested), np.arange(len(TEST)))


@pytest.mark.parametrize(("scenario", "request_"), REQUESTS)
def test_the_same_request_gives_the_same_split(scenario, request_):
    assert scenario(request_).digest() == scenario(request_).digest()


def test_forgotten_and_retained_are_all_training_images_unless_the_rest_is_dropped():
    for scenario, request in REQUESTS:
        split = scenario(request)
        both = np.union1d(split.forget, split.retain)
        dropped = np.sum(request.train_labels == request.target) - 50
        assert len(both) == len(TRAIN) - (dropped if scenario is worst_case_drop_rest else 0)


def test_a_class_is_forgotten_as_a_whole_and_tested_on_its_own_images():
    split = full_class(ask(target=69, **CORRECTED))
    assert set(TRAIN[split.forget]) == set(TEST[split.forget_test]) == set(TEST[split.forget_val]) == {69}
    assert 69 not in TRAIN[split.retain]
    assert 69 not in TEST[split.retain_test]


def test_where_labels_are_coarse_full_class_takes_a_label_and_sub_class_a_group():
    whole, part = full_class(ask(COARSE, target=13)), sub_class(ask(COARSE, target=69))
    assert set(TRAIN[whole.forget]) == set(range(65, 70))
    assert set(TRAIN[part.forget]) == {69}
    assert set(part.forget) < set(whole.forget)
    assert 13 in (TRAIN // 5)[part.retain]


def test_sub_class_needs_something_finer_than_classes():
    with pytest.raises(ValueError, match="use full_class"):
        sub_class(ask(target=69))


def test_the_tuning_half_is_the_same_for_every_task_and_holds_half_of_each_group():
    tuning, reported = halves(TEST, seed=4)
    assert np.bincount(TEST[tuning]).tolist() == [50] * 100
    assert not np.intersect1d(tuning, reported).size
    for target in (3, 8):
        split = full_class(ask(target=target, halves_seed=4, **CORRECTED))
        assert np.array_equal(np.union1d(split.forget_val, split.retain_val), tuning)
    assert not np.array_equal(halves(TEST, seed=5)[0], tuning)


def test_the_odd_image_of_a_group_is_reported():
    tuning, reported = halves(np.array([0, 0, 0, 1, 2, 2]), seed=0)
    assert (len(tuning), len(reported)) == (2, 4)
    assert 3 in reported


def test_random_forgets_other_images_with_another_seed_and_the_same_with_the_same():
    first, again, other = (random(ask(count=100, seed=seed, **CORRECTED)).forget for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_neither_labels_nor_the_tuning_half_change_what_random_forgets():
    plain = random(ask(count=100, **CORRECTED)).forget
    assert np.array_equal(random(ask(COARSE, count=100, halves_seed=9, **CORRECTED)).forget, plain)


@pytest.mark.parametrize(("total", "count"), [(50_000, 83), (60_000, 99), (1_000, 2), (100, 1)])
def test_the_released_share_gives_the_released_counts(total, count):
    assert released_count(100, total) == count


@pytest.mark.parametrize("total", [50_000, 60_000, 49_999, 17_534])
def test_the_released_count_is_what_random_split_of_torch_makes_of_the_share(total):
    import torch

    drawn, _ = torch.utils.data.random_split(range(total), [0.00165, 0.99835])
    assert released_count(100, total) == len(drawn)


def test_the_worst_case_is_what_the_original_is_surest_of():
    known = entropies()
    split = worst_case(ask(count=50, target=69, entropies=known, **CORRECTED))
    others = np.setdiff1d(np.flatnonzero(TRAIN == 69), split.forget)
    assert set(TRAIN[split.forget]) == {69}
    assert known[split.forget].max() < known[others].min()
    anywhere = worst_case(ask(count=50, entropies=known, **CORRECTED))
    assert known[anywhere.forget].max() < known[anywhere.retain].min()


@pytest.mark.parametrize("profile", ["reference", "corrected"])
def test_both_readings_of_the_worst_case_forget_the_same_images(profile):
    request = ask(count=50, target=69, entropies=entropies(), profile=profile)
    kept, dropped = worst_case(request), worst_case_drop_rest(request)
    assert np.array_equal(kept.forget, dropped.forget)
    assert (TRAIN[kept.retain] == 69).sum() == 450 and not len(kept.forget_test)
    assert 69 not in TRAIN[dropped.retain] and set(TEST[dropped.forget_test]) == {69}


def test_the_rest_can_only_be_dropped_of_a_named_class():
    with pytest.raises(ValueError, match="worst_case:drop_rest: target is None, expected a class"):
        worst_case_drop_rest(ask(count=50, entropies=entropies()))


def test_the_worst_case_needs_the_entropies_of_all_training_images():
    with pytest.raises(ValueError, match="entropies are None"):
        worst_case(ask(count=50))
    with pytest.raises(ValueError, match=r"entropies are \(3,\)"):
        worst_case(ask(count=50, entropies=np.zeros(3)))


@pytest.mark.parametrize("target", [None, -1, 100])
def test_a_target_without_images_is_refused(target):
    for scenario, request in ((full_class, FINE), (sub_class, COARSE)):
        with pytest.raises(ValueError, match=f"target is {target}, expected a (class|group)"):
            scenario(ask(request, target=target))


@pytest.mark.parametrize("count", [None, 0, -5, 50_000])
def test_a_count_that_leaves_nothing_on_either_side_is_refused(count):
    for scenario in (random, worst_case):
        with pytest.raises(ValueError, match="expected 1 to 49999"):
            scenario(ask(count=count, entropies=entropies()))


def test_the_worst_case_of_a_class_cannot_be_more_than_the_class():
    with pytest.raises(ValueError, match="expected 1 to 499 of 500 candidates"):
        worst_case(ask(count=500, target=69, entropies=entropies()))


def test_forgetting_the_only_class_is_refused():
    one = np.zeros(4, dtype=np.int64)
    with pytest.raises(ValueError, match="nothing would be retained"):
        full_class(Request(one, one, one, one, 0, None, "corrected", 0, 0))


def test_an_unknown_profile_is_refused():
    with pytest.raises(ValueError, match="corrected or reference"):
        ask(profile="paper")


def test_the_catalogue_says_what_each_scenario_needs():
    needs = {
        name: (info.target, info.needs_count, info.uses_original, info.depends_on_seed)
        for name, info in SCENARIOS.items()
    }
    assert needs["full_class"] == ("class", False, False, False)
    assert needs["sub_class"] == ("group", False, False, False)
    assert needs["random"] == ("none", True, False, True)
    assert needs["worst_case"] == ("optional group", True, True, False)
    assert needs["worst_case:drop_rest"] == ("class", True, True, False)
