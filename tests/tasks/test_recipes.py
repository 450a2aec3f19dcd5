import dataclasses
import itertools
import subprocess
import sys

import pytest

from tasks.recipes import Recipe, find_recipe, load_recipes, parse, recipe_by_id

PAPER = ("cifar10", "cifar20", "cifar100", "pins", "pins_nosplit", "imagenet")
DATASETS = ("digits", "digits5", *PAPER, "imagefolder:pets", "unheard_of")
MODELS = {
    "vgg11": "vgg",
    "vgg_mini": "vgg",
    "resnet18": "resnet",
    "resnet_mini": "resnet",
    "cnn2": "cnn",
    "allcnn": "cnn",
    "mlp": "mlp",
    "vit_mini": "vit",
    "vit_b16": "vit",
    "vit_l16": "vit",
}
PROFILES = ("reference", "corrected")
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
        assert recipe.checkpoint in ("last", "best_val")
        assert recipe.schedule == "one_cycle" or not recipe.retrainable


@pytest.mark.parametrize("dataset", PAPER)
def test_all_corrected_models_of_a_data_set_are_trained_on_the_same_images(dataset):
    """Else two models would not forget the same ones."""
    found = [find_recipe(dataset, model, family, "corrected") for model, family in MODELS.items()]
    assert {(r.checkpoint, r.validation) for r in found if r.retrainable} == {("best_val", 0.1)}


def test_the_recipes_of_earlier_results_keep_their_ids():
    assert {r.id for name, r in load_recipes().items() if name.startswith("digits")} == {
        "digits-vgg@38501a3f", "digits@38501a3f", "digits-mlp@f661bb0d", "digits-vit@a8a15b7f",
        "digits-warm@74eaf450",
    }  # fmt: skip
    assert load_recipes()["any"].id == "any@501e500c"


CIFAR100 = (0.5070751592371323, 0.48654887331495095, 0.4409178433670343)
OWN = {
    "cifar10": (0.4914, 0.4822, 0.4465),
    "cifar20": CIFAR100,
    "cifar100": CIFAR100,
    "pins": (0.5162, 0.4191, 0.3733),
    "pins_nosplit": (0.5162, 0.4191, 0.3733),
    "imagenet": (0.485, 0.456, 0.406),
}


@pytest.mark.parametrize("dataset", PAPER)
def test_the_reference_normalises_all_data_alike_and_the_corrected_profile_by_their_own_statistics(dataset):
    small = {"vgg11", "resnet18", "allcnn", "vgg_mini", "resnet_mini", "vit_mini"}
    large = {"vit_b16", "vit_l16"}
    means = {p: {m: find_recipe(dataset, m, MODELS[m], p).mean for m in small | large} for p in PROFILES}
    assert {means["corrected"][m] for m in small} == {OWN[dataset]}
    assert {means["corrected"][m] for m in large} == {(0.5,)}  # of their ImageNet weights
    assert {means["reference"][m] for m in small} == {CIFAR100}
    expected = (0.5,) if dataset == "imagenet" else CIFAR100
    assert {means["reference"][m] for m in large} == {expected}


@pytest.mark.parametrize("profile", ["corrected", "reference"])
@pytest.mark.parametrize("dataset", PAPER)
def test_large_transformers_start_from_published_weights_and_nothing_else_does(dataset, profile):
    start = {m: find_recipe(dataset, m, f, profile).pretrained for m, f in MODELS.items()}
    assert start.pop("vit_b16") == "vit_base_patch16_224.orig_in21k_ft_in1k"
    assert start.pop("vit_l16") == "vit_large_patch16_224.augreg_in21k_ft_in1k"
    assert set(start.values()) == {None}


def test_on_imagenet_the_published_weights_are_the_original_and_elsewhere_they_get_a_new_head():
    for dataset, model, profile in itertools.product(PAPER, ("vit_b16", "vit_l16"), PROFILES):
        recipe = find_recipe(dataset, model, "vit", profile)
        expected = ("checkpoint", 0) if dataset == "imagenet" else ("new", 9 if dataset == "cifar20" else 8)
        assert (recipe.head, recipe.epochs) == expected
        assert recipe.retrainable == (dataset != "imagenet")
        assert recipe.size == 224


@pytest.mark.parametrize("profile", ["corrected", "reference"])
@pytest.mark.parametrize("role", ["train", "retrain_warm"])
def test_stand_ins_have_short_recipes_of_their_own_that_say_so(profile, role):
    for dataset, model in itertools.product(PAPER, ("vgg_mini", "resnet_mini", "vit_mini")):
        recipe = find_recipe(dataset, model, MODELS[model], profile, role)
        assert recipe.epochs <= 8 and "stand-in" in recipe.source
        assert recipe.size == 32 and not recipe.expected


