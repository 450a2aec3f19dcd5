from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from methods.bad_teacher import BadTeacher

STRONG = {"lr": 0.01, "batch_size": 16}


def weights(model):
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def equal(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class Says(nn.Module):
    """Logits that are the same for every image."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, x):
        return self.logits.expand(len(x), -1)


@pytest.mark.parametrize(("reduction", "expected"), [("mean", 0.0719205), ("batchmean", 0.143841)])
def test_divergence_from_the_teacher_is_the_worked_number(reduction, expected):
    student = Says(math.log(3), 0.0)
    for count in (1, 3):
        loss = BadTeacher(reduction=reduction)._loss(torch.zeros(count, 2))
        value = loss(student, torch.zeros(count, 1), torch.arange(count))
        assert value.item() == pytest.approx(expected, abs=1e-6)


def test_temperature_softens_both_sides_without_a_factor():
    student = Says(2 * math.log(3), 0.0)
    loss = BadTeacher(temperature=2.0)._loss(torch.zeros(1, 2))
    assert loss(student, torch.zeros(1, 1), torch.arange(1)).item() == pytest.approx(0.143841, abs=1e-6)


def test_the_fresh_network_teaches_the_forget_set_and_the_original_the_rest(
    make_model, make_ctx, forget, retain
):
    ctx = make_ctx(new_model=lambda: Says(1.0, 2.0, 3.0, 4.0))
    targets = BadTeacher()._targets(make_model("conv"), forget, retain, ctx)
    assert targets.shape == (72, 4)
    assert torch.equal(targets[:22], torch.tensor([1.0, 2.0, 3.0, 4.0]).expand(22, 4))
    with torch.no_grad():
        assert torch.allclose(targets[22:], make_model("conv")(retain.images), atol=1e-6)


def test_equal_teachers_teach_nothing(make_model, make_ctx, forget, retain):
    heard = {}
    model = make_model("conv")
    ctx = make_ctx(new_model=lambda: make_model("conv"), log=heard.__setitem__)
    BadTeacher(mode="eval", lr=0.0)(model, forget, retain, ctx)
    assert heard["loss"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("share", "of", "expected"), [(0.3, 49_500, 14_850), (0.3, 50, 15), (0.3, 3, 0), (0.0, 9, 0), (1.0, 9, 9)]
)
def test_a_share_of_the_retained_data_is_walked(memory, make_ctx, share, of, expected):
    retain = memory(torch.arange(of).view(-1, 1, 1, 1), torch.zeros(of, dtype=torch.int64))
    part = BadTeacher(retain_share=share)._part(retain, make_ctx())
    assert part.num_examples == expected
    assert len(part.images.unique()) == expected


def test_a_class_of_cifar100_and_its_share_of_the_rest_make_15350_images(memory, make_ctx):
    def images(count):
        return memory(torch.zeros(count, 1, 1, 1), torch.zeros(count, dtype=torch.int64), size=512)

    seen = []

    class Counts(Says):
        def forward(self, x):
            seen.append(len(x))
            return super().forward(x)

    ctx = make_ctx(new_model=lambda: Says(0.0, 0.0))
    BadTeacher(batch_size=512)(Counts(1.0, 0.0), images(500), images(49_500), ctx)
    assert sum(seen) == 14_850 + (500 + 14_850)  # taught once, then learned


def textbook(hyper, model, forget, retain, ctx):
    """Bad teaching as one would write it down first: two teachers, asked at every step, and flags."""
    competent, incompetent = copy.deepcopy(model).eval(), ctx.new_model().eval()
    chosen = torch.randperm(retain.num_examples, generator=ctx.generator)
    part = retain.subset(chosen[: math.floor(hyper.retain_share * retain.num_examples)])
    flagged = forget.relabel(torch.ones(forget.num_examples, dtype=torch.int64)).join(
        part.relabel(torch.zeros(part.num_examples, dtype=torch.int64))
    )
    adam = torch.optim.Adam(model.eval().parameters(), hyper.lr)
    for _ in range(hyper.epochs):
        for x, flag in flagged.rebatch(hyper.batch_size, shuffle=True):
            with torch.no_grad():
                good, bad = competent(x).softmax(1), incompetent(x).softmax(1)
                q = torch.where(flag.bool().unsqueeze(1), bad, good)
            entries = q * (q.log() - F.log_softmax(model(x), dim=1))
            adam.zero_grad()
            (entries.mean() if hyper.reduction == "mean" else entries.sum(1).mean()).backward()
            adam.step()
    return model


@pytest.mark.parametrize("reduction", ["mean", "batchmean"])
@pytest.mark.parametrize("kind", ["conv", "vit"])
def test_targets_taken_once_give_the_weights_of_teachers_that_are_asked_every_time(
    make_model, make_ctx, forget, retain, kind, reduction
):
    hyper = BadTeacher(lr=1e-3, batch_size=16, epochs=2, mode="eval", reduction=reduction)
    start = make_model(kind)
    results = []
    for run in (partial(textbook, hyper), hyper):
        torch.manual_seed(3)
        ctx = make_ctx(5, new_model=lambda: make_model("mlp"))
        results.append(weights(run(copy.deepcopy(start), forget, retain, ctx)))
    plain, ours = results
    assert torch.isclose(ours, plain, atol=1e-4).float().mean() > 0.999  # Adam can blow rounding up
    assert float((plain - weights(start)).abs().max()) > 1e-3


def test_parts_of_a_batch_add_up_to_its_gradient(make_model, make_ctx, forget, retain):
    start = make_model("conv_without_dropout")
    results = []
    for micro_batch in (None, 3):
        torch.manual_seed(0)
        ctx = make_ctx(new_model=lambda: make_model("mlp"))
        hyper = BadTeacher(lr=1e-3, batch_size=16, micro_batch=micro_batch)
        results.append(weights(hyper(copy.deepcopy(start), forget, retain, ctx)))
    assert torch.isclose(*results, atol=1e-5).float().mean() > 0.999
    assert not torch.equal(results[0], weights(start))


def test_no_pass_is_larger_than_micro_batch(make_model, make_ctx, forget, retain):
    sizes = []
    model, fresh = make_model("mlp"), make_model("mlp")
    for network in (model, fresh):
        network.register_forward_hook(lambda module, args, out: sizes.append(len(args[0])))
    BadTeacher(micro_batch=5)(model, forget, retain, make_ctx(new_model=lambda: fresh))
    assert max(sizes) == 5


def test_no_label_matters(unlearn, make_model, forget, retain):
    hyper, model = BadTeacher(**STRONG), make_model("conv")
    permuted = {
        "forget": forget.relabel((forget.targets + 2) % 4),
        "retain": retain.relabel((retain.targets + 1) % 4),
    }
    assert equal(unlearn(hyper, model), unlearn(hyper, model, **permuted))


@pytest.mark.parametrize(("mode", "dropout", "statistics"), [
    ("train", True, True), ("freeze_bn", True, False), ("eval", False, False),
])  # fmt: skip
def test_mode_decides_on_dropout_and_on_batch_statistics(
    make_model, make_ctx, forget, retain, mode, dropout, statistics
):
    model = make_model("conv")
    before = model[1].running_mean.clone()
    BadTeacher(mode=mode)(model, forget, retain, make_ctx())
    assert model[5].training == dropout
    assert torch.equal(model[1].running_mean, before) != statistics


def test_training_under_autocast_does_not_use_stale_weights(make_model, make_ctx, forget, retain):
    def run(cached):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=cached):
            return weights(BadTeacher(**STRONG)(make_model("conv"), forget, retain, make_ctx()))

    assert torch.isfinite(run(False)).all()
    assert torch.equal(run(True), run(False))
    assert not torch.equal(run(True), weights(make_model("conv")))


def test_profile_reference_is_the_released_code():
    expected = {
        **{"lr": 1e-4, "epochs": 1, "retain_share": 0.3, "temperature": 1.0, "batch_size": 256},
        **{"reduction": "mean", "mode": "train"},
    }
    reference = vars(BadTeacher(**BadTeacher.info.reference))
    assert {name: reference[name] for name in expected} == expected


def test_a_share_above_all_is_refused():
    with pytest.raises(ValueError, match=r"bad_teacher\.retain_share is 1.5, expected <= 1"):
        BadTeacher(retain_share=1.5)


def test_it_forgets_a_digit_and_keeps_the_others(trained):
    torch.manual_seed(0)

    def fresh():
        net = copy.deepcopy(trained.model)
        for layer in net.modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        return net

    ctx = replace(trained.ctx, new_model=fresh, generator=torch.Generator().manual_seed(0))
    hyper = BadTeacher(lr=3e-3, epochs=3, batch_size=64)
    model = hyper(copy.deepcopy(trained.model), trained.forget, trained.retain, ctx)
    assert trained.accuracy(model, trained.forget) < 0.3
    assert trained.accuracy(model, trained.retain) > 0.93
