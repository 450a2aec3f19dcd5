"""What holds for every method that JiT and SSD are compared with here, whatever its algorithm."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

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
def test_nothing_to_forget_and_nothing_to_keep_changes_nothing_but_what_is_drawn_anew(
    run, make_model, forget, name
):
    empty, before = forget.subset(torch.arange(0)), make_model("conv")
    after = run(hyper(name), forget=empty, retain=empty)
    assert torch.equal(weights(after), weights(before)) == (name != "eu_k")
    assert torch.equal(after[0].weight, before[0].weight) or name == "eu_k"


# neggrad_plus makes two passes a step: with a cache their gradients are added up in bfloat16.
@pytest.mark.parametrize("name", sorted(set(TEN) - {"ssd_det", "lfssd", "assd", "eu_k", "neggrad_plus"}))
def test_training_under_autocast_does_not_use_stale_weights(make_model, make_ctx, forget, retain, name):
    def trained(cached):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=cached):
            return weights(hyper(name)(make_model("mlp"), forget, retain, make_ctx()))

    assert torch.equal(trained(True), trained(False))


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
