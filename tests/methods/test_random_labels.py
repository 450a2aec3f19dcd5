from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from methods.random_labels import RandomLabels, RandomLabelsZS, drawn_labels


class Witness(nn.Module):
    """Remembers which images went through it, and has nothing to learn from them."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(4))
        self.seen = []

    def forward(self, x):
        self.seen.append(x[:, 0, 0, 0].tolist())
        return self.w.expand(len(x), 4)


@pytest.fixture
def numbered(memory):
    """`numbered(first, count, label)`: images that hold their own number."""

    def make(first, count, label):
        x = torch.arange(first, first + count, dtype=torch.float32).view(-1, 1, 1, 1)
        return memory(x, torch.full((count,), label))

    return make


def test_a_wrong_label_is_never_true_and_any_label_is_true_once_in_k(make_ctx):
    labels = torch.arange(4).repeat(2000)
    wrong, anything = (drawn_labels(labels, kind, make_ctx(3)) for kind in ("wrong", "any"))
    assert not (wrong == labels).any()
    assert float((anything == labels).float().mean()) == pytest.approx(0.25, abs=0.02)
    for kind in (wrong, anything):
        assert set(kind.tolist()) == {0, 1, 2, 3}


def test_two_passes_walk_the_forget_set_first_and_mixed_shuffles_all(numbered, make_ctx):
    forget, retain = numbered(0, 4, 0), numbered(10, 6, 1)
    torch.manual_seed(0)
    orders = {}
    for walk in ("two_passes", "mixed"):
        model = Witness()
        RandomLabels(epochs=2, batch_size=4, walk=walk)(model, forget, retain, make_ctx())
        orders[walk] = model.seen
    assert [len(part) for part in orders["two_passes"]] == [4, 4, 2, 4, 4, 2]
    assert sorted(orders["two_passes"][0]) == [0, 1, 2, 3]
    assert sorted([*orders["two_passes"][1], *orders["two_passes"][2]]) == [10, 11, 12, 13, 14, 15]
    assert [len(part) for part in orders["mixed"]] == [4, 4, 2, 4, 4, 2]
    assert min(orders["mixed"][0]) < 10 <= max(orders["mixed"][0])
    epoch = [n for part in orders["mixed"][:3] for n in part]
    assert sorted(epoch) == [0, 1, 2, 3, 10, 11, 12, 13, 14, 15]


@pytest.mark.parametrize("walk", ["mixed", "two_passes"])
def test_labels_are_drawn_anew_in_each_epoch_and_those_of_retained_data_stay(
    numbered, make_ctx, monkeypatch, walk
):
    import methods.random_labels as module

    heard = []

    def listen(model, x, y):
        heard.extend(zip(x[:, 0, 0, 0].int().tolist(), y.tolist(), strict=True))
        return model.w.sum()

    monkeypatch.setattr(module, "cross_entropy", listen)
    forget, retain = numbered(0, 50, 0), numbered(100, 30, 2)
    RandomLabels(epochs=2, batch_size=16, walk=walk)(Witness(), forget, retain, make_ctx())
    epochs = [dict(heard[:80]), dict(heard[80:])]
    assert all(labels[n] == 2 for labels in epochs for n in range(100, 130))
    assert all(labels[n] != 0 for labels in epochs for n in range(50))
    assert [epochs[0][n] for n in range(50)] != [epochs[1][n] for n in range(50)]


def test_without_retained_data_only_the_forget_set_is_walked(numbered, make_ctx):
    model = Witness()
    RandomLabelsZS(epochs=3, batch_size=3)(model, numbered(0, 4, 0), None, make_ctx())
    assert [len(part) for part in model.seen] == [3, 1] * 3
    assert model.w.any()


def test_the_rate_falls_to_zero_over_both_passes(numbered, make_ctx, monkeypatch):
    import methods.loops as loops

    rates = []
    step = loops.take_step

    def watched(model, optimizer, grad_clip=None):
        rates.append(optimizer.param_groups[0]["lr"])
        step(model, optimizer, grad_clip)

    monkeypatch.setattr(loops, "take_step", watched)
    hyper = RandomLabels(lr=1.0, epochs=2, batch_size=4, walk="two_passes")
    hyper(Witness(), numbered(0, 4, 0), numbered(10, 4, 1), make_ctx())
    assert rates == pytest.approx([1.0, 0.853553, 0.5, 0.146447], abs=1e-6)


def test_the_retain_free_variant_has_the_fields_of_the_other_but_for_the_walk():
    names = [{f.name for f in dataclasses.fields(cls)} for cls in (RandomLabels, RandomLabelsZS)]
    assert names[0] - names[1] == {"walk"}
    assert names[1] <= names[0]


def test_profile_reference_is_the_released_code():
    expected = {
        **{"lr": 0.013, "epochs": 10, "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 256},
        **{"labels": "any", "schedule": "constant", "mode": "train"},
    }
    for cls in (RandomLabels, RandomLabelsZS):
        assert {k: v for k, v in vars(cls(**cls.info.reference)).items() if k != "walk"} == expected
