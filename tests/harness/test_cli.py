"""The command line as a user types it: every misuse is one message and exit code 2, never a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

SUITE = """
seeds = 1
models = ["mlp"]
methods = ["baseline", "retrain", "jit"]
[[task]]
dataset = "digits"
scenario = "full_class"
targets = ["3"]
"""
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(efface: Run, tmp_path: Path) -> Run:
    """Type a command beside a small suite: (exit code, stdout, stderr)."""
    (tmp_path / "small.toml").write_text(SUITE)
    return efface


@pytest.fixture
def swept(run: Run) -> Run:
    assert run("sweep", "small.toml", "--on", "inline", "--store", "s")[0] == 0
    return run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plan", "dmeo"], "unknown suite 'dmeo'; did you mean 'demo'"),
        (["plan", "none.toml"], "no such file"),
        (["plan", "demo", "--methods", "jti"], "has no method 'jti'; did you mean 'jit'"),
        (["plan", "demo", "--targets", "4"], "has no target '4'"),
        (["plan", "demo", "--models", "vgg"], "has no model 'vgg'"),
        (["plan", "demo", "--seeds", "x"], "--seeds x: expected numbers such as 0,1,2 or 0-4"),
        (["plan", "demo", "--simulate", "nodes=16"], "--simulate nodes=16: expected both nodes and gpus"),
        (["plan", "demo", "--seeds", "7"], "has no seed 7"),
        (["sweep", "small.toml", "--on", "mars"], "--on mars: expected inline, local, auto or an address"),
        (["sweep", "small.toml", "--on", "ray://head:10001"], "expected an address such as head:6379"),
        (["sweep", "small.toml", "--workers", "0"], "--workers 0: expected a number > 0"),
        (["sweep", "small.toml", "--time-limit", "-1"], "--time-limit -1"),
        (["sweep", "small.toml", "--device", "tpu"], "expected auto, cpu or cuda"),
        (["sweep", "small.toml", "--limit", "0"], "expected numbers > 0"),
        (["sweep", "small.toml", "--plugin", "no.py"], "no.py: no such file"),
        (["tables", "small.toml"], "efface-store is no efface store"),
        (["tables", "demo", "--format", "pdf"], "--format pdf: expected console"),
        (["status", "--store", "nowhere"], "nowhere is no efface store"),
        (["list", "method"], "unknown list 'method'; did you mean 'methods'"),
        (["check", "--methods", "jti"], "unknown name 'jti'; did you mean 'jit'"),
    ],
)
def test_a_misuse_is_one_message_and_exit_code_2(run: Run, words: list[str], message: str) -> None:
    code, out, err = run(*words)
    assert code == 2
    assert message in err
    assert "Traceback" not in out + err
    assert len(err.strip().splitlines()) == 1


def test_a_dashboards_address_is_not_that_of_a_cluster(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    code, _, err = run("sweep", "small.toml", "--store", "s")
    assert code == 2
    assert "http://127.0.0.1:8265 (--on or RAY_ADDRESS): expected an address such as head:6379" in err
    assert run("sweep", "small.toml", "--store", "s", "--on", "inline")[0] == 0


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_module", "does not import (line 1): ModuleNotFoundError"),
        ("x = (", "does not import: SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        (
            "from methods.api import method\nfrom dataclasses import dataclass\n"
            "@method('jit', needs={'forget'}, scenarios={'random'})\n@dataclass(frozen=True)\nclass A: pass",
            "the name 'jit' is taken by methods.jit.JiT",
        ),
        (
            "from methods.api import method\nfrom dataclasses import dataclass\n"
            "@method('retrain', needs={'forget'}, scenarios={'random'})\n"
            "@dataclass(frozen=True)\nclass A: pass",
            "'retrain' is reserved",
        ),
        (
            "from methods.api import method\nfrom dataclasses import dataclass\n"
            "@method('a', needs={'labels'}, scenarios={'random'})\n@dataclass(frozen=True)\nclass A: pass",
            "needs has ['labels'], expected a subset of ['class_id', 'forget', 'retain']",
        ),
    ],
)
def test_a_plugin_that_cannot_be_used_says_why(run: Run, tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "mine.py").write_text(source)
    code, _, err = run("plan", "small.toml", "--plugin", "mine.py")
    assert code == 2 and message in err and "Traceback" not in err


def test_plan_shows_what_is_missing_and_then_that_nothing_is(swept: Run) -> None:
    _, out, _ = swept("plan", "small.toml", "--store", "new")
    assert "0 of 3 runs are done." in out
    code, out, _ = swept("plan", "small.toml", "--store", "s")
    assert code == 0 and "3 of 3 runs are done." in out
    facts = json.loads(swept("plan", "small.toml", "--store", "s", "--json")[1])
    assert (facts["runs"], facts["done"], facts["missing"]) == (3, 3, {})


def test_the_cost_of_a_plan_comes_from_measured_rows(swept: Run, tmp_path: Path) -> None:
    (tmp_path / "more.toml").write_text(SUITE.replace("seeds = 1", "seeds = 4"))
    _, out, _ = swept("plan", "more.toml", "--store", "s")
    assert "of one worker, from the medians of 5 measured rows" in out


def test_a_plan_is_simulated_on_what_was_measured(swept: Run, tmp_path: Path) -> None:
    (tmp_path / "longer.toml").write_text(SUITE.replace("seeds = 1", "seeds = 3"))
    words = ["plan", "longer.toml", "--store", "s", "--simulate", "workers=2"]
    found = json.loads(swept(*words, "--json")[1])
    assert found["simulation"]["jobs"] == found["simulation"]["measured_jobs"] > 0
    assert "simulated on 2 workers" in swept(*words)[1]


def test_planning_leaves_no_trace(run: Run, tmp_path: Path) -> None:
    run("plan", "small.toml", "--store", "new")
    assert not (tmp_path / "new").exists()


def test_sweep_tables_status_and_show_agree(swept: Run) -> None:
    code, out, _ = swept("tables", "small.toml", "--store", "s", "--format", "csv")
    assert code == 0
    frame = pd.read_parquet("s/rows")
    jit = frame[frame["method"] == "jit"].iloc[0]
    assert f"{100 * jit['retain_acc']}" in out
    assert "run ok" in swept("status", "--store", "s")[1]
    shown = swept("show", jit["run_id"][:8], "--store", "s")[1]
    assert jit["run_id"] in shown and "to run it alone: efface sweep" in shown
    assert "sigma = 0.5  default of the method" in shown and "--seeds 0" in shown
    assert f"({jit['run_id']})" in shown.partition("\nlog\n")[2]
    baseline = frame[frame["method"] == "baseline"].iloc[0]
    assert "log: none: this run had nothing to log" in swept("show", baseline["run_id"], "--store", "s")[1]


def test_an_interrupted_name_finds_the_run_or_says_that_none_is_there(swept: Run) -> None:
    code, _, err = swept("show", "zzzz", "--store", "s")
    assert code == 2 and "no run 'zzzz'" in err


def test_a_failed_run_makes_exit_code_1_and_says_how_to_see_it(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        "from dataclasses import dataclass\nfrom methods.api import method\n"
        "@method('bad', needs={'forget'}, scenarios={'full_class'})\n@dataclass(frozen=True)\nclass Bad:\n"
        "    def __call__(self, model, forget, retain, ctx):\n        raise RuntimeError('by design')\n"
    )
    (tmp_path / "small.toml").write_text(SUITE.replace('"jit"', '"jit", "bad"'))
    command = ["small.toml", "--plugin", "bad.py", "--on", "inline", "--store", "s"]
    code, out, _ = run("sweep", *command)
    assert code == 1
    assert "by design" in out and "efface show" in out
    row = pd.read_parquet("s/rows").set_index("method").loc["bad"]
    assert "by design" in run("show", row["run_id"], "--store", "s")[1]
    assert "by design" in run("tables", "small.toml", "--plugin", "bad.py", "--store", "s")[1]


def test_a_read_only_store_is_refused(run: Run) -> None:
    assert run("status", "--store", "/proc/efface")[0] == 2
    code, _, err = run("sweep", "small.toml", "--on", "inline", "--store", "/proc/efface")
    assert code == 2 and "give a writable folder with --store" in err and "Traceback" not in err


def test_a_folder_with_other_things_is_left_alone(run: Run, tmp_path: Path) -> None:
    code, _, err = run("sweep", "small.toml", "--on", "inline", "--store", ".")
    assert code == 2 and "other things in it" in err
    assert [p.name for p in tmp_path.iterdir()] == ["small.toml"]


@pytest.mark.parametrize(
    ("data_dir", "message"),
    [(None, "--data-dir"), ("missing", "missing"), (".", "cifar-10-batches-py")],
)
def test_missing_data_are_refused_before_anything_starts(
    run: Run, tmp_path: Path, data_dir: str | None, message: str
) -> None:
    (tmp_path / "c.toml").write_text(SUITE.replace("digits", "cifar10").replace('"3"', '"frog"'))
    words = [
        "sweep",
        "c.toml",
        "--on",
        "inline",
        "--store",
        "s",
        *(["--data-dir", data_dir] if data_dir else []),
    ]
    code, _, err = run(*words)
    assert code == 2 and message in err and "Traceback" not in err


def folder_of_digits(root: Path) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number in range(120):
        if digits.target[number] < 3:
            place = root / f"digit{digits.target[number]}"
            place.mkdir(parents=True, exist_ok=True)
            pixels = np.round(digits.images[number] * 255 / 16).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{number}.png")


def test_moving_the_data_does_not_rename_a_run(run: Run, tmp_path: Path) -> None:
    """Two folders with the same images give the same ids: the second sweep finds everything done."""
    (tmp_path / "f.toml").write_text(SUITE.replace("digits", "imagefolder:pets").replace('"3"', '"digit1"'))
    for place in ("here", "there"):
        folder_of_digits(tmp_path / place / "pets")
    words = ["sweep", "f.toml", "--on", "inline", "--store", "s", "--data-dir"]
    assert run(*words, "here")[0] == 0
    code, _, err = run(*words, "there")
    assert code == 0 and "nothing to do; 3 runs done before" in err
    rows = pd.read_parquet("s/rows")
    assert not rows.loc[rows["status"] == "ok", "data_official"].any()


def test_other_images_under_the_same_name_are_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text(SUITE.replace("digits", "imagefolder:pets").replace('"3"', '"digit1"'))
    folder_of_digits(tmp_path / "here" / "pets")
    words = ["sweep", "f.toml", "--on", "inline", "--store", "s", "--data-dir", "here"]
    assert run(*words)[0] == 0
    next((tmp_path / "here" / "pets" / "digit1").iterdir()).unlink()
    code, _, err = run(*words)
    assert code == 2 and "is not the one that" in err


def test_a_target_that_the_folder_lacks_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text(SUITE.replace("digits", "imagefolder:pets").replace('"3"', '"cat"'))
    folder_of_digits(tmp_path / "here" / "pets")
    code, _, err = run("sweep", "f.toml", "--on", "inline", "--store", "s", "--data-dir", "here")
    assert code == 2 and "has no target 'cat'; it has digit0, digit1, digit2" in err


@pytest.mark.parametrize(
    "what", ["methods", "datasets", "models", "scenarios", "metrics", "suites", "columns"]
)
def test_everything_that_can_be_named_is_listed(run: Run, what: str) -> None:
    code, out, _ = run("list", what)
    assert code == 0 and len(out.splitlines()) > 2
    assert json.loads(run("list", what, "--json")[1])


def test_doctor_finds_the_demo_in_order_and_cifar_missing(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("doctor", "demo")
    assert code == 0 and "verified, 1,000 + 797 images, 10 classes" in out
    (tmp_path / "c.toml").write_text(SUITE.replace("digits", "cifar10").replace('"3"', '"frog"'))
    code, out, _ = run("doctor", "c.toml")
    assert code == 1 and "MISSING cifar10" in out and "--data-dir" in out


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['efface', '--help']\nfrom harness import cli\n"
        "try: cli.main()\nexcept SystemExit: pass\n"
        "heavy = ('torch', 'ray', 'pandas', 'pyarrow', 'sklearn', 'optuna', 'timm')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


def test_inline_needs_neither_ray_nor_optuna(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(SUITE)
    code = (
        "import sys\nfor name in ('ray', 'optuna'): sys.modules[name] = None\n"
        "sys.argv = ['efface', 'sweep', 'small.toml', '--on', 'inline', '--store', 's']\n"
        "from harness import cli; cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(pd.read_parquet(tmp_path / "s" / "rows")) == 5
