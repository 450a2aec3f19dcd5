"""Default, published and tuned: which presets a suite takes, and what is made of the rows."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from harness import tuned
from harness.errors import Misuse
from harness.registry import Catalogue
from harness.spec import RunSpec, Task, TrainSpec
from harness.suite import Suite, Wanted, expand

TASK = {"dataset": "digits", "scenario": "full_class", "targets": ["3"], "models": ["vgg_mini"]}


def jit(suite: Suite, catalogue: Catalogue) -> list[tuple[str, Any]]:
    """Origin and learning rate of every run of jit."""
    found = [w for w in expand(suite, catalogue) if isinstance(w, Wanted) and w.spec.method == "jit"]
    return [(w.origin, dict(w.spec.params)["lr"]) for w in found]


def test_a_suite_can_take_presets_of_one_origin_row_by_row(
    small: Callable[..., Suite], catalogue: Catalogue
) -> None:
    rows = [
        {**TASK, "params_from": ["default"]},
        {
            **TASK,
            "params_from": ["published"],
            "params_as": {"dataset": "cifar100", "profile": "reference"},
        },
        {**TASK, "params_from": ["tuned"]},
    ]
    found = jit(small(methods=["jit"], seeds=1, task=rows), catalogue)
    assert found[0] == ("default", catalogue.defaults("jit")["lr"])
    assert found[1] == ("published", 3e-4)
    assert found[2][0] == "tuned" and found[2][1] != found[0][1]


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"params_from": ["mine"]}, "expected some of published, tuned, default"),
        ({"params_as": {"method": "jit"}}, "expected names for dataset, model, scenario, profile"),
    ],
)
def test_an_unknown_origin_or_fact_is_refused(
    small: Callable[..., Suite], over: dict[str, Any], message: str
) -> None:
    with pytest.raises(Misuse) as refused:
        small(**over)
    assert message in str(refused.value)


def wanted(method: str, origin: str, seed: int) -> Wanted:
    task = Task("digits", "mlp", "full_class", "3", None, "corrected")
    original = TrainSpec("digits", "mlp", "r", 0, "fp32")
    params = (("lr", 0.1 if origin == "default" else 0.5),)
    return Wanted(RunSpec(task, original, method, 1, params, seed, "fp32"), origin, original)


def test_means_go_over_runs_and_what_diverged_counts_with_its_penalty() -> None:
    asked = [wanted(m, o, s) for m in ("a", "b") for o in ("default", "tuned") for s in (0, 1)]
    gaps = iter([10.0, 20.0, 1.0, 3.0, 30.0, 40.0, 5.0, None])
    rows = [
        {"run_id": w.spec.id, "gap": gap, "status": "diverged" if gap is None else "ok"}
        for w, gap in zip(asked, gaps, strict=True)
    ]
    table = pd.read_csv(io.StringIO(tuned.measure(pd.DataFrame(rows), asked)))
    found = {
        (r["method"], r["origin"]): (r["mean"], r["count"], r["diverged"]) for r in table.to_dict("records")
    }
    assert found == {
        ("a", "default"): (15.0, 2, 0),
        ("a", "tuned"): (2.0, 2, 0),
        ("b", "default"): (35.0, 2, 0),
        ("b", "tuned"): (52.5, 2, 1),
    }


def test_ranks_are_compared_over_the_methods_that_have_both() -> None:
    gaps = {"a": (1, 3), "b": (2, 2), "c": (3, 1), "d": (4, None)}
    rows = [
        {"method": m, "model": "mlp", "scenario": "s", "origin": o, "mean": gap, "std": 0.1, "count": 2}
        for m, pair in gaps.items()
        for o, gap in zip(("default", "tuned"), pair, strict=True)
        if gap is not None
    ]
    assert tuned.rankings(pd.DataFrame(rows)) == [("s", "mlp", "default", 3, pytest.approx(-1.0))]
    assert [line[0] for line in tuned.table(pd.DataFrame(rows), "s", "mlp")] == ["a", "c", "b", "d"]


def test_without_rows_it_says_what_to_run() -> None:
    with pytest.raises(Misuse, match="efface sweep tuning"):
        tuned.measure(pd.DataFrame({"run_id": [], "status": [], "gap": []}), [wanted("a", "tuned", 0)])


def test_a_search_is_summarised_by_its_best_after_the_first_trials() -> None:
    values = [5.0, 4.0, *[9.0] * 48, 1.0]
    rows = [
        {"method": "m", "model": "mlp", "scenario": "s", "search_id": "x", "objective": "gap", "number": n}
        | {"value": value, "status": "ok" if n else "diverged", "device_seconds": 2.0, "device": "cpu (x)"}
        for n, value in enumerate(values)
    ]
    (line,) = pd.read_csv(io.StringIO(tuned.summarise(pd.DataFrame(rows)))).to_dict("records")
    assert (line["device"], line["trials"], line["lost"]) == ("cpu (x)", 51, 1)
    assert line["device_seconds"] == 102
    assert (line["best_of_10"], line["best_of_50"], line["best"]) == (4.0, 4.0, 1.0)
    assert "best_of_100" not in line
    with pytest.raises(Misuse, match="efface tune"):
        tuned.summarise(pd.DataFrame())


def test_a_repeated_measurement_is_compared_method_by_method() -> None:
    def csv(gaps: dict[str, float]) -> str:
        lines = [f"{m},mlp,s,tuned,{gap},0.1,2,0" for m, gap in gaps.items()]
        return "\n".join(["method,model,scenario,origin,mean,std,count,diverged", *lines]) + "\n"

    shipped = pd.read_csv(io.StringIO(csv({"a": 1.0, "b": 2.0, "c": 4.0, "baseline": 9.0, "gone": 5.0})))
    (line,) = pd.read_csv(
        io.StringIO(tuned.repeated(csv({"a": 3.0, "b": 2.5, "c": 4.0, "baseline": 1.0}), shipped))
    ).to_dict("records")
    assert (line["methods"], line["rho"]) == (3, 0.5)
    assert (line["median_difference"], line["largest_difference"]) == (0.5, 2.0)
