"""The blocks of a network, and CF-k and EU-k, which train the last of them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from methods.cf_k import CFk
from methods.eu_k import EUk
from methods.finetune import Finetune
from methods.layers import blocks, only_last, replace_last


def named(model):
    """For each block the names of its tensors."""
    names = {id(t): name for name, t in [*model.named_parameters(), *model.named_buffers()]}
    return [[names[id(t)] for t in block.tensors] for block in blocks(model)]


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width))

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x)) + self.shortcut(x))


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.stages = nn.ModuleList([Residual(8), Residual(8)])

    def forward(self, x):
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return x.mean((2, 3))


class Wrapped(nn.Module):
    """A backbone with most of the weights, and a head with dropout before it."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.backbone = Backbone()
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.dropout(self.backbone(x + self.shift)))


@pytest.fixture
def wrapped():
    torch.manual_seed(0)
    return Wrapped().eval()


def test_a_plain_stack_is_cut_before_each_weight_matrix(make_model):
    assert [[type(m).__name__ for m in block.modules] for block in blocks(make_model("conv"))] == [
        ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d", "Flatten", "Dropout"],
        ["Linear"],
    ]
    assert named(make_model("mlp")) == [["1.weight", "1.bias"], ["3.weight", "3.bias"]]


def test_a_transformer_is_cut_into_patches_blocks_and_classifier(make_model):
    found = named(make_model("vit"))
    assert [sorted({n.split(".")[0] for n in block}) for block in found] == [
        ["cls_token", "patch_embed", "pos_embed"],
        ["blocks"],
        ["blocks", "norm"],
        ["head"],
    ]


def test_a_backbone_is_opened_and_its_residual_blocks_are_not(wrapped):
    found = blocks(wrapped)
    assert [type(block.modules[0]).__name__ for block in found] == [
        "Conv2d",
        "Residual",
        "Residual",
        "Linear",
    ]
    assert [type(m).__name__ for m in found[2].modules] == ["Residual", "Dropout"]
    assert found[0].tensors[0] is wrapped.shift


@pytest.mark.parametrize("kind", ["conv", "mlp", "vit"])
def test_every_tensor_is_in_exactly_one_block(make_model, wrapped, kind):
    for model in (make_model(kind), wrapped):
        found = [name for block in named(model) for name in block]
        assert sorted(found) == sorted(
            [n for n, _ in model.named_parameters()] + [n for n, _ in model.named_buffers()]
        )


def test_only_the_last_blocks_learn_and_all_is_as_before_afterwards(wrapped):
    wrapped.head.bias.requires_grad_(False)
    with only_last(wrapped, 1) as learning:
        inside = {id(p) for p in learning}
        assert inside == {id(p) for p in [*wrapped.backbone.stages[1].parameters(), wrapped.head.weight]}
        assert inside == {id(p) for p in wrapped.parameters() if p.requires_grad}
    assert [n for n, p in wrapped.named_parameters() if not p.requires_grad] == ["head.bias"]
    assert not any(m._forward_pre_hooks for m in wrapped.modules())


def test_what_stands_still_is_a_fixed_function_in_whatever_mode(wrapped, forget):
    x = forget.images
    with torch.no_grad():
        expected = wrapped.backbone(x)
        with only_last(wrapped, 0):
            wrapped.train()
            found = wrapped.backbone(x)
            first, second = wrapped(x), wrapped(x)
    assert torch.equal(found, expected)
    assert torch.equal(first, second)  # the dropout belongs to the frozen block before it


@pytest.mark.parametrize("kind", ["conv", "vit"])
def test_cf_k_leaves_every_bit_of_the_frozen_blocks(unlearn, make_model, kind):
    model = make_model(kind)
    after = unlearn(CFk(k=1 if kind == "vit" else 0, epochs=2, batch_size=16), model)
    split = -2 if kind == "vit" else -1
    pairs = list(zip(blocks(after), blocks(model), strict=True))
    for a, b in pairs[:split]:
        assert all(torch.equal(x, y) for x, y in zip(a.tensors, b.tensors, strict=True))
    for a, b in pairs[split:]:
        assert not any(torch.equal(x, y) for x, y in zip(a.tensors, b.tensors, strict=True))


def test_cf_k_of_all_blocks_is_finetune(unlearn, make_model):
    model, rest = make_model("conv"), {"lr": 0.01, "epochs": 2, "batch_size": 16}
    ours, plain = unlearn(CFk(k=9, **rest), model), unlearn(Finetune(**rest), model)
    for key, value in plain.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key


def test_eu_k_takes_over_fresh_last_blocks_and_nothing_else(wrapped, make_ctx, retain):
    torch.manual_seed(1)
    fresh = Wrapped()
    fresh.backbone.stages[1].norm.running_mean += 1.0
    before = copy.deepcopy(wrapped)
    after = EUk(k=1, epochs=0)(wrapped, None, retain, make_ctx(new_model=lambda: fresh))
    for name, value in after.state_dict().items():
        is_last = name.startswith(("head", "backbone.stages.1"))
        assert torch.equal(value, (fresh if is_last else before).state_dict()[name]), name
    assert after.head.weight is not fresh.head.weight


def test_eu_k_trains_with_the_tasks_own_recipe_unless_told_how_long(wrapped, make_ctx, retain):
    calls = []

    def recipe(model, batches):
        calls.append((batches, [n for n, p in model.named_parameters() if p.requires_grad]))
        model.train()(retain.images)
        return model

    before = copy.deepcopy(wrapped)
    ctx = make_ctx(new_model=Wrapped, train=recipe)
    after = EUk(k=0)(copy.deepcopy(wrapped), None, retain, ctx)
    assert calls == [(retain, ["head.weight", "head.bias"])]
    for a, b in zip(after.backbone.buffers(), before.backbone.buffers(), strict=True):
        assert torch.equal(a, b)
    EUk(k=0, epochs=1)(copy.deepcopy(wrapped), None, retain, ctx)
    assert len(calls) == 1


def test_eu_k_learns_the_retained_digits_anew(trained, make_ctx):
    def fresh():
        torch.manual_seed(5)
        model = copy.deepcopy(trained.model)
        for layer in model:
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        return model

    ctx = make_ctx(num_classes=10, input_shape=(1, 8, 8), new_model=fresh)
    model = EUk(k=0, epochs=6, lr=0.05, batch_size=64)(
        copy.deepcopy(trained.model), None, trained.retain, ctx
    )
    assert trained.accuracy(model, trained.forget) == 0.0
    assert trained.accuracy(model, trained.retain) > 0.9


def test_fresh_blocks_of_another_architecture_are_refused(make_model):
    with pytest.raises((ValueError, RuntimeError)):
        replace_last(make_model("conv"), make_model("vit"), 0)
