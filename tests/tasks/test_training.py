import dataclasses

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from tasks.augment import augment, draw
from tasks.loaders import batches_of, predict
from tasks.recipes import Recipe, load_recipes
from tasks.training import fit, fresh_head, held_out, last_linear, learning_rate, momentum, view_of

RECIPE = Recipe("small", ("*",), ("*",), epochs=2, batch_size=16, lr=0.1, source="here")


def tiny(channels=1, side=8):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * side * side, 16), nn.ReLU(), nn.Linear(16, 10))


def digits(count=None, seed=0):
    data = load_digits()
    images = torch.from_numpy(np.round(data.images * 255 / 16).astype(np.uint8))[:, None]
    labels = torch.from_numpy(data.target).long()
    return batches_of(images[:count], labels[:count], view_of(RECIPE), seed=seed)


def accuracy(model, batches):
    return float((predict(model, batches).argmax(1) == batches.labels().numpy()).mean())


def equal(a, b):
    return all(
        torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


# -------------------- schedules


@pytest.mark.parametrize(
    ("epoch", "step", "rate"),
    [(0, 0, 0), (0, 9, 0.009), (1, 0, 0.010), (1, 9, 0.019), (2, 0, 0.010), (6, 9, 0.010), (7, 0, 0.002)],
)
def test_the_released_multistep_warms_up_to_twice_its_rate(epoch, step, rate):
    recipe = dataclasses.replace(RECIPE, epochs=9, lr=0.01, schedule="reference_multistep", milestones=(7,))
    assert learning_rate(recipe, epoch, step, 10) == pytest.approx(rate)
    assert momentum(recipe, epoch, step, 10) == 0.9


def test_the_released_multistep_without_milestones_is_constant():
    recipe = dataclasses.replace(RECIPE, epochs=9, lr=0.01, schedule="reference_multistep")
    assert {learning_rate(recipe, epoch, step, 10) for epoch in range(9) for step in range(10)} == {0.01}


@pytest.mark.parametrize(
    ("epoch", "step", "rate"), [(0, 0, 0), (0, 9, 0.0036), (1, 0, 0.004), (1, 1, 0.073395), (5, 9, 4e-7)]
)
def test_the_released_one_cycle_is_overwritten_by_a_warm_up_for_one_epoch_and_a_step(epoch, step, rate):
    recipe = dataclasses.replace(RECIPE, epochs=6, schedule="reference_one_cycle")
    assert learning_rate(recipe, epoch, step, 10) == pytest.approx(rate, abs=5e-7)


def test_the_released_one_cycle_lowers_momentum_to_its_least_at_the_peak():
    recipe = dataclasses.replace(RECIPE, epochs=6, schedule="reference_one_cycle")
    walked = [momentum(recipe, epoch, step, 10) for epoch in range(6) for step in range(10)]
    assert walked[0] == pytest.approx(0.95)
    assert walked[17] == min(walked) == pytest.approx(0.85)
    assert walked[-1] == pytest.approx(0.95)
    assert momentum(dataclasses.replace(recipe, schedule="one_cycle"), 1, 7, 10) == 0.9


def applied_by_torch(recipe, steps):
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), 1.0, momentum=0.9)
    total = recipe.epochs * steps
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=total)
    for step in range(total):
        group = optimizer.param_groups[0]
        yield group["lr"], group["momentum"]
        optimizer.step()
        if step < total - 1:
            scheduler.step()


@pytest.mark.parametrize(("epochs", "steps"), [(6, 10), (1, 3), (3, 7)])
def test_one_cycle_is_the_one_of_torch(epochs, steps):
    recipe = dataclasses.replace(RECIPE, epochs=epochs, schedule="one_cycle")
    cycled = dataclasses.replace(recipe, schedule="reference_one_cycle")
    places = [(epoch, step) for epoch in range(epochs) for step in range(steps)]
    rates, momenta = zip(*applied_by_torch(recipe, steps), strict=True)
    assert [learning_rate(recipe, *place, steps) for place in places] == pytest.approx(list(rates), rel=1e-9)
    assert [momentum(cycled, *place, steps) for place in places] == pytest.approx(list(momenta), rel=1e-9)


def test_cosine_falls_from_the_rate_to_nothing():
    recipe = dataclasses.replace(RECIPE, schedule="cosine")
    assert learning_rate(recipe, 0, 0, 10) == pytest.approx(0.1)
    assert learning_rate(recipe, 1, 0, 10) == pytest.approx(0.05)
    assert 0 < learning_rate(recipe, 1, 9, 10) < 0.001


