"""Whole sweeps in this process: what is computed, what is repeated, what a failure leaves behind."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from torch import nn

from harness import artifacts
from harness.errors import Misuse
from harness.plan import Job
from harness.rows import SCORE_COLUMNS
from harness.spec import TrainSpec
from harness.stages import execute
from harness.start import starting_model
from harness.store import Store
from tasks.api import ImageSet
from tests.harness.conftest import Ground

MEASURED = ["run_id", "status", *SCORE_COLUMNS, "split_digest", "data_digest"]


def test_a_sweep_leaves_one_ok_row_for_each_run_with_every_score(ground: Ground) -> None:
    outcome = ground.sweep()
    rows = ground.rows()
    assert outcome.exit_code == 0
    assert list(rows["status"].unique()) == ["ok"]
    assert sorted(rows["method"]) == ["baseline", "finetune", "finetune", "jit", "jit", "retrain", "retrain"]
    scored = [name for name in SCORE_COLUMNS if name != "mia_degenerate"]
    assert rows[scored].notna().all().all()
    assert rows[["seconds", "seconds_scoring", "seconds_total", "started_at", "host"]].notna().all().all()


def test_retrain_has_forgotten_and_the_baseline_has_not(ground: Ground) -> None:
    ground.sweep()
    forget = ground.rows().groupby("method")["forget_acc"].mean()
    assert forget["retrain"] == 0.0
    assert forget["baseline"] > 0.8


def test_the_same_sweep_on_another_store_gives_the_same_numbers(
    ground: Ground, tmp_path: Path, catalogue: Any, planned: Any
) -> None:
    other = Ground(tmp_path / "other", catalogue, planned)
    ground.sweep()
    other.sweep()
    left, right = (g.rows()[MEASURED].sort_values("run_id", ignore_index=True) for g in (ground, other))
    assert left.equals(right)


def test_a_second_sweep_runs_only_what_is_missing(ground: Ground) -> None:
    first = ground.sweep(seeds=1)
    second = ground.sweep(seeds=2)
    assert sum(first.counts.values()) == 1 + 1 + 4
    assert (
        sum(second.counts.values()) == 1 + 3
    )  # one more retrain; retrain, finetune and jit of the second seed
    assert sum(ground.sweep(seeds=2).counts.values()) == 0


def test_a_lost_checkpoint_is_made_again_when_a_run_needs_it(ground: Ground) -> None:
    ground.sweep(seeds=1, methods=["baseline"])
    for path in Path(ground.store.url, "models").iterdir():
        path.unlink()
    outcome = ground.sweep(seeds=1, methods=["jit"])
    assert outcome.exit_code == 0
    assert len(ground.rows("train")) == 1  # still one row: an id has at most one finished row


def test_every_method_forgets_the_same_images(ground: Ground) -> None:
    ground.sweep(task=[{"dataset": "digits", "scenario": "random", "count": 30}])
    digests = ground.rows().groupby("seed")["split_digest"].unique()
    assert [len(found) for found in digests] == [1, 1]
    assert digests[0][0] != digests[1][0]


def test_worst_case_forgets_the_lowest_entropies_of_the_original(ground: Ground) -> None:
    task = {"dataset": "digits", "scenario": "worst_case", "count": 20, "targets": ["3"]}
    ground.sweep(task=[task], methods=["baseline", "retrain", "jit"], seeds=1)
    rows = ground.rows().set_index("method")
    assert rows.loc["baseline", "forget_acc"] == 1.0
    assert rows.loc["baseline", "forget_entropy"] < rows.loc["retrain", "forget_entropy"]


# -------------------- what retrain is


def trained(ground: Ground, spec: TrainSpec, space: Any = None) -> dict[str, torch.Tensor]:
    space = space or ground.space(keep_weights=True)
    row = execute(Job(spec, "t"), space)
    assert row["status"] == "ok", row["error_message"]
    return artifacts.load_weights(ground.store, spec.id)


def test_no_parameter_of_a_true_retrain_equals_the_originals(ground: Ground) -> None:
    original, retrain = (trained(ground, spec) for spec in ground.family()[:2])
    assert not any(torch.equal(original[name], retrain[name]) for name in original)


def test_a_retrain_has_not_seen_one_forget_pixel(ground: Ground) -> None:
    _, retrain, _ = ground.family()
    clean = trained(ground, retrain)
    space = ground.space(keep_weights=True)
    loaded = space.loaded("digits")
    train = loaded.data.train
    for folder in ("models", "outputs"):
        shutil.rmtree(Path(ground.store.url, folder))
    noise = torch.randint(0, 256, train.images.shape, dtype=torch.uint8)
    spoiled = torch.where((train.labels == 3).view(-1, 1, 1, 1), noise, train.images)
    data = dataclasses.replace(loaded.data, train=ImageSet(spoiled, train.labels, train.groups))
    space._data["digits"] = dataclasses.replace(loaded, data=data)
    again = trained(ground, retrain, space)
    assert all(torch.equal(clean[name], again[name]) for name in clean)


def test_a_warm_retrain_starts_from_the_originals_body(ground: Ground) -> None:
    original, retrain, _ = ground.family()
    trained(ground, original)
    warm = dataclasses.replace(retrain, start="warm", original=original)
    space = ground.space()
    before, start = space.original(original).state_dict(), starting_model(warm, space)[0].state_dict()
    assert all(torch.equal(before[name], start[name]) for name in before)


# -------------------- what a method is given


@pytest.mark.parametrize(
    ("needs", "expected"),
    [
        (("forget",), (True, False, False)),
        (("retain",), (False, True, False)),
        (("forget", "retain"), (True, True, False)),
        (("class_id",), (False, False, True)),
    ],
)
def test_a_method_is_given_what_it_declares_and_nothing_else(
    ground: Ground, extra_method: Callable[..., str], needs: tuple[str, ...], expected: tuple[bool, ...]
) -> None:
    seen: list[tuple[bool, ...]] = []

    def body(model: nn.Module, forget: Any, retain: Any, ctx: Any) -> nn.Module:
        seen.append((forget is not None, retain is not None, ctx.forget_class is not None))
        return model

    name = extra_method(body, needs=needs)
    ground.sweep(methods=[name], seeds=1)
    assert seen == [expected]
    row = ground.rows().iloc[0]
    assert row["zero_shot"] == ("retain" not in needs)
    assert row["needs"] == "+".join(sorted(needs))


def test_a_method_gets_its_own_copy_in_eval_mode(ground: Ground, extra_method: Callable[..., str]) -> None:
    modes = []

    def body(model: nn.Module, forget: Any, retain: Any, ctx: Any) -> nn.Module:
        modes.append(model.training)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        return model.train()

    name = extra_method(body)
    ground.sweep(methods=[name, "baseline"], seeds=2)
    rows = ground.rows().set_index("method")
    assert modes == [False, False]
    assert rows.loc["baseline", "retain_acc"] > 0.8 > rows.loc[name, "retain_acc"].max()


def test_samples_handed_to_a_method_are_counted(ground: Ground) -> None:
    ground.sweep(methods=["jit", "finetune"], seeds=1)
    seen = ground.rows().set_index("method")["samples_seen"]
    assert 90 < seen["jit"] < 110  # one walk over the hundred or so images of a digit
    assert 4 * 850 < seen["finetune"] < 5 * 950


# -------------------- failures


def test_an_error_in_a_method_is_a_failed_row_with_its_traceback_in_the_log(
    ground: Ground, extra_method: Callable[..., str]
) -> None:
    def body(model: nn.Module, forget: Any, retain: Any, ctx: Any) -> nn.Module:
        raise RuntimeError("no luck today")

    name = extra_method(body)
    outcome = ground.sweep(methods=[name, "jit"], seeds=1)
    rows = ground.rows().set_index("method")
    assert outcome.exit_code == 1
    assert (rows.loc[name, "status"], rows.loc[name, "error_type"]) == ("failed", "RuntimeError")
    assert rows.loc["jit", "status"] == "ok"
    log = Path(ground.store.url, "logs", f"{rows.loc[name, 'run_id']}.txt").read_text()
    assert "no luck today" in log and "Traceback" in log


def test_neither_row_nor_log_tells_a_signed_url(ground: Ground, extra_method: Callable[..., str]) -> None:
    def fails(model: Any, forget: Any, retain: Any, ctx: Any) -> Any:
        raise ValueError("cannot read https://host/w.pt?X-Amz-Signature=5EC4E7")

    ground.sweep(methods=[extra_method(fails)], seeds=1)
    (row,) = ground.store.rows().filter(pc.field("status") == "failed").to_pylist()
    log = ground.store.read(f"logs/{row['run_id']}.txt").decode()
    assert "https://host/w.pt?…" in row["error_message"] and "https://host/w.pt?…" in log
    assert "5EC4E7" not in row["error_message"] + log


def test_a_failed_run_is_tried_again_and_its_success_replaces_the_failure(
    ground: Ground, extra_method: Callable[..., str]
) -> None:
    tries = []

    def body(model: nn.Module, forget: Any, retain: Any, ctx: Any) -> nn.Module:
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError("first time")
        return model

    name = extra_method(body)
    ground.sweep(methods=[name], seeds=1)
    outcome = ground.sweep(methods=[name], seeds=1)
    assert (outcome.exit_code, list(ground.rows()["status"])) == (0, ["ok"])


def test_a_model_that_is_no_longer_finite_is_a_diverged_row_and_done(
    ground: Ground, extra_method: Callable[..., str]
) -> None:
    def body(model: nn.Module, forget: Any, retain: Any, ctx: Any) -> nn.Module:
        with torch.no_grad():
            next(iter(model.parameters())).fill_(float("nan"))
        return model

    name = extra_method(body)
    outcome = ground.sweep(methods=[name], seeds=1)
    row = ground.rows().iloc[0]
    assert (row["status"], outcome.exit_code) == ("diverged", 0)
    assert np.isnan(row["retain_acc"]) and np.isnan(row["gap"])
    assert sum(ground.sweep(methods=[name], seeds=1).counts.values()) == 0


def test_a_method_that_returns_no_model_is_told_so(ground: Ground, extra_method: Callable[..., str]) -> None:
    name = extra_method(lambda model, forget, retain, ctx: None)
    ground.sweep(methods=[name], seeds=1)
    assert "returned NoneType, expected the unlearned nn.Module" in ground.rows().iloc[0]["error_message"]


def test_out_of_memory_is_tried_twice_and_is_a_failed_row(
    ground: Ground, extra_method: Callable[..., str]
) -> None:
    def body(model: nn.Module, forget: Any, retain: Any, ctx: Any) -> nn.Module:
        raise torch.OutOfMemoryError("CUDA out of memory")

    name = extra_method(body)
    ground.sweep(methods=[name], seeds=1)
    row = ground.rows().iloc[0]
    assert (row["status"], row["error_type"], row["attempts"]) == ("failed", "oom", 2)


def test_a_failed_original_blocks_its_runs(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> nn.Module:
        raise ValueError("bad recipe")

    monkeypatch.setattr("harness.stages.fit", broken)
    outcome = ground.sweep(methods=["baseline", "jit"], seeds=1)
    rows = ground.rows()
    assert outcome.exit_code == 1
    assert list(rows["status"]) == ["blocked", "blocked"]
    assert rows["error_message"].str.contains("bad recipe").all()


def test_changed_data_are_never_mixed_with_old_results(ground: Ground) -> None:
    ground.sweep(seeds=1, methods=["baseline"])
    with pytest.raises(Misuse, match=r"data set digits is not the one .*another --store"):
        ground.sweep(settings={"limit": 400}, seeds=1, methods=["jit"])


def test_limited_data_say_so_in_every_row(ground: Ground) -> None:
    ground.sweep(settings={"limit": 400}, seeds=1, methods=["baseline"])
    row = ground.rows().iloc[0]
    assert not row["data_official"] and row["data_note"] == "limited to 400 per half"


def test_a_damaged_checkpoint_is_a_failed_row_that_says_what_to_do(ground: Ground) -> None:
    ground.sweep(seeds=1, methods=["baseline"])
    path = next(Path(ground.store.url, "models").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:100])
    outcome = ground.sweep(seeds=1, methods=["jit"])
    row = ground.rows().set_index("method").loc["jit"]
    assert outcome.exit_code == 1 and row["status"] == "failed"
    assert "delete it to have it made again" in row["error_message"]


def test_stored_outputs_reproduce_the_scores(ground: Ground) -> None:
    ground.sweep(methods=["jit"], seeds=1)
    row = ground.rows().iloc[0]
    halves = artifacts.load_outputs(Store(ground.store.url), row["run_id"])
    test = halves["test"]
    correct = test.logits.argmax(1) == test.labels
    assert len(halves["train"]) == 1000 and len(test) == 797
    assert 0 < correct.mean() <= 1
    forget = [correct[test.labels == 3].mean()]
    assert abs(forget[0] - (row["forget_acc"] + row["val_forget_acc"]) / 2) < 0.05
