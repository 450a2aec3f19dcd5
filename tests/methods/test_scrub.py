from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook

from methods.scrub import Scrub

STRONG = {"lr": 0.05, "forget_batch_size": 8, "retain_batch_size": 16}


def weights(model):
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def equal(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture
def count_steps():
    """Counts the optimizer's steps until the test is over."""
    count = [0]

    def step(optimizer, args, kwargs):
        count[0] += 1

    handle = register_optimizer_step_post_hook(step)
    yield count
    handle.remove()


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 0.143841), (4.0, 0.150397)])
def test_distance_to_the_teacher_is_the_worked_number(temperature, expected):
    student, teacher = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)
    hyper = Scrub(temperature=temperature)
    assert hyper._distance(teacher, student).item() == pytest.approx(expected, abs=1e-6)
    twice = hyper._distance(teacher.expand(2, 2), student.expand(2, 2))
    assert twice.item() == pytest.approx(expected, abs=1e-6)


def test_max_steps_come_first_and_stop_after_msteps(make_model, make_ctx, forget, retain, count_steps):
    heard = []
    ctx = make_ctx(log=lambda name, value: heard.append(name))
    Scrub(epochs=3, msteps=2, forget_batch_size=8, retain_batch_size=16)(
        make_model("mlp"), forget, retain, ctx
    )
    assert ["F" if name == "divergence" else "R" for name in heard] == list("FRFRR")
    assert count_steps[0] == 2 * 3 + 3 * 4


@pytest.mark.parametrize("weight_decay", [0.0, 5e-4])
def test_the_first_max_step_only_decays_the_weights(make_model, make_ctx, forget, retain, weight_decay):
    model = make_model("conv_without_dropout").double()
    forget = type(forget)(forget.images.double(), forget.targets)
    nothing = type(retain)(retain.images[:0].double(), retain.targets[:0])
    before = weights(model).clone()
    hyper = Scrub(epochs=1, lr=5e-4, weight_decay=weight_decay, grad_clip=None)
    after = weights(hyper(model, forget, nothing, make_ctx()))
    expected = before * (1 - 5e-4 * weight_decay)
    assert torch.allclose(after, expected, rtol=0, atol=2e-9)
    if weight_decay:
        assert float((after - before).abs().max()) > 2e-8


def textbook(hyper, model, forget, retain):
    """SCRUB as one would write it down first: a second model that teaches afresh at every step."""
    teacher = copy.deepcopy(model).eval()
    model.eval()
    velocity = [torch.zeros_like(p) for p in model.parameters()]

    def step(loss):
        grads = torch.autograd.grad(loss, list(model.parameters()))
        norm = torch.cat([g.flatten() for g in grads]).norm()
        scale = min(1.0, hyper.grad_clip / (float(norm) + 1e-6)) if hyper.grad_clip else 1.0
        with torch.no_grad():
            for p, g, v in zip(model.parameters(), grads, velocity, strict=True):
                v.mul_(hyper.momentum).add_(g * scale + hyper.weight_decay * p)
                p.sub_(hyper.lr * v)

    def distance(x):
        t = hyper.temperature
        with torch.no_grad():
            q = F.softmax(teacher(x) / t, dim=1)
        return t * t * (q * (q.log() - F.log_softmax(model(x) / t, dim=1))).sum(1).mean()

    for epoch in range(hyper.epochs):
        if epoch < hyper.msteps:
            for x, _ in forget.rebatch(hyper.forget_batch_size, shuffle=hyper.shuffle_forget):
                step(-distance(x))
        for x, y in retain.rebatch(hyper.retain_batch_size, shuffle=True):
            step(hyper.gamma * F.cross_entropy(model(x), y) + hyper.alpha * distance(x))
    return model


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"alpha": 1.0, "gamma": 5.0, "grad_clip": None, "lr": 0.005},
        {"shuffle_forget": False, "temperature": 1.0, "msteps": 1},
        {"micro_batch": 3},
    ],
)
@pytest.mark.parametrize("kind", ["conv", "vit"])
def test_logits_taken_once_give_the_weights_of_a_teacher_that_is_asked_every_time(
    make_model, make_ctx, forget, retain, kind, switches
):
    hyper = Scrub(**{**STRONG, "mode": "eval", **switches})
    start = make_model(kind)
    torch.manual_seed(3)
    plain = textbook(hyper, copy.deepcopy(start), forget, retain)
    torch.manual_seed(3)
    ours = hyper(copy.deepcopy(start), forget, retain, make_ctx())
    assert float((weights(plain) - weights(start)).abs().max()) > 1e-3
    assert torch.allclose(weights(ours), weights(plain), atol=1e-4, rtol=1e-3)


