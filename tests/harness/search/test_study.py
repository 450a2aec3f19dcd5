"""What is tried next depends on the trials before it, and not on where the process stood."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from harness.search.definition import Search
from harness.search.study import distributions, open_study, sampler_of


def bowl(drawn: dict[str, Any]) -> float:
    return (drawn["lr"] - 0.3) ** 2 + (drawn["sigma"] - 0.2) ** 2


def ask(search: Search, past: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Rows of `count` more trials, one after the other."""
    rows = list(past)
    sampler = sampler_of(search, [row["number"] for row in past])
    study = open_study(search, past, sampler)
    for _ in range(count):
        trial = study.ask(distributions(search))
        values = dict.fromkeys(search.objective.names, bowl(trial.params))
        point = sampler.trial(trial.number, trial.params)
        study.tell(trial, list(values.values()))
        rows.append(
            {
                "number": point.number,
                "generation": point.generation,
                "drawn": json.dumps(point.drawn),
                "values": json.dumps(values),
                "status": "ok",
            }
        )
    return rows


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_same_seed_tries_the_same_points(defined: Callable[..., Search], sampler: str) -> None:
    search = defined(sampler=sampler)
    assert ask(search, [], 25) == ask(search, [], 25)
    assert ask(search, [], 5) != ask(defined(sampler=sampler, sampler_seed=1), [], 5)


@pytest.mark.parametrize("at", [3, 12, 24])
def test_a_search_that_was_cut_goes_on_with_the_points_that_it_would_have_tried(
    defined: Callable[..., Search], at: int
) -> None:
    search = defined()
    whole = ask(search, [], 25)
    assert ask(search, whole[:at], 25 - at) == whole


@pytest.mark.parametrize("at", [20, 50, 51, 75, 100, 130])
def test_a_breeding_search_that_was_cut_goes_on_in_its_generation(
    defined: Callable[..., Search], at: int
) -> None:
    search = defined(objective="pareto", sampler="nsga2")
    whole = ask(search, [], 140)
    assert {row["generation"] for row in whole} == {0, 1, 2}
    assert ask(search, whole[:at], 140 - at) == whole


def test_after_a_cut_a_number_that_was_lost_is_drawn_again_and_none_twice(
    defined: Callable[..., Search],
) -> None:
    """Two workers, 0 and 2 done, 1 in flight when the process died."""
    search = defined()
    whole = ask(search, [], 6)
    past = [whole[0], whole[2]]
    sampler = sampler_of(search, [row["number"] for row in past])
    study = open_study(search, past, sampler)
    asked = [study.ask(distributions(search)) for _ in range(3)]
    assert [sampler.trial(trial.number, trial.params).number for trial in asked] == [1, 3, 4]
    drawn = [json.dumps(trial.params) for trial in asked]
    assert drawn[0] == whole[1]["drawn"] and len({*drawn, whole[0]["drawn"], whole[2]["drawn"]}) == 5


def test_tpe_finds_the_bottom_of_a_bowl_better_than_chance(defined: Callable[..., Search]) -> None:
    found = {
        kind: min(bowl(json.loads(row["drawn"])) for row in ask(defined(sampler=kind), [], 60)[20:])
        for kind in ("tpe", "random")
    }
    assert found["tpe"] < 0.5 * found["random"]


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_several_objectives_are_searched_together(defined: Callable[..., Search], sampler: str) -> None:
    search = defined(objective="pareto", sampler=sampler)
    rows = ask(search, ask(search, [], 8), 8)
    assert len({row["drawn"] for row in rows}) > 8
