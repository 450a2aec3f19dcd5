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
