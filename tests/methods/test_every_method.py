"""What holds for every registered method, whatever its algorithm: a new one is covered without a line."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from harness import registry
from methods.api import METHODS

CATALOGUE = registry.load()
NAMES = sorted(METHODS)
ZERO_SHOT = ["bdexp", "bdsh", "delete", "emmn", "gkt", "jit", "neggrad", "random_labels_zs"]
# fields that make any method quick, and strong enough to see what it changed
SMALL: dict[str, Any] = {"lr": 0.01, "batch_size": 16, "epochs": 2, "k": 1, "alpha": 1.0, "images": 6}
SMALL |= {"forget_batch_size": 16, "retain_batch_size": 16, "pseudo_batches": 2, "student_steps": 2}
SMALL |= {"copies": 3, "noise_images": 4, "noise_steps": 3, "forget_steps": 3, "retain_steps": 3}
OWN: dict[str, dict[str, Any]] = {
    "neggrad_plus": {"alpha": 0.9},
    "gkt": {"batch_size": 4, "generator_steps": 1, "threshold": 1.0},
    "fisher": {"alpha": 1e-4},
}
# what makes a method do nothing; eu_k is not there, for it always draws new weights for its last layers
NOTHING: dict[str, dict[str, Any]] = {
    name: {"lr": 0.0, "repair_lr": 0.0, "weight_decay": 0.1} for name in NAMES
}
NOTHING |= {name: {"alpha": math.inf} for name in ("ssd", "ssd_det", "lfssd")}
NOTHING |= {
    "assd": {"lam": 1e30},
    "fisher": {"alpha": 0.0, "zero_absent": False},
    "gkt": {"pseudo_batches": 0},
}
del NOTHING["eu_k"]

every = pytest.mark.parametrize("name", NAMES)
both_profiles = pytest.mark.parametrize("profile", ["corrected", "reference"])


def hyper(name: str, profile: str = "corrected", **changes: Any) -> Any:
    """The method in small: only those of the given values that are fields of it."""
    quirks = METHODS[name].info.reference if profile == "reference" else {}
    values = {**CATALOGUE.defaults(name), **quirks}
    wanted = {**SMALL, **OWN.get(name, {}), **changes}
    return CATALOGUE.make(name, {**values, **{k: v for k, v in wanted.items() if k in values}})


def weights(model: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def assert_same_state(after: nn.Module, before: nn.Module) -> None:
    for key, value in before.state_dict().items():
        assert torch.equal(after.state_dict()[key], value), key


class Forbidden:
    """Data that must not be touched: whatever is asked of it is an error."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"touched data it did not declare: {name}")

    __iter__ = __len__ = property(lambda self: self.__getattr__("iter"))  # type: ignore[assignment]


@pytest.fixture
def run(make_model, make_ctx, forget, retain) -> Callable[..., nn.Module]:
    """Run a method as the harness does; `forget`, `retain` and `model` can be given."""

    def run(
        method: Any, kind: str = "conv", seed: int = 0, autocast: bool = False, **given: Any
    ) -> nn.Module:
        def fresh() -> nn.Module:
            model = copy.deepcopy(given["model"]) if "model" in given else make_model(kind)
            for p in model.parameters():
                nn.init.normal_(p, std=0.1)
            return model

        needs = method.info.needs
        data = {"forget": forget, "retain": retain} | given
        parts = [data[part] if part in needs or part in given else None for part in ("forget", "retain")]
        model = copy.deepcopy(given["model"]).eval() if "model" in given else make_model(kind)
        ctx = make_ctx(seed, new_model=fresh, forget_class=0 if "class_id" in needs else None)
        ctx = dataclasses.replace(ctx, **given.get("ctx", {}))
        torch.manual_seed(seed)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast, cache_enabled=False):
            return method(model, *parts, ctx).eval()

    return run


def test_these_methods_are_zero_shot():
    assert [name for name in NAMES if METHODS[name].info.zero_shot] == ZERO_SHOT
    assert len(NAMES) >= 22


@every
def test_its_source_is_linked_and_it_lives_in_a_file_that_one_finds(name):
    info = METHODS[name].info
    assert info.paper.startswith("https://")
    assert METHODS[name].__module__ in (f"methods.{name}", f"methods.{name.removesuffix('_zs')}")
    assert (METHODS[name].__doc__ or "").strip()


@every
@pytest.mark.parametrize("kind", ["conv", "mlp", "vit"])
@both_profiles
def test_any_model_comes_out_changed_finite_and_without_gradients(run, make_model, name, kind, profile):
    after = run(hyper(name, profile), kind)
    assert torch.isfinite(weights(after)).all()
    assert not torch.equal(weights(after), weights(make_model(kind)))
    assert all(p.grad is None and p.requires_grad for p in after.parameters())


