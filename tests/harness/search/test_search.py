"""Searches in this process: rows, budgets, what is not computed again, and what comes out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from harness import registry
from harness.errors import Misuse
from harness.presets import read_presets, resolve
from harness.registry import Catalogue
from harness.search import driver, outcome
from harness.search.book import STALE, Book, Budget
from harness.search.definition import Search
from harness.search.evaluate import Evaluator, Trial, lost
from harness.search.objectives import PARTS, Truth
from harness.search.trials import COLUMNS, TrialWriter, read_search
from harness.store import Store, StoreError
from harness.suite import Suite
from harness.workspace import Settings, Workspace
from methods.api import method

Searched = Callable[..., Book]
Defined = Callable[..., Search]


def test_trials_are_rows_that_plain_pandas_reads(
    defined: Defined, searched: Searched, tmp_path: Path
) -> None:
    search = defined()
    searched(search, Budget(5))
    frame = pd.read_parquet(tmp_path / "store" / "trials")
    assert list(frame.columns) == [name for name, _, _ in COLUMNS]
    assert frame["number"].tolist() == [0, 1, 2, 3, 4] and (frame["status"] == "ok").all()
    assert (frame["search_id"] == search.id).all() and (frame["target"] == "0").all()
    parts = frame[["gap_retain_acc", "gap_forget_acc", "gap_mia"]].mean(axis=1)
    assert np.allclose(frame["value"], parts + 100 * frame["collapsed"])
    assert (frame["device_seconds"] > frame["seconds"]).all()


def test_a_trial_is_judged_as_a_sweep_would_judge_the_same_runs(
    defined: Defined, searched: Searched, ground: Any
) -> None:
    """The same parameters, class and seeds through a sweep: val_gap of harness.results.best."""
    book = searched(defined(), Budget(1))
    row = book.writer.rows[0]
    params = {name: [value] for name, value in json.loads(row["drawn"]).items()}
    shown = json.loads(row["params"])
    ground.sweep(
        seeds=[100, 101],
        methods=["retrain", "jit"],
        task=[{"dataset": "digits", "scenario": "full_class", "targets": ["0"]}],
        params={"jit": {name: shown[name] for name in params}},
    )
    from harness import results

    (mean,) = results.best(ground.rows(), "val_gap")["mean"]
    assert row["value"] - 100 * row["collapsed"] == pytest.approx(mean)


def test_a_search_goes_on_where_it_stopped_and_never_tries_twice(
    defined: Defined, searched: Searched, tmp_path: Path
) -> None:
    search = defined()
    first = [row["drawn"] for row in searched(search, Budget(4)).writer.rows]
    book = searched(search, Budget(9))
    assert [row["drawn"] for row in book.writer.rows[:4]] == first
    before = (tmp_path / "store" / "trials" / f"{search.id}.parquet").stat().st_mtime_ns
    assert searched(search, Budget(9)).done == 9  # nothing left to do
    assert (tmp_path / "store" / "trials" / f"{search.id}.parquet").stat().st_mtime_ns == before
    other = defined(sampler_seed=5)
    assert [row["drawn"] for row in searched(other, Budget(4)).writer.rows] != first


def test_a_run_that_the_store_has_is_not_computed_again(
    defined: Defined, searched: Searched, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = defined()
    book = searched(search, Budget(3))
    store = book.writer.store
    assert [row["reused"] for row in book.writer.rows] == [0, 0, 0]
    known = {
        run: {"status": "ok", **scores}
        for row in book.writer.rows
        for run, scores in json.loads(row["run_scores"]).items()
    }
    monkeypatch.setattr("harness.search.driver._known", lambda *_: known)
    (store.local / "trials" / f"{search.id}.parquet").unlink()  # type: ignore[operator]
    again = searched(search, Budget(3))
    assert [row["reused"] for row in again.writer.rows] == [2, 2, 2]
    assert [row["value"] for row in again.writer.rows] == [row["value"] for row in book.writer.rows]


def test_a_budget_of_seconds_ends_a_search_at_the_first_trial_beyond_it(
    defined: Defined, searched: Searched
) -> None:
    book = searched(defined(), Budget(None, 0.5))
    spent = [row["device_seconds"] for row in book.writer.rows]
    assert sum(spent) >= 0.5 > sum(spent[:-1])
    assert book.spent == pytest.approx(sum(spent))


@pytest.mark.parametrize(
    ("trials", "seconds", "message"),
    [(0, None, "--trials 0"), (None, 0.0, "--budget-seconds 0"), (None, None, "no budget")],
)
def test_a_budget_of_nothing_is_refused(trials: int | None, seconds: float | None, message: str) -> None:
    with pytest.raises(Misuse, match=message):
        Budget(trials, seconds)


def test_diverged_and_failed_trials_get_a_finite_penalty_and_are_counted(
    defined: Defined, searched: Searched, extra_method: Callable[..., str], catalogue: Catalogue
) -> None:
    def sometimes(model: Any, forget: Any, retain: Any, ctx: Any) -> Any:
        weight = next(model.parameters())
        if weight.requires_grad and sometimes.calls % 3 == 1:  # type: ignore[attr-defined]
            weight.data.fill_(float("nan"))
        sometimes.calls += 1  # type: ignore[attr-defined]
        if sometimes.calls % 3 == 0:  # type: ignore[attr-defined]
            raise ValueError("no luck")
        return model

    sometimes.calls = 0  # type: ignore[attr-defined]
    name = extra_method(sometimes, search={"lr": {"low": 0.1, "high": 1.0}})
    search = defined(method=name, seeds=(100,))
    book = searched(search, Budget(6))
    assert [row["status"] for row in book.writer.rows] == ["ok", "diverged", "failed"] * 2
    values = [row["value"] for row in book.writer.rows]
    assert values[1] == values[2] == 200.0 and values[0] < 200
    assert "no luck" in book.writer.rows[2]["error_message"]
    finding = outcome.find(search, book, catalogue)
    assert "6 trials (2 diverged, 2 failed)" in outcome.text(finding)
    assert finding.best is not None and finding.best["status"] == "ok"


def test_a_search_without_a_finite_trial_says_so_and_writes_no_preset(
    defined: Defined, searched: Searched, extra_method: Callable[..., str], catalogue: Catalogue
) -> None:
    def fails(model: Any, forget: Any, retain: Any, ctx: Any) -> Any:
        raise ValueError("never")

    name = extra_method(fails, search={"lr": {"low": 0.1, "high": 1.0}})
    search = defined(method=name)
    finding = outcome.find(search, searched(search, Budget(2)), catalogue)
    assert finding.best is None
    assert "no trial came out finite; the last error: never" in outcome.text(finding)


def test_what_failed_by_a_mistake_is_tried_again_at_the_same_points_once_it_is_put_right(
    defined: Defined, searched: Searched, extra_method: Callable[..., str]
) -> None:
    broken = True

    def mended(model: Any, forget: Any, retain: Any, ctx: Any) -> Any:
        if broken:
            raise NameError("modle")
        return model

    name = extra_method(mended, search={"lr": {"low": 0.1, "high": 1.0}})
    search = defined(method=name)
    before = searched(search, Budget(3)).writer.rows
    assert [row["status"] for row in before] == ["failed"] * 3
    broken = False
    after = sorted(searched(search, Budget(5)).writer.rows, key=lambda row: row["number"])
    assert [row["number"] for row in after] == [0, 1, 2, 3, 4]
    assert {row["status"] for row in after} == {"ok"}
    assert [row["drawn"] for row in after[:3]] == [row["drawn"] for row in before]


def test_a_point_that_fails_by_itself_is_not_tried_again_and_leaves_what_follows_alone(
    defined: Defined, searched: Searched, catalogue: Catalogue, tmp_path: Path
) -> None:
    @method("picky", needs={"forget"}, scenarios={"full_class"}, search={"lr": {"low": 0.1, "high": 1.0}})
    @dataclass(frozen=True)
    class Picky:
        lr: float = 0.2

        def __call__(self, model: Any, forget: Any, retain: Any, ctx: Any) -> Any:
            if 0.3 < self.lr < 0.8:
                raise ValueError("just there")
            return model

    search = defined(method="picky", seeds=(100,))
    whole = searched(search, Budget(30)).writer.rows
    assert 5 < sum(row["status"] == "failed" for row in whole) < 30
    (tmp_path / "store" / "trials" / f"{search.id}.parquet").unlink()
    for trials in (13, 13, 30):
        parts = searched(search, Budget(trials)).writer.rows
    assert [(row["number"], row["drawn"]) for row in parts] == [
        (row["number"], row["drawn"]) for row in whole
    ]


def test_what_failed_is_tried_again_once_the_code_has_changed_or_the_worker_was_at_fault(
    defined: Defined, searched: Searched
) -> None:
    rows = searched(defined(), Budget(4)).writer.rows
    good = {"code": "now", "status": "ok", "error_type": None}
    writer = TrialWriter(searched(defined(), Budget(4)).writer.store, "x" * 16, [])
    kinds = [("ok", None, "now"), ("failed", "ValueError", "now"), ("failed", "ValueError", "before")]
    kinds.append(("failed", "worker_error", "now"))
    writer.rows = [
        {**row, **good, "status": status, "error_type": kind, "code": code}
        for row, (status, kind, code) in zip(rows, kinds, strict=True)
    ]
    book = Book(Budget(4), writer, code="now")
    again = [book.again(), book.again(), book.again()]
    assert [trial and trial.number for trial in again] == [2, 3, None]
    assert [row["number"] for row in book.past] == [0, 1]


def test_a_space_of_two_points_is_used_up(defined: Defined, searched: Searched, tmp_path: Path) -> None:
    file = tmp_path / "two.toml"
    file.write_text("[[space]]\nmethod = 'jit'\nonly = true\nsource = 'me'\n[space.search]\nlr = [0.1, 1]\n")
    book = searched(defined(space_file=str(file)), Budget(None, 600.0))
    assert book.exhausted and STALE < book.done < STALE + 20
    assert sum(row["reused"] == 0 for row in book.writer.rows) == 2  # the same run ids as a sweep's: lr 1.0
    assert searched(defined(space_file=str(file)), Budget(None, 900.0)).done == book.done


def test_a_point_that_another_worker_has_computed_is_not_computed_again(
    defined: Defined, searched: Searched
) -> None:
    search = defined()
    book = searched(search, Budget(1))
    row = book.writer.rows[0]
    drawn = json.loads(row["drawn"])
    known = book.scores_of(search.runs(drawn))
    assert sorted(known) == sorted(row["runs"].split(","))
    assert not book.scores_of(search.runs({**drawn, "lr": 9.0}))
    truth = Truth({(search.target, seed): dict.fromkeys(PARTS, 0.5) for seed in search.seeds}, 0.9)
    space = Workspace(Settings(book.writer.store.url), registry.load())
    elsewhere = Evaluator(search, space, truth)
    assert elsewhere(Trial(1, drawn, known=known))["reused"] == 2


def test_a_retrain_that_diverged_is_one_clear_message(
    defined: Defined, searched: Searched, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = defined()
    store = searched(search, Budget(1)).writer.store
    table = store.rows()
    rows = [
        {**row, "status": "diverged" if row["method"] == "retrain" else row["status"]}
        for row in table.to_pylist()
    ]
    monkeypatch.setattr(Store, "rows", lambda *_, **__: pa.Table.from_pylist(rows, schema=table.schema))
    with pytest.raises(Misuse, match=r"retrain.*has diverged, and jit on .* is judged by it"):
        searched(search, Budget(2))


def test_a_method_that_always_fails_ends_its_search_with_the_reason(
    defined: Defined, searched: Searched, extra_method: Callable[..., str]
) -> None:
    def fails(model: Any, forget: Any, retain: Any, ctx: Any) -> Any:
        raise ValueError("never")

    name = extra_method(fails, search={"lr": {"low": 0.1, "high": 1.0}})
    search = defined(method=name)
    with pytest.raises(Misuse, match=r"first 10 trials have all failed \(never\)"):
        searched(search, Budget(None, 60.0))


def test_what_has_no_value_in_toml_is_a_preset_all_the_same(
    defined: Defined, searched: Searched, catalogue: Catalogue, tmp_path: Path
) -> None:
    search = defined(method="neggrad", model="vgg_mini", suite={"models": ["vgg_mini"]})
    finding = outcome.find(search, searched(search, Budget(1)), catalogue)
    assert finding.best is not None
    params = {**json.loads(finding.best["params"]), "grad_clip": None}
    best = {**finding.best, "params": json.dumps(params)}
    change = outcome.Change("grad_clip", 1.0, None)
    text = outcome.preset_text(replace(finding, best=best, changes=[change]), "1 trial")
    (tmp_path / "found.toml").write_text(text)
    found = dict(resolve(catalogue, "neggrad", search.task, presets=read_presets(str(tmp_path))).params)
    assert 'unset = ["grad_clip"]' in text and found["grad_clip"] is None


def test_what_one_search_has_trained_the_next_one_does_not_train_again(
    defined: Defined, searched: Searched, catalogue: Catalogue, small: Callable[..., Suite]
) -> None:
    random = {"task": [{"dataset": "digits", "scenario": "random", "count": 20}]}
    store = searched(defined(), Budget(1)).writer.store
    plan = driver.references(defined(random, scenario="random"), small(**random), store, catalogue)
    assert [job.kind for job in plan.jobs if job.kind != "run"] == ["retrain", "retrain"]


def test_a_search_whose_lease_was_taken_writes_no_more_trials(defined: Defined, searched: Searched) -> None:
    writer = searched(defined(), Budget(1)).writer

    def taken(wait: bool) -> None:
        raise StoreError("taken over by another sweep")

    writer.store.require_held = taken
    writer.add({**writer.rows[0], "number": 1})
    with pytest.raises(StoreError, match="taken over"):
        writer.flush()


def test_the_best_trial_becomes_a_preset_for_every_other_class(
    defined: Defined, searched: Searched, catalogue: Catalogue, small: Callable[..., Suite], tmp_path: Path
) -> None:
    search = defined()
    finding = outcome.find(search, searched(search, Budget(4)), catalogue)
    assert finding.best is not None
    (tmp_path / "found.toml").write_text(outcome.preset_text(finding, "4 trials"))
    presets = read_presets(str(tmp_path))
    now = resolve(catalogue, "jit", search.task, presets=presets)
    assert now.origin == "tuned" and "gap_to_retrain" in now.sources["lr"]
    assert dict(now.params) == json.loads(finding.best["params"])
    assert "target" not in presets[0].where  # of any class


def test_without_a_retrain_no_retrain_is_trained(
    defined: Defined, searched: Searched, tmp_path: Path
) -> None:
    search = defined(objective="retrain_free")
    book = searched(search, Budget(3))
    kinds = pd.read_parquet(tmp_path / "store" / "rows")
    assert set(kinds[kinds["kind"] == "run"]["method"]) == {"baseline"}
    assert all(row["judged_on"] == "forget set" and 0 <= row["value"] <= 100 for row in book.writer.rows)
    assert all(row.get("gap_mia") is None for row in book.writer.rows)


def test_a_front_has_no_trial_that_another_one_beats(
    defined: Defined, searched: Searched, catalogue: Catalogue
) -> None:
    search = defined(objective="pareto")
    worst = lost(search, "diverged", None, None)
    assert worst["value"] == 200.0 and json.loads(worst["values"])["seconds"] > 24 * 3600
    finding = outcome.find(search, searched(search, Budget(8)), catalogue)
    names = search.objective.names
    front = [[json.loads(row["values"])[name] for name in names] for row in finding.front]
    every = [[json.loads(row["values"])[name] for name in names] for row in finding.rows]
    assert front
    for mine in front:
        assert not any(
            all(o <= m for o, m in zip(other, mine, strict=True)) and other != mine for other in every
        )
    assert "Pareto front" in outcome.text(finding)


def test_what_matters_most_is_said(defined: Defined, searched: Searched, catalogue: Catalogue) -> None:
    search = defined()
    finding = outcome.find(search, searched(search, Budget(12)), catalogue)
    assert set(finding.importances) == {"lr", "sigma"}
    assert sum(finding.importances.values()) == pytest.approx(1.0)
    assert finding.importances["lr"] > 0.5  # a step size decides whether anything happens


def test_a_damaged_file_of_trials_is_one_clear_message(defined: Defined, searched: Searched) -> None:
    search = defined()
    store = searched(search, Budget(1)).writer.store
    store.write(f"trials/{search.id}.parquet", b"PAR1 and then nothing")
    with pytest.raises(Misuse, match="no readable Parquet file"):
        read_search(store, search.id)


def test_a_row_with_an_unknown_column_is_refused(defined: Defined, searched: Searched) -> None:
    writer = searched(defined(), Budget(1)).writer
    with pytest.raises(KeyError, match="colour"):
        writer.add({"number": 7, "colour": "red"})


def test_seconds_of_a_cpu_are_those_that_it_worked(
    defined: Defined, searched: Searched, extra_method: Callable[..., str]
) -> None:
    """Sleeping costs wall time and no device-seconds: a busy machine does not shorten a search."""
    import time

    def sleeps(model: Any, forget: Any, retain: Any, ctx: Any) -> Any:
        time.sleep(1.0)
        return model

    name = extra_method(sleeps, search={"lr": {"low": 0.1, "high": 1.0}})
    (row,) = searched(defined(method=name, seeds=(100,)), Budget(1)).writer.rows
    assert row["wall_seconds"] - row["device_seconds"] > 0.83
