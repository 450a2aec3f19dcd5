from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from methods.delete import DELETE, without_true_class
from methods.loops import divergence

LOGITS = torch.tensor([[2.0, 1.0, 0.0]])


def test_the_target_is_the_answer_without_the_true_class():
    q = without_true_class(LOGITS, torch.tensor([0])).softmax(1)
    assert q[0].tolist() == pytest.approx([0.0, 0.731059, 0.268941], abs=1e-6)
    assert q[0, 0] == 0


def test_worked_loss_and_gradient_at_the_start():
    student = LOGITS.clone().requires_grad_()
    loss = divergence(without_true_class(LOGITS, torch.tensor([0])), student)
    loss.backward()
    assert loss.item() == pytest.approx(1.094344, abs=1e-6)
    assert loss.item() == pytest.approx(-math.log(1 - LOGITS.softmax(1)[0, 0]), abs=1e-6)
    assert student.grad[0].tolist() == pytest.approx([0.665241, -0.486330, -0.178911], abs=1e-6)


@pytest.mark.parametrize(
    ("mode", "kind"), [("train", "conv_without_dropout"), ("eval", "conv"), ("freeze_bn", "vit")]
)
def test_it_trains_as_the_textbook_with_a_frozen_copy_does(make_model, make_ctx, forget, mode, kind):
    forget = forget.relabel(torch.arange(22) % 4)
    start = make_model(kind)
    hyper = DELETE(lr=0.1, epochs=2, batch_size=8, mode=mode)
    torch.manual_seed(3)
    ours = hyper(copy.deepcopy(start), forget, None, make_ctx()).state_dict()
    torch.manual_seed(3)
    plain = textbook(hyper, copy.deepcopy(start), forget).state_dict()
    assert not torch.equal(ours[next(iter(ours))], start.state_dict()[next(iter(ours))])
    for name, value in plain.items():
        assert torch.allclose(ours[name], value, atol=1e-5), name


def textbook(hyper, student, forget):
    teacher = copy.deepcopy(student).eval()
    student.train(hyper.mode != "eval")
    sgd = torch.optim.SGD(student.parameters(), hyper.lr, momentum=0.9)
    for _ in range(hyper.epochs):
        for x, y in forget.rebatch(hyper.batch_size, shuffle=True):
            logits = teacher(x).detach()
            logits[torch.arange(len(y)), y] = -1e10
            sgd.zero_grad()
            F.kl_div(student(x).log_softmax(1), logits.softmax(1), reduction="batchmean").backward()
            sgd.step()
    return student


@pytest.mark.parametrize(("mode", "walks"), [("train", 6), ("freeze_bn", 0), ("eval", 0)])
def test_batch_statistics_move_in_train_mode_alone(make_model, make_ctx, forget, mode, walks):
    model = DELETE(epochs=2, batch_size=8, mode=mode)(make_model("conv"), forget, None, make_ctx())
    assert int(model[1].num_batches_tracked) == walks


def test_dropout_stays_on_where_statistics_are_frozen(make_model, make_ctx, forget):
    model = DELETE(epochs=1)(make_model("conv"), forget, None, make_ctx())
    assert model[5].training and not model[1].training
    assert isinstance(model[5], nn.Dropout)


def test_profile_reference_is_the_released_code():
    expected = {"lr": 1e-3, "epochs": 20, "momentum": 0.9, "batch_size": 128, "mode": "train"}
    assert vars(DELETE(**DELETE.info.reference)) == expected
