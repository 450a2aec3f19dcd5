from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import methods.fisher as fisher_module
from methods.fisher import Fisher, fisher_diagonal


def textbook(model, batches, num_classes):
    """One image and one backward pass for each class at a time."""
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x, _ in batches.rebatch(1):
        log_p = model(x)[0].log_softmax(0)
        for c in range(num_classes):
            grads = torch.autograd.grad(log_p[c], list(model.parameters()), retain_graph=True)
            for (name, _), g in zip(model.named_parameters(), grads, strict=True):
                total[name] += log_p[c].exp().detach() * g**2
    return {name: value / batches.num_examples for name, value in total.items()}


@pytest.mark.parametrize("kind", ["conv", "mlp", "vit"])
@pytest.mark.parametrize("floats", [1, 5_000, 2**25])
def test_merged_passes_give_the_information_of_single_images(make_model, retain, monkeypatch, kind, floats):
    monkeypatch.setitem(fisher_module.PASS, "cpu", floats)
    model, few = make_model(kind), retain.subset(torch.arange(5)).rebatch(3)
    found, plain = fisher_diagonal(model, few, 4), textbook(model, few, 4)
    assert found.keys() == plain.keys()
    for name, value in plain.items():
        assert torch.allclose(found[name], value, rtol=1e-3, atol=1e-9), name
    assert all(p.grad is None for p in model.parameters())


def test_information_of_a_linear_softmax_is_known(memory):
    """F of W[k, j] is the mean of p_k·(1 − p_k)·x_j², and of b[k] that of p_k·(1 − p_k)."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 3))
    x = torch.tensor([[1.0, 2.0], [0.5, -1.0]])
    found = fisher_diagonal(model.eval(), memory(x.view(2, 2, 1, 1), torch.tensor([0, 1])), 3)
    p = model(x).softmax(1)  # (2, 3)
    spread = p * (1 - p)
    assert torch.allclose(found["1.bias"], spread.mean(0), atol=1e-6)
    assert torch.allclose(found["1.weight"], (spread[:, :, None] * x[:, None] ** 2).mean(0), atol=1e-6)


@pytest.mark.parametrize(
    ("floats", "size", "expected"),
    [(1, 50, (1, 1)), (200, 50, (1, 4)), (500, 50, (1, 10)), (5000, 50, (10, 10)), (10**6, 50, (2000, 10))],
)
def test_a_pass_holds_as_many_gradients_as_fit_and_one_at_least(floats, size, expected):
    assert fisher_module._chunks(size, 10, floats) == expected


def noise_scale(hyper, model, name, *args):
    """Standard deviation of what a run adds to each entry of parameter `name`, over 400 seeds."""
    fisher, ctx = args
    before = dict(model.named_parameters())[name].detach().clone()
    added = []
    for _ in range(400):
        other = copy.deepcopy(model)
        last = [m for m in other.modules() if isinstance(m, nn.Linear)][-1]
        hyper._blur(other, last, fisher, ctx)
        added.append(dict(other.named_parameters())[name].detach() - before)
    return torch.stack(added).std(0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("1.weight", [0.5005**0.5, 0.5005**0.5]),  # ½·(min(1/1, 10) + min(1/1e-3, …)) with m = 1, and α = 1
        ("1.bias", [10**0.5, 0.01**0.5]),
        ("2.weight", [10**0.5, 5.5**0.5]),
    ],
)
def test_the_noise_is_as_wide_as_the_equation_says(make_ctx, name, expected):
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.Linear(2, 2))
    rows = {"1.weight": [[1.0, 1000.0], [1000.0, 1.0]], "1.bias": [1e-9, 1000.0]}
    rows |= {"2.weight": [[0.0, 0.5], [1.0, 10.0]], "2.bias": [1.0, 1.0]}
    fisher = {key: torch.tensor(value) for key, value in rows.items()}
    found = noise_scale(Fisher(alpha=1.0, cap=1.0), model, name, fisher, make_ctx())
    wanted = torch.tensor(expected)
    wanted = wanted[:, None].expand(2, 2) if found.ndim == 2 else wanted
    assert torch.allclose(found, wanted, rtol=0.15)


@pytest.mark.parametrize("zero", [True, False])
def test_only_classes_without_retained_images_lose_their_weights(make_model, make_ctx, retain, zero):
    start = make_model("mlp")
    model = Fisher(alpha=0.0, zero_absent=zero, images=2)(copy.deepcopy(start), None, retain, make_ctx())
    kept = slice(1 if zero else 0, None)  # class 0 is the one without
    for p, before in zip(model[3].parameters(), start[3].parameters(), strict=True):
        assert torch.equal(p[kept], before[kept])
        assert (not p[0].any()) == zero
    assert torch.equal(model[1].weight, start[1].weight)


def test_a_part_of_the_retained_images_is_drawn_at_random(make_ctx, retain):
    hyper = Fisher(images=10)
    one, other = (hyper._some(retain, make_ctx(seed)).targets for seed in (1, 2))
    assert len(one) == len(other) == 10
    assert not torch.equal(one, other)
    assert Fisher(images=99)._some(retain, make_ctx()) is retain


def test_a_model_that_does_not_end_in_a_layer_of_its_classes_is_refused(make_ctx, retain):
    model = nn.Sequential(nn.Conv2d(3, 4, 16), nn.Flatten())
    with pytest.raises(ValueError, match="fisher: Sequential has no linear layer, expected 4 outputs"):
        Fisher()(model, None, retain, make_ctx())


def test_weights_that_take_no_gradient_are_left_alone(make_model, make_ctx, retain):
    model = make_model("mlp")
    model[1].weight.requires_grad_(False)
    before = model[1].weight.clone(), model[3].weight.clone()
    after = Fisher(images=3)(model, None, retain, make_ctx())
    assert torch.equal(after[1].weight, before[0])
    assert not torch.equal(after[3].weight, before[1])
