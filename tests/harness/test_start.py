"""What a training starts from and is judged by: images set aside, published weights, expected accuracy."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from harness import artifacts, launch, start, weights
from harness.errors import Misuse
from harness.plan import Job
from harness.spec import RunSpec, Task, TrainSpec
from harness.stages import execute
from harness.suite import Skip, expand
from harness.suite_file import parse_suite
from harness.sweep import Outcome
from harness.words import outcome_facts, outcome_text
from tasks import pretrained
from tasks.api import ImageSet
from tasks.pretrained import read_checkpoint
from tasks.recipes import Recipe, load_recipes
from tests.harness.conftest import Ground

DIGITS = 10
NAME = "tiny.digits"
Use = Callable[..., Recipe]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Train mlp on digits by another recipe, for one test."""

    def put(**fields: Any) -> Recipe:
        changed = dataclasses.replace(load()["digits-mlp"], **{"epochs": 1, **fields})
        recipes = {**load(), "digits-mlp": changed}
        monkeypatch.setattr("tasks.recipes.load_recipes", lambda: recipes)
        return changed

    load = load_recipes
    return put


RANDOM = [{"dataset": "digits", "scenario": "random", "count": 30}]
LABELS = [{"dataset": "digits", "scenario": "full_class", "targets": ["3"]}]
WORST = [{"dataset": "digits", "scenario": "worst_case", "count": 30}]

# -------------------- the images that an epoch is chosen by


@pytest.mark.parametrize("task", [RANDOM, LABELS], ids=["random", "full_class"])
def test_only_images_that_the_original_was_trained_on_are_forgotten_or_retained(
    ground: Ground, use: Use, task: Any
) -> None:
    use(checkpoint="best_val")
    original, retrain, run = ground.family(task=task)
    space = ground.space()
    data = space.loaded("digits").data.train
    split = space.split(run.task, original, run.forget_seed)
    held = start.validation_images(original, space, None, 0.1)
    seen = start.training_images(original, space, None)
    assert seen is not None
    assert np.array_equal(np.sort(np.concatenate([held, seen])), np.arange(len(data)))
    assert np.array_equal(np.sort(np.concatenate([split.forget, split.retain])), seen)
    assert 0.07 * len(data) < len(held) < 0.1 * len(data)
    assert set(data.labels[torch.from_numpy(held)].tolist()) == set(range(DIGITS))
    assert len(split.forget) == 30 or task is LABELS
    again = start.split_of(retrain, space)
    assert again is not None and again.digest() == split.digest()
    assert np.array_equal(start.training_images(retrain, space, again), split.retain)


def test_a_retrain_is_judged_without_the_forgotten_class_and_without_random_ones_by_all(
    ground: Ground, use: Use
) -> None:
    use(checkpoint="best_val")
    space = ground.space()
    labels = space.loaded("digits").data.train.labels
    for task, expected in ((LABELS, set(range(DIGITS)) - {3}), (RANDOM, set(range(DIGITS)))):
        _, retrain, _ = ground.family(task=task)
        positions = start.validation_images(retrain, space, start.split_of(retrain, space), 0.1)
        assert set(labels[torch.from_numpy(positions)].tolist()) == expected


def test_the_worst_case_is_looked_for_among_the_images_that_were_trained_on(ground: Ground, use: Use) -> None:
    use(checkpoint="best_val")
    outcome = ground.sweep(task=WORST, methods=["baseline", "retrain"], seeds=1)
    assert outcome.exit_code == 0
    original, _, run = ground.family(task=WORST)
    space = ground.space()
    split = space.split(run.task, original, run.forget_seed)
    held = start.validation_images(original, space, None, 0.1)
    assert len(split.forget) == 30 and not np.isin(split.forget, held).any()


def test_every_method_and_train_seed_forgets_the_same_images(ground: Ground, use: Use) -> None:
    use(checkpoint="best_val")
    outcome = ground.sweep(task=RANDOM, methods=["baseline", "retrain", "jit"], seeds=1, train_seeds=2)
    assert outcome.exit_code == 0
    assert ground.rows()["split_digest"].nunique() == 1


def test_without_a_validation_part_all_training_images_are_used(ground: Ground, use: Use) -> None:
    use(checkpoint="last")
    original, _, run = ground.family(task=RANDOM)
    space = ground.space()
    assert start.training_images(original, space, None) is None
    split = space.split(run.task, original, run.forget_seed)
    assert len(split.forget) + len(split.retain) == len(space.loaded("digits").data.train)


