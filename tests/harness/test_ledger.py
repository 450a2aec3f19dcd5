"""The ledger page is current, complete, and measures what it says it measures."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from harness import ledger
from harness.errors import Misuse
from harness.registry import Catalogue


def test_the_page_in_the_repository_is_current(catalogue: Catalogue) -> None:
    found = (ledger.METHODS / "README.md").read_text(encoding="utf-8")
    assert found == ledger.page(catalogue), "type: make ledger"


def test_every_quirk_of_released_code_is_explained(catalogue: Catalogue) -> None:
    said = {(row["method"], row["field"]) for row in ledger.read_switches()}
    quirks = {(name, field) for name, cls in catalogue.methods.items() for field in cls.info.reference}
    assert quirks <= said
    assert all(field in catalogue.defaults(method) for method, field in said)


def test_a_row_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "ledger.toml"
    file.write_text('[[switch]]\nmethod = "jit"\nfield = "mode"\npaper = "-"\ncode = "-"\nwhy = "-"\n')
    with pytest.raises(Misuse, match=r"switch 1: keys .*why.*, expected method, field, paper, code, note"):
        ledger.read_switches(file)


def rows(params: dict[str, object], *scores: tuple[float, float, float]) -> list[dict[str, object]]:
    """Runs of method m for seeds 0, 1, …, each with retain accuracy, forget accuracy and gap."""
    common = {"method": "m", "status": "ok", "target": "3", "params": json.dumps(params)}
    task = {"dataset": "digits", "model": "mlp", "scenario": "full_class"}
    return [
        common | task | {"seed": seed, "retain_acc": retain, "forget_acc": forget, "gap": gap}
        for seed, (retain, forget, gap) in enumerate(scores)
    ]


def test_the_effect_of_a_switch_is_the_mean_of_paired_differences() -> None:
    base, switched = {"mode": "eval", "lr": 1.0}, {"mode": "train", "lr": 1.0}
    frame = pd.DataFrame(
        rows(base, (0.9, 0.1, 4.0), (0.8, 0.3, 6.0))
        + rows(switched, (0.7, 0.0, 9.0), (0.7, 0.3, 7.0))
        + rows({"mode": "train", "lr": 2.0}, (0.5, 0.5, 5.0))  # two fields differ: no effect of one
    )
    frame.loc[3, "status"] = "diverged"
    found = ledger.measure_effects(frame, {"m": json.dumps(base)}).splitlines()
    assert found[0] == "method,field,d_retain,d_forget,d_gap,pairs,diverged,task"
    assert found[1:] == ['m,mode,-20.0,-10.0,5.0,1,1,"On digits, mlp, full_class, targets 3"']


def test_nothing_to_measure_is_said() -> None:
    with pytest.raises(Misuse, match="run `efface sweep switches`"):
        ledger.measure_effects(pd.DataFrame({"method": [], "params": []}), {})


def test_the_best_rate_of_each_combination_is_chosen_on_the_tuning_half_and_reported_on_the_other() -> None:
    switches = {"param_detach_perturbed": True, "param_clip": "none", "param_mode": "eval"}
    common = {"status": "ok", "dataset": "digits", "model": "mlp", "scenario": "full_class", "target": "3"}
    common |= {"profile": "corrected", "precision": "fp32", "count": None, "train_seed": 0, "recipe": "r"}
    common |= {"deterministic": False, "data_official": True, "data_note": None, "param_accumulate": False}
    perfect = {"val_retain_acc": 1.0, "val_forget_acc": 0.0, "val_mia": 0.0}
    runs = [common | switches | perfect | {"method": "retrain", "split_seed": 0}]
    for lr, val_forget, forget in ((0.1, 0.6, 0.0), (1.0, 0.3, 0.9)):
        scores = {"retain_acc": 1.0, "forget_acc": forget, "mia": 0.0, "gap": 30.0}
        tuned = {"method": "jit", "split_seed": 0, "param_lr": lr, "param_sigma": 0.5}
        runs.append(common | switches | perfect | scores | tuned | {"val_forget_acc": val_forget})
    head, line = ledger.measure_ablation(pd.DataFrame(runs)).splitlines()
    found = dict(zip(head.split(","), line.split(",", head.count(",")), strict=True))
    assert (found["lr"], found["forget"], found["runs"]) == ("1.0", "90.0", "1")
    assert found["task"] == '"digits full_class, targets 3"'
