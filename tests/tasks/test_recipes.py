import dataclasses
import itertools
import subprocess
import sys

import pytest

from tasks.recipes import Recipe, find_recipe, load_recipes, parse, recipe_by_id

DATASETS = ("digits", "digits5", "cifar10", "cifar20", "cifar100", "pins", "imagefolder:pets", "unheard_of")
MODELS = {
    "vgg11": "vgg",
    "vgg_mini": "vgg",
    "resnet18": "resnet",
    "cnn2": "cnn",
    "allcnn": "cnn",
    "mlp": "mlp",
    "vit_mini": "vit",
    "vit_b16": "vit",
    "vit_l16": "vit",
}
SETTINGS = list(itertools.product(DATASETS, MODELS.items(), ("corrected", "reference")))
PLAIN = Recipe("plain", ("*",), ("*",), epochs=3, batch_size=8, lr=0.1, source="here")
STATISTICS = "[statistics.half]\nmean = [0.5]\nstd = [0.5]\n"
ROW = 'datasets = ["*"]\nmodels = ["*"]\nepochs = 3\nbatch_size = 8\nstatistics = "half"\nsource = "here"\n'


def row(name, text=""):
    return f'[[recipe]]\nname = "{name}"\n{ROW}{text}'


def test_recipes_are_planned_without_torch():
    code = "import sys, tasks.recipes as r; r.load_recipes(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("role", ["train", "retrain_warm"])
def test_every_data_set_and_model_has_exactly_one_recipe(role):
    found = [find_recipe(d, m, family, p, role) for d, (m, family), p in SETTINGS]
    assert {recipe.role for recipe in found} == {role}
    assert all(recipe.profile in (p, "*") for recipe, (_, _, p) in zip(found, SETTINGS, strict=True))


def test_a_warm_retrain_sees_images_as_the_original_did():
    for dataset, (model, family), profile in SETTINGS:
        cold, warm = (
            find_recipe(dataset, model, family, profile, role) for role in ("train", "retrain_warm")
        )
        seen = [(r.mean, r.std, r.size) for r in (cold, warm)]
        assert seen[0] == seen[1], (dataset, model, profile)


def test_no_corrected_recipe_looks_at_the_test_set_or_cycles_against_itself():
    for dataset, (model, family), _ in SETTINGS:
        recipe = find_recipe(dataset, model, family, "corrected")
        assert recipe.checkpoint == "last"
        assert recipe.schedule == "one_cycle"


@pytest.mark.parametrize(
    ("dataset", "model", "epochs"),
    [
        ("cifar10", "vgg11", 25),
        ("cifar10", "resnet18", 20),
        ("cifar10", "vit_b16", 8),
        ("cifar20", "vgg11", 50),
        ("cifar20", "resnet18", 40),
        ("cifar20", "vit_b16", 9),
        ("cifar100", "vgg11", 210),
        ("cifar100", "resnet18", 200),
        ("cifar100", "vit_b16", 8),
        ("pins", "vgg11", 250),
        ("pins", "resnet18", 200),
    ],
)
def test_the_published_originals_are_trained_as_released(dataset, model, epochs):
    recipe = find_recipe(dataset, model, MODELS[model], "reference")
    assert recipe.epochs == epochs
    assert (recipe.optimizer, recipe.lr, recipe.weight_decay, recipe.batch_size) == ("sgd", 0.1, 5e-4, 64)
    assert (recipe.schedule, recipe.augment, recipe.checkpoint) == ("reference_one_cycle", True, "best_test")
    assert recipe.mean == (0.5070751592371323, 0.48654887331495095, 0.4409178433670343)
    assert recipe.size == (224 if model == "vit_b16" else None)


def test_the_published_retrain_is_a_short_fine_tuning_without_augmentation():
    recipe = find_recipe("cifar100", "vgg11", "vgg", "reference", "retrain_warm")
    assert (recipe.epochs, recipe.milestones) == (200, (60, 120, 160))
    assert (recipe.lr, recipe.batch_size, recipe.schedule) == (0.01, 128, "reference_multistep")
    assert not recipe.augment


def test_the_part_after_the_colon_does_not_choose_the_recipe():
    assert find_recipe("cifar10:mine", "vgg11", "vgg", "corrected").name == "cifar10-vgg"


