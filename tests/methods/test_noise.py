from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import methods.noise as noise_module
from methods.noise import Mixture, Recipe, descend, learn_noise, train_on, used_images

WORSE = Recipe(count=2, sign=-1.0, steps=4, lr=0.1, penalty=0.1)


@pytest.fixture
def constant():
    """Zero weights, so that the cross-entropy does not depend on the image (2, 1, 1)."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 3))
    for p in model.parameters():
        nn.init.zeros_(p)
    return model.eval()


def moved(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_on_a_constant_network_only_the_penalty_pulls(constant):
    start = torch.tensor([1.0, -2.0]).view(1, 2, 1, 1)
    once = dataclasses.replace(WORSE, count=1, steps=1)
    noise = descend(constant, start, torch.tensor([0]), once)
    assert noise.flatten().tolist() == pytest.approx([0.9, -1.9], abs=1e-6)


def test_the_penalty_is_a_mean_over_the_images_of_a_class(constant, monkeypatch):
    monkeypatch.setattr(torch.optim, "Adam", torch.optim.SGD)
    start = torch.tensor([1.0, -2.0]).view(1, 2, 1, 1)
    for count, slope in ((1, (0.2, -0.4)), (4, (0.05, -0.1))):
        once = dataclasses.replace(WORSE, count=count, steps=1, lr=1.0)
        noise = descend(constant, start.repeat(count, 1, 1, 1), torch.zeros(count, dtype=torch.int64), once)
        assert (start - noise)[0].flatten().tolist() == pytest.approx(slope, abs=1e-6)


def textbook(model, label, start, recipe):
    """One class at a time, as the released code does it."""
    noise = start.clone().requires_grad_()
    adam = torch.optim.Adam([noise], recipe.lr)
    y = torch.full((len(start),), label)
    for _ in range(recipe.steps):
        adam.zero_grad()
        per_image = noise.flatten(1).square().sum(1).mean()
        (recipe.sign * F.cross_entropy(model(noise), y) + recipe.penalty * per_image).backward()
        adam.step()
    return noise.detach()


@pytest.mark.parametrize("kind", ["conv", "vit"])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("images_per_pass", [1, 128])
def test_classes_learned_together_are_those_learned_alone(
    make_model, make_ctx, monkeypatch, kind, sign, images_per_pass
):
    monkeypatch.setitem(noise_module.IMAGES_PER_PASS, "cpu", images_per_pass)
    model, recipe = make_model(kind), dataclasses.replace(WORSE, sign=sign)
    labels = torch.tensor([2, 0, 3])
    found = learn_noise(copy.deepcopy(model), labels, recipe, make_ctx(5))
    starts = torch.randn((6, 3, 16, 16), generator=torch.Generator().manual_seed(5))
    alone = [textbook(model, int(c), part, recipe) for c, part in zip(labels, starts.split(2), strict=True)]
    assert torch.allclose(found, torch.cat(alone), atol=1e-4)
    assert not torch.allclose(found, starts, atol=0.1)


@pytest.mark.parametrize(("sign", "rises"), [(-1.0, True), (1.0, False)])
def test_the_sign_says_where_the_loss_goes(make_model, make_ctx, sign, rises):
    model, labels = make_model("mlp"), torch.arange(4)
    losses = []
    for steps in (0, 20):
        recipe = Recipe(count=3, sign=sign, steps=steps, lr=0.1)
        noise = learn_noise(model, labels, recipe, make_ctx(1))
        losses.append(F.cross_entropy(model(noise), labels.repeat_interleave(3)).item())
    assert (losses[1] > losses[0] + 0.5) if rises else (losses[1] < losses[0] - 0.5)


def test_learning_noise_leaves_no_trace_on_the_network(make_model, make_ctx):
    model = make_model("conv")
    model[0].bias.requires_grad_(False)
    before = moved(model)
    learn_noise(model, torch.arange(4), WORSE, make_ctx())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["0.bias"]


def test_in_train_mode_each_class_is_a_batch_of_its_own(make_model, make_ctx):
    model = make_model("conv")
    learn_noise(model, torch.arange(4), dataclasses.replace(WORSE, mode="train"), make_ctx())
    assert int(model[1].num_batches_tracked) == 4 * WORSE.steps


def test_gradients_left_in_the_network_are_the_sum_over_all_steps(make_model, make_ctx):
    model, labels = make_model("mlp"), torch.tensor([1, 3])
    learn_noise(model, labels, dataclasses.replace(WORSE, leave_gradients=True), make_ctx(2))
    other = make_model("mlp")
    starts = torch.randn((4, 3, 16, 16), generator=torch.Generator().manual_seed(2))
    for label, start in zip(labels, starts.split(2), strict=True):
        textbook(other, int(label), start, WORSE)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, atol=1e-5)
        assert p.grad.norm() > 0


def test_gradients_that_lie_in_the_buffers_enter_the_first_step_alone(make_model, make_ctx):
    images, labels = torch.randn(1, 3, 16, 16), torch.tensor([2])
    stale, clean = make_model("mlp"), make_model("mlp")
    for p in stale.parameters():
        p.grad = torch.ones_like(p)
    for model in (stale, clean):
        sgd = torch.optim.SGD(model.parameters(), 1e-4)
        train_on(model, Mixture(images, labels, 1, 1, make_ctx()), sgd, 3)
    for p, q in zip(stale.parameters(), clean.parameters(), strict=True):
        assert torch.allclose(p - q, torch.full_like(p, -1e-4), atol=2e-6)
        assert p.grad is None


def test_steps_stop_at_the_limit(make_model, make_ctx):
    model, heard = make_model("conv").train(), []
    mixture = Mixture(torch.randn(4, 3, 16, 16), torch.arange(4), 5, 2, make_ctx())  # 10 steps a walk
    for limit, expected in ((7, 7), (None, 27), (100, 47)):
        sgd = torch.optim.SGD(model.parameters(), 1e-4)
        train_on(model, mixture, sgd, 2, limit, lambda *pair: heard.append(pair))
        assert int(model[1].num_batches_tracked) == expected
    assert [name for name, _ in heard] == ["loss"] * 3


@pytest.mark.parametrize(("which", "distinct", "items"), [("all", 32, 2560), ("channels", 3, 240)])
def test_the_released_code_uses_as_many_images_as_there_are_channels(make_ctx, which, distinct, items):
    noise = torch.randn(32, 3, 4, 4)
    used = used_images(noise, 32, which)
    assert torch.equal(used, noise[:distinct])
    mixture = Mixture(used, torch.zeros(distinct, dtype=torch.int64), 80, 128, make_ctx())
    assert mixture.num_examples == items
    assert sum(len(y) for _, y in mixture) == items


def test_the_first_images_of_every_class_are_used():
    noise = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 2, 1, 1)  # two classes of four, two channels
    assert used_images(noise, 4, "channels")[:, 0].flatten().tolist() == [0, 1, 4, 5]
    assert len(used_images(noise[:, :1], 1, "channels")) == 8  # never more than there are


def test_a_walk_has_every_copy_and_every_retained_image_once_in_a_fresh_order(make_ctx, memory):
    retained = memory(torch.arange(5.0).view(5, 1, 1, 1) + 100, torch.arange(5) + 10)
    images = torch.tensor([7.0, 8.0]).view(2, 1, 1, 1)
    mixture = Mixture(images, torch.tensor([1, 2]), 3, 4, make_ctx(3), retained)
    walks = []
    for _ in range(2):
        batches = list(mixture)
        assert [len(y) for _, y in batches] == [4, 4, 3]
        x, y = (torch.cat(column).flatten().tolist() for column in zip(*batches, strict=True))
        walks.append(list(zip(x, y, strict=True)))
    expected = [(7, 1)] * 3 + [(8, 2)] * 3 + [(100 + i, 10 + i) for i in range(5)]
    assert sorted(walks[0]) == sorted(walks[1]) == sorted(expected)
    assert walks[0] != walks[1]
