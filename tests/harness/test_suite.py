"""From TOML to runs and skips; every misuse is refused with what was found, expected and what to type."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import Misuse
from harness.presets import load_presets
from harness.registry import Catalogue
from harness.selection import Selection
from harness.suite import Skip, Suite, Wanted, expand
from harness.suite_file import load_suite, parse_suite, suite_names

Make = Callable[..., Suite]
TASK = {"dataset": "digits", "scenario": "full_class", "targets": ["3"]}


def runs(suite: Suite, catalogue: Catalogue, **only: Any) -> list[Wanted]:
    return [w for w in expand(suite, catalogue, Selection(**only)) if isinstance(w, Wanted)]


def test_a_suite_is_the_product_of_its_parts(small: Make, catalogue: Catalogue) -> None:
    suite = small(
        seeds=3,
        models=["mlp", "vgg_mini"],
        methods=["retrain", "jit"],
        task=[{**TASK, "targets": ["3", "8"]}, {"dataset": "digits", "scenario": "random", "count": 5}],
    )
    found = runs(suite, catalogue)
    assert len(found) == len({w.spec.id for w in found}) == 2 * 3 * 2 * 3  # models × tasks × methods × seeds


def test_what_draws_nothing_runs_once_for_all_seeds(small: Make, catalogue: Catalogue) -> None:
    suite = small(
        seeds=10,
        methods=["baseline", "ssd", "jit"],
        params={"ssd": {"order": "class_sorted"}},
        task=[TASK, {"dataset": "digits", "scenario": "random", "count": 5}],
    )
    count = {
        (m, s): len([w for w in runs(suite, catalogue) if (w.spec.method, w.spec.task.scenario) == (m, s)])
        for m in ("baseline", "ssd", "jit")
        for s in ("full_class", "random")
    }
    assert count["baseline", "full_class"] == count["ssd", "full_class"] == 1
    assert count["jit", "full_class"] == count["baseline", "random"] == count["ssd", "random"] == 10


def test_retrain_seeds_pair_run_s_with_retrain_s_mod_k(small: Make, catalogue: Catalogue) -> None:
    suite = small(seeds=5, retrain_seeds=2, methods=["retrain", "jit"])
    found = runs(suite, catalogue)
    jits = [w for w in found if w.spec.method == "jit"]
    assert [w.spec.forget_seed for w in jits] == [0, 1, 0, 1, 0]
    assert len({w.retrain.id for w in jits}) == 2
    assert {w.retrain.id for w in jits} == {w.spec.retrain.id for w in found if w.spec.retrain}


def test_an_index_and_a_name_are_one_target(small: Make, catalogue: Catalogue) -> None:
    by_name = small(task=[{"dataset": "cifar10", "scenario": "full_class", "targets": ["frog"]}])
    by_index = small(task=[{"dataset": "cifar10", "scenario": "full_class", "targets": ["6"]}])
    assert [w.spec.id for w in runs(by_name, catalogue)] == [w.spec.id for w in runs(by_index, catalogue)]


def test_a_whole_number_and_its_float_name_one_run(small: Make, catalogue: Catalogue) -> None:
    ids = [
        runs(small(methods=["jit"], params={"jit": {"lr": lr}}), catalogue)[0].spec.id for lr in (1, 1.0, 1.5)
    ]
    assert ids[0] == ids[1] != ids[2]


def test_a_grid_runs_each_of_its_points(small: Make, catalogue: Catalogue) -> None:
    suite = small(seeds=1, methods=["jit"], grid={"jit": {"lr": [0.1, 0.2], "sigma": [0.5, 1.0, 2.0]}})
    found = runs(suite, catalogue)
    assert {(dict(w.spec.params)["lr"], dict(w.spec.params)["sigma"]) for w in found} == {
        (lr, sigma) for lr in (0.1, 0.2) for sigma in (0.5, 1.0, 2.0)
    }
    assert {w.origin for w in found} == {"suite"}


def test_varying_changes_one_field_at_a_time(small: Make, catalogue: Catalogue) -> None:
    suite = small(seeds=1, methods=["jit"], vary={"jit": {"lr": [9.0], "clip": ["channel_range"]}})
    found = [dict(w.spec.params) for w in runs(suite, catalogue)]
    assert [(p["lr"], p["clip"]) for p in found] == [(3e-4, "none"), (9.0, "none"), (3e-4, "channel_range")]


def test_what_a_method_does_not_define_is_skipped_with_a_reason(
    small: Make, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = catalogue.methods["jit"].info
    narrow = type(info)(info.name, info.needs, frozenset({"random"}), info.paper, info.version)
    monkeypatch.setattr(catalogue.methods["jit"], "info", narrow)
    skips = [s for s in expand(small(), catalogue) if isinstance(s, Skip)]
    assert [(s.method, s.reason) for s in skips] == [("jit", "jit is defined for random, not for full_class")]


def test_profile_reference_lays_the_quirks_over_the_defaults(small: Make, catalogue: Catalogue) -> None:
    corrected, reference = (
        dict(runs(small(methods=["jit"], profile=profile), catalogue)[0].spec.params)
        for profile in ("corrected", "reference")
    )
    assert (corrected["mode"], reference["mode"]) == ("eval", "train")
    assert (corrected["accumulate"], reference["accumulate"]) == (False, True)


def test_the_warm_retrain_is_another_model_than_the_fresh_one(small: Make, catalogue: Catalogue) -> None:
    fresh, warm = (
        runs(small(methods=["retrain"], profile="reference", retrain_start=start, **CIFAR), catalogue)[0]
        for start in ("fresh", "warm")
    )
    assert fresh.retrain.original is None and warm.retrain.original == warm.spec.original
    assert fresh.spec.id != warm.spec.id and fresh.retrain.recipe != warm.retrain.recipe


CIFAR = {
    "models": ["resnet18"],
    "task": [{"dataset": "cifar10", "scenario": "full_class", "targets": ["frog"]}],
}


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"sedes": 3}, "unknown key 'sedes'; did you mean 'seeds'"),
        ({"seeds": 0}, "seeds is 0, expected a positive count"),
        ({"seeds": "3"}, "seeds is '3', expected int or list"),
        ({"seeds": [1, 1]}, "distinct seeds"),
        ({"retrain_seeds": 3}, "retrain_seeds is 3, expected 1 to 2"),
        ({"profile": "corected"}, "expected reference or corrected"),
        ({"precision": "fp16"}, "expected fp32 or bf16"),
        ({"methods": ["jti"]}, "unknown method 'jti'; did you mean 'jit'"),
        ({"models": ["vgg_mnii"]}, "unknown model 'vgg_mnii'; did you mean 'vgg_mini'"),
        ({"models": []}, "no models"),
        ({"metrics": ["mai"]}, "unknown metric 'mai'; did you mean 'mia'"),
        ({"task": []}, "has no [[task]]"),
        ({"task": [{"dataset": "digits"}]}, "scenario missing"),
        ({"task": [{**TASK, "dataset": "digit"}]}, "unknown data set 'digit'; did you mean 'digits'"),
        ({"task": [{**TASK, "scenario": "fullclass"}]}, "did you mean 'full_class'"),
        ({"task": [{**TASK, "targets": ["eleven"]}]}, "digits has no target 'eleven'"),
        ({"task": [{**TASK, "targets": ["10"]}]}, "digits has no target '10'"),
        ({"task": [{**TASK, "targets": []}]}, "full_class needs targets"),
        ({"task": [{**TASK, "count": 5}]}, "full_class takes no count"),
        ({"task": [{**TASK, "scenario": "sub_class"}]}, "nothing finer than its classes"),
        ({"task": [{"dataset": "digits", "scenario": "random"}]}, "random needs count"),
        ({"task": [{"dataset": "digits", "scenario": "random", "count": -1}]}, "count is -1"),
        ({"task": [{"dataset": "digits", "scenario": "random", "count": 5, "targets": ["3"]}]}, "takes no"),
        ({"params": {"jti": {}}}, "unknown method 'jti'"),
        ({"params": {"jit": {"lr": [1.0]}}}, "lr is [1.0], expected one value; for several use [grid.jit]"),
        ({"params": {"jit": 3}}, "expected a table of hyper-parameters, found 3"),
        ({"grid": {"jit": {"lr": 1.0}}}, "lr is 1.0, expected a list of values"),
        ({"grid": {"jit": {"lr": []}}}, "expected a list of values"),
        ({"vary": {"jit": {"sgima": [1.0]}}}, "unknown hyper-parameter of jit 'sgima'; did you mean 'sigma'"),
    ],
)
def test_a_misuse_is_refused_with_one_clear_message(small: Make, over: dict[str, Any], message: str) -> None:
    with pytest.raises(Misuse) as error:
        small(**over)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"lr": float("nan")}, "jit.lr is NaN"),
        ({"sigma": 0.0}, "jit.sigma is 0.0, expected > 0"),
        ({"lr": -1.0}, "jit.lr is -1.0, expected >= 0"),
        ({"samples": 0}, "jit.samples is 0, expected > 0"),
        ({"sgima": 1.0}, "unknown hyper-parameter of jit 'sgima'; did you mean 'sigma'"),
        ({"mode": "traim"}, "expected train | eval"),
    ],
)
def test_a_hyper_parameter_out_of_range_is_refused_before_anything_runs(
    small: Make, catalogue: Catalogue, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(Misuse) as error:
        list(expand(small(methods=["jit"], params={"jit": params}), catalogue))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ({"methods": ("ssd",)}, "--methods: suite small has no method 'ssd'"),
        ({"targets": ("8",)}, "--targets"),
        ({"seeds": (9,)}, "--seeds"),
    ],
)
def test_a_selection_outside_the_suite_is_refused(
    small: Make, catalogue: Catalogue, only: dict[str, Any], message: str
) -> None:
    with pytest.raises(Misuse, match=message):
        runs(small(), catalogue, **only)


def test_a_selection_gives_the_same_runs_as_the_whole_suite(small: Make, catalogue: Catalogue) -> None:
    suite = small(seeds=4)
    whole = {w.spec.id for w in runs(suite, catalogue) if w.spec.seed == 2 and w.spec.method == "jit"}
    assert {w.spec.id for w in runs(suite, catalogue, methods=("jit",), seeds=(2,))} == whole


@pytest.mark.parametrize("name", suite_names())
def test_every_shipped_suite_expands(name: str, catalogue: Catalogue) -> None:
    assert runs(load_suite(name, catalogue), catalogue)


def test_an_unknown_suite_names_the_nearest(catalogue: Catalogue) -> None:
    with pytest.raises(Misuse, match="did you mean 'demo'"):
        load_suite("dmeo", catalogue)


def test_a_suite_of_ones_own_is_given_by_path(tmp_path: Path, catalogue: Catalogue) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'models = ["mlp"]\nmethods = ["jit"]\n[[task]]\ndataset = "digits"\nscenario = "random"\ncount = 3'
    )
    assert len(runs(load_suite(str(file), catalogue), catalogue)) == 1
    file.write_text("models = [")
    with pytest.raises(Misuse, match="not valid TOML"):
        load_suite(str(file), catalogue)


def test_every_preset_names_a_known_method_and_valid_fields(catalogue: Catalogue) -> None:
    for preset in load_presets():
        assert preset.method in catalogue.methods, preset
        catalogue.make(preset.method, {**catalogue.defaults(preset.method), **preset.params})


def test_parsing_is_pure(catalogue: Catalogue) -> None:
    raw = {"models": ["mlp"], "methods": ["jit"], "task": [dict(TASK)]}
    assert parse_suite("a", raw, catalogue) == parse_suite("a", raw, catalogue)
