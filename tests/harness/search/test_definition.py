"""What a search is: never on what is reported, never silently something else than was asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import Misuse
from harness.search.definition import Search
from harness.spec import TrainSpec

RANDOM = {"task": [{"dataset": "digits", "scenario": "random", "count": 20}]}


def test_in_profile_corrected_the_class_is_one_that_the_suite_does_not_report(
    defined: Callable[..., Search],
) -> None:
    reports = {"task": [{"dataset": "digits", "scenario": "full_class", "targets": ["0", "1", "3"]}]}
    assert defined(reports).task.target == "2"
    assert defined(reports, targets=("7",)).task.target == "7"


def test_in_profile_reference_it_is_one_of_those_that_are_reported_and_judged_on_the_test_set(
    defined: Callable[..., Search],
) -> None:
    search = defined({"profile": "reference"})
    assert search.task.target == "3"
    assert search.objective.judged_on == "test set" and search.objective.prefix == ""


def test_the_retrain_is_a_true_one_even_where_the_suite_has_the_published_kind(
    defined: Callable[..., Search],
) -> None:
    search = defined({"profile": "reference", "retrain_start": "warm"})
    assert [r.start for r in search.retrains] == ["fresh", "fresh"]
    assert all(isinstance(r, TrainSpec) and r.without == search.task for r in search.retrains)


def test_neither_budget_nor_shipped_presets_but_space_objective_and_seeds_name_a_search(
    defined: Callable[..., Search],
) -> None:
    one = defined()
    assert one.id == defined().id
    others = [
        defined(objective="retrain_free"),
        defined(seeds=(100,)),
        defined(sampler_seed=1),
        defined(sampler="random"),
        defined(targets=("4",)),
        defined(targets=("4", "0")),
        defined(method="neggrad"),
        defined(model="vgg_mini", suite={"models": ["vgg_mini"]}),
    ]
    assert len({one.id, *(other.id for other in others)}) == 1 + len(others)


def test_a_trial_has_a_run_for_each_seed_and_one_where_nothing_is_drawn(
    defined: Callable[..., Search],
) -> None:
    drawn = {"lr": 0.1, "sigma": 0.5}
    assert [run.seed for run in defined().runs(drawn)] == [100, 101]
    assert len({run.id for run in defined().runs(drawn)}) == 2
    fixed = defined(method="ssd_det")
    assert fixed.deterministic and [run.seed for run in fixed.runs({"alpha": 1.0, "lam": 1.0})] == [100]


def test_a_search_on_several_classes_tries_each_with_each_seed_against_its_own_retrain(
    defined: Callable[..., Search],
) -> None:
    search = defined(targets=("0", "4"))
    cases = [(task.target, seed) for task, seed in search.cases]
    assert cases == [("0", 100), ("0", 101), ("4", 100), ("4", 101)]
    assert [(r.without and r.without.target, r.split_seed) for r in search.retrains] == cases
    runs = search.runs({"lr": 0.1, "sigma": 0.5})
    assert [(run.task.target, run.seed) for run in runs] == cases
    fixed = defined(method="ssd_det", targets=("0", "4"))
    once = fixed.runs({"alpha": 1.0, "lam": 1.0})
    assert [(run.task.target, run.seed) for run in once] == [("0", 100), ("4", 100)]
    assert search.label == "jit on digits/mlp full_class 0,4"


@pytest.mark.parametrize(
    ("suite", "over", "message"),
    [
        ({}, {"method": "jti"}, "unknown method 'jti'; did you mean 'jit'"),
        ({}, {"method": "retrain"}, "unknown method 'retrain'"),
        ({}, {"model": "vgg"}, "has no 'vgg' for full_class"),
        ({}, {"scenario": "full_clas"}, "did you mean 'full_class'"),
        ({}, {"dataset": "cifar10"}, "has no 'cifar10' there"),
        (
            {},
            {"targets": ("4", "3")},
            "--target 3: suite small reports it, and in profile corrected",
        ),
        ({}, {"targets": ("11",)}, "digits has no '11'"),
        ({}, {"targets": ("4", "4")}, "expected distinct names such as 0,1"),
        ({}, {"sampler": "grid"}, "expected tpe, nsga2, random"),
        ({}, {"seeds": (1, 1)}, "expected distinct numbers"),
        ({}, {"objective": "gap"}, "unknown objective 'gap'"),
        (RANDOM, {"scenario": "random", "seeds": (0, 100)}, "in random a seed is a forget set"),
        (RANDOM, {"scenario": "random", "targets": ("3",)}, "takes no target"),
        (RANDOM, {"scenario": "random", "method": "gkt"}, "nothing to search: gkt is defined for full_class"),
        (RANDOM, {"scenario": "random", "objective": "retrain_free"}, "it is defined for full_class"),
        ({"profile": "reference"}, {"objective": "gap_to_retrain"}, "has no tuning half of the test set"),
        ({"profile": "reference"}, {"objective": "pareto"}, "type --objective gap_to_retrain_test"),
    ],
)
def test_what_cannot_be_searched_is_one_clear_message(
    defined: Callable[..., Search], suite: dict[str, Any], over: dict[str, Any], message: str
) -> None:
    with pytest.raises(Misuse) as refused:
        defined(suite, **over)
    assert message in str(refused.value)


def test_several_data_sets_with_the_scenario_must_be_told_apart(defined: Callable[..., Search]) -> None:
    two = [
        {"dataset": name, "scenario": "random", "count": 20, "models": ["mlp"]}
        for name in ("digits", "digits5")
    ]
    with pytest.raises(Misuse, match="digits, digits5; type --dataset"):
        defined({"task": two}, scenario="random")
    assert defined({"task": two}, scenario="random", dataset="digits5").task.dataset == "digits5"


def test_a_suite_that_reports_everything_leaves_nothing_to_search_on(defined: Callable[..., Search]) -> None:
    all_ten = {
        "task": [{"dataset": "digits", "scenario": "full_class", "targets": [str(d) for d in range(10)]}]
    }
    with pytest.raises(Misuse, match="leave one out of `targets`"):
        defined(all_ten)


def test_weights_that_are_taken_as_they_are_have_no_retrain(
    defined: Callable[..., Search], catalogue: Any
) -> None:
    imagenet = {
        "task": [
            {"dataset": "imagenet", "scenario": "full_class", "targets": ["n01440764"], "models": ["vit_l16"]}
        ]
    }
    with pytest.raises(Misuse, match="needs a retrained model"):
        defined(imagenet, model="vit_l16", targets=("4",))


def test_what_the_suite_sets_is_not_searched(defined: Callable[..., Search]) -> None:
    search = defined(suite={"params": {"jit": {"lr": 0.05}}})
    assert [name for name, _ in search.space.dims] == ["sigma"]
    assert dict(search.base)["lr"] == 0.05 and search.given == (("lr", 0.05),)
    with pytest.raises(Misuse, match="sets lr, sigma of jit itself"):
        defined(suite={"params": {"jit": {"lr": 0.05, "sigma": 1.0}}})


@pytest.mark.parametrize(("profile", "train_seed"), [("corrected", 100), ("reference", 0)])
def test_where_the_model_says_what_is_forgotten_the_model_is_one_that_is_not_reported(
    defined: Callable[..., Search], profile: str, train_seed: int
) -> None:
    task = {"dataset": "digits", "scenario": "worst_case", "count": 20}
    search = defined(suite={"task": [task], "profile": profile}, scenario="worst_case")
    assert search.original.train_seed == train_seed
    assert {retrain.train_seed for retrain in search.retrains} == {train_seed}


def test_a_method_that_draws_at_some_points_has_all_seeds_at_all_of_them(
    defined: Callable[..., Search], tmp_path: Path
) -> None:
    file = tmp_path / "order.toml"
    row = "[[space]]\nmethod = 'ssd'\nonly = true\nsource = 'me'\n[space.search]\norder = {}\n"
    for order in (["class_sorted", "shuffled"], ["shuffled", "class_sorted"]):
        file.write_text(row.format(order))
        search = defined(method="ssd", space_file=str(file))
        assert [len(search.runs({"order": name})) for name in order] == [2, 2]


def test_a_suite_with_two_counts_must_say_which(defined: Callable[..., Search]) -> None:
    tasks = [{"dataset": "digits", "scenario": "random", "count": count} for count in (20, 200)]
    with pytest.raises(Misuse, match="forgets 20, 200 images in random"):
        defined(suite={"task": tasks}, scenario="random")
