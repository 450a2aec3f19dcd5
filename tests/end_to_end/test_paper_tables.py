"""Every table of the paper, from the official data layouts to the comparison, with small stand-ins."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness import results
from harness.budget import table_facts
from harness.compare import compare_with, summaries
from harness.errors import Misuse
from harness.execute.inline import Inline
from harness.plan import Plan, make_plan
from harness.presets import SUITES
from harness.registry import Catalogue
from harness.render import render_comparisons
from harness.selection import Selection
from harness.spec import scenario_family
from harness.store import Store
from harness.suite import Suite, expand
from harness.suite_file import parse_suite
from harness.sweep import Listener, check_data, sweep
from harness.words import wanted_frame
from harness.workspace import Settings, Workspace, read_data
from tests.tasks import make_trees

TABLES = ("1", "2a", "2b", "3a", "3b", "4a", "4b", "5a", "5b", "6", "7", "8", "9", "10", "11")
TASK = {"dataset": "digits", "scenario": "full_class", "targets": ["3"]}
STAND_INS = {"vgg11": "vgg_mini", "resnet18": "resnet_mini", "vit_b16": "vit_mini", "vit_l16": "vit_mini"}
SOME = ("baseline", "retrain", "bdsh", "jit")
QUICK: dict[str, dict[str, Any]] = {
    "gkt": {"pseudo_batches": 1, "student_steps": 1, "batch_size": 8, "threshold": 1.0},  # every image passes
    "emmn": {"copies": 1, "forget_steps": 1, "retain_steps": 1, "max_steps": 2},
    "unsir": {"noise_images": 4, "copies": 1, "noise_steps": 1},
    "jit": {"samples": 2},
    "bdsh": {"epochs": 1},
    "finetune": {"epochs": 1},
    "amnesiac": {"epochs": 1},
}


def miniature(name: str, catalogue: Catalogue) -> Suite:
    """The shipped suite at one target and one seed, with small models and few steps.

    All methods run where a scenario comes first, some of them elsewhere.
    """
    raw = tomllib.loads((SUITES / f"{name}.toml").read_text(encoding="utf-8"))
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    scenarios: set[str] = set()
    for row in raw["task"]:
        if scenario_family(row["scenario"]) in scenarios:
            row["methods"] = [method for method in row["methods"] if method in SOME]
        scenarios.add(scenario_family(row["scenario"]))
        row["models"] = [STAND_INS[model] for model in row["models"]]
        if "targets" in row:
            row["targets"] = ["0"] if row["dataset"] == "imagenet" else row["targets"][:1]
        if "count" in row:
            row["count"] = 1
        row |= {"seeds": 1, "train_seeds": 1}
        kept = rows.setdefault((row["dataset"], row["models"][0], row["scenario"]), row)
        kept["table"] = [*dict.fromkeys([*kept["table"], *row["table"]])]
    raw |= {"seeds": 1, "train_seeds": 1, "task": [*rows.values()], "params": QUICK}
    return parse_suite(name, raw, catalogue)


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data folders in the official layouts, of few images."""
    folder: Path = tmp_path_factory.mktemp("data")
    make_trees.cifar10_tree(folder)
    make_trees.cifar100_tree(folder, train_each=3)  # one is set aside where epochs are chosen by it
    make_trees.pins_tree(folder, people=12)
    make_trees.imagenet_tree(folder, classes=3)
    return folder


def run_all(suite: Suite, catalogue: Catalogue, store: Store, data_dir: Path, **only: Any) -> Plan:
    plan = make_plan(suite, expand(suite, catalogue, Selection(**only)), store, catalogue)
    check_data(plan, store, lambda name: read_data(catalogue, name, str(data_dir)))
    told = Settings(store.url, data_dir=str(data_dir))
    outcome = sweep(plan, store, catalogue, lambda: Inline(Workspace(told, catalogue)), Listener())
    assert not outcome.failures, outcome.failures[0][1]["error_message"]
    return plan


@pytest.mark.parametrize(("name", "methods"), [("paper", ()), ("paper_corrected", SOME)])
def test_every_table_runs_from_sweep_to_comparison(
    name: str, methods: tuple[str, ...], catalogue: Catalogue, trees: Path, tmp_path: Path
) -> None:
    suite = miniature(name, catalogue)
    store = Store.create(str(tmp_path / "s"))
    plan = run_all(suite, catalogue, store, trees, methods=methods)
    found = compare_with("published", results.load(store), wanted_frame(plan), suite)
    assert {one.table for one in found} == set(TABLES)
    lines = summaries(found)
    assert len(lines) == len(TABLES) + 1  # both readings of Table 6
    assert not any("not run" in line for line in lines)
    assert all("not the official data" in line for line in lines)
    five = next(one for one in found if one.table == "5a")
    assert all(c.difference is not None for c in five.cells if c.column.key == "mia")
    for style in ("console", "markdown", "latex", "csv"):
        text = render_comparisons(found, style)
        assert "Table 9" in text or "\n9," in text
    wanted = expand(suite, catalogue, Selection(methods=methods))
    again = make_plan(suite, wanted, Store.open(store.url), catalogue)
    assert not again.jobs and {row["done"] - row["runs"] for row in table_facts(again)} == {0}


