from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from methods import generator as generator_module
from methods.generator import NOISE, Generator, gated_images, mislead, new_generator, passes
from methods.gkt import GKT
from methods.loops import divergence

QUICK = {"pseudo_batches": 2, "batch_size": 8, "student_steps": 3, "threshold": 0.9}


def weights(model):
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def equal(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class Says(nn.Module):
    """Logits that are the same for every image; counts its passes and their sizes."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))
        self.sizes = []

    def forward(self, x):
        self.sizes.append(len(x))
        return self.logits + 0 * x.flatten(1).sum(1, keepdim=True)


@pytest.fixture
def run(make_model, make_ctx):
    """Run GKT on a model of some kind, with a fresh student of that kind: (teacher afterwards, student)."""

    def start(hyper, kind="conv", seed=0, **changes):
        torch.manual_seed(seed)
        teacher = make_model(kind)

        def fresh():
            model = make_model(kind)
            with torch.no_grad():
                for p in model.parameters():
                    p.mul_(0.5)
            return model.train()

        ctx = make_ctx(seed, **{"forget_class": 1, "new_model": fresh, **changes})
        return teacher, hyper(teacher, None, None, ctx)

    return start


# ----------------------------------------------------------------------------------- generator and gate


@pytest.mark.parametrize("kind", ["upsample", "transposed"])
@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 224, 224), (1, 8, 8), (3, 30, 17), (1, 5, 5)])
def test_noise_becomes_images_of_any_shape(kind, shape):
    torch.manual_seed(0)
    with torch.no_grad():
        assert Generator(kind, shape)(torch.randn(2, NOISE)).shape == (2, *shape)


def test_the_two_generators_are_built_as_published():
    def layers(kind):
        names = [type(m).__name__ for m in Generator(kind, (3, 32, 32)).modules() if not list(m.children())]
        return [name for name in names if name not in ("Identity", "Unflatten")]

    wide = ["Upsample", "Conv2d", "BatchNorm2d", "LeakyReLU"]
    assert layers("upsample") == ["Linear", "BatchNorm2d", *wide, *wide, "Conv2d", "BatchNorm2d"]
    wide = ["ConvTranspose2d", "BatchNorm2d", "LeakyReLU"]
    assert layers("transposed") == ["Linear", "ReLU", "BatchNorm2d", *wide, *wide, "Conv2d", "BatchNorm2d"]
    assert Generator("transposed", (3, 32, 32)).start[0].out_features == 64 * 8 * 8


@pytest.mark.parametrize("kind", ["upsample", "transposed"])
def test_images_are_normalised_over_the_batch(kind):
    torch.manual_seed(0)
    with torch.no_grad():
        images = Generator(kind, (3, 16, 16))(torch.randn(64, NOISE))
    assert torch.allclose(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-4)
    assert torch.allclose(images.std((0, 2, 3)), torch.ones(3), atol=1e-2)


def test_a_generator_is_drawn_from_the_stream_of_the_run_alone(make_ctx):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one = new_generator("upsample", make_ctx(1))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert equal(one, new_generator("upsample", make_ctx(1)))
    assert not equal(one, new_generator("upsample", make_ctx(2)))


def test_the_gate_keeps_exactly_what_the_teacher_hardly_takes_for_the_class():
    probabilities = torch.tensor([0.0, 0.005, 0.0099, 0.0101, 0.5, 1.0])
    logits = torch.stack([1 - probabilities, probabilities], dim=1).log().clamp(min=-50)
    assert passes(logits, 1, 0.01).tolist() == [True, True, True, False, False, False]
    assert passes(torch.zeros(1, 4), 2, 0.25).item()
    assert not passes(torch.zeros(1, 4), 2, 0.2499).item()


@pytest.mark.parametrize(("reduction", "expected"), [("mean", -0.0719205), ("batchmean", -0.143841)])
def test_the_generators_loss_is_the_worked_number(reduction, expected):
    loss = -divergence(torch.zeros(1, 2), torch.tensor([[math.log(3), 0.0]]), reduction=reduction)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_the_generator_climbs_what_student_and_teacher_disagree_on(make_model, make_ctx):
    hyper, ctx = GKT(threshold=1.0), make_ctx(forget_class=0)
    teacher, student = make_model("vit"), make_model("mlp")
    maker = new_generator("upsample", ctx)
    adam = hyper.step_rule(maker, 1e-3)
    z = torch.randn(8, NOISE)

    def gap():
        with torch.no_grad():
            x = maker(z)
            return divergence(teacher(x), student(x)).item()

    before = gap()
    for _ in range(8):
        assert mislead(hyper, maker, adam, teacher, student, z, ctx)
    assert gap() > 1.2 * before
    assert all(p.grad is None for model in (teacher, student) for p in model.parameters())


def test_the_generator_takes_the_steps_of_the_textbook(make_model, make_ctx, monkeypatch):
    teacher, z = make_model("vit"), torch.randn(12, NOISE)
    with torch.no_grad():
        middle = teacher(new_generator("upsample", make_ctx(2))(z))[:, 0].median()
    monkeypatch.setattr(generator_module, "passes", lambda logits, *_: logits[:, 0] > middle)
    ctx, hyper = make_ctx(2, forget_class=0), GKT(optimizer="sgd", momentum=0.0, grad_clip=None)
    ours, student = new_generator("upsample", ctx), make_model("conv_without_dropout").train()
    sgd = hyper.step_rule(ours, 0.1)
    for _ in range(2):
        assert mislead(hyper, ours, sgd, teacher, student, z, ctx)
    plain, student = new_generator("upsample", make_ctx(2)), make_model("conv_without_dropout").train()
    for _ in range(2):
        x = plain(z)
        t = teacher(x)
        kept = t[:, 0] > middle
        loss = -divergence(t[kept], student(x[kept]))
        grads = torch.autograd.grad(loss, list(plain.parameters()))
        with torch.no_grad():
            for p, g in zip(plain.parameters(), grads, strict=True):
                p.sub_(0.1 * g)
    assert torch.allclose(weights(ours), weights(plain), atol=1e-5)
    assert not torch.allclose(weights(ours), weights(new_generator("upsample", make_ctx(2))), atol=1e-3)


def test_parts_of_a_pseudo_batch_train_the_generator_alike(make_model, make_ctx, monkeypatch):
    teacher, student, z = make_model("vit"), make_model("mlp"), torch.randn(12, NOISE)
    with torch.no_grad():
        middle = teacher(new_generator("upsample", make_ctx(2))(z))[:, 0].median()
    monkeypatch.setattr(generator_module, "passes", lambda logits, *_: logits[:, 0] > middle)
    results = []
    for micro_batch in (None, 5):
        ctx = make_ctx(2, forget_class=0)
        hyper = GKT(optimizer="sgd", micro_batch=micro_batch)
        maker = new_generator("upsample", ctx)
        assert mislead(hyper, maker, hyper.step_rule(maker, 0.1), teacher, student, z, ctx)
        results.append(weights(maker))
    assert torch.allclose(*results, atol=1e-5)
    assert not torch.allclose(results[0], weights(new_generator("upsample", make_ctx(2))), atol=1e-3)


def test_pseudo_batches_that_are_stopped_are_drawn_again_and_not_counted(run, monkeypatch):
    calls = []

    def gate(logits, class_id, threshold):
        calls.append(len(logits))
        return torch.full((len(logits),), len(calls) > 3)

    monkeypatch.setattr(generator_module, "passes", gate)
    _, student = run(GKT(**QUICK), "conv_without_dropout")
    # 3 stopped; then a generator's step, the gate, and 3 student's steps for each of 2 pseudo-batches
    assert len(calls) == 3 + 2 * 2
    assert int(student[1].num_batches_tracked) == 2 * (1 + 3)


def test_after_patience_the_generator_starts_afresh_and_at_last_it_is_an_error(make_ctx, monkeypatch):
    made = []

    def counted(kind, ctx):
        made.append(new_generator(kind, ctx))
        return made[-1]

    monkeypatch.setattr(generator_module, "new_generator", counted)
    teacher = Says(9.0, 0.0)
    hyper = GKT(batch_size=4, patience=4, restarts=2)
    images = gated_images(hyper, teacher, Says(0.0, 0.0), make_ctx(forget_class=0))
    with pytest.raises(RuntimeError, match="3 generators in turn gave 4 pseudo-batches"):
        next(images)
    assert len(made) == 3
    assert len(teacher.sizes) == 3 * 4
    assert not torch.equal(weights(made[0]), weights(made[1]))


def test_patience_starts_anew_with_every_pseudo_batch_that_passes(make_ctx, monkeypatch):
    made, calls = [], []

    def counted(kind, ctx):
        made.append(new_generator(kind, ctx))
        return made[-1]

    def gate(logits, class_id, threshold):
        calls.append(len(logits))
        return torch.full((len(logits),), len(calls) % 2 == 0)

    monkeypatch.setattr(generator_module, "new_generator", counted)
    monkeypatch.setattr(generator_module, "passes", gate)
    hyper = GKT(batch_size=4, generator_steps=0, patience=2)
    images = gated_images(hyper, Says(0.0, 0.0), Says(0.0, 0.0), make_ctx(forget_class=0))
    for _ in range(4):
        next(images)
    assert (len(made), len(calls)) == (1, 8)


@pytest.mark.parametrize(("kind", "expected"), [("conv", 2), ("vit", 1)])
def test_batch_statistics_are_never_taken_of_one_image(make_model, make_ctx, monkeypatch, kind, expected):
    counts = iter([1, 1, 2, 2, 2, 2])  # how many pass: in the generator's step, then in the gate

    def gate(logits, class_id, threshold):
        return torch.arange(len(logits)) < next(counts)

    monkeypatch.setattr(generator_module, "passes", gate)
    student = make_model(kind).train()
    images = gated_images(GKT(batch_size=8), Says(0.0, 0.0, 0.0, 0.0), student, make_ctx(forget_class=0))
    assert len(next(images)) == expected


# ----------------------------------------------------------------------------------- student and teacher


def test_student_steps_and_lessons_are_counted(make_ctx):
    for mode, lessons in (("eval", 1), ("train", 5)):
        teacher, student = Says(0.0, 0.0, 0.0, 0.0), Says(3.0, 1.0, 1.0, 1.0)
        fields = {**QUICK, "generator_steps": 2, "student_steps": 5, "teacher_mode": mode}
        GKT(**fields)(
            teacher, None, None, make_ctx(forget_class=1, new_model=lambda student=student: student)
        )
        assert len(student.sizes) == 2 * (2 + 5)
        assert len(teacher.sizes) == 1 + 2 * (2 + 1 + lessons)  # one look for its layers, one a gate


def test_the_students_loss_is_divergence_plus_weighed_attention(make_model):
    from methods.probes import logits_and_attention, map_layers

    teacher, student, x = make_model("vit"), make_model("vit"), torch.randn(5, 3, 16, 16)
    with torch.no_grad():
        student.blocks[0].mlp.fc2.weight.mul_(3.0)
    layers = map_layers(teacher, (3, 16, 16))
    lesson = logits_and_attention(teacher, x, layers)
    own = logits_and_attention(student, x, layers)
    far = sum((a - b).square().mean() for a, b in zip(own[1:], lesson[1:], strict=True))
    assert far > 1e-6
    for beta in (0.0, 250.0):
        expected = divergence(lesson[0], own[0]) + beta * far
        assert torch.allclose(GKT(beta=beta).loss(student, layers, x, *lesson), expected)
    assert GKT().loss(teacher, layers, x, *lesson).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_teacher_learns_nothing(run, make_model, mode):
    teacher, _ = run(GKT(**QUICK, teacher_mode=mode))
    original = make_model("conv")
    assert torch.equal(weights(teacher), weights(original))
    assert not any(p.requires_grad for p in teacher.parameters())
    assert equal(teacher, original) == (mode == "eval")  # in train mode its batch statistics move


def test_a_fresh_student_gets_no_weight_of_the_teacher(run, make_model):
    _, student = run(GKT(**QUICK, lr=0.0), "mlp")
    assert torch.equal(weights(student), 0.5 * weights(make_model("mlp")))


def test_the_released_student_inherits_all_but_the_weights_of_convolutions(run, make_model):
    _, student = run(GKT(**QUICK, lr=0.0, student="teacher_but_conv"))
    for (name, own), its in zip(student.named_parameters(), make_model("conv").parameters(), strict=True):
        assert torch.equal(own, its) == (name != "0.weight"), name


def test_parts_of_a_batch_add_up_to_its_gradient(run, make_model):
    fields = {**QUICK, "optimizer": "sgd", "lr": 0.05, "generator_lr": 0.05}
    results = [weights(run(GKT(**fields, micro_batch=size), "vit")[1]) for size in (None, 3)]
    assert torch.allclose(*results, atol=1e-4)
    assert float((results[0] - 0.5 * weights(make_model("vit"))).abs().max()) > 1e-2


def test_clipping_bounds_the_students_steps(run, make_model):
    fields = {**QUICK, "optimizer": "sgd", "momentum": 0.0, "lr": 1.0, "grad_clip": 1e-3}
    _, student = run(GKT(**fields), "mlp")
    moved = float((weights(student) - 0.5 * weights(make_model("mlp"))).norm())
    assert 1e-4 < moved < 6.1e-3


def test_no_pass_is_larger_than_micro_batch(make_ctx):
    teacher, student = Says(0.0, 0.0), Says(1.0, 0.0)
    ctx = make_ctx(forget_class=0, new_model=lambda: student)
    GKT(**QUICK, micro_batch=3)(teacher, None, None, ctx)
    assert max(teacher.sizes + student.sizes) == 3


def test_one_channel_and_odd_sides_are_fine(make_ctx):
    def net():
        conv = nn.Conv2d(1, 4, 3, padding=1)
        return nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 4))

    ctx = make_ctx(forget_class=1, new_model=net, input_shape=(1, 9, 6))
    assert torch.isfinite(weights(GKT(**QUICK)(net(), None, None, ctx))).all()


def test_without_dropout_only_the_runs_own_stream_counts(run, make_ctx):
    first = run(GKT(**QUICK), "vit", seed=1)[1]
    again = run(GKT(**QUICK), "vit", seed=2, generator=torch.Generator().manual_seed(1))[1]
    assert torch.equal(weights(first), weights(again))


@pytest.mark.parametrize("kind", ["conv", "vit"])
def test_training_under_autocast_does_not_use_stale_weights(run, kind):
    def students(cached):
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=cached):
            return weights(run(GKT(**QUICK), kind)[1])

    assert torch.isfinite(students(False)).all()
    assert torch.equal(students(True), students(False))


def test_one_cycle_ends_all_but_at_rest(run, monkeypatch):
    rates = []

    def step(model, optimizer, grad_clip=None):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()

    monkeypatch.setattr("methods.gkt.take_step", step)
    fields = {**QUICK, "pseudo_batches": 4, "student_steps": 5}
    run(GKT(**fields, lr=0.1, schedule="one_cycle", optimizer="sgd"), "mlp")
    assert len(rates) == 20
    assert rates[0] == pytest.approx(0.004)
    assert max(rates) == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(4e-7)


def test_it_asks_for_the_class(run):
    with pytest.raises(ValueError, match=r"gkt: ctx\.forget_class is None, expected a class id"):
        run(GKT(), forget_class=None)


def test_it_is_zero_shot_and_for_whole_classes():
    assert GKT.info.zero_shot
    assert GKT.info.needs == {"class_id"}
    assert GKT.info.scenarios == {"full_class"}


def test_profile_reference_is_the_released_code():
    expected = {
        **{"pseudo_batches": 1000, "batch_size": 128, "generator_steps": 2, "student_steps": 15},
        **{"beta": 5.0, "threshold": 0.01, "optimizer": "sgd", "momentum": 0.9, "lr": 0.1},
        **{"generator_lr": 0.01, "schedule": "one_cycle", "grad_clip": 5.0, "reduction": "mean"},
        **{"student": "teacher_but_conv", "teacher_mode": "train", "tokens_by": "feature"},
        **{"generator": "transposed", "patience": 1000, "restarts": 50},
    }
    reference = vars(GKT(**GKT.info.reference))
    assert {name: reference[name] for name in expected} == expected


def test_a_student_never_shown_a_digit_knows_the_others_alone(trained):
    torch.manual_seed(0)

    def fresh():
        net = copy.deepcopy(trained.model)
        for layer in net.modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        return net

    stream = torch.Generator().manual_seed(0)
    ctx = replace(trained.ctx, new_model=fresh, generator=stream, forget_class=3)
    hyper = GKT(pseudo_batches=25, batch_size=64, lr=3e-3, beta=5.0)
    student = hyper(copy.deepcopy(trained.model), None, None, ctx)
    assert trained.accuracy(student, trained.forget) < 0.1
    assert trained.accuracy(student, trained.retain) > 0.5
