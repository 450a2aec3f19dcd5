"""What holds for each of six methods: those that train on noise, shift a boundary, distil, or blur."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from methods.api import METHODS
from methods.bdexp import BDEXP
from methods.bdsh import BDSH
from methods.delete import DELETE
from methods.emmn import EMMN
from methods.fisher import Fisher
from methods.unsir import UNSIR

SIX = {"emmn": EMMN, "unsir": UNSIR, "bdsh": BDSH, "bdexp": BDEXP, "delete": DELETE, "fisher": Fisher}
CHEAP = {"copies": 3, "epochs": 2, "batch_size": 16, "noise_images": 4, "noise_steps": 3, "forget_steps": 3}
CHEAP |= {"retain_steps": 3, "images": 6}
NOT_NUMBERS = {"stale_gradients", "force_other", "zero_absent"}
NOTHING = {"lr": 0.0, "alpha": 0.0}

every = pytest.mark.parametrize("name", SIX)


def hyper(name, **changes):
    """The method with those of CHEAP and of `changes` that are fields of it."""
    fields = {f.name for f in dataclasses.fields(SIX[name])}
    return SIX[name](**{k: v for k, v in {**CHEAP, **changes}.items() if k in fields})


def weights(model):
    return nn.utils.parameters_to_vector(model.parameters()).detach()


@pytest.fixture
def run(make_ctx, forget, retain):
    """Runs a method on a copy of a model as the harness does, with class 0 to forget."""

    def unlearn(method, model, seed=0, **data):
        torch.manual_seed(seed)
        needs = method.info.needs
        given = {"forget": data.get("forget", forget), "retain": data.get("retain", retain)}
        parts = [given[part] if part in needs else None for part in ("forget", "retain")]
        ctx = make_ctx(seed, forget_class=0 if "class_id" in needs else None)
        return method(copy.deepcopy(model).eval(), *parts, ctx).eval()

    return unlearn


@every
@pytest.mark.parametrize("kind", ["conv", "mlp", "vit"])
@pytest.mark.parametrize("profile", ["corrected", "reference"])
def test_a_method_changes_any_model_to_finite_weights_and_leaves_no_gradients(
    run, make_model, name, kind, profile
):
    model = make_model(kind)
    after = run(hyper(name, **(SIX[name].info.reference if profile == "reference" else {})), model)
    assert torch.isfinite(weights(after)).all()
    assert not torch.equal(weights(after), weights(model))
    assert all(p.grad is None and p.requires_grad for p in after.parameters())
    shapes = [{key: value.shape for key, value in m.state_dict().items()} for m in (model, after)]
    assert shapes[0] == shapes[1]


@every
@pytest.mark.parametrize("kind", ["conv", "vit"])
@pytest.mark.parametrize("nothing", ["lr", "epochs"])
def test_no_strength_changes_no_bit_of_weights_or_statistics(run, make_model, name, kind, nothing):
    model = make_model(kind)
    changes = NOTHING if nothing == "lr" else {"epochs": 0, "alpha": 0.0}
    mode = {"mode": "eval"} if name == "unsir" else {}  # the only one that trains in train mode unasked
    after = run(hyper(name, **changes, **mode), model).state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(after[key], value), key


@every
def test_no_strength_changes_no_weight_in_profile_reference(run, make_model, name):
    model = make_model("conv")
    quirks = {**SIX[name].info.reference, "zero_absent": False}
    assert torch.equal(weights(run(hyper(name, **quirks, **NOTHING), model)), weights(model))


@every
def test_one_seed_gives_one_model_and_another_another(run, make_model, name):
    model = make_model("conv")
    strong = hyper(name, lr=0.01)
    one, same, other = (weights(run(strong, model, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@every
def test_a_missing_part_is_named(make_model, make_ctx, name):
    with pytest.raises(ValueError, match=rf"{name}: (forget|retain|ctx\.forget_class) is None"):
        hyper(name)(make_model("mlp"), None, None, make_ctx())


@every
@pytest.mark.parametrize("count", [0, 1])
def test_little_or_no_data_are_fine(run, make_model, forget, retain, name, count):
    few = {"forget": forget.subset(torch.arange(count)), "retain": retain.subset(torch.arange(count))}
    after = run(hyper(name), make_model("conv"), **few)
    assert torch.isfinite(weights(after)).all()


@every
def test_autocast_leaves_the_model_finite_and_near_the_full_precision_one(
    make_model, make_ctx, forget, retain, name
):
    def unlearned(enabled):
        torch.manual_seed(0)
        ctx = make_ctx(0, forget_class=0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled, cache_enabled=False):
            return weights(hyper(name)(make_model("mlp"), forget, retain, ctx))

    difference = (unlearned(True) - unlearned(False)).norm()
    assert torch.isfinite(difference)
    assert difference < 0.01 * weights(make_model("mlp")).norm()


@every
def test_grey_images_of_another_size_are_fine(make_ctx, memory, name):
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 4, 3)
    model = nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4 * 36, 4))
    data = memory(torch.randn(6, 1, 8, 8), torch.tensor([0, 0, 0, 1, 2, 3]))
    bounds = (torch.tensor([-1.0]), torch.tensor([1.0]))
    ctx = make_ctx(0, input_shape=(1, 8, 8), forget_class=0, pixel_range=bounds)
    quirks = SIX[name].info.reference
    parts = [data.subset(part) for part in (torch.arange(3), torch.arange(3, 6))]
    after = hyper(name, **quirks)(model.eval(), *parts, ctx)
    assert torch.isfinite(weights(after)).all()


@every
def test_every_number_and_choice_is_checked_by_name(name):
    for field in {f.name for f in dataclasses.fields(SIX[name])} - NOT_NUMBERS:
        with pytest.raises(ValueError, match=rf"{name}\.{field} is -1, expected"):
            SIX[name](**{field: -1})


def test_needs_and_scenarios_say_what_each_method_sees():
    everywhere = {"full_class", "sub_class", "random", "worst_case"}
    declared = {name: (set(METHODS[name].info.needs), set(METHODS[name].info.scenarios)) for name in SIX}
    assert declared == {
        "emmn": ({"class_id"}, {"full_class"}),
        "unsir": ({"class_id", "retain"}, {"full_class", "sub_class"}),
        "bdsh": ({"forget"}, everywhere),
        "bdexp": ({"forget"}, everywhere),
        "delete": ({"forget"}, everywhere),
        "fisher": ({"retain"}, everywhere),
    }
    assert {name for name in SIX if METHODS[name].info.zero_shot} == {"emmn", "bdsh", "bdexp", "delete"}


STRONG = {
    "emmn": {"lr": 0.01, "copies": 10},
    "unsir": {"lr": 0.01, "copies": 20},
    "bdsh": {"lr": 1e-3},
    "bdexp": {"lr": 1e-3},
    "delete": {"lr": 1e-3},
    "fisher": {"zero_absent": True, "images": 100},
}


@every
def test_it_forgets_a_digit_more_than_the_others(trained, name):
    torch.manual_seed(0)
    ctx = dataclasses.replace(trained.ctx, forget_class=3)
    ctx.generator.manual_seed(0)
    method = SIX[name](**STRONG[name])
    given = {"forget": trained.forget, "retain": trained.retain}
    parts = [given[part] if part in method.info.needs else None for part in ("forget", "retain")]
    forget_drop, retain_drop = trained.drops(method(copy.deepcopy(trained.model), *parts, ctx))
    assert forget_drop > 0.4
    assert forget_drop > 1.5 * retain_drop