ARCHITECTURES = [(kind, name) for kind in ("resnet18", "cnn2", "vgg_mini", "vit_mini") for name in NAMES]
# vgg11 is large for a test: those that differentiate image by image, and those that cache folded weights
ARCHITECTURES += [("vgg11", name) for name in ("fisher", "jit", "ssd_det")]


@pytest.mark.parametrize(("architecture", "name"), ARCHITECTURES)
def test_it_runs_on_the_architectures_of_the_benchmark_at_their_sizes(run, memory, name, architecture):
    side = {"cnn2": 28, "vgg_mini": 8, "vit_mini": 8}.get(architecture, 32)
    torch.manual_seed(0)
    model = CATALOGUE.models[architecture].build(4, (1, side, side)).eval()
    data = memory(torch.randn(6, 1, side, side), torch.tensor([0, 0, 0, 1, 2, 3]))
    bounds = (torch.tensor([-1.0]), torch.tensor([1.0]))
    after = run(
        hyper(name, epochs=1, samples=2, pseudo_batches=1, student_steps=1, images=2),
        model=model,
        forget=data.subset(torch.arange(3)),
        retain=data.subset(torch.arange(3, 6)),
        ctx={"input_shape": (1, side, side), "pixel_range": bounds},
    )
    assert torch.isfinite(weights(after)).all()
    assert [p.shape for p in after.parameters()] == [p.shape for p in model.parameters()]


@every
def test_it_needs_no_data_but_those_it_declares(run, name):
    undeclared = {part: Forbidden() for part in ("forget", "retain") if part not in METHODS[name].info.needs}
    assert torch.isfinite(weights(run(hyper(name), **undeclared))).all()


@every
def test_it_needs_the_data_it_declares(make_model, make_ctx, name):
    with pytest.raises(ValueError, match=rf"{name}: (forget|retain|ctx\.forget_class) is None"):
        hyper(name)(make_model("mlp"), None, None, make_ctx())


@pytest.mark.parametrize("name", sorted(NOTHING))
@pytest.mark.parametrize("kind", ["conv", "vit"])
@both_profiles
def test_without_strength_no_weight_changes_by_a_bit(run, make_model, name, kind, profile):
    method = hyper(name, profile, **NOTHING[name])
    after = run(method, kind)
    assert torch.equal(weights(after), weights(make_model(kind)))
    if getattr(method, "mode", "eval") in ("eval", "freeze_bn") and profile == "corrected":
        assert_same_state(after, make_model(kind))


@pytest.mark.parametrize("name", sorted(NOTHING))
def test_without_epochs_no_statistic_changes_either(run, make_model, name):
    after = run(hyper(name, **(NOTHING[name] | {"epochs": 0})))
    assert_same_state(after, make_model("conv"))


@every
@pytest.mark.parametrize("count", [0, 1])
def test_little_or_no_data_are_fine(run, forget, retain, name, count):
    few = {"forget": forget.subset(torch.arange(count)), "retain": retain.subset(torch.arange(count))}
    given = {part: few[part] for part in few if part in METHODS[name].info.needs}
    assert torch.isfinite(weights(run(hyper(name), "vit", **given))).all()


@every
@both_profiles
def test_one_seed_gives_one_model_and_two_give_two_if_it_is_stochastic(run, name, profile):
    method = hyper(name, profile)
    one, same, other = (weights(run(method, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert torch.equal(one, other) != getattr(method, "stochastic", method.info.stochastic)


@every
def test_the_data_handed_in_are_left_alone(run, forget, retain, name):
    copies = copy.deepcopy((forget, retain))
    run(hyper(name), "mlp")
    for before, after in zip(copies, (forget, retain), strict=True):
        assert torch.equal(before.images, after.images)
        assert torch.equal(before.targets, after.targets)


@every
@pytest.mark.parametrize("kind", ["conv", "vit"])
def test_under_bf16_autocast_weights_stay_finite_and_float32(run, name, kind):
    after = run(hyper(name), kind, autocast=True)
    assert torch.isfinite(weights(after)).all()
    assert {p.dtype for p in after.parameters()} == {torch.float32}


@every
def test_every_number_and_choice_is_checked_by_name(name):
    values = CATALOGUE.defaults(name)
    for field in [field for field, default in values.items() if not isinstance(default, bool)]:
        with pytest.raises(ValueError, match=rf"{name}\.{field} is -1, expected"):
            METHODS[name](**{field: -1})