@pytest.mark.parametrize("of", ["original", "retrain"])
def test_no_held_out_pixel_is_trained_on(ground: Ground, use: Use, of: str, tmp_path: Path) -> None:
    use(checkpoint="best_val")
    original, retrain, _ = ground.family()
    spec = original if of == "original" else retrain
    clean, spoiled = ground.space(keep_weights=True), ground.space(keep_weights=True)
    held = torch.from_numpy(start.validation_images(original, spoiled, None, 0.1))
    loaded = spoiled.loaded("digits")
    train = loaded.data.train
    images = train.images.clone()
    images[held] = torch.randint(0, 256, images[held].shape, dtype=torch.uint8)
    data = dataclasses.replace(loaded.data, train=ImageSet(images, train.labels, train.groups))
    spoiled._data["digits"] = dataclasses.replace(loaded, data=data)
    found = []
    for space in (clean, spoiled):
        row = execute(Job(spec, "t"), space)
        assert row["status"] == "ok", row["error_message"]
        found.append({name: t.clone() for name, t in artifacts.load_weights(ground.store, spec.id).items()})
        for folder in ("models", "outputs"):  # else the second one is not trained
            shutil.rmtree(tmp_path / "store" / folder)
    assert all(torch.equal(found[0][name], tensor) for name, tensor in found[1].items())


def test_an_epoch_is_chosen_by_its_accuracy_on_the_held_out_images(ground: Ground, use: Use) -> None:
    use(checkpoint="best_val")
    original, _, _ = ground.family()
    space = ground.space()
    model = space.new_model(original, 0).eval()
    found = start.judge(original, space, None)(model)
    held = start.validation_images(original, space, None, 0.1)
    batches = space.batches("digits", "train", start_view(space, original), held, size=len(held))
    x, y = next(iter(batches))
    assert found == pytest.approx(float((model(x).argmax(1) == y).float().mean()))


def start_view(space: Any, spec: TrainSpec) -> Any:
    from tasks.training import view_of

    return view_of(space.recipe(spec))