def test_faces_are_trained_on_32_pixels_out_of_36_as_released_and_on_all_of_them_in_the_corrected_profile():
    for dataset, model in itertools.product(("pins", "pins_nosplit"), ("vgg11", "resnet18")):
        released, sound = (find_recipe(dataset, model, MODELS[model], p) for p in PROFILES)
        assert (released.crop, released.size) == (32, 32)
        assert (sound.crop, sound.size) == (None, 32)


# -------------------- what should come out


BASELINES = [  # accuracy of the published originals; the paper's tables, the forgotten class left in
    ("cifar10", "vgg11", 0.870), ("cifar10", "resnet18", 0.907), ("cifar10", "vit_b16", 0.989),
    ("cifar20", "vgg11", 0.753), ("cifar20", "vit_b16", 0.957),
    ("cifar100", "vgg11", 0.667), ("cifar100", "vit_b16", 0.889),
    ("pins_nosplit", "vgg11", 0.940), ("imagenet", "vit_l16", 0.860),
]  # fmt: skip


@pytest.mark.parametrize(("dataset", "model", "published"), BASELINES)
def test_the_expected_band_holds_the_published_baseline(dataset, model, published):
    recipe = find_recipe(dataset, model, MODELS[model], "reference")
    assert recipe.surprise(dataset, model, published) is None
    assert recipe.expected[1] - recipe.expected[0] <= 0.041
    assert "Table" in recipe.expected_source


def test_a_surprise_says_what_was_found_expected_and_where_that_comes_from():
    recipe = find_recipe("cifar100", "vgg11", "vgg", "reference")
    assert recipe.surprise("cifar100", "vgg11", 0.6) == (
        "test accuracy 0.600 is outside 0.647 to 0.687, expected of recipe cifar100-vgg-reference "
        "(66.7 % in Table 9)"
    )
    assert recipe.surprise("cifar100", "vgg11", 0.7) is not None
    assert recipe.surprise("cifar100", "some_vgg", 0.6) is None  # a plugin of the family


def test_a_row_takes_no_band_along_from_the_row_it_copies():
    band = 'lr = 1\nexpected = [0.1, 0.2]\nexpected_source = "there"\n'
    recipes = parse(STATISTICS + row("one", band) + '[[recipe]]\nname = "two"\nlike = "one"\n')
    assert recipes["one"].expected == (0.1, 0.2)
    assert recipes["two"].expected == () and recipes["two"].expected_source == ""


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
    assert recipe.size == (224 if model == "vit_b16" else 32 if dataset == "pins" else None)


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
        "validation": 0.2, "crop": 32, "pretrained": "some.weights",
    }  # fmt: skip
    of_weights = {"head": "checkpoint", "weights_digest": "0123456789abcdef"}
    applies = {"source": "elsewhere", "datasets": ("a",), "models": ("a",), "profile": "corrected"}
    applies |= {"expected": (0.1, 0.2), "expected_source": "there"}
    assert {*changes, *of_weights} == {f.name for f in dataclasses.fields(Recipe)} - {"name", *applies}
    ids = {dataclasses.replace(PLAIN, **{field: value}).id for field, value in changes.items()}
    assert len(ids | {PLAIN.id}) == len(changes) + 1
    started = dataclasses.replace(PLAIN, pretrained="some.weights")
    ids = {dataclasses.replace(started, **{field: value}).id for field, value in of_weights.items()}
    assert len(ids | {started.id}) == len(of_weights) + 1
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
        (row("one", 'lr = 1\nhead = "checkpoint"\n'), "pretrained is None, expected timm's name"),
        (row("one", "lr = 1\n").replace("epochs = 3", "epochs = 0"), "epochs is 0, expected > 0, or 0 with"),
        (row("one", "lr = 1\nvalidation = 1\n"), "validation is 1.0, expected a share between 0 and 1"),
        (row("one", "lr = 1\nexpected = [0.9, 0.1]\n"), "expected two accuracies between 0 and 1"),
        (row("one", "lr = 1\nexpected = [0.1, 0.9]\n"), "expected where the expected accuracy comes from"),
    ],
)
def test_a_mistaken_row_is_an_error_that_says_what_was_expected(text, message):
    with pytest.raises(ValueError, match=message):
        parse(STATISTICS + text)
