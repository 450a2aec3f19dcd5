from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from methods.bdexp import BDEXP, widened


@pytest.mark.parametrize("bias", [True, False])
def test_widening_and_pruning_are_the_identity(bias):
    layer, x = nn.Linear(5, 3, bias=bias), torch.randn(4, 5)
    before, weight = layer(x), layer.weight.detach().clone()
    with widened(layer, torch.Generator().manual_seed(0)):
        inside = layer(x)
        assert inside.shape == (4, 4)
        assert layer.out_features == 4
        assert torch.allclose(inside[:, :3], before, atol=1e-6)
        assert torch.equal(layer.weight[:3], weight)
        assert layer.bias is None or layer.bias[3] == 0
    assert torch.equal(layer(x), before)
    assert (layer.out_features, layer.weight.shape) == (3, (3, 5))
    assert layer.weight.is_contiguous() and isinstance(layer.weight, nn.Parameter)


def test_the_new_weight_has_the_spread_of_xavier():
    layer = nn.Linear(20_000, 9)
    with widened(layer, torch.Generator().manual_seed(0)):
        assert layer.weight[9].std().item() == pytest.approx((2 / 20_010) ** 0.5, rel=0.03)


def test_the_layer_is_pruned_even_after_an_error():
    layer = nn.Linear(5, 3)
    with pytest.raises(KeyError), widened(layer, torch.Generator()):
        raise KeyError
    assert layer.weight.shape == (3, 5)


@pytest.mark.parametrize("kind", ["conv_without_dropout", "mlp", "vit"])
def test_the_trained_model_has_its_old_outputs_and_the_textbook_weights(make_model, make_ctx, forget, kind):
    start = make_model(kind)
    torch.manual_seed(1)
    ours = BDEXP(lr=1e-2, epochs=2, batch_size=8)(copy.deepcopy(start), forget, None, make_ctx(6))
    assert ours(forget.images).shape == (22, 4)
    torch.manual_seed(1)
    plain = textbook(copy.deepcopy(start), forget, torch.Generator().manual_seed(6))
    for name, p in ours.named_parameters():
        assert torch.allclose(p, plain[name], atol=1e-5), name
    assert not torch.equal(ours(forget.images), start(forget.images))


def textbook(model, forget, generator):
    """Another last layer, of five outputs, trained in place of the old one: its first four at the end."""
    name, old = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)][-1]
    with torch.random.fork_rng():
        new = nn.Linear(old.in_features, 5)
    with torch.no_grad():
        new.weight[:4], new.bias[:4] = old.weight, old.bias
        new.weight[4:].normal_(0.0, (2 / (old.in_features + 5)) ** 0.5, generator=generator)
        new.bias[4] = 0
    model.set_submodule(name, new)
    sgd = torch.optim.SGD(model.parameters(), 1e-2, momentum=0.9)
    for _ in range(2):
        for x, _ in forget.rebatch(8, shuffle=True):
            sgd.zero_grad()
            F.cross_entropy(model(x), torch.full((len(x),), 4)).backward()
            sgd.step()
    return {n: p[:4] if n.startswith(f"{name}.") else p for n, p in model.named_parameters()}


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 16), nn.Flatten()), "no linear layer"),
        (nn.Sequential(nn.Flatten(), nn.Linear(768, 7)), "a last linear layer of 7 outputs"),
    ],
)
def test_a_model_that_does_not_end_in_a_layer_of_its_classes_is_refused(make_ctx, forget, model, found):
    with pytest.raises(ValueError, match=f"bdexp: Sequential has {found}, expected 4 outputs"):
        BDEXP()(model, forget, None, make_ctx())


def test_the_new_weight_comes_from_the_runs_own_stream(make_model, make_ctx, forget):
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(0)
        found.append(BDEXP(lr=0.1)(make_model("mlp"), forget, None, make_ctx(seed))[1].weight)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_profile_reference_is_the_released_code():
    expected = {"lr": 1e-5, "epochs": 10, "momentum": 0.9, "batch_size": 64, "mode": "train"}
    assert vars(BDEXP(**BDEXP.info.reference)) == expected
