"""Suites `paper` and `paper_corrected` ask for what the paper's tables need, and say what that costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from harness.errors import Misuse
from harness.published import load_paper
from harness.registry import Catalogue
from harness.selection import Selection
from harness.suite import Suite, Wanted, expand
from harness.suite_file import load_suite

Make = Callable[..., Suite]
TABLES = ("1", "2a", "2b", "3a", "3b", "4a", "4b", "5a", "5b", "6", "7", "8", "9", "10", "11")
BOTH = pytest.mark.parametrize("name", ["paper", "paper_corrected"])


def asked(catalogue: Catalogue, name: str, *tables: str) -> list[Wanted]:
    found = expand(load_suite(name, catalogue), catalogue, Selection(tables=tables))
    return [item for item in found if isinstance(item, Wanted)]


def ids(found: list[Wanted]) -> set[str]:
    return {wanted.spec.id for wanted in found}


# -------------------- what the suites ask for


@BOTH
@pytest.mark.parametrize("table", TABLES)
def test_a_table_asks_for_its_methods_classes_and_setting(
    catalogue: Catalogue, name: str, table: str
) -> None:
    paper = load_paper()
    numbers = [number for number in paper.numbers.values() if number.table == table]
    found = asked(catalogue, name, table)
    assert {wanted.spec.method for wanted in found} == {number.method for number in numbers}
    if table != "5a":  # which names no class
        assert {wanted.spec.task.target for wanted in found} == {number.target for number in numbers}
    theirs = paper.setting(table)
    assert theirs is not None
    for task in {wanted.spec.task for wanted in found}:
        for said, ours in zip(theirs, (task.dataset, task.model, task.scenario), strict=True):
            assert paper.means(said, ours)


@BOTH
def test_no_pair_that_the_paper_reports_is_skipped(catalogue: Catalogue, name: str) -> None:
    assert all(isinstance(item, Wanted) for item in expand(load_suite(name, catalogue), catalogue))


@BOTH
@pytest.mark.parametrize(
    ("part", "whole"), [("1", "10"), ("2a", "7"), ("2b", "9"), ("3a", "11"), ("3b", "8")]
)
def test_tables_1_to_3_ask_for_no_run_of_their_own(
    catalogue: Catalogue, name: str, part: str, whole: str
) -> None:
    some, many = ids(asked(catalogue, name, part)), ids(asked(catalogue, name, whole))
    assert some < many and 5 * len(some) == len(many)


@BOTH
def test_no_run_is_asked_for_twice_and_every_run_serves_a_table(catalogue: Catalogue, name: str) -> None:
    found = asked(catalogue, name)
    assert len(ids(found)) == len(found)
    assert {table for wanted in found for table in wanted.tables} == set(TABLES)
    assert all(wanted.tables for wanted in found)


def test_the_protocols_are_the_published_one_and_a_sound_one(catalogue: Catalogue) -> None:
    paper, sound = (load_suite(name, catalogue) for name in ("paper", "paper_corrected"))
    assert (paper.profile, paper.retrain_start) == ("reference", "warm")
    assert (len(paper.train_seeds), len(paper.seeds)) == (1, 10)
    assert (sound.profile, sound.retrain_start) == ("corrected", "fresh")
    assert (len(sound.train_seeds), len(sound.seeds)) == (3, 10)


def test_both_suites_have_the_same_tasks_but_for_the_test_set_of_pins(catalogue: Catalogue) -> None:
    paper, sound = (load_suite(name, catalogue).tasks for name in ("paper", "paper_corrected"))
    like_paper = [
        replace(row, dataset=row.dataset.replace("pins", "pins_nosplit"), title="", params={})
        for row in sound
    ]
    assert like_paper == [replace(row, title="", params={}) for row in paper]


def test_a_table_of_ten_seeds_counts_what_draws_nothing_once(catalogue: Catalogue) -> None:
    found = asked(catalogue, "paper", "9")
    runs = {method: sum(w.spec.method == method for w in found) for method in ("baseline", "jit", "retrain")}
    assert runs == {"baseline": 5, "jit": 50, "retrain": 50}
    assert len({wanted.spec.original.id for wanted in found}) == 1


@BOTH
def test_table_5a_is_decided_in_data(catalogue: Catalogue, name: str) -> None:
    found = asked(catalogue, name, "5a")
    jits = [dict(wanted.spec.params) for wanted in found if wanted.spec.method == "jit"]
    assert len(jits) == 3 and len({wanted.spec.original.id for wanted in found}) == 1
    assert all(params["norm_noise"] is True and params["sigma"] == 1.5 for params in jits)
    elsewhere = {wanted.spec for wanted in asked(catalogue, name, "9") if wanted.spec.method == "jit"}
    assert not any(dict(spec.params)["norm_noise"] for spec in elsewhere)
    assert {wanted.spec.task.target for wanted in found} == {"n04266014"}  # space shuttle


def test_both_readings_of_table_6_take_the_published_parameters_of_single_images(
    catalogue: Catalogue,
) -> None:
    jits = [wanted.spec for wanted in asked(catalogue, "paper", "6") if wanted.spec.method == "jit"]
    assert {spec.task.scenario for spec in jits} == {"worst_case", "worst_case:drop_rest"}
    assert {dict(spec.params)["sigma"] for spec in jits} == {0.01}
    assert {spec.task.count for spec in jits} == {50}


# -------------------- tables of a paper in a suite

TASK = {"dataset": "digits", "scenario": "full_class", "targets": ["3"]}


def test_a_number_asks_for_all_parts_of_a_table(catalogue: Catalogue) -> None:
    assert ids(asked(catalogue, "paper", "2")) == ids(asked(catalogue, "paper", "2a", "2b"))
    assert ids(asked(catalogue, "paper", "1")) < ids(asked(catalogue, "paper", "10"))  # 10 is no part of 1


def test_an_unknown_table_is_refused_with_the_known_ones(catalogue: Catalogue) -> None:
    with pytest.raises(Misuse, match="--table: suite paper has no table '12'; known: 1, 10, 11, 2a"):
        asked(catalogue, "paper", "12")
    with pytest.raises(Misuse, match="--table: suite demo has no table '9'; known: none"):
        asked(catalogue, "demo", "9")


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"table": "9"}, "table is '9', expected list"),
        ({"table": [9]}, 'table has 9, expected names in quotes such as table = ["9", "2b"]'),
        ({"tables": ["9"]}, "unknown key 'tables'; did you mean 'table'"),
        ({"seeds": 0}, "seeds is 0, expected a positive count"),
        ({"train_seeds": [1, 1]}, "distinct seeds"),
        ({"params": {"jti": {}}}, "unknown method 'jti'"),
        ({"params": {"jit": {"sgima": 1.0}}}, "unknown hyper-parameter of jit 'sgima'"),
        ({"params": {"jit": {"sigma": [1.0]}}}, "expected one value"),
    ],
)
def test_a_misuse_in_a_task_is_refused(small: Make, over: dict[str, Any], message: str) -> None:
    with pytest.raises(Misuse) as error:
        small(task=[{**TASK, **over}])
    assert message in str(error.value)


def test_a_task_can_have_seeds_and_parameters_of_its_own(small: Make, catalogue: Catalogue) -> None:
    other = {"seeds": 1, "train_seeds": [5], "params": {"jit": {"sigma": 2.0}}, "targets": ["8"]}
    suite = small(seeds=3, methods=["jit"], params={"jit": {"lr": 9.0}}, task=[TASK, {**TASK, **other}])
    found = [item.spec for item in expand(suite, catalogue) if isinstance(item, Wanted)]
    plain, own = ([s for s in found if s.task.target == target] for target in ("3", "8"))
    assert [spec.seed for spec in plain] == [0, 1, 2] and [spec.seed for spec in own] == [0]
    assert [spec.original.train_seed for spec in own] == [5]
    (params,) = [dict(spec.params) for spec in own]
    assert (params["lr"], params["sigma"]) == (9.0, 2.0) and dict(plain[0].params)["sigma"] == 0.5


def test_tables_and_overrides_do_not_rename_a_run(small: Make, catalogue: Catalogue) -> None:
    plain, marked = (
        {
            item.spec.id
            for item in expand(small(task=[{**TASK, **extra}]), catalogue)
            if isinstance(item, Wanted)
        }
        for extra in ({}, {"table": ["9"], "seeds": 2})
    )
    assert plain == marked
