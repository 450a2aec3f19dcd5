from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from methods.bdsh import BDSH, RELEASED, attack

UNIT = (torch.zeros(2), torch.ones(2))  # pixels are not normalised


@pytest.fixture
def identity():
    """Logits are the two pixels of an image (2, 1, 1)."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(2))
    return model.eval()


def point(*rows):
    return torch.tensor(rows).view(-1, 2, 1, 1)


def bounds(*values):
    return tuple(torch.tensor(v).view(-1, 1, 1) for v in values)


@pytest.mark.parametrize(
    ("x", "near", "reference", "corrected"),
    [([0.55, 0.5], [115 / 255, 0.6], 1, 1), ([0.9, 0.5], [0.8, 0.6], 0, 1)],
)
def test_worked_attack(identity, memory, make_ctx, x, near, reference, corrected):
    y = torch.tensor([0])
    moved = attack(identity, point(x), y, bounds([0.0, 0.0], [1.0, 1.0]), 0.1)
    assert moved.flatten().tolist() == pytest.approx(near, abs=1e-6)
    ctx = make_ctx(pixel_range=UNIT, input_shape=(2, 1, 1))
    forget = memory(point(x), y)
    for force_other, target in ((False, reference), (True, corrected)):
        assert BDSH(force_other=force_other).targets(identity, forget, ctx).tolist() == [target]


def test_pixels_stay_between_black_and_white_on_a_grid_of_255_steps(make_model):
    x = torch.rand(9, 3, 16, 16) * 6 - 3
    lowest, highest = bounds([-3.0, -2.0, -1.0], [3.0, 2.0, 1.0])
    moved = attack(make_model("conv"), x, torch.zeros(9, dtype=torch.int64), (lowest, highest), 0.1)
    levels = (moved - lowest) / (highest - lowest) * 255
    assert torch.allclose(levels, levels.round(), atol=1e-3)
    assert levels.min() > -1e-3 and levels.max() < 255 + 1e-3
    step = (moved - x.clamp(lowest, highest)) / (highest - lowest)
    assert step.abs().max() < 0.1 + 1 / 255


def test_the_attack_does_not_touch_the_model(make_model, forget, make_ctx):
    model = make_model("conv")
    before = copy.deepcopy(model.state_dict())
    BDSH().targets(model, forget, make_ctx())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_targets_do_not_depend_on_batch_mates(make_model, forget, make_ctx):
    model, hyper = make_model("conv"), BDSH()
    one, many = (hyper.targets(model, forget.rebatch(size), make_ctx()) for size in (1, 22))
    assert torch.equal(one, many)
    assert not (one == forget.targets).any()


def test_released_constants_are_a_misprint_apart_from_the_true_ones(make_ctx):
    mean, deviation = (torch.tensor(row) for row in RELEASED)
    lowest, highest = BDSH(constants="released")._bounds(make_ctx())
    assert torch.allclose(lowest.flatten(), -mean / deviation)
    assert torch.allclose((highest - lowest).flatten(), 1 / deviation)
    assert BDSH()._bounds(make_ctx())[0].flatten().tolist() == [-1.0] * 3


def test_images_without_three_channels_take_the_true_range(make_ctx):
    grey = make_ctx(input_shape=(1, 8, 8), pixel_range=(torch.tensor([-0.5]), torch.tensor([2.0])))
    lowest, highest = BDSH(constants="released")._bounds(grey)
    assert (lowest.item(), highest.item()) == (-0.5, 2.0)


def test_an_unknown_pixel_range_is_named(make_model, make_ctx, forget):
    with pytest.raises(ValueError, match=r"bdsh: ctx\.pixel_range is None"):
        BDSH()(make_model("mlp"), forget, None, make_ctx(pixel_range=None))


@pytest.mark.parametrize("fields", [{}, {"force_other": False}, {"mode": "train"}])
def test_it_trains_on_the_targets_as_the_textbook_with_a_frozen_copy_does(
    make_model, make_ctx, forget, fields
):
    hyper = BDSH(lr=1e-2, epochs=2, batch_size=8, **fields)
    torch.manual_seed(2)
    ours = hyper(make_model("conv_without_dropout"), forget, None, make_ctx()).state_dict()
    torch.manual_seed(2)
    plain = textbook(hyper, make_model("conv_without_dropout"), forget).state_dict()
    for name, value in plain.items():
        assert torch.allclose(ours[name], value, atol=1e-5), name


def textbook(hyper, student, forget):
    """A frozen copy attacked anew for every batch, pixels from −1 to 1."""
    teacher = copy.deepcopy(student).eval()
    student.train(hyper.mode == "train")
    sgd = torch.optim.SGD(student.parameters(), hyper.lr, momentum=0.9)
    for _ in range(hyper.epochs):
        for x, y in forget.rebatch(hyper.batch_size, shuffle=True):
            pixels = ((x + 1) / 2).requires_grad_()
            F.cross_entropy(teacher(2 * pixels - 1), y).backward()
            near = (pixels + 0.1 * pixels.grad.sign()).clamp(0, 1).mul(255).round() / 255
            logits = teacher(2 * near.detach() - 1).detach()
            if hyper.force_other:
                logits[torch.arange(len(y)), y] = -torch.inf
            sgd.zero_grad()
            F.cross_entropy(student(x), logits.argmax(1)).backward()
            sgd.step()
    return student


def test_profile_reference_is_the_released_code():
    expected = {"lr": 1e-5, "epochs": 10, "momentum": 0.9, "batch_size": 64, "epsilon": 0.1}
    expected |= {"force_other": False, "constants": "released", "mode": "train"}
    assert vars(BDSH(**BDSH.info.reference)) == expected
