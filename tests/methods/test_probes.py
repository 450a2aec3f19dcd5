from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from methods.probes import attention, logits_and_attention, map_layers, probed


def test_a_probe_catches_what_a_layer_puts_out_and_then_lets_go(make_model):
    model, x = make_model("mlp"), torch.randn(3, 3, 16, 16)
    with probed(model, ["1", "3"]) as caught:
        out = model(x)
    assert torch.equal(caught["3"], out)
    assert torch.equal(caught["1"], model[1](x.flatten(1)))
    assert caught["1"].requires_grad
    with torch.no_grad():
        model(torch.zeros_like(x))
    assert torch.equal(caught["3"], out)


def test_hooks_are_gone_even_after_an_error(make_model):
    model = make_model("mlp")
    with pytest.raises(RuntimeError), probed(model, ["1"]):
        model(torch.zeros(1, 1))
    assert not model[1]._forward_hooks


def test_an_unknown_layer_is_refused(make_model):
    with pytest.raises(AttributeError, match="nowhere"), probed(make_model("mlp"), ["nowhere"]):
        pass


def test_of_a_tuple_the_first_is_caught():
    class Pair(nn.Module):
        def forward(self, x):
            return x + 1, None

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair = Pair()

        def forward(self, x):
            return self.pair(x)[0]

    net = Net()
    with probed(net, ["pair"]) as caught:
        net(torch.zeros(2))
    assert torch.equal(caught["pair"], torch.ones(2))


@pytest.mark.parametrize(
    ("kind", "layers"), [("conv", ["2", "3"]), ("mlp", []), ("vit", ["blocks.0", "blocks.1"])]
)
def test_maps_are_found_in_any_model(make_model, kind, layers):
    assert map_layers(make_model(kind), (3, 16, 16)) == layers


def test_a_residual_network_is_watched_at_its_blocks():
    from torchvision.models import resnet18

    torch.manual_seed(0)
    model = resnet18(num_classes=4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert map_layers(model, (3, 64, 64)) == [f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)]
    assert map_layers(model, (3, 32, 32)) == [f"layer{i}.{j}" for i in (1, 2, 3) for j in (0, 1)]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_plain_network_is_watched_before_each_pooling():
    features = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(4),
    )  # fmt: skip
    model = nn.Sequential(OrderedDict(features=features, flatten=nn.Flatten(), head=nn.Linear(8, 2)))
    assert map_layers(model, (1, 8, 8)) == ["features.1", "features.4"]


def test_a_layer_that_runs_twice_counts_where_it_ran_last():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
            self.pool, self.relu = nn.MaxPool2d(2), nn.ReLU()

        def forward(self, x):
            h = self.pool(self.relu(self.first(x)))
            return self.relu(self.second(h)).mean((2, 3))

    assert map_layers(Net(), (1, 8, 8)) == ["first", "relu"]


def test_attention_of_a_constant_map_is_spread_evenly():
    maps = attention(torch.full((2, 3, 2, 2), 7.0))
    assert torch.allclose(maps, torch.full((2, 4), 0.5))


def test_attention_of_plain_features_is_one_whatever_they_are():
    one, other = attention(torch.randn(5, 9)), attention(100 * torch.randn(5, 9))
    assert torch.allclose(one, torch.ones(5, 1))
    assert float((one - other).square().mean()) == pytest.approx(0.0, abs=1e-12)


def test_attention_averages_squares_over_features():
    h = torch.tensor([[[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]]])  # (1, 3 tokens, 2 features)
    by_position, by_feature = attention(h), attention(h, tokens_by="feature")
    assert torch.allclose(by_position, torch.tensor([[9.0, 16.0, 0.0]]) / 337**0.5)
    assert torch.allclose(by_feature, torch.tensor([[9.0, 16.0]]) / 337**0.5)
    as_map = h.transpose(1, 2).unsqueeze(3)  # (1, 2 channels, 3, 1)
    assert torch.allclose(attention(as_map), by_position)


def test_attention_of_nothing_is_zero_with_a_finite_gradient():
    h = torch.zeros(1, 2, 2, 2, requires_grad=True)
    attention(h).sum().backward()
    assert not attention(h).any()
    assert torch.isfinite(h.grad).all()


def test_attention_is_float32_whatever_the_activations_are():
    h = torch.randn(2, 3, 4, 4)
    low = attention(h.bfloat16())
    assert low.dtype == torch.float32
    assert torch.allclose(low, attention(h), atol=0.02)


def test_one_pass_gives_logits_and_attention(make_model):
    model, x = make_model("vit"), torch.randn(2, 3, 16, 16)
    logits, *maps = logits_and_attention(model, x, map_layers(model, (3, 16, 16)))
    assert torch.equal(logits, model(x))
    assert [tuple(m.shape) for m in maps] == [(2, 5), (2, 5)]
    assert not any(block._forward_hooks for block in model.blocks)
