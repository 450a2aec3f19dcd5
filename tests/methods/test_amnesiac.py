from __future__ import annotations

import copy

import pytest
import torch

import methods.amnesiac as amnesiac_module
from methods.amnesiac import Amnesiac, wrong_labels


def test_a_wrong_label_is_never_the_true_one_and_all_others_are_alike(make_ctx):
    labels = torch.arange(4).repeat(3000)
    drawn = wrong_labels(labels, make_ctx())
    counts = torch.zeros(4, 4).index_put_((labels, drawn), torch.ones(len(labels)), accumulate=True)
    assert not counts.diagonal().any()
    others = counts[~torch.eye(4, dtype=torch.bool)]
    assert (others - 1000).abs().max() < 150  # 5.8 standard deviations
    assert drawn.dtype == torch.int64


@pytest.fixture
def seen(monkeypatch, make_model, make_ctx, forget, retain):
    """The batches that Amnesiac trains on."""
    caught = []
    monkeypatch.setattr(
        amnesiac_module, "train_epochs", lambda model, batches, *args, **kw: caught.append(batches)
    )
    Amnesiac(batch_size=16)(make_model("mlp"), forget, retain, make_ctx())
    return caught[0]


def by_image(batches):
    return {
        tuple(x.flatten()[:4].tolist()): int(y) for xs, ys in batches for x, y in zip(xs, ys, strict=True)
    }


def test_all_data_take_part_and_retained_labels_stay(seen, forget, retain):
    assert seen.num_examples == forget.num_examples + retain.num_examples
    labels, own = by_image(seen), by_image(retain)
    assert {image: labels[image] for image in own} == own
    assert all(labels[image] != label for image, label in by_image(forget).items())


def test_labels_are_drawn_once_and_the_order_afresh(seen):
    first, second = by_image(seen), by_image(seen)
    assert first == second
    assert list(first) != list(second)


def test_a_single_class_has_no_wrong_label(make_ctx):
    with pytest.raises(ValueError, match="num_classes is 1, expected at least 2"):
        wrong_labels(torch.zeros(3, dtype=torch.int64), make_ctx(num_classes=1))


def test_it_forgets_a_digit_and_keeps_the_others(trained):
    torch.manual_seed(0)
    hyper = Amnesiac(lr=3e-3, batch_size=64)
    model = hyper(copy.deepcopy(trained.model), trained.forget, trained.retain, trained.ctx)
    assert trained.accuracy(model, trained.forget) < 0.2
    assert trained.accuracy(model, trained.retain) > 0.9


def test_defaults_are_the_published_ones():
    assert (Amnesiac().lr, Amnesiac().epochs, Amnesiac().batch_size) == (1e-4, 3, 128)
    assert Amnesiac.info.reference == {}
