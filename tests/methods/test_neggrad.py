from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from methods.neggrad import NegGrad


class OneWeight(nn.Module):
    """Logits (0, w·x) with w = 0."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        z = self.w * x.flatten(1)
        return torch.cat([torch.zeros_like(z), z], dim=1)


@pytest.fixture
def one(memory):
    """One sample, x = 1 of class 1."""
    return memory(torch.ones(1, 1, 1, 1), torch.tensor([1]))


def test_one_step_climbs_the_loss(one, make_ctx):
    model = NegGrad(lr=0.1, epochs=1)(OneWeight(), one, None, make_ctx())
    assert model.w.item() == pytest.approx(-0.05)


def test_momentum_carries_the_first_step_into_the_second(one, make_ctx):
    model = NegGrad(lr=0.1, epochs=2, momentum=0.9)(OneWeight(), one, None, make_ctx())
    second = 0.9 * 0.5 + (1 - torch.sigmoid(torch.tensor(-0.05)).item())
    assert model.w.item() == pytest.approx(-0.05 - 0.1 * second)


def test_clipped_gradient_bounds_the_step(one, make_ctx):
    model = NegGrad(lr=0.1, epochs=1, grad_clip=0.2)(OneWeight(), one, None, make_ctx())
    assert model.w.item() == pytest.approx(-0.02, rel=1e-4)


def test_batch_statistics_follow_the_forget_set_only_in_train_mode(unlearn, make_model):
    model = make_model("conv")
    frozen, followed = unlearn(NegGrad(), model), unlearn(NegGrad(**NegGrad.info.reference), model)
    assert torch.equal(frozen[1].running_mean, model[1].running_mean)
    assert not torch.equal(followed[1].running_mean, model[1].running_mean)


def test_it_forgets_a_digit_more_than_the_others(trained):
    torch.manual_seed(0)
    hyper = NegGrad(lr=3e-3, batch_size=64)
    model = hyper(copy.deepcopy(trained.model), trained.forget, None, trained.ctx)
    forget_drop, retain_drop = trained.drops(model)
    assert forget_drop > 0.3
    assert forget_drop > 2 * retain_drop


def test_profile_reference_takes_the_released_rate():
    assert vars(NegGrad(**NegGrad.info.reference)) == {
        **{"lr": 0.02, "epochs": 5, "momentum": 0.9, "weight_decay": 5e-4},
        **{"batch_size": 128, "grad_clip": None, "mode": "train"},
    }
