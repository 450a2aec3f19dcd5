"""What holds for every method that JiT and SSD are compared with here, whatever its algorithm."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn

from methods.api import METHODS
from methods.assd import ASSD
from methods.cf_k import CFk
from methods.eu_k import EUk
from methods.l1_sparse import L1Sparse
from methods.lfssd import LFSSD
from methods.neggrad_plus import NegGradPlus
from methods.random_labels import RandomLabels, RandomLabelsZS
from methods.salun import SalUn
from methods.ssd_det import SSDDet

TEN = {
    "neggrad_plus": NegGradPlus,
    "random_labels": RandomLabels,
    "random_labels_zs": RandomLabelsZS,
    "salun": SalUn,
    "l1_sparse": L1Sparse,
    "ssd_det": SSDDet,
    "lfssd": LFSSD,
    "assd": ASSD,
    "cf_k": CFk,
    "eu_k": EUk,
}
STRONG = {"alpha": 1.0, "lr": 0.01, "batch_size": 16, "epochs": 2, "k": 1}  # enough to see a change in
CAN_DO_NOTHING = sorted(set(TEN) - {"eu_k", "assd"})  # eu_k always draws new weights, assd has no strength


def hyper(name, profile="corrected", **changes):
    """The method with those of STRONG and of `changes` that are fields of it."""
    cls = TEN[name]
    strong = {**STRONG, "alpha": 0.9} if name == "neggrad_plus" else STRONG
    fields = {f.name for f in dataclasses.fields(cls)}
    values = {**strong, **(cls.info.reference if profile == "reference" else {}), **changes}
    return cls(**{k: v for k, v in values.items() if k in fields})


def weights(model):
    return nn.utils.parameters_to_vector(model.parameters()).detach()


every = pytest.mark.parametrize("name", TEN)


@pytest.fixture
def run(unlearn, make_model, make_ctx, forget, retain):
    """`run(method, kind)`: as `unlearn`, with fresh models of the same kind that depend on the seed."""

    def run(method, kind="conv", seed=0, forget=forget, retain=retain, autocast=False):
        def fresh():
            model = make_model(kind)
            for p in model.parameters():
                nn.init.normal_(p, std=0.1)
            return model

        torch.manual_seed(seed)
        given = (
            forget if "forget" in method.info.needs else None,
            retain if "retain" in method.info.needs else None,
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast, cache_enabled=False):
            return method(make_model(kind), *given, make_ctx(seed, new_model=fresh)).eval()

    return run


@every
@pytest.mark.parametrize("kind", ["conv", "mlp", "vit"])
@pytest.mark.parametrize("profile", ["corrected", "reference"])
def test_a_method_changes_any_model_to_finite_weights(run, make_model, name, kind, profile):
    after = run(hyper(name, profile), kind)
    assert torch.isfinite(weights(after)).all()
    assert not torch.equal(weights(after), weights(make_model(kind)))
    assert all(p.grad is None and p.requires_grad for p in after.parameters())


@every
@pytest.mark.parametrize("kind", ["conv", "vit"])
def test_bf16_autocast_ends_in_finite_float32_weights(run, make_model, name, kind):
    after = run(hyper(name), kind, autocast=True)
    assert torch.isfinite(weights(after)).all()
    assert {p.dtype for p in after.parameters()} == {torch.float32}
    assert not torch.equal(weights(after), weights(make_model(kind)))


@pytest.mark.parametrize("name", CAN_DO_NOTHING)
@pytest.mark.parametrize("kind", ["conv", "vit"])
@pytest.mark.parametrize("profile", ["corrected", "reference"])
def test_no_strength_changes_no_bit(run, make_model, name, kind, profile):
    nothing = {"lr": 0.0, **({"alpha": math.inf} if "ssd" in name else {"weight_decay": 0.1})}
    method, before = hyper(name, profile, **nothing), make_model(kind)
    after = run(method, kind)
    assert torch.equal(weights(after), weights(before))
    if getattr(method, "mode", "eval") == "eval":
        for a, b in zip(after.buffers(), before.buffers(), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", CAN_DO_NOTHING)
def test_no_epochs_change_neither_parameters_nor_buffers(run, make_model, name):
    after = run(hyper(name, epochs=0, **({"alpha": math.inf} if "ssd" in name else {})))
    for key, value in make_model("conv").state_dict().items():
        assert torch.equal(after.state_dict()[key], value), key


@every
def test_nothing_to_forget_and_nothing_to_keep_changes_nothing_but_what_is_drawn_anew(
    run, make_model, forget, name
):
    empty, before = forget.subset(torch.arange(0)), make_model("conv")
    after = run(hyper(name), forget=empty, retain=empty)
    assert torch.equal(weights(after), weights(before)) == (name != "eu_k")
    assert torch.equal(after[0].weight, before[0].weight) or name == "eu_k"


@every
def test_one_image_a_set_is_enough(run, forget, retain, name):
    one, other = forget.subset(torch.arange(1)), retain.subset(torch.arange(1))
    assert torch.isfinite(weights(run(hyper(name), "vit", forget=one, retain=other))).all()


@every
@pytest.mark.parametrize("profile", ["corrected", "reference"])
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
def test_a_missing_part_is_named(make_model, make_ctx, name):
    with pytest.raises(ValueError, match=f"{name}: (forget|retain) is None"):
        hyper(name)(make_model("mlp"), None, None, make_ctx())


@every
def test_every_number_and_choice_is_checked_by_name(name):
    free = {"weigh_batches", "mask_decay"}
    for field in {f.name for f in dataclasses.fields(TEN[name])} - free:
        with pytest.raises(ValueError, match=rf"{name}\.{field} is -1, expected"):
            TEN[name](**{field: -1})


# neggrad_plus makes two passes a step: with a cache their gradients are added up in bfloat16.
@pytest.mark.parametrize("name", sorted(set(TEN) - {"ssd_det", "lfssd", "assd", "eu_k", "neggrad_plus"}))
def test_training_under_autocast_does_not_use_stale_weights(make_model, make_ctx, forget, retain, name):
    def trained(cached):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=cached):
            return weights(hyper(name)(make_model("mlp"), forget, retain, make_ctx()))

    assert torch.equal(trained(True), trained(False))


def test_needs_say_what_is_zero_shot():
    assert {name for name in TEN if METHODS[name].info.zero_shot} == {"random_labels_zs"}
    assert {name for name in TEN if METHODS[name].info.needs == {"retain"}} == {"l1_sparse", "cf_k", "eu_k"}


@every
def test_every_scenario_is_served_and_the_source_is_linked(name):
    info = METHODS[name].info
    assert METHODS[name] is TEN[name]
    assert info.scenarios == {"full_class", "sub_class", "random", "worst_case"}
    assert info.paper.startswith("https://")


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("neggrad_plus", {"alpha": 0.7, "epochs": 4}),
        ("random_labels", {}),
        ("random_labels_zs", {"epochs": 3, "lr": 0.01}),
        ("salun", {}),
        ("ssd_det", {"alpha": 1.0, "lam": 0.3}),
        ("lfssd", {"alpha": 1.0}),
        ("assd", {}),
    ],
)
def test_it_forgets_a_digit_more_than_the_others(trained, name, fields):
    torch.manual_seed(0)
    trained.ctx.generator.manual_seed(0)
    method = TEN[name](**fields)
    given = (trained.forget, trained.retain if "retain" in method.info.needs else None)
    lost_of_three, lost_of_others = trained.drops(method(copy.deepcopy(trained.model), *given, trained.ctx))
    assert lost_of_three > 0.3
    assert lost_of_three > 2 * lost_of_others
