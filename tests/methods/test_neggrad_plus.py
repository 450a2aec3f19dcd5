from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from methods.finetune import Finetune
from methods.neggrad_plus import Contrast, NegGradPlus, over_and_over


class OneWeight(nn.Module):
    """Logits (0, w·x)."""

    def __init__(self, w=0.0):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w))

    def forward(self, x):
        z = self.w * x.flatten(1)
        return torch.cat([torch.zeros_like(z), z], dim=1)


def samples(memory, *pairs, size=32):
    x = torch.tensor([[float(x)] for x, _ in pairs]).view(-1, 1, 1, 1)
    return memory(x, torch.tensor([y for _, y in pairs]), size=size)


@pytest.mark.parametrize(
    ("fields", "gradient"),
    [
        ({}, -0.425),  # 0.95·(−0.5) − 0.05·(−1)
        ({"alpha": 1.0}, -0.5),
        ({"alpha": 0.0}, 1.0),
        ({"loss": "difference"}, 0.5),
    ],
)
def test_gradient_matches_the_worked_example(memory, make_ctx, fields, gradient):
    retain, forget = samples(memory, (1, 1)), samples(memory, (2, 1))
    model = NegGradPlus(lr=0.1, epochs=1, **fields)(OneWeight(), forget, retain, make_ctx())
    assert model.w.item() == pytest.approx(-0.1 * gradient, abs=1e-6)


@pytest.mark.parametrize(("fields", "expected"), [({}, 0.95), ({"loss": "difference"}, 1.0)])
def test_the_anchor_pulls_to_the_start_and_only_once_one_has_left(memory, fields, expected):
    model, x = OneWeight(3.0), torch.zeros(1, 1, 1, 1)  # at x = 0 no cross-entropy has a gradient
    loss = Contrast(NegGradPlus(anchor=0.2, **fields), model, samples(memory, (0, 1)))
    assert torch.autograd.grad(loss(model, x, torch.tensor([0])), model.w)[0].item() == 0.0
    with torch.no_grad():
        model.w += 2.0
    moved = torch.autograd.grad(loss(model, x, torch.tensor([0])), model.w)[0]
    assert moved.item() == pytest.approx(expected * 0.2 * 2.0)


def test_each_retained_batch_meets_the_next_forget_batch_over_and_over(memory):
    forget = samples(memory, (1, 0), (2, 0), (3, 0), size=2)
    walk = over_and_over(forget)
    assert [next(walk)[0].flatten().tolist() for _ in range(4)] == [[1, 2], [3], [1, 2], [3]]


def test_without_a_forget_set_it_is_plain_training(make_model, make_ctx, forget, retain):
    def run(method, *data):
        torch.manual_seed(0)
        return nn.utils.parameters_to_vector(method(make_model("mlp"), *data, make_ctx()).parameters())

    none = forget.subset(torch.arange(0))
    ours = run(NegGradPlus(alpha=1.0, anchor=0.0, epochs=2, batch_size=16), none, retain)
    plain = Finetune(0.01, epochs=2, momentum=0.0, weight_decay=0.0, batch_size=16, schedule="constant")
    assert torch.equal(ours, run(plain, None, retain))


def test_it_keeps_batch_statistics(make_model, make_ctx, forget, retain):
    model = make_model("conv")
    after = NegGradPlus(epochs=1)(copy.deepcopy(model), forget, retain, make_ctx())
    assert torch.equal(after[1].running_mean, model[1].running_mean)
    after = NegGradPlus(epochs=1, mode="train")(copy.deepcopy(model), forget, retain, make_ctx())
    assert not torch.equal(after[1].running_mean, model[1].running_mean)


def test_clipped_gradient_bounds_the_step(make_model, make_ctx, forget, retain):
    model = make_model("mlp")
    hyper = NegGradPlus(lr=1.0, epochs=1, grad_clip=1e-3, batch_size=64)
    after = hyper(copy.deepcopy(model), forget, retain, make_ctx())
    moved = [a - b for a, b in zip(after.parameters(), model.parameters(), strict=True)]
    assert torch.cat([m.flatten() for m in moved]).norm().item() == pytest.approx(1e-3, rel=1e-2)