def test_a_constant_rate_is_constant():
    assert {learning_rate(RECIPE, epoch, step, 5) for epoch in range(2) for step in range(5)} == {0.1}


# -------------------- fit


def by_hand(model, images, labels, rates, weight_decay):
    """Plain SGD with momentum 0.9 over the whole set, written out."""
    buffers = [torch.zeros_like(p) for p in model.parameters()]
    for rate in rates:
        loss = nn.functional.cross_entropy(model(images), labels)
        grads = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for p, g, b in zip(model.parameters(), grads, buffers, strict=True):
                b.mul_(0.9).add_(g + weight_decay * p)
                p.sub_(rate * b)
    return model


def test_fit_takes_the_steps_that_sgd_takes_at_the_scheduled_rates():
    recipe = dataclasses.replace(
        RECIPE, epochs=3, batch_size=64, lr=0.05, weight_decay=0.01, schedule="one_cycle"
    )
    batches = digits(64)
    images, labels = next(iter(batches))
    rates = [learning_rate(recipe, epoch, 0, 1) for epoch in range(3)]
    expected = by_hand(tiny(), images, labels, rates, 0.01)
    fitted = fit(tiny(), batches, recipe)
    for ours, theirs in zip(fitted.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_digits_are_learned_and_the_model_comes_back_in_eval_mode(optimizer):
    lr = 0.1 if optimizer == "sgd" else 0.01
    recipe = dataclasses.replace(RECIPE, epochs=6, lr=lr, optimizer=optimizer, schedule="one_cycle")
    batches = digits()
    model = fit(tiny(), batches.subset(torch.arange(1200)), recipe)
    assert not model.training
    assert accuracy(model, batches.subset(torch.arange(1200, 1797))) > 0.85


def test_the_digits_recipes_learn_the_digits():
    torch.manual_seed(1)
    conv = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip
    recipe = load_recipes()["digits-vgg"]
    shuffled = digits().subset(torch.randperm(1797, generator=torch.Generator().manual_seed(0)))
    batches = dataclasses.replace(shuffled, view=view_of(recipe))
    fit(conv, batches.subset(torch.arange(1200)), recipe)
    assert accuracy(conv, batches.subset(torch.arange(1200, 1797))) > 0.96


def test_the_same_seeds_train_bitwise_the_same_model_and_other_orders_another():
    recipe = dataclasses.replace(RECIPE, epochs=1, augment=True)
    one, two, other = (fit(tiny(), digits(200, seed), recipe) for seed in (5, 5, 6))
    assert equal(one, two)
    assert not equal(one, other)


def test_the_recipe_decides_on_augmentation_whatever_the_batches_bring():
    plain = dataclasses.replace(RECIPE, epochs=1, batch_size=200)
    models = [fit(tiny(), digits(200).augmented(on), plain) for on in (False, True)]
    assert equal(*models)
    assert not equal(models[0], fit(tiny(), digits(200), dataclasses.replace(plain, augment=True)))


def test_a_last_batch_of_one_image_does_not_stop_batch_normalisation():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4), nn.Linear(4, 10))
    losses = []
    fit(model, digits(33), RECIPE, log=lambda name, value: losses.append((name, value)))
    assert [name for name, _ in losses] == ["train_loss"] * 2
    assert np.isfinite([value for _, value in losses]).all()


def test_the_best_epoch_is_kept_and_the_first_among_equals():
    scores, seen = iter([0.2, 0.7, 0.7, 0.1]), []

    def evaluate(model):
        assert not model.training
        seen.append([p.detach().clone() for p in model.parameters()])
        return next(scores)

    recipe = dataclasses.replace(RECIPE, epochs=4, checkpoint="best_test")
    model = fit(tiny(), digits(100), recipe, evaluate=evaluate)
    assert len(seen) == 4
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), seen[1], strict=True))
    assert not all(torch.equal(p, q) for p, q in zip(model.parameters(), seen[2], strict=True))


def test_the_last_epoch_is_kept_without_asking_for_a_score():
    def evaluate(model):
        raise AssertionError("the test set was looked at")

    assert equal(fit(tiny(), digits(100), RECIPE, evaluate=evaluate), fit(tiny(), digits(100), RECIPE))


def test_choosing_the_best_epoch_needs_something_to_choose_by():
    with pytest.raises(ValueError, match="pass evaluate="):
        fit(tiny(), digits(100), dataclasses.replace(RECIPE, checkpoint="best_test"))


