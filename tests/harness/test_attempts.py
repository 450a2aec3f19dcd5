"""Two attempts at one job: a worker that was given up ends late. Its files and the row that counts agree."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from harness import artifacts, stages, start
from harness.plan import Job
from harness.rows import SCORE_COLUMNS, Row
from harness.scoring import predict_halves
from harness.spec import TrainSpec
from harness.stages import execute
from tasks.api import Outputs
from tests.harness.conftest import Ground


def shaking(change: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """The same computation as on a GPU: with other numbers each time."""
    times = itertools.count(1)

    def shaken(*given: Any, **more: Any) -> nn.Module:
        model, generator = change(*given, **more), torch.Generator().manual_seed(next(times))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
        return model

    return shaken


def stored_accuracy(ground: Ground, spec_id: str) -> float:
    return start.accuracy(artifacts.load_outputs(ground.store, spec_id)["test"])


def agrees(ground: Ground, spec: TrainSpec, row: Row) -> None:
    """The row, the stored outputs, the facts beside them and the stored weights are of the same model."""
    halves = artifacts.load_outputs(ground.store, spec.id)
    assert row["test_acc"] == start.accuracy(halves["test"])
    assert row["seconds"] == artifacts.load_facts(ground.store, "outputs", spec.id)["seconds"]
    space = ground.space()
    found = predict_halves(space.original(spec), spec, space, careful=False)
    np.testing.assert_allclose(found["test"].logits, halves["test"].logits, rtol=1e-4, atol=1e-4)
    assert artifacts.load_facts(ground.store, "models", spec.id)["row"]["test_acc"] == row["test_acc"]


@pytest.mark.parametrize("kept", [True, False], ids=["weights too", "outputs alone"])
def test_a_training_that_ends_after_another_one_of_its_kind_reports_what_that_one_stored(
    ground: Ground, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ground.family()[0 if kept else 1]  # of a retrain no weights are kept
    between: list[Row] = []
    fit = shaking(stages.fit)

    def slow(*given: Any, **more: Any) -> nn.Module:
        model = fit(*given, **more)
        if not between:
            between.append({})  # the other one trains without such a pause
            between.append(execute(Job(spec, "t"), ground.space()))
        return model

    monkeypatch.setattr(stages, "fit", slow)
    late = execute(Job(spec, "t"), ground.space())
    first = between[1]
    assert (late["status"], first["status"]) == ("ok", "ok"), late.get("error_message")
    same = ["test_acc", "seconds", "seconds_scoring", "samples_seen", "data_digest", "split_digest", "device"]
    assert [late[name] for name in same] == [first[name] for name in same]
    assert first["test_acc"] == stored_accuracy(ground, spec.id)
    if kept:
        agrees(ground, spec, first)
    assert "stored its files first" in Path(ground.store.url, "logs", f"{spec.id}.txt").read_text()


def test_a_training_goes_on_from_weights_that_another_one_stored_before_it_died(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ground.family()[0]
    fit = shaking(stages.fit)

    def slow(*given: Any, **more: Any) -> nn.Module:
        other = fit(*given, **more)
        artifacts.save_weights(ground.store, spec.id, other, known=())
        return shaking(lambda model: model)(other)

    monkeypatch.setattr(stages, "fit", slow)
    row = execute(Job(spec, "t"), ground.space())
    assert row["status"] == "ok", row.get("error_message")
    agrees(ground, spec, row)


def test_of_two_trainings_neither_stores_half_where_the_first_was_held_up_between_its_files(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ground.family()[0]
    held: list[Any] = []  # what the first one is about to write, its weights being there
    rows: list[Row] = []
    fit, save = shaking(stages.fit), artifacts.save_outputs

    def held_up(*given: Any, **more: Any) -> bool:
        if not held:
            held.extend(given)
            rows.append(execute(Job(spec, "t"), ground.space()))  # the first one is given up
        return save(*given, **more)

    def slow(*given: Any, **more: Any) -> nn.Module:
        model = fit(*given, **more)
        if held:  # meanwhile the first one goes on
            save(*held)
        return model

    monkeypatch.setattr(artifacts, "save_outputs", held_up)
    monkeypatch.setattr(stages, "fit", slow)
    rows.append(execute(Job(spec, "t"), ground.space()))
    for row in rows:
        assert row["status"] == "ok", row.get("error_message")
        agrees(ground, spec, row)


def test_a_training_whose_row_was_lost_is_not_made_again(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ground.family()[0]
    first = execute(Job(spec, "t"), ground.space())
    before = artifacts.load_weights(ground.store, spec.id)

    def broken(*_: Any, **__: Any) -> nn.Module:
        raise ValueError("trained again")

    monkeypatch.setattr(stages, "fit", broken)
    space = ground.space()
    again = execute(Job(spec, "t"), space)
    assert again["status"] == "ok", again["error_message"]
    assert {**again, "started_at": None} == {**first, "started_at": None}
    agrees(ground, spec, again)
    kept = space.original(spec).state_dict()
    assert all(torch.equal(before[name], kept[name]) for name in before)
    assert "not trained" in Path(ground.store.url, "logs", f"{spec.id}.txt").read_text()


@pytest.mark.parametrize("name", ["models/{}.safetensors", "outputs/{}.parquet", "outputs/{}.json"])
def test_a_damaged_file_of_a_training_is_replaced_with_all_that_belongs_to_it(
    ground: Ground, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "fit", shaking(stages.fit))
    spec = ground.family()[0]
    first = execute(Job(spec, "t"), ground.space())
    path = Path(ground.store.url, name.format(spec.id))
    path.write_bytes(path.read_bytes()[:30])
    again = execute(Job(spec, "t"), ground.space())
    assert again["status"] == "ok", again["error_message"]
    assert again["seconds"] != first["seconds"]
    agrees(ground, spec, again)


def test_a_training_on_other_data_is_not_taken_for_this_one(ground: Ground) -> None:
    spec = ground.family()[0]
    few = execute(Job(spec, "t"), ground.space(limit=400))
    all_of_them = execute(Job(spec, "t"), ground.space())
    assert few["data_note"] and not all_of_them["data_note"]
    assert all_of_them["samples_seen"] > few["samples_seen"]
    agrees(ground, spec, all_of_them)


@pytest.mark.parametrize("weights", [True, False], ids=["weights too", "outputs alone"])
def test_a_run_that_ends_after_another_one_of_its_kind_is_scored_by_what_that_one_stored(
    ground: Ground, extra_method: Callable[..., str], weights: bool
) -> None:
    between: list[Row] = []

    def body(model: nn.Module, forget: Any, retain: Any, ctx: Any) -> nn.Module:
        model = shake(model)
        if not between:
            between.append({})
            between.append(execute(job, ground.space(keep_weights=weights)))
        return model

    shake = shaking(lambda model: model)
    name = extra_method(body)
    plan = ground.planned(methods=[name], seeds=1)
    for needed in plan.jobs[:-1]:
        execute(needed, ground.space())
    job = plan.jobs[-1]
    late = execute(job, ground.space(keep_weights=weights))
    first = between[1]
    assert (late["status"], first["status"]) == ("ok", "ok"), late.get("error_message")
    assert [late[name] for name in SCORE_COLUMNS if name in late] == [
        first[name] for name in SCORE_COLUMNS if name in first
    ]
    outputs = artifacts.load_outputs(ground.store, job.id)["test"]
    rest = outputs.labels != 3
    kept = float((outputs.logits.argmax(1) == outputs.labels)[rest].mean())
    assert abs(kept - (first["retain_acc"] + first["val_retain_acc"]) / 2) < 0.01


def test_outputs_that_an_earlier_sweep_left_without_a_row_are_replaced(
    ground: Ground, extra_method: Callable[..., str]
) -> None:
    name = extra_method(lambda model, forget, retain, ctx: model)
    plan = ground.planned(methods=[name], seeds=1)
    for job in plan.jobs[:-1]:
        execute(job, ground.space())
    wrong = artifacts.load_outputs(ground.store, plan.jobs[0].id)
    artifacts.save_outputs(
        ground.store, job_id := plan.jobs[-1].id, {h: Outputs(-o.logits, o.labels) for h, o in wrong.items()}
    )
    row = execute(plan.jobs[-1], ground.space())
    assert row["retain_acc"] > 0.8
    assert stored_accuracy(ground, job_id) > 0.8