def test_a_method_that_trains_by_the_recipe_chooses_no_epoch_by_images_it_was_not_given(
    ground: Ground, use: Use, extra_method: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(checkpoint="best_test")
    monkeypatch.setattr("harness.stages.judge", lambda *_: lambda model: 0.5)

    def body(model: nn.Module, forget: Any, retain: Any, ctx: Any) -> nn.Module:
        monkeypatch.setattr("tasks.training.copy", None)  # keeping a best epoch would need it
        return ctx.train(model, retain)  # type: ignore[no-any-return]

    outcome = ground.sweep(methods=[extra_method(body, needs=("retain",))], seeds=1)
    assert outcome.exit_code == 0


# -------------------- expected accuracy


def swept(ground: Ground, limit: int | None = None) -> Outcome:
    return ground.sweep({"limit": limit}, methods=["baseline", "retrain"], seeds=1)


def test_an_original_outside_its_band_is_a_warning_in_row_log_and_outcome_and_no_failure(
    ground: Ground, use: Use
) -> None:
    use(expected=(0.0, 0.001), expected_source="a wish", models=("mlp",))
    outcome = swept(ground)
    rows = ground.rows("train")
    original, retrain = rows[rows["scenario"].isna()].iloc[0], rows[rows["scenario"].notna()].iloc[0]
    assert outcome.exit_code == 0
    assert "is outside 0 to 0.001, expected of recipe digits-mlp (a wish)" in original["warning"]
    assert pd.isna(retrain["warning"])  # its test set has a class that it never saw
    assert f"WARNING {original['warning']}" in ground.store.read(f"logs/{original['run_id']}.txt").decode()
    plan = ground.planned(ground.store, methods=["baseline", "retrain"], seeds=1)
    assert f"warning digits/mlp original, train seed 0: {original['warning']}" in outcome_text(
        outcome, plan, "s", "small"
    )
    assert [found["why"] for found in outcome_facts(outcome, plan, "s")["warnings"]] == [original["warning"]]


def test_inside_its_band_and_on_limited_data_nothing_is_said(
    ground: Ground, use: Use, tmp_path: Path
) -> None:
    use(expected=(0.0, 1.0), expected_source="a wish", models=("mlp",))
    assert swept(ground).warnings == []
    use(expected=(0.0, 0.001), expected_source="a wish", models=("mlp",))
    other = Ground(tmp_path / "other", ground.catalogue, ground.planned)
    assert swept(other, limit=300).warnings == []
    assert other.rows("train")["warning"].isna().all()


# -------------------- published weights


@pytest.fixture
def file(tmp_path: Path, ground: Ground, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights of mlp with another number of classes; and nothing in the hub's folder."""
    monkeypatch.setattr(pretrained, "downloaded", lambda name: None)
    torch.manual_seed(11)
    net = ground.catalogue.models["mlp"].build(7, (1, 8, 8))
    save_file(net.state_dict(), tmp_path / "seven.safetensors")
    return tmp_path / "seven.safetensors"


def sweep_with(ground: Ground, file: Path, **over: Any) -> Outcome:
    return ground.sweep({"weights": ((NAME, str(file)),)}, seeds=1, **over)


def test_originals_and_retrains_start_from_the_published_weights_with_a_new_head(
    ground: Ground, use: Use, file: Path
) -> None:
    use(pretrained=NAME, lr=1e-12, weight_decay=0.0)
    assert sweep_with(ground, file, methods=["retrain"]).exit_code == 0
    published = read_checkpoint(file)
    original, retrain, _ = ground.family()
    weights_of = artifacts.load_weights(ground.store, original.id)
    for name, tensor in weights_of.items():
        if not name.startswith("5."):
            torch.testing.assert_close(tensor, published.tensors[name], atol=1e-6, rtol=1e-5)
    assert weights_of["5.weight"].shape == (10, 64)
    assert list(ground.rows("train")["weights_digest"].unique()) == [published.digest]
    for spec in (original, retrain):
        facts = artifacts.load_facts(ground.store, "outputs", spec.id)
        assert facts["weights_digest"] == published.digest


def test_where_no_epoch_is_trained_the_original_is_the_file_and_a_retrain_is_refused(
    ground: Ground, use: Use, file: Path
) -> None:
    use(pretrained=NAME, head="checkpoint", epochs=0)
    ten = ground.catalogue.models["mlp"].build(10, (1, 8, 8))
    save_file(ten.state_dict(), file)
    plan = ground.planned(methods=["baseline"], seeds=1)
    original, run = (job.spec for job in plan.jobs)
    assert isinstance(original, TrainSpec) and isinstance(run, RunSpec)
    assert sweep_with(ground, file, methods=["baseline"]).exit_code == 0
    stored = artifacts.load_weights(ground.store, original.id)
    assert all(torch.equal(stored[name], tensor) for name, tensor in ten.state_dict().items())
    retrain = dataclasses.replace(original, without=run.task, split_seed=0)
    row = execute(Job(retrain, "t"), ground.space(weights=((NAME, str(file)),)))
    assert row["status"] == "failed"
    assert "have seen the forgotten images; leave retrain" in row["error_message"]


def test_a_head_of_another_number_of_classes_is_a_failed_row_that_says_so(
    ground: Ground, use: Use, file: Path
) -> None:
    use(pretrained=NAME, head="checkpoint")
    outcome = sweep_with(ground, file, methods=["baseline"])
    why = str(outcome.failures[0][1]["error_message"])
    assert "5.weight is (7, 64), expected (10, 64)" in why and "as many classes as the data" in why


def test_a_worker_that_was_told_of_no_file_says_what_to_type(ground: Ground, use: Use, file: Path) -> None:
    use(pretrained=NAME)
    outcome = ground.sweep(methods=["baseline"], seeds=1)
    assert f"--weights {NAME}=FILE" in str(outcome.failures[0][1]["error_message"])


# -------------------- from what is typed to the files


def settle(ground: Ground, *typed: str, **how: Any) -> weights.Files:
    plan = ground.planned(ground.store, methods=["baseline"], seeds=1, **how.pop("over", {}))
    return weights.settle(plan, ground.store, ground.catalogue, typed, **how)


def test_a_suite_that_starts_from_nothing_needs_and_takes_no_file(ground: Ground, file: Path) -> None:
    assert settle(ground) == ()
    with pytest.raises(Misuse, match="starts from no published weights; leave it out"):
        settle(ground, str(file))


def test_a_file_alone_a_name_and_a_model_all_say_which(ground: Ground, use: Use, file: Path) -> None:
    use(pretrained=NAME)
    expected = ((NAME, str(file.resolve())),)
    for typed in (str(file), f"{NAME}={file}", f"mlp={file}"):
        assert settle(ground, typed) == expected


def test_missing_weights_are_an_error_with_hub_name_file_and_command(
    ground: Ground, use: Use, file: Path
) -> None:
    use(pretrained=NAME)
    with pytest.raises(Misuse) as error:
        settle(ground)
    for part in (f"timm/{NAME}", "model.safetensors", "--download", f"--weights {NAME}=FILE", "mlp"):
        assert part in str(error.value)


def test_only_when_asked_for_is_anything_downloaded(
    ground: Ground, use: Use, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(pretrained=NAME)
    asked: list[str] = []
    monkeypatch.setattr(pretrained, "download", lambda name: asked.append(name) or file)
    with pytest.raises(Misuse):
        settle(ground)
    assert asked == []
    assert settle(ground, download=True) == ((NAME, str(file)),)
    assert asked == [NAME]


def test_what_was_downloaded_before_is_found(
    ground: Ground, use: Use, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(pretrained=NAME)
    monkeypatch.setattr(pretrained, "downloaded", lambda name: file if name == NAME else None)
    assert settle(ground) == ((NAME, str(file)),)


def test_an_unknown_name_is_refused(ground: Ground, use: Use, file: Path) -> None:
    use(pretrained=NAME)
    with pytest.raises(Misuse, match=r"no weights 'tiny.digit' are wanted; did you mean 'tiny.digits'"):
        settle(ground, f"tiny.digit={file}")
    with pytest.raises(Misuse, match="no such file"):
        settle(ground, f"{NAME}={file}.gone")


def test_one_file_for_a_suite_that_starts_from_several_is_refused(file: Path) -> None:
    recipe = load_recipes()["any-vit_b16"]
    wanted = [
        weights.Need(name, model, recipe, True) for name, model in (("a.x", "vit_b16"), ("b.y", "vit_l16"))
    ]
    with pytest.raises(Misuse, match=r"several; say which, as in a\.x=|b\.y="):
        weights.parse([str(file)], wanted)
    given = weights.parse([f"vit_l16={file}", f"a.x={file}"], wanted)
    assert set(given) == {"a.x", "b.y"}


def test_a_file_of_another_network_is_refused_before_anything_runs(
    ground: Ground, use: Use, file: Path
) -> None:
    use(pretrained=NAME, size=8)  # the recipe gives the side; published weights see three channels
    with pytest.raises(Misuse, match=r"do not fit mlp: 1\.weight is \(64, 64\), expected \(64, 192\)"):
        settle(ground, str(file))


def test_other_weights_than_those_of_the_stores_results_are_refused(
    ground: Ground, use: Use, file: Path
) -> None:
    use(pretrained=NAME)
    assert sweep_with(ground, file, methods=["baseline"]).exit_code == 0
    assert settle(ground) == ()  # the original is there: no file is needed any more
    other = file.with_name("other.safetensors")
    save_file({name: tensor + 1 for name, tensor in read_checkpoint(file).tensors.items()}, other)
    with pytest.raises(Misuse, match=r"are not those that .* has results of"):
        settle(ground, str(other), over={"train_seeds": 2})
    assert settle(ground, str(file), over={"train_seeds": 2}) == ((NAME, str(file)),)


def test_a_recipe_may_pin_its_weights(ground: Ground, use: Use, file: Path) -> None:
    free = use(pretrained=NAME)
    pinned = use(pretrained=NAME, weights_digest=read_checkpoint(file).digest)
    assert settle(ground, str(file)) == ((NAME, str(file)),)
    other = use(pretrained=NAME, weights_digest="0" * 16)
    assert len({free.id, pinned.id, other.id}) == 3
    with pytest.raises(Misuse, match="is pinned to 0000000000000000; give the file"):
        settle(ground, str(file))


def test_a_sweep_hands_the_checked_file_to_its_workers(ground: Ground, use: Use, file: Path) -> None:
    use(pretrained=NAME)
    where = launch.Where(on="inline", device="cpu")
    told = launch.settings(ground.store.url, None, None, where, 512, False, False, None)
    plan = ground.planned(ground.store, methods=["baseline"], seeds=1)
    with pytest.raises(Misuse, match="--download"):
        launch.check(plan, ground.store, ground.catalogue, told)
    told = launch.check(plan, ground.store, ground.catalogue, told, [str(file)])
    outcome = launch.sweep(plan, ground.store, ground.catalogue, told, where)
    assert outcome.exit_code == 0
    assert ground.rows("train")["weights_digest"].iloc[0] == read_checkpoint(file).digest


def test_the_paper_suite_names_the_weights_that_it_starts_from(ground: Ground) -> None:
    from harness.suite_file import load_suite

    found = {
        need.model: need.name
        for need in weights.of_suite(load_suite("paper", ground.catalogue), ground.catalogue)
    }
    assert found["vit_b16"] == "vit_base_patch16_224.orig_in21k_ft_in1k"
    assert found["vit_l16"] == "vit_large_patch16_224.augreg_in21k_ft_in1k"
    task = Task("imagenet", "vit_l16", "full_class", "1", None, "reference")
    assert "imagenet-vit_l16@" in ground.catalogue.find_recipe(task.dataset, task.model, task.profile)


def test_a_true_retrain_of_weights_that_nobody_trains_is_skipped_with_a_reason(catalogue: Any) -> None:
    task = {"dataset": "imagenet", "scenario": "full_class", "targets": ["812"]}
    raw = {"seeds": 1, "models": ["vit_l16"], "methods": ["baseline", "retrain"], "task": [task]}
    skips = {}
    for how in ("fresh", "warm"):
        suite = parse_suite("big", {**raw, "retrain_start": how}, catalogue)
        skips[how] = [item for item in expand(suite, catalogue) if isinstance(item, Skip)]
    assert [skip.method for skip in skips["fresh"]] == ["retrain"] and skips["warm"] == []
    assert "takes published weights as they are" in skips["fresh"][0].reason