SMALL = """
profile = "reference"
retrain_start = "warm"
models = ["mlp"]
methods = ["baseline", "retrain", "jit"]
[[task]]
dataset = "digits"
scenario = "full_class"
targets = ["3"]
table = ["9", "2b"]
[[task]]
dataset = "digits"
scenario = "random"
count = 100
table = ["4a"]
"""
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def typed(efface: Run, tmp_path: Path) -> Run:
    (tmp_path / "small.toml").write_text(SMALL)
    return lambda *words: efface(*words, "--store", "s")


def test_sweep_plan_and_tables_keep_to_the_table_that_is_asked_for(typed: Run) -> None:
    assert typed("sweep", "small.toml", "--on", "inline", "--table", "4a")[0] == 0
    rows = pd.read_parquet("s/rows")
    assert set(rows.loc[rows["kind"] == "run", "scenario"]) == {"random"}
    facts = json.loads(typed("plan", "small.toml", "--json")[1])
    assert [(row["table"], row["runs"], row["done"]) for row in facts["tables"]] == [
        ("2b", 3, 0),
        ("4a", 3, 3),
        ("9", 3, 0),
    ]
    code, out, _ = typed("tables", "small.toml", "--table", "4a", "--against", "published")
    assert code == 0 and "Table 4a · digits · mlp · random" in out and "Table 9" not in out
    assert "of 9 scores agree with the paper. Careful: not the paper's setting" in out
    assert "full_class" not in typed("tables", "small.toml", "--table", "4a")[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plan", "small.toml", "--table", "7"], "--table: suite small has no table '7'"),
        (["tables", "small.toml", "--against", "jit"], "--against jit: expected published, or the path"),
        (["tables", "small.toml", "--against", "no.csv"], "--against no.csv: no such file"),
        (["tables", "demo", "--against", "published"], "no [[task]] of suite demo says which table"),
    ],
)
def test_a_misuse_is_one_message(typed: Run, tmp_path: Path, words: list[str], message: str) -> None:
    Store.create(str(tmp_path / "s"))
    code, out, err = typed(*words)
    assert code == 2 and message in err and "Traceback" not in out + err


def test_limited_rows_never_mix_with_whole_ones(typed: Run) -> None:
    """One store holds one version of a data set: with another --limit the sweep is refused, done or not."""
    sweep_random = ["sweep", "small.toml", "--on", "inline", "--table", "4a"]
    assert typed(*sweep_random, "--limit", "300")[0] == 0
    before = pd.read_parquet("s/rows")
    assert set(before["data_note"]) == {"limited to 300 per half"} and not before["data_official"].any()
    for limit in ([], ["--limit", "200"]):
        for table in ("4a", "9"):  # what is done, and what is missing
            words = ["sweep", "small.toml", "--on", "inline", "--table", table, *limit]
            code, _, err = typed(*words)
            assert code == 2 and "give the same --data-dir and --limit as before, or another --store" in err
    assert len(pd.read_parquet("s/rows")) == len(before)
    out = typed("tables", "small.toml", "--table", "4a", "--against", "published")[1]
    assert "Not the official data set: limited to 300 per half." in out and "not the official data." in out


# -------------------- classes by number


def test_a_class_can_be_named_by_its_number_where_only_the_folder_has_names(
    catalogue: Catalogue, trees: Path, tmp_path: Path
) -> None:
    def forgotten(target: str) -> pd.Series:
        raw = {"models": ["mlp"], "methods": ["baseline"], "task": [{**TASK, "dataset": "pins"}]}
        raw["task"][0]["targets"] = [target]  # type: ignore[index]
        store = Store.create(str(tmp_path / target))
        run_all(parse_suite("p", raw, catalogue), catalogue, store, trees)
        return results.load(store).iloc[0]

    by_number, by_name = forgotten("1"), forgotten("Person 001")
    assert by_number["split_digest"] == by_name["split_digest"] and by_number["target"] == "1"


def test_a_number_outside_the_classes_is_refused(catalogue: Catalogue, trees: Path, tmp_path: Path) -> None:
    raw = {"models": ["mlp"], "methods": ["baseline"], "task": [{**TASK, "dataset": "pins"}]}
    raw["task"][0]["targets"] = ["12"]  # type: ignore[index]
    with pytest.raises(Misuse, match="data set pins has no target '12'"):
        run_all(parse_suite("p", raw, catalogue), catalogue, Store.create(str(tmp_path / "s")), trees)
