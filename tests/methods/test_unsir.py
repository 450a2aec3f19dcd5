from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from methods.noise import Recipe, learn_noise
from methods.unsir import UNSIR, first_of_each

SMALL = {"noise_images": 4, "copies": 3, "noise_steps": 5, "batch_size": 8, "repair_batch_size": 16}


@pytest.mark.parametrize(
    ("share", "most", "expected"),
    [
        (1.0, None, [0, 1, 2, 3, 4, 5, 6]),
        (1.0, 2, [0, 1, 2, 4, 6]),
        (0.5, None, [0, 1, 4, 6]),
        (0.01, None, [0, 1, 6]),
        (0.5, 1, [0, 1, 6]),
    ],
)
def test_the_first_images_of_each_class_are_kept_in_stored_order(share, most, expected):
    labels = torch.tensor([2, 0, 2, 2, 0, 2, 5])  # 2, 4 and 1 images; half of 4 is 2, of 2 is 1
    counted = first_of_each(labels, share, most).tolist()
    assert counted == (expected if share != 0.5 or most else [0, 1, 2, 6])


def test_a_fifth_of_cifar10_is_a_thousand_images_a_class():
    labels = torch.arange(10).repeat(5000)
    assert len(first_of_each(labels, 0.2, None)) == 10_000
    assert len(first_of_each(labels, 1.0, 500)) == 5_000


def test_of_one_hundred_classes_of_500_the_released_subset_is_everything():
    labels = torch.arange(1, 100).repeat_interleave(500)
    reference = UNSIR(**UNSIR.info.reference)
    assert len(first_of_each(labels, reference.share, reference.per_class)) == 49_500


def textbook(hyper, model, retain, ctx):
    """Both phases on lists of images, one step after another."""
    kept = first_of_each(retain.targets, hyper.share, hyper.per_class)
    x, y = retain.images[kept], retain.targets[kept]
    recipe = Recipe(hyper.noise_images, -1.0, hyper.noise_steps, hyper.noise_lr, hyper.penalty)
    noise = learn_noise(model, torch.tensor([ctx.forget_class]), recipe, ctx)
    model.train()
    all_x = torch.cat([noise.repeat(hyper.copies, 1, 1, 1), x])
    all_y = torch.cat([torch.full((len(all_x) - len(x),), ctx.forget_class), y])
    order = torch.randperm(len(all_x), generator=ctx.generator)
    fit(model, all_x[order], all_y[order], hyper.batch_size, hyper.lr)
    order = torch.randperm(len(x))
    fit(model, x[order], y[order], hyper.repair_batch_size, hyper.repair_lr)
    return model


def fit(model, x, y, size, lr):
    adam = torch.optim.Adam(model.parameters(), lr)
    for images, labels in zip(x.split(size), y.split(size), strict=True):
        adam.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        adam.step()


@pytest.mark.parametrize("kind", ["mlp", "vit"])  # Adam blows up rounding where batch norm follows a bias
def test_it_impairs_and_repairs_as_the_textbook_does(make_model, make_ctx, retain, kind):
    hyper = UNSIR(**SMALL, share=0.5, lr=1e-3, repair_lr=5e-4)
    start, found = make_model(kind), []
    for run in (lambda *a: hyper(a[0], None, *a[1:]), lambda *a: textbook(hyper, *a)):
        torch.manual_seed(4)
        found.append(run(copy.deepcopy(start), retain, make_ctx(4, forget_class=0)).state_dict())
    moved = max(float((found[1][name] - p.detach()).abs().max()) for name, p in start.named_parameters())
    assert moved > 1e-3
    for name, value in found[1].items():
        assert torch.allclose(found[0][name], value, atol=2e-4), name


@pytest.mark.parametrize(("mode", "steps"), [("train", 6 + 2), ("eval", 0)])
def test_batch_statistics_follow_the_images_trained_on_and_not_the_noise_being_learned(
    make_model, make_ctx, retain, mode, steps
):
    ctx = make_ctx(4, forget_class=0)
    model = UNSIR(**{**SMALL, "copies": 6}, share=0.5, mode=mode)(make_model("conv"), None, retain, ctx)
    assert int(model[1].num_batches_tracked) == steps  # 24 copies and 24 or so retained images


def test_without_a_repair_rate_both_phases_take_one_rate(make_model, make_ctx, retain):
    found = []
    for repair in (None, 1e-3):
        torch.manual_seed(0)
        hyper = UNSIR(**SMALL, lr=1e-3, repair_lr=repair)
        found.append(hyper(make_model("mlp"), None, retain, make_ctx(1, forget_class=0))[1].weight)
    assert torch.equal(*found)


def test_profile_reference_is_the_released_code():
    expected = {
        **{"lr": 1e-4, "repair_lr": None, "epochs": 1, "batch_size": 32, "repair_batch_size": 128},
        **{"share": 1.0, "per_class": 500, "noise_images": 32, "copies": 80, "noise_steps": 25},
        **{"noise_lr": 0.1, "penalty": 0.1, "images_used": "channels", "noise_mode": "train"},
        **{"mode": "train", "stale_gradients": True},
    }
    assert vars(UNSIR(**UNSIR.info.reference)) == expected
