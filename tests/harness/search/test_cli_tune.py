"""The verb `tune` as a user types it, and what it leaves for other verbs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.tasks.make_trees import cifar10_tree

SUITE = """
seeds = 1
models = ["mlp"]
methods = ["baseline", "retrain", "jit"]
[[task]]
dataset = "digits"
scenario = "full_class"
targets = ["3"]
"""
TUNE = ("tune", "small.toml", "--method", "jit", "--on", "inline", "--store", "s", "--trials")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(efface: Run, tmp_path: Path) -> Run:
    """Type a command beside a small suite: (exit code, stdout, stderr)."""
    (tmp_path / "small.toml").write_text(SUITE)
    return efface


def test_a_search_ends_in_presets_pictures_and_a_table_of_the_best(run: Run, tmp_path: Path) -> None:
    code, out, _ = run(*TUNE, "8", "--plots", "p")
    assert code == 0
    assert "8 trials" in out and "gap_to_retrain on tuning half" in out and "importance" in out
    assert "against what is in force" in out and "lr:" in out
    kinds = {path.name.split("-")[1] for path in (tmp_path / "p").glob("*.png")}
    assert kinds == {"history", "slice", "contour", "importances"}
    assert all(path.stat().st_size > 5000 for path in (tmp_path / "p").glob("*.png"))


def test_presets_are_used_when_asked_for_and_tables_say_tuned(run: Run) -> None:
    found = json.loads(run(*TUNE, "6", "--json")[1])[0]
    best = found["best"]["params"]
    without = json.loads(run("plan", "small.toml", "--store", "s", "--json")[1])
    assert run("sweep", "small.toml", "--on", "inline", "--store", "s", "--presets", "s/presets")[0] == 0
    rows = pd.read_parquet("s/rows").query("method == 'jit' and kind == 'run'")
    assert [json.loads(text) for text in rows["params"]] == [best]
    assert rows["params_origin"].tolist() == ["tuned"]
    with_presets = run("tables", "small.toml", "--store", "s", "--presets", "s/presets")[1]
    assert "tuned" in with_presets
    left = json.loads(run("plan", "small.toml", "--store", "s", "--json")[1])
    assert without != left  # the references are done, the run with other parameters is not
    assert "default" not in with_presets


def test_a_search_on_two_classes_is_judged_by_both(run: Run) -> None:
    code, out, err = run(*TUNE, "3", "--target", "0,4", "--seeds", "100")
    assert code == 0, err
    assert "jit on digits/mlp full_class 0,4" in out
    trials = pd.read_parquet("s/trials")
    assert set(trials["target"]) == {"0,4"} and [len(ids.split(",")) for ids in trials["runs"]] == [2, 2, 2]
    rows = pd.read_parquet("s/rows").query("kind == 'run'")
    assert set(zip(rows["method"], rows["target"], strict=True)) == {
        (method, target) for method in ("baseline", "retrain") for target in "04"
    }


def test_a_dry_run_says_space_budget_objective_and_cost_and_runs_nothing(run: Run, tmp_path: Path) -> None:
    code, out, _ = run(*TUNE, "8", "--dry-run")
    assert code == 0 and not (tmp_path / "s").exists()
    for part in ("lr: 0.001 … 10 (log-uniform)", "budget: 8 trials", "objective: gap_to_retrain", "cost:"):
        assert part in out
    assert "digits/mlp full_class 0" in out  # not 3, which the suite reports


def test_figures_7_and_8_can_be_drawn_from_trials(run: Run, tmp_path: Path) -> None:
    run(*TUNE, "6")
    for name, column in (("7", "retain_acc"), ("8", "mia")):
        code, out, _ = run("figures", "small.toml", name, "--store", "s", "--to", "f", "--format", "png")
        assert code == 0 and f"small-trials-{column}.png" in out
    numbers = pd.read_csv(tmp_path / "f" / "small-trials-mia.csv")
    assert len(numbers) == 6 and numbers["mia"].between(0, 1).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trials", "0"], "--trials 0: expected at least 1"),
        (["--trials", "5", "--target", "3"], "nothing that is reported is searched on"),
        (["--trials", "5", "--objective", "best"], "unknown objective 'best'"),
        (["--trials", "5", "--space", "none.toml"], "no such file"),
        (["--trials", "5", "--concurrent", "0"], "expected a number > 0"),
        (["--trials", "5", "--scenario", "random"], "suite small has no 'random'"),
    ],
)
def test_a_misuse_is_one_message_and_exit_code_2(run: Run, words: list[str], message: str) -> None:
    code, _, err = run("tune", "small.toml", "--method", "jit", "--on", "inline", "--store", "s", *words)
    assert code == 2 and message in err and "Traceback" not in err


def test_of_several_searches_those_that_are_not_defined_are_left_out_with_a_reason(run: Run) -> None:
    code, out, err = run(
        *("tune", "small.toml", "--method", "jit,neggrad", "--scenario", "full_class,random"),
        *("--trials", "2", "--on", "inline", "--store", "s", "--json"),
    )
    assert code == 0 and err.count("left out:") == 2
    assert [found["label"].split()[0] for found in json.loads(out)] == ["jit", "neggrad"]


def test_presets_that_are_not_there_say_what_was_expected(run: Run) -> None:
    code, _, err = run("plan", "small.toml", "--presets", "nowhere")
    assert code == 2 and "--presets nowhere: no .toml file there" in err


def test_the_columns_of_trials_are_documented(run: Run) -> None:
    out = run("list", "trials")[1]
    assert "device_seconds" in out and "search_id" in out


def test_a_search_fetches_its_data_from_where_a_sweep_would(
    efface: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "small.toml").write_text(
        SUITE.replace("digits", "cifar10").replace("mlp", "vgg_mini").replace('"3"', '"cat"')
    )
    cifar10_tree(tmp_path / "there")
    tried = efface(*TUNE, "1", "--data", "there", "--target", "frog", "--store-patience", "3")
    assert tried[0] == 0, tried
    assert [path.parent.name for path in (tmp_path / "cache").rglob("test_batch")] == ["cifar-10-batches-py"]
    trial = pd.read_parquet("s/trials").iloc[0]
    assert (trial["dataset"], trial["target"]) == ("cifar10", "frog") and trial["data_digest"]
    twice = efface(*TUNE, "1", "--data", "there", "--data-dir", "there")
    assert twice[0] == 2 and "expected one of them" in twice[2]
