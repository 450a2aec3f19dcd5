from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from methods.ssd import SSD, dampen, importance


class OneWeight(nn.Module):
    """Logits (0, w·x) with w = 0."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, x):
        z = self.w * x.flatten(1)
        return torch.cat([torch.zeros_like(z), z], dim=1)


def samples(memory, *pairs, size=32):
    x = torch.tensor([[float(x)] for x, _ in pairs]).view(-1, 1, 1, 1)
    return memory(x, torch.tensor([y for _, y in pairs]), size=size)


@pytest.mark.parametrize(
    ("alpha", "lam", "expected"),
    [
        (10.0, 1.0, [0.1, -3.0]),
        (10.0, 50.0, [2.0, -3.0]),
        (3.0, 1.0, [0.1, -0.75]),
        (float("inf"), 1.0, [2.0, -3.0]),
    ],
)
def test_dampening_matches_the_worked_example(alpha, lam, expected):
    theta = torch.tensor([2.0, -3.0])
    dampen([theta], [torch.tensor([20.0, 2.0])], [torch.tensor([1.0, 0.5])], alpha, lam)
    assert theta.tolist() == pytest.approx(expected)


def test_selection_is_strict_and_counted():
    theta = torch.tensor([2.0, -3.0, 5.0])
    chosen = dampen([theta], [torch.tensor([10.0, 11.0, 0.0])], [torch.tensor([1.0, 1.0, 0.0])], 10.0, 1.0)
    assert int(chosen) == 1
    assert theta.tolist() == pytest.approx([2.0, -3.0 / 11.0, 5.0])


def test_a_weight_that_only_the_forget_set_uses_becomes_zero():
    theta = torch.tensor([2.0])
    dampen([theta], [torch.tensor([0.1])], [torch.tensor([0.0])], 10.0, 1.0)
    assert theta.item() == 0.0


def test_infinite_alpha_selects_nothing_even_where_importance_is_zero():
    theta = torch.tensor([2.0])
    dampen([theta], [torch.tensor([0.1])], [torch.tensor([0.0])], float("inf"), 1.0)
    assert theta.item() == 2.0


@pytest.mark.parametrize(
    ("pairs", "size", "expected"),
    [
        ([(1, 0), (1, 1)], 2, 0.0),
        ([(1, 0), (1, 1)], 1, 0.25),
        ([(1, 1), (3, 1)], 2, 1.0),
        ([(1, 1), (3, 1)], 1, 1.25),
        ([(1, 1), (3, 1), (1, 1)], 2, (1.0 + 0.25) / 2),
    ],
)
def test_importance_squares_the_mean_gradient_of_each_batch(memory, pairs, size, expected):
    by_w, by_unused = importance(OneWeight(), samples(memory, *pairs, size=size))
    assert by_w.item() == pytest.approx(expected)
    assert by_unused.tolist() == [0.0, 0.0]


def test_importance_of_no_batches_is_zero(memory):
    empty = memory(torch.zeros(0, 1, 1, 1), torch.zeros(0, dtype=torch.int64))
    assert [i.sum().item() for i in importance(OneWeight(), empty)] == [0.0, 0.0]


def test_forgetting_everything_selects_nothing(make_model, make_ctx, forget, memory):
    empty = memory(torch.zeros(0, 3, 16, 16), torch.zeros(0, dtype=torch.int64))
    model = make_model("conv")
    after = SSD(alpha=1.0, order="class_sorted")(copy.deepcopy(model), forget, empty, make_ctx())
    for a, b in zip(after.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_frozen_parameters_stay_as_they_are(make_model, make_ctx, forget, retain):
    model = make_model("mlp")
    model[1].requires_grad_(False)
    after = SSD(alpha=0.0, lam=0.0)(copy.deepcopy(model), forget, retain, make_ctx())
    assert torch.equal(after[1].weight, model[1].weight)
    assert not torch.equal(after[3].weight, model[3].weight)


def test_the_forget_set_comes_last_in_the_class_sorted_order(memory):
    x = torch.arange(5.0).view(5, 1, 1, 1)
    forget, retain = memory(x[:2], torch.tensor([1, 1])), memory(x[2:], torch.tensor([2, 0, 2]))
    walked = torch.cat([x.flatten() for x, _ in SSD(order="class_sorted")._whole(forget, retain)]).tolist()
    assert walked == [3, 2, 4, 0, 1]


def test_only_a_shuffled_order_depends_on_the_seed(unlearn, make_model):
    model = make_model("conv")
    weights = {
        order: [
            nn.utils.parameters_to_vector(
                unlearn(SSD(alpha=1.0, batch_size=16, order=order), model, seed=seed).parameters()
            )
            for seed in (0, 1)
        ]
        for order in ("class_sorted", "shuffled")
    }
    assert torch.equal(*weights["class_sorted"])
    assert not torch.equal(*weights["shuffled"])


def test_it_says_how_many_weights_it_dampened(make_model, make_ctx, forget, retain):
    heard = {}
    ctx = make_ctx(log=heard.__setitem__)
    before = make_model("mlp")
    after = SSD(alpha=2.0)(copy.deepcopy(before), forget, retain, ctx)
    changed = sum(int((a != b).sum()) for a, b in zip(after.parameters(), before.parameters(), strict=True))
    assert heard["dampened_weights"] >= changed > 0


def test_it_forgets_a_digit_and_keeps_the_others(trained):
    hyper = SSD(alpha=2.0, batch_size=64)
    model = hyper(copy.deepcopy(trained.model), trained.forget, trained.retain, trained.ctx)
    assert trained.accuracy(model, trained.forget) < 0.6
    assert trained.accuracy(model, trained.retain) > 0.9


def test_an_unknown_order_is_refused_by_name():
    with pytest.raises(ValueError, match=r"ssd\.order is 'sorted', expected shuffled"):
        SSD(order="sorted")
