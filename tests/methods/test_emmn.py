from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from methods.emmn import EMMN
from methods.noise import Mixture


@pytest.fixture
def class_one(make_ctx):
    return make_ctx(3, forget_class=1)


@pytest.mark.parametrize(("used", "images"), [("all", 16), ("channels", 12)])
def test_every_class_gets_its_noise_the_forgotten_one_first(make_model, class_one, used, images):
    noise, labels = EMMN(images_used=used, retain_steps=2, forget_steps=2)._noise(
        make_model("mlp"), class_one
    )
    assert noise.shape == (images, 3, 16, 16)
    each = images // 4
    assert labels.tolist() == [c for c in (1, 0, 2, 3) for _ in range(each)]


def test_noise_raises_the_loss_of_the_forgotten_class_and_lowers_the_others(make_model, class_one):
    model = make_model("conv")
    noise, labels = EMMN(penalty=0.0)._noise(model, class_one)
    with torch.no_grad():
        losses = F.cross_entropy(model(noise), labels, reduction="none")
    assert losses[:4].min() > 3.0
    assert losses[4:].max() < 0.3


def test_the_penalty_makes_noise_small(make_model, class_one):
    sizes = []
    for penalty in (0.0, 0.1):
        class_one.generator.manual_seed(0)
        noise, _ = EMMN(penalty=penalty)._noise(make_model("conv"), class_one)
        sizes.append((noise[:4].square().mean(), noise[4:].square().mean()))
    assert sizes[1][0] < 0.3 * sizes[0][0]
    assert torch.equal(sizes[1][1], sizes[0][1])  # there is none on the other classes


def test_with_100_classes_the_released_code_takes_6000_steps_an_epoch(make_ctx):
    reference = EMMN(**EMMN.info.reference)
    images = torch.zeros(3 * 100, 1, 1, 1)
    labels = torch.zeros(300, dtype=torch.int64)
    mixture = Mixture(images, labels, reference.copies, reference.batch_size, make_ctx())
    assert mixture.num_examples == 24_000
    assert mixture.num_examples / reference.batch_size == 6_000


def test_the_number_of_steps_can_be_capped(make_model, class_one):
    model = make_model("conv")
    EMMN(mode="train", max_steps=5, retain_steps=1)(model, None, None, class_one)
    assert int(model[1].num_batches_tracked) == 5


def test_stale_gradients_change_the_result(make_model, class_one):
    def first_step(stale):
        class_one.generator.manual_seed(0)
        model = make_model("mlp")
        EMMN(stale_gradients=stale, max_steps=1)(model, None, None, class_one)
        return model[1].weight.detach()

    assert not torch.equal(first_step(True), first_step(False))


def test_profile_reference_is_the_released_code():
    expected = {
        **{"lr": 1e-4, "epochs": 2, "batch_size": 4, "max_steps": None, "images_per_class": 4, "copies": 80},
        **{"forget_steps": 25, "retain_steps": 30, "noise_lr": 0.1, "penalty": 0.1},
        **{"images_used": "channels", "noise_mode": "train", "mode": "train", "stale_gradients": True},
    }
    assert vars(EMMN(**EMMN.info.reference)) == expected
