from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from methods.finetune import Finetune
from methods.loops import cosine, num_steps


def by_hand(model, retain, rate_at, hyper):
    """Batch by batch SGD with momentum and weight decay, written out."""
    model.train()
    buffers = [torch.zeros_like(p) for p in model.parameters()]
    step = 0
    for _ in range(hyper.epochs):
        for x, y in retain.rebatch(hyper.batch_size, shuffle=True):
            model.zero_grad()
            F.cross_entropy(model(x), y).backward()
            with torch.no_grad():
                for p, buffer in zip(model.parameters(), buffers, strict=True):
                    buffer.mul_(hyper.momentum).add_(p.grad + hyper.weight_decay * p)
                    p -= rate_at(step) * buffer
            step += 1
    return model.eval()


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_it_is_sgd_with_momentum_on_the_retained_data(unlearn, make_model, retain, schedule):
    hyper = Finetune(lr=0.05, epochs=2, batch_size=16, schedule=schedule)
    model = make_model("conv")
    ours = unlearn(hyper, model, seed=5)
    torch.manual_seed(5)
    steps = 2 * 4
    rates = {
        "constant": lambda k: 0.05,
        "cosine": lambda k: 0.05 * (1 + math.cos(math.pi * k / steps)) / 2,
    }
    plain = by_hand(copy.deepcopy(model), retain, rates[schedule], hyper)
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert (ours[6].weight - model[6].weight).abs().max() > 1e-2


def test_cosine_starts_at_the_full_rate_and_ends_at_zero():
    sgd = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.2)
    schedule = cosine(sgd, 4)
    rates = []
    for _ in range(5):
        rates.append(sgd.param_groups[0]["lr"])
        sgd.step()
        schedule.step()
    assert rates == pytest.approx([0.2, 0.1 * (1 + math.sqrt(0.5)), 0.1, 0.1 * (1 - math.sqrt(0.5)), 0.0])


def test_a_short_last_batch_is_a_step(retain):
    assert num_steps(retain, 16, 3) == 3 * len(list(retain.rebatch(16))) == 12


def test_profile_reference_keeps_a_high_rate():
    assert Finetune.info.reference == {"lr": 0.02, "schedule": "constant"}


def test_it_keeps_what_it_rehearses(trained):
    model = Finetune(epochs=2)(copy.deepcopy(trained.model), None, trained.retain, trained.ctx)
    assert trained.accuracy(model, trained.retain) > 0.97


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schedule": "linear"}, "finetune.schedule is 'linear', expected constant | cosine"),
        ({"lr": -1.0}, "finetune.lr is -1.0, expected >= 0"),
        ({"mode": "test"}, "finetune.mode"),
        ({"batch_size": 0}, "finetune.batch_size"),
    ],
)
def test_bad_hyper_parameters_are_refused_by_name(fields, message):
    with pytest.raises(ValueError) as error:
        Finetune(**fields)
    assert message in str(error.value)