def test_parts_of_a_batch_add_up_to_its_gradient(make_model, make_ctx, forget, retain):
    start = make_model("conv_without_dropout")
    results = []
    for micro_batch in (None, 3):
        torch.manual_seed(0)
        hyper = Scrub(**STRONG, micro_batch=micro_batch)
        results.append(weights(hyper(copy.deepcopy(start), forget, retain, make_ctx())))
    assert torch.allclose(*results, atol=1e-5)
    assert not torch.equal(results[0], weights(start))


def test_no_pass_is_larger_than_micro_batch(make_model, make_ctx, forget, retain):
    sizes = []
    model = make_model("mlp")
    model.register_forward_hook(lambda module, args, out: sizes.append(len(args[0])))
    Scrub(micro_batch=5)(model, forget, retain, make_ctx())
    assert max(sizes) == 5


def test_labels_of_the_forget_set_do_not_matter(unlearn, make_model, forget):
    permuted = forget.relabel((forget.targets + 2) % 4)
    hyper, model = Scrub(**STRONG), make_model("conv")
    assert equal(unlearn(hyper, model), unlearn(hyper, model, forget=permuted))


@pytest.mark.parametrize(("mode", "dropout", "statistics"), [
    ("train", True, True), ("freeze_bn", True, False), ("eval", False, False),
])  # fmt: skip
def test_mode_decides_on_dropout_and_on_batch_statistics(
    make_model, make_ctx, forget, retain, mode, dropout, statistics
):
    model = make_model("conv")
    before = model[1].running_mean.clone()
    Scrub(mode=mode)(model, forget, retain, make_ctx())
    assert model[5].training == dropout
    assert torch.equal(model[1].running_mean, before) != statistics


def test_clipping_bounds_a_step(make_model, make_ctx, forget, retain):
    model = make_model("mlp")
    before = weights(model).clone()
    hyper = Scrub(lr=1.0, epochs=1, msteps=0, retain_batch_size=64, weight_decay=0.0, grad_clip=1e-3)
    after = weights(hyper(model, forget, retain, make_ctx()))
    assert float((after - before).norm()) == pytest.approx(1e-3, rel=1e-2)


def test_training_under_autocast_does_not_use_stale_weights(make_model, make_ctx, forget, retain):
    def run(cached):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=cached):
            return weights(Scrub(**STRONG)(make_model("conv"), forget, retain, make_ctx()))

    assert torch.isfinite(run(False)).all()
    assert torch.equal(run(True), run(False))
    assert not torch.equal(run(True), weights(make_model("conv")))


def test_profile_reference_is_the_released_code():
    expected = {
        **{"lr": 5e-4, "epochs": 3, "msteps": 2, "alpha": 0.001, "gamma": 0.99, "temperature": 4.0},
        **{"forget_batch_size": 128, "retain_batch_size": 128, "shuffle_forget": False, "grad_clip": None},
        **{"optimizer": "sgd", "momentum": 0.9, "weight_decay": 5e-4, "mode": "train"},
    }
    reference = vars(Scrub(**Scrub.info.reference))
    assert {name: reference[name] for name in expected} == expected


def test_it_forgets_a_digit_and_keeps_the_others(trained):
    torch.manual_seed(0)
    hyper = Scrub(lr=0.03, forget_batch_size=64, retain_batch_size=64)
    model = hyper(copy.deepcopy(trained.model), trained.forget, trained.retain, trained.ctx)
    assert trained.accuracy(model, trained.forget) < 0.3
    assert trained.accuracy(model, trained.retain) > 0.95
