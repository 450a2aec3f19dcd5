from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

import methods.jit as jit_module
from methods.jit import JiT

X = [1.0, 2.0]


@pytest.fixture
def linear():
    """f(x) = Wx + b with W = diag(3, 4), b = 0, on images of shape (2, 1, 1)."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.diag(torch.tensor([3.0, 4.0])))
        model[1].bias.zero_()
    return model.eval()


@pytest.fixture
def noise(monkeypatch):
    """Makes the given vectors, over and over, the noise of successive copies, for each image alike."""

    def use(*vectors):
        rows = [torch.tensor(v).view(2, 1, 1) for v in vectors]

        def draw(shape, ctx):
            return torch.stack([rows[i % len(rows)].expand(shape[1:]) for i in range(shape[0])])

        monkeypatch.setattr(jit_module, "draw", draw)

    return use


def point(*rows):
    return torch.tensor(rows).view(-1, 2, 1, 1)


def gradient(hyper, model, x, ctx):
    """(loss, ∂W, ∂b) of one batch."""
    model.zero_grad()
    loss = hyper.backward(model, x, ctx)
    return float(loss), model[1].weight.grad, model[1].bias.grad


@pytest.mark.parametrize(
    ("copies", "expected"),
    [
        ([[1.0, 0.0]], 3.0),
        ([[0.0, 2.0]], 4.0),
        ([[3.0, 4.0]], math.sqrt(337) / 5),
        ([[1.0, 0.0], [0.0, 1.0]], 3.5),
    ],
)
def test_loss_of_a_linear_model_is_its_mean_stretch(linear, noise, make_ctx, copies, expected):
    noise(*copies)
    loss, _, _ = gradient(JiT(sigma=1.0, samples=len(copies)), linear, point(X), make_ctx())
    assert loss == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("reduction", "expected"), [("sum", 9.0), ("mean", 3.0)])
def test_reduction_says_how_three_equal_images_add_up(linear, noise, make_ctx, reduction, expected):
    noise([1.0, 0.0])
    hyper = JiT(sigma=1.0, samples=1, reduction=reduction)
    loss, _, by_bias = gradient(hyper, linear, point(X, X, X), make_ctx())
    assert loss == pytest.approx(expected, abs=1e-5)
    assert by_bias.tolist() == pytest.approx([-expected / 3, 0.0], abs=1e-6)


@pytest.mark.parametrize(
    ("xi", "by_weight", "by_bias"),
    [
        ([1.0, 0.0], [[-1.0, -2.0], [0.0, 0.0]], [-1.0, 0.0]),
        ([0.0, 2.0], [[0.0, 0.0], [-0.5, -1.0]], [0.0, -0.5]),
    ],
)
def test_released_estimator_has_the_gradient_of_one_branch(linear, noise, make_ctx, xi, by_weight, by_bias):
    noise(xi)
    _, *gradients = gradient(JiT(sigma=1.0, samples=1), linear, point(X), make_ctx())
    assert torch.allclose(gradients[0], torch.tensor(by_weight))
    assert torch.allclose(gradients[1], torch.tensor(by_bias))


def test_one_step_moves_the_weights_as_worked_by_hand(linear, noise, make_ctx, memory):
    noise([1.0, 0.0])
    forget = memory(point(X), torch.tensor([0]))
    model = JiT(lr=0.1, sigma=1.0, samples=1)(linear, forget, None, make_ctx())
    assert torch.allclose(model[1].weight, torch.tensor([[3.1, 0.2], [0.0, 4.0]]))
    assert torch.allclose(model[1].bias, torch.tensor([0.1, 0.0]))


def test_equation_one_shrinks_the_stretch_and_spares_the_bias(linear, noise, make_ctx):
    noise([1.0, 0.0])
    hyper = JiT(sigma=1.0, samples=2, antithetic=True, detach_perturbed=False)
    loss, by_weight, by_bias = gradient(hyper, linear, point(X), make_ctx())
    assert loss == pytest.approx(3.0, abs=1e-5)
    assert torch.allclose(by_weight, torch.tensor([[1.0, 0.0], [0.0, 0.0]]), atol=1e-6)
    assert torch.allclose(by_bias, torch.zeros(2), atol=1e-6)


def test_antithetic_noise_cancels_exactly_on_a_linear_model(linear, noise, make_ctx):
    noise([1.0, 0.0])
    hyper = JiT(sigma=1.0, samples=2, antithetic=True)
    loss, by_weight, by_bias = gradient(hyper, linear, point(X), make_ctx())
    assert loss == pytest.approx(3.0, abs=1e-5)
    assert not by_weight.any() and not by_bias.any()


@pytest.mark.parametrize("images_per_pass", [1, 4096])
def test_antithetic_copies_come_in_opposite_pairs(make_ctx, monkeypatch, images_per_pass):
    monkeypatch.setitem(jit_module.IMAGES_PER_PASS, "cpu", images_per_pass)
    x = torch.zeros(4, 3, 32, 32)
    hyper = JiT(sigma=0.5, samples=6, antithetic=True)
    per_pass = hyper._copies_per_pass(nn.Flatten(), x)
    passes = list(hyper._perturbed(x, per_pass, make_ctx()))
    copies = torch.cat(passes)
    assert max(len(p) for p in passes) == min(per_pass, 6)
    assert copies.shape == (6, 4, 3, 32, 32)
    assert torch.equal(copies[0::2], -copies[1::2])
    assert copies[0].std() == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize(("batches", "epochs"), [(2, 1), (4, 1), (8, 1), (20, 1), (2, 2)])
def test_accumulated_gradients_move_quadratically_far(linear, noise, make_ctx, memory, batches, epochs):
    noise([1.0, 0.0])
    steps = batches * epochs
    forget = memory(point(*[X] * batches), torch.zeros(batches, dtype=torch.int64))
    hyper = {"lr": 1e-3, "sigma": 1.0, "samples": 1, "batch_size": 1, "epochs": epochs}
    moved = {}
    for accumulate in (True, False):
        model = JiT(**hyper, accumulate=accumulate)(copy.deepcopy(linear), forget, None, make_ctx())
        moved[accumulate] = model[1].bias[0].item()
    assert moved[True] == pytest.approx(1e-3 * steps * (steps + 1) / 2, rel=1e-4)
    assert moved[False] == pytest.approx(1e-3 * steps, rel=1e-4)


def test_the_quotient_divides_by_the_clipped_noise(linear, noise, make_ctx):
    noise([0.5, 0.5])
    hyper = JiT(sigma=1.0, samples=1, clip="batch_minmax")
    loss, _, _ = gradient(hyper, linear, point([0.0, 1.0]), make_ctx())
    assert loss == pytest.approx(3.0, abs=1e-5)  # x' = (0.5, 1), so 3·0.5/0.5


def test_noise_that_is_clipped_away_counts_as_zero(linear, noise, make_ctx):
    noise([-0.5, 0.3])
    for detach in (True, False):
        hyper = JiT(sigma=1.0, samples=1, clip="batch_minmax", detach_perturbed=detach)
        loss, by_weight, by_bias = gradient(hyper, linear, point([0.0, 1.0]), make_ctx())
        assert loss == 0.0
        assert not by_weight.any() and not by_bias.any()


def test_dropout_noise_over_no_distance_counts_as_zero():
    z, x = torch.tensor([[1.0, 0.0]], requires_grad=True), point(X)
    quotient = jit_module.ratios(z, torch.zeros(1, 1, 2), x, x[None])
    quotient.sum().backward()
    assert quotient.tolist() == [[0.0]]
    assert not z.grad.any()


def test_channel_range_clips_each_channel_by_itself(make_ctx):
    ctx = make_ctx(pixel_range=(torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([1.0, 2.0, 3.0])))
    x = torch.zeros(2, 3, 16, 16)
    (copies,) = JiT(sigma=100.0, samples=3, clip="channel_range")._perturbed(x, 3, ctx)
    assert copies.amax((0, 1, 3, 4)).tolist() == [1.0, 2.0, 3.0]
    assert copies.amin((0, 1, 3, 4)).tolist() == [-1.0, -2.0, -3.0]


def test_norm_noise_keeps_the_variance_of_the_pixels(linear, noise, make_ctx):
    x = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    (copies,) = JiT(sigma=2.0, samples=4, norm_noise=True)._perturbed(x, 4, make_ctx(1))
    assert float(copies.std()) == pytest.approx(1.0, rel=0.02)
    noise([1.0, 0.0])
    loss, _, _ = gradient(JiT(sigma=1.0, samples=1, norm_noise=True), linear, point(X), make_ctx())
    away = (1 - math.sqrt(2), 2 - math.sqrt(2))  # x' = (2, 2)/√2
    assert loss == pytest.approx(math.hypot(3 * away[0], 4 * away[1]) / math.hypot(*away), rel=1e-5)


def textbook(hyper, model, batches, ctx):
    """Eq. 1 copy by copy, with autograd doing everything."""
    model.train(hyper.mode == "train")
    model.zero_grad()
    for x, _ in batches.rebatch(hyper.batch_size):
        z = outputs(hyper, model, x)
        total = 0.0
        for _ in range(hyper.samples):
            near = x + hyper.sigma * torch.randn(x.shape, generator=ctx.generator)
            if hyper.clip == "batch_minmax":
                near = near.clamp(x.min(), x.max())
            near_z = outputs(hyper, model, near)
            near_z = near_z.detach() if hyper.detach_perturbed else near_z
            total = total + ((z - near_z).norm(dim=1) / (x - near).flatten(1).norm(dim=1)).sum()
        loss = total / hyper.samples / (len(x) if hyper.reduction == "mean" else 1)
        if not hyper.accumulate:
            model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= hyper.lr * p.grad
    return model


def outputs(hyper, model, x):
    return model(x).softmax(1) if hyper.output == "softmax" else model(x)


@pytest.mark.parametrize("images_per_pass", [2, 4096])
@pytest.mark.parametrize(
    ("kind", "switches"),
    [
        ("mlp", {}),
        ("vit", {"detach_perturbed": False}),
        ("conv", {"output": "softmax", "lr": 10.0}),
        ("conv", {"detach_perturbed": False, "accumulate": True}),
        ("conv", {"clip": "batch_minmax", "reduction": "sum", "lr": 0.01}),
        ("conv_without_dropout", {"mode": "train", "lr": 0.1}),
        ("conv_without_dropout", {"mode": "train", "detach_perturbed": False, "lr": 0.1}),
        ("conv_without_dropout", {**JiT.info.reference, "lr": 0.01}),
    ],
)
def test_merged_passes_give_the_weights_of_the_textbook_loop(
    make_model, make_ctx, forget, monkeypatch, images_per_pass, kind, switches
):
    monkeypatch.setitem(jit_module.IMAGES_PER_PASS, "cpu", images_per_pass)
    hyper = JiT(**{"lr": 0.3, "sigma": 0.5, "samples": 5, "batch_size": 8, **switches})
    start = make_model(kind)
    ours = hyper(copy.deepcopy(start), forget, None, make_ctx(3)).state_dict()
    plain = textbook(hyper, copy.deepcopy(start), forget, make_ctx(3)).state_dict()
    moved = max(float((plain[name] - p.detach()).abs().max()) for name, p in start.named_parameters())
    assert moved > 1e-3
    for name, value in plain.items():
        assert torch.allclose(ours[name], value, atol=1e-5, rtol=1e-4), name


def test_no_pass_is_larger_than_its_budget(make_model, make_ctx, forget, monkeypatch):
    monkeypatch.setitem(jit_module.IMAGES_PER_PASS, "cpu", 5)  # of 3×32×32, so 20 of 3×16×16
    sizes = []
    model = make_model("mlp")
    model.register_forward_hook(lambda module, args, out: sizes.append(len(args[0])))
    JiT(samples=5, batch_size=8)(model, forget, None, make_ctx())
    assert sizes == [8, 16, 16, 8, 8, 16, 16, 8, 6, 18, 12]


def test_batch_statistics_see_one_copy_at_a_time(make_model, make_ctx, forget):
    model = make_model("conv")
    JiT(samples=3, batch_size=22, mode="train")(model, forget, None, make_ctx())
    assert int(model[1].num_batches_tracked) == 4  # x and three copies


def test_labels_do_not_matter(unlearn, make_model, forget):
    permuted = forget.relabel((forget.targets + 2) % 4)
    model = make_model("conv")
    for hyper in (JiT(), JiT(**JiT.info.reference)):
        one, other = unlearn(hyper, model), unlearn(hyper, model, forget=permuted)
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b)


def test_clipped_gradient_bounds_the_step(unlearn, make_model):
    model = make_model("mlp")
    after = unlearn(JiT(lr=1.0, grad_clip=1e-3, batch_size=64), model)
    moved = [a - b for a, b in zip(after.parameters(), model.parameters(), strict=True)]
    assert torch.cat([m.flatten() for m in moved]).norm().item() == pytest.approx(1e-3, rel=1e-2)


def test_profile_reference_is_the_released_code():
    expected = {
        **{"mode": "train", "accumulate": True, "detach_perturbed": True, "clip": "batch_minmax"},
        **{"norm_noise": False, "output": "logits", "reduction": "sum", "batch_size": 128, "samples": 25},
        **{"epochs": 1, "grad_clip": None, "antithetic": False},
    }
    reference = vars(JiT(**JiT.info.reference))
    assert {name: reference[name] for name in expected} == expected


def test_channel_range_without_a_known_range_says_what_to_type(make_model, make_ctx, forget):
    with pytest.raises(ValueError, match="clip='none'"):
        JiT(clip="channel_range")(make_model("mlp"), forget, None, make_ctx(pixel_range=None))


@pytest.mark.parametrize("fields", [{"lr": 0.03, "epochs": 5}, {**JiT.info.reference, "lr": 5e-4}])
def test_it_forgets_a_digit_more_than_the_others(trained, fields):
    trained.ctx.generator.manual_seed(0)
    model = JiT(**fields, batch_size=64)(copy.deepcopy(trained.model), trained.forget, None, trained.ctx)
    forget_drop, retain_drop = trained.drops(model)
    assert forget_drop > 0.3
    assert forget_drop > 1.5 * retain_drop


@pytest.mark.parametrize(("sigma", "least", "most"), [(0.01, -1.0, 0.8), (0.5, 0.98, 1.0)])
def test_bf16_keeps_the_direction_of_the_step_only_where_the_noise_is_large(
    make_model, make_ctx, forget, sigma, least, most
):
    def step(bf16):
        model = make_model("vit")
        before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16, cache_enabled=False):
            after = JiT(lr=1e-3, sigma=sigma, batch_size=32)(model, forget, None, make_ctx(0))
        return nn.utils.parameters_to_vector(after.parameters()).detach() - before

    cosine = float(torch.cosine_similarity(step(False), step(True), dim=0))
    assert least < cosine < most + 1e-6
