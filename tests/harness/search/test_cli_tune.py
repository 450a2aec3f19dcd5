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


def test_each_search_keeps_its_preset_and_two_for_one_setting_are_not_mixed(run: Run, tmp_path: Path) -> None:
    assert run(*TUNE, "4")[0] == 0
    assert run(*TUNE, "2", "--sampler", "random")[0] == 0
    one, other = sorted((tmp_path / "s" / "presets").glob("*.toml"))
    code, _, err = run("plan", "small.toml", "--presets", "s/presets")
    assert code == 2 and one.name in err and other.name in err and "give one of" in err
    assert run("plan", "small.toml", "--presets", f"s/presets/{one.name}")[0] == 0
    assert run("plan", "small.toml", "--presets", str(one), "--presets", str(other))[0] == 2


BAD = '''
from dataclasses import dataclass

from methods.api import method


@method("hopeless", needs={"forget"}, scenarios={"full_class"}, search={"lr": {"low": 0.1, "high": 1.0}})
@dataclass(frozen=True)
class Hopeless:
    """Fails."""

    lr: float = 0.1

    def __call__(self, model, forget, retain, ctx):
        raise ValueError("never")
'''


def test_one_method_that_fails_does_not_end_the_searches_of_the_others(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(BAD)
    words = [*TUNE[:3], "hopeless,jit", *TUNE[4:], "11", "--plugin", "bad.py", "--json", "--plots", "p"]
    code, out, err = run(*words)
    assert code == 1 and "hopeless on digits/mlp full_class 0: the first 10 trials have all failed" in err
    (found,) = json.loads(out)
    assert found["label"].startswith("jit") and len(found["top"]) == 5 and found["front"] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trials", "0"], "--trials 0: expected at least 1"),
        (["--trials", "5", "--target", "3"], "nothing that is reported is searched on"),
        (["--trials", "5", "--objective", "best"], "unknown objective 'best'"),
        (["--trials", "5", "--space", "none.toml"], "no such file"),
        (["--trials", "5", "--plots", "/proc/x"], "--plots /proc/x"),
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


def test_where_nothing_can_be_searched_a_dry_run_says_so_too(run: Run) -> None:
    for words in (["--method", "jit,neggrad", "--scenario", "random"], ["--method", ""]):
        code, out, err = run("tune", "small.toml", *words, "--dry-run")
        assert code == 2 and not out and ("nothing to search" in err or "names none" in err)


def test_a_file_of_spaces_about_other_methods_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "ssd.toml").write_text(
        "[[space]]\nmethod = 'ssd'\nsource = 'me'\n[space.search]\nlam = [0.1, 1]\n"
    )
    code, _, err = run(*TUNE, "2", "--space", "ssd.toml")
    assert code == 2 and "is about ssd; expected a [[space]] row for jit" in err


def test_the_cost_of_a_search_is_told_from_its_own_trials(run: Run) -> None:
    assert "cost: unknown" in run(*TUNE, "3", "--dry-run")[1]
    run(*TUNE, "3")
    assert "device-seconds" in run(*TUNE, "500", "--dry-run")[1].rpartition("cost:")[2]


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
