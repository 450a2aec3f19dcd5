"""What holds for all five methods here, for the contract they register under, and for the loop they share."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from methods import api, loops
from methods.amnesiac import Amnesiac
from methods.api import Batches, check_fields
from methods.finetune import Finetune
from methods.jit import JiT
from methods.neggrad import NegGrad
from methods.ssd import SSD

FIVE = {"finetune": Finetune, "jit": JiT, "ssd": SSD, "amnesiac": Amnesiac, "neggrad": NegGrad}
STRONG = {"alpha": 1.0, "lr": 0.01, "batch_size": 16}  # enough to see a change in


def hyper(name, **changes):
    """The method with those of STRONG and of `changes` that are fields of it."""
    fields = {f.name for f in dataclasses.fields(FIVE[name])}
    return FIVE[name](**{k: v for k, v in {**STRONG, **changes}.items() if k in fields})


def weights(model):
    return nn.utils.parameters_to_vector(model.parameters()).detach()


every = pytest.mark.parametrize("name", FIVE)


@every
def test_empty_data_are_fine(unlearn, make_model, forget, name):
    model = make_model("conv")
    empty = forget.subset(torch.arange(0))
    after = unlearn(hyper(name), model, forget=empty, retain=empty)
    assert torch.equal(weights(after), weights(model))


@pytest.mark.parametrize("name", sorted(set(FIVE) - {"ssd"}))
def test_training_under_autocast_does_not_use_stale_weights(make_model, make_ctx, forget, retain, name):
    def run(cached):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=cached):
            return weights(hyper(name)(make_model("mlp"), forget, retain, make_ctx()))

    assert torch.equal(run(True), run(False))


def test_the_batches_of_these_tests_satisfy_the_protocol(forget, retain):
    assert isinstance(forget, Batches)
    joined = forget.join(retain)
    assert joined.num_examples == 72
    assert torch.equal(joined.labels(), torch.cat([forget.labels(), retain.labels()]))


def test_training_logs_the_mean_loss_of_each_epoch(make_model, make_ctx, retain):
    heard = []
    Finetune(epochs=3)(make_model("mlp"), None, retain, make_ctx(log=lambda *pair: heard.append(pair)))
    assert [name for name, _ in heard] == ["loss"] * 3
    assert heard[2][1] < heard[0][1]


def test_the_loop_clips_the_joint_norm(make_model, retain):
    model = make_model("mlp")
    before = weights(model).clone()
    sgd = torch.optim.SGD(model.parameters(), 1.0)
    whole = retain.rebatch(64)
    loops.train_epochs(model, whole, loops.cross_entropy, sgd, 1, grad_clip=0.01)
    assert float((weights(model) - before).norm()) == pytest.approx(0.01, rel=1e-3)


def test_a_mode_is_train_or_eval(make_model):
    model = make_model("conv")
    assert loops.set_mode(model, "train").training
    assert not loops.set_mode(model, "eval")[1].training
    with pytest.raises(ValueError, match="mode is 'test', expected 'train' or 'eval'"):
        loops.set_mode(model, "test")


def test_batch_statistics_count_only_where_they_are_used(make_model):
    assert loops.uses_batch_statistics(make_model("conv").train())
    assert not loops.uses_batch_statistics(make_model("conv").eval())
    assert not loops.uses_batch_statistics(make_model("vit").train())
    assert loops.uses_batch_statistics(nn.BatchNorm2d(3, track_running_stats=False).eval())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sigma": 0.0}, "jit.sigma is 0.0, expected > 0"),
        ({"lr": float("nan")}, "jit.lr is NaN"),
        ({"clip": "minmax"}, "jit.clip is 'minmax', expected none | batch_minmax | channel_range"),
        ({"antithetic": True}, "jit.samples is 25, expected an even number"),
    ],
)
def test_jit_refuses_what_makes_no_sense(fields, message):
    with pytest.raises(ValueError) as error:
        JiT(**fields)
    assert message in str(error.value)


# -------------------- registration


def plain(frozen=True, default=1.0):
    """A dataclass fit, or not, to be registered."""
    fields = [("lr", float)] if default is None else [("lr", float, dataclasses.field(default=default))]
    return dataclasses.make_dataclass("Plain", fields, frozen=frozen)


@pytest.fixture
def register(monkeypatch):
    """Registers a class in a table of its own."""
    monkeypatch.setattr(api, "METHODS", {})

    def enter(cls, name="plain", needs=("forget",), scenarios=("random",), **rest):
        return api.method(name, needs=set(needs), scenarios=set(scenarios), **rest)(cls)

    return enter


def test_a_registered_class_knows_what_was_declared(register):
    cls = register(plain(), reference={"lr": 2.0}, version=3)
    assert {"plain": cls} == api.METHODS
    assert (cls.info.version, cls.info.reference, cls.info.zero_shot) == (3, {"lr": 2.0}, True)


@pytest.mark.parametrize(
    ("cls", "declared", "message"),
    [
        (plain(), {"name": "retrain"}, "'retrain' is reserved"),
        (plain(), {"needs": ("forget", "test")}, r"needs has \['test'\]"),
        (plain(), {"scenarios": ()}, "scenarios is empty"),
        (plain(), {"reference": {"rate": 1.0}}, r"reference sets \['rate'\]"),
        (plain(frozen=False), {}, "expected a frozen dataclass"),
        (plain(default=None), {}, r"\.lr: expected a default"),
        (plain(default=(1, 2)), {}, r"\.lr: expected a default of type bool, int, float, str or None"),
    ],
)
def test_a_wrong_declaration_is_refused(register, cls, declared, message):
    with pytest.raises(ValueError, match=message):
        register(cls, **declared)


def test_a_taken_name_is_refused(register):
    register(plain())
    with pytest.raises(ValueError, match="'plain' is taken by"):
        register(plain())


def test_bounds_are_checked_field_by_field():
    @dataclasses.dataclass(frozen=True)
    class Fields:
        lr: float = 0.1
        clip: float | None = None
        mode: str = "train"

    bounds = {"lr": ">= 0", "clip": "> 0", "mode": "train | eval"}
    check_fields(Fields(), **bounds)
    for wrong in ({"lr": -0.1}, {"lr": "0.1"}, {"lr": float("nan")}, {"clip": 0.0}, {"mode": "Train"}):
        with pytest.raises(ValueError, match=rf"Fields\.{next(iter(wrong))} is"):
            check_fields(Fields(**wrong), **bounds)
