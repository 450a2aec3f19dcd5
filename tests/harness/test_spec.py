"""Ids and seeds: a run is named by what defines it, and by nothing else."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from harness.spec import RunSpec, Task, TrainSpec, canonical_json, derive_seed, halves_seed, split_seed

GOLDEN = Path(__file__).parent.parent / "golden" / "ids.json"
TASK = Task("digits", "vgg_mini", "full_class", "3", None, "corrected")
ORIGINAL = TrainSpec("digits", "vgg_mini", "digits_vgg_mini@00000000", 0, "fp32")
RUN = RunSpec(TASK, ORIGINAL, "jit", 1, (("lr", 0.1), ("sigma", 0.5)), 0, "fp32")
RETRAIN = dataclasses.replace(ORIGINAL, without=TASK, split_seed=0)
REFERENCE = dataclasses.replace(RUN, method="retrain", params=(), retrain=RETRAIN)


def test_ids_stay_what_they_were_when_old_stores_were_written() -> None:
    found = {
        "task": TASK.id,
        "original": ORIGINAL.id,
        "retrain": RETRAIN.id,
        "run": RUN.id,
        "retrain_run": REFERENCE.id,
        "other_forget_set": dataclasses.replace(RUN, split_seed=1).id,
    }
    assert found == json.loads(GOLDEN.read_text())


def test_every_field_of_a_run_is_part_of_its_name() -> None:
    changed = [
        dataclasses.replace(RUN, task=dataclasses.replace(TASK, target="8")),
        dataclasses.replace(RUN, task=dataclasses.replace(TASK, profile="reference")),
        dataclasses.replace(RUN, original=dataclasses.replace(ORIGINAL, train_seed=1)),
        dataclasses.replace(RUN, original=dataclasses.replace(ORIGINAL, recipe="digits_vgg_mini@11111111")),
        dataclasses.replace(RUN, method="ssd"),
        dataclasses.replace(RUN, method_version=2),
        dataclasses.replace(RUN, params=(("lr", 0.1), ("sigma", 0.6))),
        dataclasses.replace(RUN, seed=1),
        dataclasses.replace(RUN, precision="bf16"),
    ]
    assert len({RUN.id, *(spec.id for spec in changed)}) == len(changed) + 1


def test_a_field_at_its_default_is_left_out_of_the_hash() -> None:
    assert dataclasses.replace(RUN, split_seed=None).id == RUN.id
    assert dataclasses.replace(ORIGINAL, start="fresh").id == ORIGINAL.id
    assert dataclasses.replace(ORIGINAL, start="warm").id != ORIGINAL.id


def test_changing_an_ancestor_renames_its_descendants() -> None:
    other = dataclasses.replace(RETRAIN, original=dataclasses.replace(ORIGINAL, train_seed=7))
    assert dataclasses.replace(REFERENCE, retrain=other).id != REFERENCE.id


def test_canonical_json_ignores_order_and_survives_infinity() -> None:
    assert canonical_json({"b": 1, "a": float("inf")}) == canonical_json({"a": float("inf"), "b": 1})


def test_no_two_streams_of_one_seed_share_a_seed() -> None:
    streams = ("init", "order", "split", "halves", "method", "score")
    seeds = {derive_seed(seed, stream) for seed in range(100) for stream in streams}
    assert len(seeds) == 100 * len(streams)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_forget_set_ignores_method_and_model_but_not_seed() -> None:
    other_model = dataclasses.replace(TASK, model="vit_mini")
    assert split_seed(TASK, 0) == split_seed(other_model, 0) != split_seed(TASK, 1)


def test_the_tuning_half_is_one_for_each_data_set() -> None:
    assert halves_seed("digits") != halves_seed("cifar10")
