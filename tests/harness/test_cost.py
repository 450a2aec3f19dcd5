"""What a plan costs: measured where a store has rows, else estimated, and for each table of a paper."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import replace

import pytest

from harness import flops
from harness.budget import cost_facts, cost_line, table_facts, table_lines
from harness.cost import FOLDER, PASSES, STEP, Cost, load_facts, method_images, sizes
from harness.plan import Plan, make_plan
from harness.registry import Catalogue
from harness.selection import Selection
from harness.spec import Task
from harness.suite import Wanted, expand
from harness.suite_file import load_suite
from harness.words import plan_text

TABLES = ("1", "2a", "2b", "3a", "3b", "4a", "4b", "5a", "5b", "6", "7", "8", "9", "10", "11")


def asked(catalogue: Catalogue, name: str, *tables: str) -> list[Wanted]:
    found = expand(load_suite(name, catalogue), catalogue, Selection(tables=tables))
    return [item for item in found if isinstance(item, Wanted)]


def planned_paper(catalogue: Catalogue, name: str = "paper", *tables: str) -> Plan:
    suite = load_suite(name, catalogue)
    return make_plan(suite, expand(suite, catalogue, Selection(tables=tables)), None, catalogue)


def test_a_plan_says_runs_models_and_hours_of_each_table(catalogue: Catalogue) -> None:
    plan = planned_paper(catalogue)
    rows = {row["table"]: row for row in table_facts(plan)}
    assert list(rows) == list(TABLES)
    counts = {t: (rows[t]["runs"], rows[t]["originals"], rows[t]["retrains"]) for t in ("1", "10", "5a", "6")}
    assert counts["1"] == (111, 1, 10) and counts["10"] == (555, 1, 50)
    assert counts["5a"][1:] == (1, 0) and counts["6"][1:] == (1, 20)
    assert all(row["gpu_hours"] > 0 and row["done"] == 0 for row in rows.values())
    text = plan_text(plan, "s")
    assert "TFLOPS sustained in fp32 (assumed, not measured)" in text and "GPU-hours" in text
    assert len(table_lines(plan)) == len(TABLES) + 4
    assert rows["6"]["setting"] == "cifar100 · vgg11 · worst_case:drop_rest, worst_case"
    assert "measured rows" not in text and rows["9"]["setting"] in text


def test_what_tables_share_is_counted_once_in_all(catalogue: Catalogue) -> None:
    plan = planned_paper(catalogue, "paper", "9", "2b")
    assert {row["table"]: row["runs"] for row in table_facts(plan)} == {"2b": 111, "9": 555}
    last = table_lines(plan)[-2].split()
    assert last[:3] == ["all", "555", "0"] and last[3:5] == ["1", "50"]
    nine = next(row for row in table_facts(plan) if row["table"] == "9")
    assert cost_facts(plan)["estimated_hours"] == pytest.approx(nine["gpu_hours"])


def test_an_estimate_is_operations_times_images_over_throughput(catalogue: Catalogue) -> None:
    cost, facts = Cost([], catalogue), load_facts()
    specs = {wanted.spec.method: wanted.spec for wanted in asked(catalogue, "paper", "2b")}
    each = facts.flops["vgg11", 32] / (facts.tflops["fp32"] * 1e12)
    scored = 50_000 + 10_000
    assert cost.estimate(specs["finetune"]) == pytest.approx((STEP * 5 * 49_500 + scored) * each)
    assert cost.estimate(specs["jit"]) == pytest.approx((500 * (STEP + 25) + scored) * each)
    assert cost.estimate(specs["baseline"]) == 0
    original = specs["jit"].original  # 210 epochs, each judged on the test images
    assert cost.estimate(original) == pytest.approx((210 * (STEP * 50_000 + 10_000) + scored) * each)


def test_a_measured_median_wins_over_an_estimate(catalogue: Catalogue) -> None:
    plan = planned_paper(catalogue, "paper", "2b")
    row = {"kind": "run", "dataset": "cifar100", "model": "vgg11", "method": "jit"}
    plan.cost = Cost([{**row, "seconds_total": s} for s in (1.0, 7.0, 100.0)], catalogue)
    spec = next(wanted.spec for wanted in plan.wanted if wanted.spec.method == "jit")
    assert plan.cost.of(spec) == 7.0
    job = next(job for job in plan.jobs if job.id == spec.id)
    assert plan.estimate(replace(job, expected_seconds=plan.cost.of(spec))) == 7.0


def test_what_was_neither_measured_nor_counted_has_no_cost(planned: Callable[..., Plan]) -> None:
    plan = planned()
    assert cost_line(plan).startswith("Cost: not known: ")
    assert cost_facts(plan)["unknown_jobs"] > 0


def test_every_method_has_a_number_of_passes(catalogue: Catalogue) -> None:
    n = sizes(
        Task("cifar100", "vgg11", "full_class", "sea", None, "reference"), load_facts().datasets["cifar100"]
    )
    assert (n.forget, n.retain) == (500, 49_500)
    for name in catalogue.methods:
        images = method_images(name, n, catalogue.defaults(name), catalogue)
        assert images >= n.forget, name
    assert set(PASSES) <= set(catalogue.methods)


@pytest.mark.parametrize(
    ("dataset", "scenario", "count", "forget", "retain"),
    [
        ("cifar20", "full_class", None, 2_500, 47_500),
        ("cifar20", "sub_class", None, 500, 49_500),
        ("cifar10", "random", 100, 100, 49_900),
        ("cifar100", "worst_case", 50, 50, 49_950),
        ("cifar100", "worst_case:drop_rest", 50, 50, 49_500),
    ],
)
def test_sizes_are_those_of_the_published_data(
    dataset: str, scenario: str, count: int | None, forget: int, retain: int
) -> None:
    n = sizes(Task(dataset, "vgg11", scenario, None, count, "corrected"), load_facts().datasets[dataset])
    assert (n.forget, n.retain) == (forget, retain)


@pytest.mark.parametrize(("model", "side"), [("vgg11", 32), ("resnet18", 32), ("vit_b16", 224)])
def test_the_committed_operations_are_what_the_model_takes(
    catalogue: Catalogue, model: str, side: int
) -> None:
    assert load_facts().flops[model, side] == flops.count(catalogue, model, side)


def test_every_model_of_the_paper_is_counted() -> None:
    sides = tomllib.loads((FOLDER / "cost.toml").read_text())["sides"]
    assert set(load_facts().flops) == {(model, side) for model in sides for side in sides[model]}