def test_training_on_nothing_is_an_error():
    with pytest.raises(ValueError, match="nothing to train on"):
        fit(tiny(), digits(100).subset(torch.arange(0)), RECIPE)


def test_bf16_trains_close_to_fp32_with_fp32_weights():
    recipe = dataclasses.replace(RECIPE, epochs=1, lr=0.01)
    full, half = fit(tiny(), digits(100), recipe), fit(tiny(), digits(100), recipe, precision="bf16")
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    assert not equal(full, half)
    for p, q in zip(full.parameters(), half.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=0.01, rtol=0.05)


def test_a_fresh_head_is_the_last_linear_layer_and_nothing_else():
    model, old = tiny(), tiny()
    fresh_head(model)
    changed = [name for name, p in model.named_parameters() if not torch.equal(p, old.get_parameter(name))]
    assert changed == ["3.weight", "3.bias"]


def test_a_model_without_a_linear_layer_has_no_head_to_draw():
    with pytest.raises(ValueError, match=r"no nn\.Linear"):
        fresh_head(nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten()))


def test_a_warm_retrain_starts_from_the_old_weights_but_for_the_head():
    recipe = dataclasses.replace(RECIPE, epochs=1, lr=1e-12, role="retrain_warm")
    model, old = fit(tiny(), digits(100), recipe), tiny()
    torch.testing.assert_close(model[1].weight, old[1].weight)
    assert not torch.allclose(model[3].weight, old[3].weight, atol=1e-3)


def test_no_epoch_of_training_takes_a_model_as_it_is():
    recipe = dataclasses.replace(RECIPE, epochs=0, pretrained="some.weights", head="checkpoint")
    assert equal(fit(tiny(), digits(100), recipe), tiny())


def test_the_last_linear_layer_has_a_name():
    assert last_linear(tiny()) == "3"


# -------------------- validation


def test_a_tenth_of_every_group_is_held_out_whatever_its_place():
    groups = np.random.default_rng(3).permutation(np.repeat(np.arange(5), [100, 57, 10, 9, 2]))
    held = held_out(groups, 0.1, seed=4)
    assert np.array_equal(np.bincount(groups[held]), [10, 5, 1, 1, 1])
    assert np.array_equal(held, np.unique(held))


def test_held_out_images_follow_the_seed_alone():
    groups = np.repeat(np.arange(4), 50)
    assert np.array_equal(held_out(groups, 0.2, 1), held_out(groups, 0.2, 1))
    assert not np.array_equal(held_out(groups, 0.2, 1), held_out(groups, 0.2, 2))


def test_where_no_group_has_two_images_one_in_all_is_held_out():
    assert len(held_out(np.arange(6), 0.1, 0)) == 1
    with pytest.raises(ValueError, match="1 training images, expected at least 2"):
        held_out(np.arange(1), 0.1, 0)


# -------------------- a crop smaller than the image


def test_a_crop_is_a_window_of_the_padded_image():
    images = torch.arange(1, 1 + 12 * 12, dtype=torch.uint8).view(1, 1, 12, 12).repeat(400, 1, 1, 1)
    draws = draw(400, torch.Generator().manual_seed(0))
    draws[:, 2], draws[:, 3] = 0.75, 0.5  # neither flip nor rotation
    cut = augment(images, draws, crop=8)
    assert cut.shape == (400, 1, 8, 8)
    padded = nn.functional.pad(images[0], (4, 4, 4, 4))
    windows = {tuple(w.flatten().tolist()) for w in padded.unfold(1, 8, 1).unfold(2, 8, 1).reshape(-1, 8, 8)}
    seen = {tuple(image.flatten().tolist()) for image in cut}
    assert len(windows) == 13 * 13 and seen <= windows
    assert len(seen) > 100


def test_training_cuts_the_crop_and_testing_shrinks_the_whole_image():
    recipe = dataclasses.replace(RECIPE, crop=6, size=6, augment=True)
    batches = dataclasses.replace(digits(50), view=view_of(recipe))
    whole, cut = (next(iter(batches.augmented(on)))[0] for on in (False, True))
    assert whole.shape == cut.shape == (50, 1, 6, 6)
    shrunk = nn.functional.interpolate(next(iter(digits(50)))[0], size=(6, 6), mode="bilinear")
    torch.testing.assert_close(whole, shrunk)
    assert set(cut.unique().tolist()) <= set(next(iter(digits()))[0].unique().tolist()) | {-1.0}
