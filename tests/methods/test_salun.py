from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from methods.random_labels import RandomLabels
from methods.ranks import largest
from methods.salun import SalUn, saliency


def weights(model):
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def test_the_mask_holds_the_largest_gradients_of_the_worked_example():
    g = torch.tensor([4.0, -1.0, 3.0, -2.0])
    assert largest([g.abs()], 2)[0].tolist() == [True, False, True, False]


@pytest.mark.parametrize("kind", ["conv", "vit"])
@pytest.mark.parametrize("rho", [0.0, 0.3, 0.5, 1.0])
def test_the_mask_holds_its_share_of_all_parameters_together(make_model, forget, kind, rho):
    model = make_model(kind)
    masks = SalUn(rho=rho).masks(model, forget)
    total = sum(p.numel() for p in model.parameters())
    assert sum(int(m.sum()) for m in masks) == int(rho * total)
    assert [m.shape for m in masks] == [p.shape for p in model.parameters()]


def test_inside_the_mask_every_gradient_is_steeper_than_outside(make_model, forget):
    model = make_model("mlp")
    masks = torch.cat([m.flatten() for m in SalUn(rho=0.2).masks(model, forget)])
    g = torch.cat([g.flatten() for g in saliency(model, forget)])
    assert g[masks].min() >= g[~masks].max()


def test_the_saliency_is_the_gradient_of_the_whole_forget_set(make_model, forget):
    model = make_model("mlp")
    loss = nn.functional.cross_entropy(model(forget.images), forget.targets, reduction="sum")
    expected = [g.abs() for g in torch.autograd.grad(loss, list(model.parameters()))]
    for ours, plain in zip(saliency(model, forget.rebatch(5)), expected, strict=True):
        assert torch.allclose(ours, plain, rtol=1e-4, atol=1e-5)


def test_means_of_batches_let_the_images_of_a_short_one_count_more(make_model, forget):
    model = make_model("mlp")
    three = forget.subset(torch.arange(3)).rebatch(2)
    plain, quirk = (saliency(model, three, weigh) for weigh in (True, False))

    def signed(positions):
        loss = nn.functional.cross_entropy(model(forget.images[positions]), forget.targets[positions])
        return torch.autograd.grad(loss, list(model.parameters()))

    for ours, first, last in zip(quirk, signed([0, 1]), signed([2]), strict=True):
        assert torch.allclose(ours, (first + last).abs(), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(plain[0] / plain[0].norm(), quirk[0] / quirk[0].norm(), atol=1e-4)


@pytest.mark.parametrize("kind", ["conv", "vit"])
@pytest.mark.parametrize("profile", ["corrected", "reference"])
def test_weights_outside_the_mask_keep_their_bits_under_decay_and_momentum(
    make_model, make_ctx, forget, retain, kind, profile
):
    fields = SalUn.info.reference if profile == "reference" else {}
    hyper = SalUn(**{**fields, "epochs": 2, "batch_size": 16, "weight_decay": 0.1, "rho": 0.4})
    before = make_model(kind)
    masks = hyper.masks(before, forget)
    after = hyper(copy.deepcopy(before), forget, retain, make_ctx())
    moved = 0
    for a, b, mask in zip(after.parameters(), before.parameters(), masks, strict=True):
        assert torch.equal(a[~mask].view(torch.int32), b[~mask].view(torch.int32))
        moved += int((a != b).sum())
    assert moved > 0.9 * sum(int(m.sum()) for m in masks)


def test_unmasked_decay_shrinks_what_the_mask_leaves_out(make_model, make_ctx, forget, retain):
    before = make_model("mlp")
    hyper = SalUn(epochs=1, batch_size=72, weight_decay=0.1, rho=0.0, mask_decay=False, schedule="constant")
    after = hyper(copy.deepcopy(before), forget, retain, make_ctx())
    for a, b in zip(after.parameters(), before.parameters(), strict=True):
        assert torch.allclose(a, b * (1 - 0.013 * 0.1), rtol=1e-6)


@pytest.mark.parametrize("walk", ["mixed", "two_passes"])
def test_with_all_weights_in_the_mask_it_is_random_labels(unlearn, make_model, walk):
    rest = {"epochs": 2, "batch_size": 16, "weight_decay": 0.01, "walk": walk}
    model = make_model("conv")
    masked, plain = unlearn(SalUn(rho=1.0, **rest), model), unlearn(RandomLabels(**rest), model)
    assert torch.allclose(weights(masked), weights(plain), atol=1e-6)
    assert torch.equal(masked[1].running_mean, plain[1].running_mean)


def test_frozen_parameters_are_outside_every_mask(make_model, make_ctx, forget, retain):
    model = make_model("mlp")
    model[1].requires_grad_(False)
    after = SalUn(epochs=1, rho=1.0)(copy.deepcopy(model), forget, retain, make_ctx())
    assert torch.equal(after[1].weight, model[1].weight)
    assert not torch.equal(after[3].weight, model[3].weight)