TABLE = {
    recipe.name: recipe
    for recipe in (
        dataclasses.replace(PLAIN, name="any"),
        dataclasses.replace(PLAIN, name="any-vgg", models=("family:vgg",)),
        dataclasses.replace(PLAIN, name="any-vgg11", models=("vgg11",)),
        dataclasses.replace(PLAIN, name="pets", datasets=("pets",)),
        dataclasses.replace(PLAIN, name="pets-reference", datasets=("pets",), profile="reference"),
        dataclasses.replace(PLAIN, name="pets-vgg", datasets=("pets",), models=("family:vgg",)),
    )
}


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        (("cats", "cnn2", "cnn", "corrected"), "any"),
        (("cats", "vgg_mini", "vgg", "corrected"), "any-vgg"),
        (("cats", "vgg11", "vgg", "corrected"), "any-vgg11"),
        (("pets", "cnn2", "cnn", "corrected"), "pets"),
        (("pets", "cnn2", "cnn", "reference"), "pets-reference"),
        (("pets", "vgg11", "vgg", "reference"), "pets-vgg"),
    ],
)
def test_data_set_beats_model_and_model_beats_profile(monkeypatch, wanted, name):
    monkeypatch.setattr("tasks.recipes.load_recipes", lambda: TABLE)
    assert find_recipe(*wanted).name == name


def test_two_recipes_that_fit_equally_well_are_an_error(monkeypatch):
    twins = {name: dataclasses.replace(PLAIN, name=name) for name in ("one", "two")}
    monkeypatch.setattr("tasks.recipes.load_recipes", lambda: twins)
    with pytest.raises(ValueError, match="one and two fit"):
        find_recipe("cats", "cnn2", "cnn", "corrected")


def test_no_recipe_is_an_error_that_says_what_to_add(monkeypatch):
    monkeypatch.setattr("tasks.recipes.load_recipes", dict)
    with pytest.raises(ValueError, match=r'models = \["family:cnn"\]'):
        find_recipe("cats", "cnn2", "cnn", "corrected")


def test_changing_what_is_trained_renames_it_and_saying_where_it_applies_does_not():
    changes = {
        "epochs": 4, "batch_size": 9, "lr": 0.2, "role": "retrain_warm", "optimizer": "adamw",
        "momentum": 0.8,
        "weight_decay": 0.1, "schedule": "cosine",
        "milestones": (2,), "augment": True, "mean": (0.4,), "std": (0.4,), "size": 32,
        "checkpoint": "best_val",
    }  # fmt: skip
    applies = {"source": "elsewhere", "datasets": ("a",), "models": ("a",), "profile": "corrected"}
    assert set(changes) == {f.name for f in dataclasses.fields(Recipe)} - {"name", *applies}
    ids = {dataclasses.replace(PLAIN, **{field: value}).id for field, value in changes.items()}
    assert len(ids | {PLAIN.id}) == len(changes) + 1
    assert dataclasses.replace(PLAIN, **applies).id == PLAIN.id


def test_an_id_is_the_same_in_every_process():
    assert PLAIN.id == "plain@749122d7"


def test_a_recipe_is_found_by_its_id_until_its_row_changes(monkeypatch):
    for recipe in load_recipes().values():
        assert recipe_by_id(recipe.id) is recipe
    changed = dataclasses.replace(load_recipes()["digits"], epochs=1)
    with pytest.raises(ValueError, match="its row was changed"):
        recipe_by_id(changed.id)
    with pytest.raises(ValueError, match="no recipe is named 'nobody'"):
        recipe_by_id("nobody@00000000")


def test_a_row_may_copy_an_earlier_one():
    recipes = parse(
        STATISTICS + row("one", "lr = 1\n") + '[[recipe]]\nname = "two"\nlike = "one"\nepochs = 7\n'
    )
    assert recipes["two"] == dataclasses.replace(recipes["one"], name="two", epochs=7)
    assert recipes["one"].lr == 1.0 and isinstance(recipes["one"].lr, float)
    assert recipes["one"].mean == (0.5,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (row("one", "lr = 1\nepoch = 3\n"), "unknown .'epoch'."),
        (row("one", "lr = 1\n") * 2, "two recipes are named 'one'"),
        (row("one", "lr = 0\n"), "lr is 0.0, expected > 0"),
        (row("one", 'lr = 1\nschedule = "cosin"\n'), "schedule is 'cosin', expected constant or cosine"),
        (row("one", "lr = 1\n").replace('"half"', '"third"'), "no statistics 'third', expected one of half"),
        (row("one", 'lr = 1\nlike = "zero"\n'), "like = 'zero', expected the name of a row above"),
    ],
)
def test_a_mistaken_row_is_an_error_that_says_what_was_expected(text, message):
    with pytest.raises(ValueError, match=message):
        parse(STATISTICS + text)
