"""SSD-Det, LFSSD and ASSD: what they put in place of SSD's importances and threshold."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import methods.assd as assd_module
import methods.ssd_det as ssd_det_module
from methods.assd import ASSD, kept_percent
from methods.lfssd import LFSSD, sensitivity, squared_norm
from methods.loops import everything
from methods.ssd import SSD, importance
from methods.ssd_det import SSDDet, images_per_pass, importances, sum_over_samples


class OneWeight(nn.Module):
    """Logits (0, w·x), or w·x alone."""

    def __init__(self, w=0.0, outputs=2):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w))
        self.unused = nn.Parameter(torch.ones(2))
        self.outputs = outputs

    def forward(self, x):
        z = self.w * x.flatten(1)
        return torch.cat([torch.zeros_like(z), z], dim=1) if self.outputs == 2 else z


def samples(memory, *pairs, size=32):
    x = torch.tensor([[float(x)] for x, _ in pairs]).view(-1, 1, 1, 1)
    return memory(x, torch.tensor([y for _, y in pairs], dtype=torch.int64), size=size)


def weights(model):
    return nn.utils.parameters_to_vector(model.parameters()).detach()


# -------------------- SSD-Det


@pytest.mark.parametrize(
    ("pairs", "by_sample", "by_batch"),
    [([(1, 0), (1, 1)], 0.25, 0.0), ([(1, 1), (3, 1)], 1.25, 1.0)],
)
def test_importance_by_sample_and_by_batch_match_the_worked_example(memory, pairs, by_sample, by_batch):
    data, none = samples(memory, *pairs), samples(memory)
    of_forget, of_whole = importances(OneWeight(), data, none, F.cross_entropy, power=2)
    assert of_forget[0].item() == pytest.approx(by_sample)
    assert torch.equal(of_forget[0], of_whole[0])
    assert of_forget[1].tolist() == [0.0, 0.0]
    assert importance(OneWeight(), data)[0].item() == pytest.approx(by_batch)


@pytest.mark.parametrize("kind", ["conv", "mlp", "vit"])
def test_importance_is_that_of_batches_of_one_image(make_model, forget, retain, kind):
    model = make_model(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # vmap warns where it falls back to a loop
        of_forget, of_whole = importances(model, forget, retain, F.cross_entropy, power=2)
    for ours, plain in (
        (of_forget, importance(model, forget.rebatch(1))),
        (of_whole, importance(model, retain.join(forget).rebatch(1))),
    ):
        for a, b in zip(ours, plain, strict=True):
            assert torch.allclose(a, b, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("method", [SSDDet(alpha=1.2), LFSSD(alpha=1.2)])
def test_order_batch_size_and_memory_do_not_change_the_result(
    unlearn, make_model, forget, retain, monkeypatch, method
):
    model = make_model("conv")
    plain = weights(unlearn(method, model))
    assert not torch.equal(plain, weights(model))
    mixed = retain.subset(torch.randperm(50, generator=torch.Generator().manual_seed(4))).rebatch(7)
    monkeypatch.setattr(ssd_det_module, "IMAGES_PER_PASS", 3)
    other = weights(unlearn(method, model, forget=forget.rebatch(5), retain=mixed))
    assert torch.allclose(plain, other, rtol=1e-4, atol=1e-7)
    assert not method.info.stochastic or not method.stochastic


def test_no_more_gradients_are_held_than_the_budget_allows(make_model, forget, monkeypatch):
    model = make_model("mlp")
    size = 4 * sum(p.numel() for p in model.parameters())
    held = []

    class Spy(type(forget)):
        def rebatch(self, count, *, shuffle=False):
            held.append(count)
            return super().rebatch(count, shuffle=shuffle)

    for budget, expected in ((5 * size + 1, 5), (size // 2, 1), (10**9 * size, 128)):
        monkeypatch.setitem(ssd_det_module.GRADIENT_BYTES, "cpu", budget)
        assert images_per_pass(list(model.parameters())) == expected
        sum_over_samples(model, Spy(forget.images, forget.targets), F.cross_entropy, 2)
        assert held.pop() == expected


def test_batch_statistics_and_dropout_play_no_part(make_model, make_ctx, forget, retain):
    model = make_model("conv").train()
    after = SSDDet(alpha=1.0)(copy.deepcopy(model), forget, retain, make_ctx())
    for a, b in zip(after.buffers(), model.buffers(), strict=True):
        assert torch.equal(a, b)
    again = SSDDet(alpha=1.0)(copy.deepcopy(model), forget, retain, make_ctx(5))
    assert torch.equal(weights(after), weights(again))


def test_importances_are_those_of_float32_also_under_autocast(make_model, forget):
    model = make_model("conv")
    plain = sum_over_samples(model, forget, F.cross_entropy, 2)
    with torch.autocast("cpu", torch.bfloat16):
        cast = sum_over_samples(model, forget, F.cross_entropy, 2)
    assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))


def test_frozen_parameters_stay_as_they_are(make_model, make_ctx, forget, retain):
    for method in (SSDDet(alpha=0.0, lam=0.0), LFSSD(alpha=0.0, lam=0.0), ASSD(lam=0.0)):
        model = make_model("mlp")
        model[1].requires_grad_(False)
        after = method(copy.deepcopy(model), forget, retain, make_ctx())
        assert torch.equal(after[1].weight, model[1].weight)
        assert not torch.equal(after[3].weight, model[3].weight)


def test_forgetting_everything_selects_nothing(make_model, make_ctx, forget):
    none = forget.subset(torch.arange(0))
    for method in (SSDDet(alpha=1.0), LFSSD(alpha=1.0)):
        model = make_model("conv")
        assert torch.equal(weights(method(copy.deepcopy(model), forget, none, make_ctx())), weights(model))


@pytest.mark.parametrize("cls", [SSDDet, LFSSD])
def test_no_ratio_exceeds_the_size_of_all_data_over_that_of_the_forget_set(
    make_model, make_ctx, forget, retain, cls
):
    model, bound = make_model("conv"), 72 / 22
    idle = cls(alpha=bound * 1.0001)(copy.deepcopy(model), forget, retain, make_ctx())
    assert torch.equal(weights(idle), weights(model))
    at_work = cls(alpha=1.0)(copy.deepcopy(model), forget, retain, make_ctx())
    assert not torch.equal(weights(at_work), weights(model))


# -------------------- LFSSD


def test_sensitivity_matches_the_worked_example(memory):
    data, none = samples(memory, (1, 0), (3, 0)), samples(memory)
    model = OneWeight(2.0, outputs=1)
    assert sensitivity(model, data)[0].item() == pytest.approx(20.0)
    of_forget, _ = importances(model, data, none, squared_norm, power=1)
    assert of_forget[0].item() == pytest.approx(20.0)


def test_opposite_signs_cancel_in_a_batch_and_not_by_sample(memory):
    class Shifted(OneWeight):
        def forward(self, x):
            return self.w + x.flatten(1)  # ∂‖z‖²/∂w = 2(w + x)

    data, none = samples(memory, (1, 0), (-1, 0)), samples(memory)
    assert sensitivity(Shifted(), data)[0].item() == 0.0
    assert importances(Shifted(), data, none, squared_norm, power=1)[0][0].item() == pytest.approx(2.0)


@pytest.mark.parametrize("per", ["sample", "batch"])
def test_labels_do_not_matter(unlearn, make_model, forget, retain, per):
    model = make_model("conv")
    hyper = LFSSD(alpha=1.2, per=per, batch_size=16)
    others = {
        "forget": forget.relabel((forget.targets + 2) % 4),
        "retain": retain.relabel(retain.targets.flip(0)),
    }
    assert torch.equal(weights(unlearn(hyper, model)), weights(unlearn(hyper, model, **others)))


def test_only_shuffled_batches_depend_on_the_seed():
    stochastic = {
        (per, order): LFSSD(per=per, order=order).stochastic
        for per in ("sample", "batch")
        for order in ("shuffled", "class_sorted")
    }
    assert [key for key, value in stochastic.items() if value] == [("batch", "shuffled")]
    assert ASSD().stochastic and not ASSD(order="class_sorted").stochastic


def test_all_data_in_the_order_of_classes_is_that_of_ssd(memory):
    x = torch.arange(5.0).view(5, 1, 1, 1)
    forget, retain = memory(x[:2], torch.tensor([1, 1])), memory(x[2:], torch.tensor([2, 0, 2]))
    walked = [x.flatten().tolist() for x, _ in everything(forget, retain, 2, "class_sorted")]
    assert walked == [[3, 2], [4, 0], [1]]
    shuffled = torch.cat([x.flatten() for x, _ in everything(forget, retain, 2, "shuffled")])
    assert sorted(shuffled.tolist()) == [0, 1, 2, 3, 4]


# -------------------- ASSD


@pytest.mark.parametrize(
    ("num_forget", "percent"), [(500, 99.3069), (83, 99.8464), (100, 99.8177), (0, 100.0)]
)
def test_percentile_of_kept_weights_matches_the_worked_example(num_forget, percent):
    assert kept_percent(num_forget, 50_000) == pytest.approx(percent, abs=5e-5)


def test_alpha_is_the_percentile_and_the_rest_is_ssd(make_model, make_ctx, forget, retain):
    heard = {}
    model, ctx = make_model("mlp"), make_ctx(log=heard.__setitem__)
    ours = ASSD(order="class_sorted", batch_size=16)(copy.deepcopy(model), forget, retain, ctx)
    of_forget = importance(model, forget.rebatch(16))
    of_whole = importance(model, everything(forget, retain, 16, "class_sorted"))
    ratios = torch.cat([(a / b).flatten() for a, b in zip(of_forget, of_whole, strict=True)]).numpy()
    finite = ratios[np.isfinite(ratios)].astype(np.float64)
    expected = np.percentile(finite, 100 - np.log(1 + 100 * 22 / 72))
    assert heard["alpha"] == pytest.approx(expected, rel=1e-6)
    assert heard["dampened_weights"] == (finite > heard["alpha"]).sum()
    ssd = SSD(alpha=heard["alpha"], order="class_sorted", batch_size=16)
    assert torch.equal(weights(ours), weights(ssd(model, forget, retain, make_ctx())))


def test_ratios_that_are_not_finite_do_not_move_alpha(make_ctx, memory, monkeypatch):
    per_set = iter([torch.tensor([1.0, 2.0, 3.0, 5.0, 0.0]), torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0])])
    monkeypatch.setattr(assd_module, "importance", lambda model, batches: [next(per_set)])
    heard = {}

    class Five(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.full((5,), 6.0))

    data = samples(memory, *[(1, 0)] * 10)
    model = ASSD()(Five(), data, samples(memory, *[(1, 1)] * 90), make_ctx(log=heard.__setitem__))
    percent = 100 - np.log(11)
    assert heard["alpha"] == pytest.approx(np.percentile([1.0, 2.0, 3.0], percent))
    assert model.w.tolist() == pytest.approx([6.0, 6.0, 2.0, 0.0, 6.0])
