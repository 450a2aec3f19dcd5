"""Models: parameter counts, shapes, refusals, and the exact folding of VGG-11's first classifier layer."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from tasks.api import MODELS
from tasks.models import allcnn, cnn2, mini, mlp, resnet18, vgg11, vit  # noqa: F401  (they register themselves)
from tasks.training import last_linear

SMALL_MODELS = ("vgg_mini", "vit_mini", "resnet_mini", "mlp", "cnn2", "resnet18", "allcnn")


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def build_without_memory(name: str, num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    with torch.device("meta"):
        return MODELS[name].build(num_classes, input_shape)


# ---------- what the models look like


@pytest.mark.parametrize(
    ("name", "shape", "classes", "expected"),
    [
        ("vgg_mini", (1, 8, 8), 10, 22_602),
        ("vgg_mini", (1, 16, 16), 10, 57_482),
        ("vit_mini", (1, 8, 8), 10, 18_218),
        ("resnet_mini", (3, 32, 32), 10, 701_466),
        ("cnn2", (3, 32, 32), 10, 545_098),
        ("mlp", (1, 8, 8), 10, 8_970),
        ("resnet18", (3, 32, 32), 10, 11_173_962),
        ("resnet18", (3, 32, 32), 20, 11_179_092),
        ("resnet18", (3, 32, 32), 100, 11_220_132),
        ("resnet18", (3, 32, 32), 105, 11_222_697),
        ("vgg11", (3, 32, 32), 10, 132_873_346),
        ("vgg11", (3, 32, 32), 20, 132_883_356),
        ("vgg11", (3, 32, 32), 100, 132_963_436),
        ("vgg11", (3, 32, 32), 105, 132_968_441),
        ("vgg11", (1, 32, 32), 10, 132_873_346 - 2 * 64 * 9),
        ("allcnn", (3, 32, 32), 10, 1_620_010),
        ("allcnn", (3, 32, 32), 20, 1_621_940),
        ("allcnn", (3, 32, 32), 100, 1_637_380),
        ("allcnn", (3, 32, 32), 105, 1_638_345),
        ("vit_b16", (3, 224, 224), 10, 85_806_346),
        ("vit_b16", (3, 224, 224), 20, 85_814_036),
        ("vit_b16", (3, 224, 224), 100, 85_875_556),
        ("vit_b16", (3, 224, 224), 105, 85_879_401),
        ("vit_b16", (3, 224, 224), 1000, 86_567_656),
        ("vit_l16", (3, 224, 224), 10, 303_311_882),
        ("vit_l16", (3, 224, 224), 100, 303_404_132),
        ("vit_l16", (3, 224, 224), 1000, 304_326_632),
    ],
)
def test_a_model_has_exactly_the_published_number_of_parameters(
    name: str, shape: tuple[int, int, int], classes: int, expected: int
) -> None:
    assert count(build_without_memory(name, classes, shape)) == expected


def test_cnn2_at_32_pixels_has_the_released_linear_layer() -> None:
    net = MODELS["cnn2"].build(10, (3, 32, 32))
    sizes = [(m.in_features, m.out_features) for m in net if isinstance(m, nn.Linear)]
    assert sizes == [(4096, 128), (128, 10)]


def test_each_model_names_its_family() -> None:
    families = {"vgg": ("vgg11", "vgg_mini"), "vit": ("vit_mini", "vit_b16", "vit_l16")}
    families |= {"resnet": ("resnet18", "resnet_mini"), "cnn": ("cnn2", "allcnn"), "mlp": ("mlp",)}
    for family, names in families.items():
        assert {MODELS[name].family for name in names} == {family}


@pytest.mark.parametrize("name", SMALL_MODELS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (1, 12, 12), (1, 16, 16), (1, 28, 28), (3, 32, 32)])
def test_a_model_maps_images_to_finite_logits_and_learns_in_every_parameter(
    name: str, shape: tuple[int, int, int]
) -> None:
    net = MODELS[name].build(7, shape).train()
    logits = net(torch.randn(2, *shape))
    logits.square().sum().backward()
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("name", ["vgg_mini", "vit_mini", "resnet_mini"])
@pytest.mark.parametrize("side", range(8, 65, 4))
def test_mini_models_take_every_multiple_of_4_from_8_to_64(name: str, side: int) -> None:
    net = MODELS[name].build(3, (1, side, side)).eval()
    with torch.no_grad():
        assert net(torch.zeros(1, 1, side, side)).shape == (1, 3)


@pytest.mark.parametrize("name", SMALL_MODELS)
def test_fresh_weights_follow_the_global_seed(name: str) -> None:
    def first_weights(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(MODELS[name].build(5, (1, 8, 8)).parameters())

    assert torch.equal(first_weights(1), first_weights(1))
    assert not torch.equal(first_weights(1), first_weights(2))


def test_resnet_mini_is_resnet18_a_quarter_as_wide() -> None:
    narrow, wide = (MODELS[name].build(10, (3, 32, 32)).state_dict() for name in ("resnet_mini", "resnet18"))
    assert list(narrow) == list(wide)
    assert {len(wide[name]) / len(narrow[name]) for name in wide if "conv" in name} == {4}


def test_resnet18_keeps_full_resolution_in_its_stem() -> None:
    net = MODELS["resnet18"].build(10, (3, 32, 32))
    with torch.no_grad():
        stem = net.maxpool(net.conv1(torch.zeros(1, 3, 32, 32)))
    assert stem.shape == (1, 64, 32, 32)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("vgg_mini", (1, 4, 4), "4×4 pixels, expected a square side from 8 to 64"),
        ("vgg_mini", (1, 10, 10), "10×10 pixels"),
        ("vit_mini", (1, 8, 16), "8×16 pixels"),
        ("resnet_mini", (1, 10, 10), "10×10 pixels"),
        ("vit_mini", (3, 68, 68), "68×68 pixels"),
        ("cnn2", (1, 9, 9), "9×9 pixels, expected sides that are multiples of 4"),
        ("vgg11", (3, 16, 16), "16×16 pixels, expected sides of at least 32"),
        ("resnet18", (3, 4, 4), "4×4 pixels, expected sides of at least 8"),
        ("allcnn", (3, 3, 3), "3×3 pixels, expected sides of at least 4"),
        ("vit_b16", (3, 36, 36), "36×36 pixels, expected a square side that is a multiple of 16"),
        ("vit_l16", (3, 224, 208), "224×208 pixels"),
    ],
)
def test_an_unsupported_image_size_is_refused_with_found_and_expected(
    name: str, shape: tuple[int, int, int], expected: str
) -> None:
    with pytest.raises(ValueError, match=rf"{name}: found images of {expected}"):
        MODELS[name].build(10, shape)


# ---------- All-CNN and the large transformers


def test_allcnn_halves_twice_and_averages_what_is_left() -> None:
    net = MODELS["allcnn"].build(10, (3, 32, 32)).eval()
    with torch.no_grad():
        maps = net[:8](torch.zeros(2, 3, 32, 32))
        assert maps.shape == (2, 192, 8, 8)
        torch.testing.assert_close(net[8:10](maps), maps.mean((2, 3)))
    assert [m.stride for m in net.modules() if isinstance(m, nn.Conv2d)].count((2, 2)) == 2


HUB = {"vit_b16": "vit_base_patch16_224", "vit_l16": "vit_large_patch16_224"}


@pytest.mark.parametrize(("name", "hub"), HUB.items())
def test_a_transformer_has_the_tensors_of_timms_own(name: str, hub: str) -> None:
    import timm

    with torch.device("meta"):
        theirs = timm.create_model(hub, pretrained=False).state_dict()
    ours = build_without_memory(name, 1000, (3, 224, 224)).state_dict()
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in theirs.items()}


def test_the_last_linear_layer_of_a_transformer_is_its_head() -> None:
    net = build_without_memory("vit_b16", 7, (3, 32, 32))
    assert last_linear(net) == "head"
    assert last_linear(build_without_memory("vgg11", 7, (3, 32, 32))) == "head"


def test_vit_b16_reads_the_class_token_after_the_last_norm() -> None:
    net = MODELS["vit_b16"].build(5, (3, 32, 32)).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tokens = net.forward_features(x)  # (B, 1 + 4, 768)
        torch.testing.assert_close(net(x), net.head(tokens[:, 0]))
        torch.testing.assert_close(tokens, net.norm(tokens_before_norm(net, x)))


def tokens_before_norm(net: nn.Module, x: Tensor) -> Tensor:
    norm, net.norm = net.norm, nn.Identity()
    try:
        found: Tensor = net.forward_features(x)
    finally:
        net.norm = norm
    return found


def bytes_kept_for_backward(net: nn.Module, x: Tensor) -> int:
    """What autograd holds on to between forward and backward, parameters aside; on no memory."""
    own = {id(p) for p in net.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if id(tensor) not in own and not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = net(x)
    assert out.requires_grad
    return sum(kept.values())


def test_a_jit_step_on_vit_b16_fits_a_device_of_24_gb() -> None:
    """A step keeps f(x) of 128 images; perturbed copies go through in passes without a gradient."""
    net = build_without_memory("vit_b16", 100, (3, 224, 224))
    with torch.device("meta"):
        small, large = (bytes_kept_for_backward(net, torch.empty(n, 3, 224, 224)) for n in (1, 2))
    weights_and_gradients = 2 * 4 * count(net)
    image = large - small
    assert 50e6 < image < 170e6
    assert weights_and_gradients + small + 127 * image < 24e9


SMALL = [("vgg11", 32), ("resnet18", 32), ("allcnn", 32), ("cnn2", 32)]
LARGE = [pytest.param(name, 224, marks=pytest.mark.slow) for name in HUB]


@pytest.mark.parametrize(("name", "side"), [*SMALL, *LARGE])
def test_a_real_architecture_takes_a_forward_pass_and_a_jit_step(name: str, side: int) -> None:
    from methods.api import Context
    from methods.jit import JiT

    net = build_without_memory(name, 10, (3, side, side)).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for path, t in net.state_dict().items():
            if t.ndim <= 1:  # of norms: weight and variance 1, all else 0
                t.fill_(path.endswith(("weight", "running_var")))
            else:
                t.normal_(0, 0.02, generator=generator)
    x = torch.randn(2, 3, side, side, generator=generator)
    before = {name: p.detach().double().sum().item() for name, p in net.named_parameters()}
    ctx = Context(10, (3, side, side), torch.device("cpu"), generator, lambda: net, lambda model, _: model)
    losses: list[float] = []
    ctx = dataclasses.replace(ctx, log=lambda name, value: losses.append(value))
    after = JiT(lr=0.1, sigma=0.5, samples=2, batch_size=2)(net, Walk(x), None, ctx)
    changed = [
        name for name, p in after.named_parameters() if p.detach().double().sum().item() != before[name]
    ]
    assert len(losses) == 1 and 0 < losses[0] < float("inf")
    assert len(changed) > 0.5 * len(before)  # a bias before a difference, or behind a dead ReLU, has none
    with torch.no_grad():
        logits = after.eval()(x[:1])
    assert logits.shape == (1, 10) and bool(logits.isfinite().all())


@dataclasses.dataclass
class Walk:
    """Two images in one batch: what JiT asks of a walk, and no more."""

    x: Tensor

    def rebatch(self, size: int, *, shuffle: bool = False) -> Walk:
        return self

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield self.x, torch.zeros(len(self.x), dtype=torch.int64)


# ---------- the folding of VGG-11


@pytest.fixture(scope="module")
def net() -> Iterator[vgg11.VGG11]:
    torch.manual_seed(0)
    yield vgg11.VGG11(10, channels=3).eval()


@pytest.fixture(scope="module")
def unfolded(net: vgg11.VGG11) -> Callable[[Tensor], Tensor]:
    """torchvision's own network on the same parameters."""
    from torchvision.models import vgg11 as torchvision_vgg11

    with torch.device("meta"):
        reference = torchvision_vgg11()
    for path in (name for name, _ in net.named_parameters() if not name.startswith("head.")):
        owner, _, leaf = path.rpartition(".")
        setattr(reference.get_submodule(owner), leaf, net.get_parameter(path))
    reference.eval()
    return lambda x: net.head(reference(x))


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("side", [32, 64])
def test_vgg11_computes_what_torchvision_computes(
    net: vgg11.VGG11, unfolded: Callable[[Tensor], Tensor], side: int
) -> None:
    x = torch.randn(3, 3, side, side)
    with torch.no_grad():
        assert relative(net(x), unfolded(x)) < 1e-5
        assert relative(net(x), unfolded(x)) < 1e-5  # again, now from the cache at 32 pixels


def test_vgg11_has_the_gradients_of_the_unfolded_network(
    net: vgg11.VGG11, unfolded: Callable[[Tensor], Tensor]
) -> None:
    x, y = torch.randn(4, 3, 32, 32, requires_grad=True), torch.arange(4)
    wanted = [
        x,
        net.features[0].weight,
        net.classifier[0].bias,
        net.head.weight,
    ]  # the folded weight has its own test
    expected = torch.autograd.grad(cross_entropy(unfolded(x), y), wanted)
    found = torch.autograd.grad(cross_entropy(net(x), y), wanted)
    assert max(relative(a, b) for a, b in zip(found, expected, strict=True)) < 1e-4


def test_vgg11_folds_under_bfloat16_autocast(net: vgg11.VGG11) -> None:
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        exact = net(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = net(x)
    assert rounded.dtype == torch.bfloat16
    assert relative(rounded.float(), exact) < 0.05
    assert net.classifier[0]._cache[3].dtype == torch.float32  # the cache outlives the autocast block


COPIES, FEATURES, OUT = 49, 6, 5
X = torch.randn(3, FEATURES, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def layer() -> vgg11.FoldableLinear:
    """A layer whose cache is filled: the next prediction shows whether a change was noticed."""
    torch.manual_seed(1)
    made = vgg11.FoldableLinear(FEATURES * COPIES, OUT).eval()
    predict(made)
    assert made._cache is not None
    return made


def predict(layer: nn.Module) -> Tensor:
    with torch.no_grad():
        return layer(X.to(next(layer.parameters()).dtype))


def dense(layer: nn.Module) -> Tensor:
    repeated = X.to(layer.weight.dtype).repeat_interleave(COPIES, dim=1)
    return linear(repeated, layer.weight, layer.bias).detach()


def step(optimizer: type[torch.optim.Optimizer], **options: bool) -> Callable[[nn.Module], None]:
    def change(layer: nn.Module) -> None:
        for p in layer.parameters():
            p.grad = torch.ones_like(p)
        optimizer(layer.parameters(), lr=0.1, **options).step()

    return change


def write_in_place(layer: nn.Module) -> None:
    with torch.no_grad():
        layer.weight[0, 0] += 1.0


def write_data_then_eval(layer: nn.Module) -> None:
    layer.weight.data.mul_(2)
    layer.eval()


def swap_data(layer: nn.Module) -> None:
    cached_at = layer.weight.data_ptr()
    for _ in range(50):  # sooner or later a new tensor would live where the cached one did
        layer.weight.data = layer.weight.data * 1.1
        if layer.weight.data_ptr() == cached_at:
            return


def replace_parameter(layer: nn.Module) -> None:
    layer.weight = nn.Parameter(torch.ones_like(layer.weight))


def share_storage(layer: nn.Module) -> None:
    version = layer.weight._version
    layer.weight = nn.Parameter(layer.weight.data)
    with torch.no_grad():
        while layer.weight._version < version:
            layer.weight.add_(1.0)
    assert layer.weight._version == version > 0


def load(layer: nn.Module, assign: bool = False) -> None:
    layer.load_state_dict({k: torch.ones_like(v) for k, v in layer.state_dict().items()}, assign=assign)


def load_by_assignment(layer: nn.Module) -> None:
    load(layer, assign=True)


def round_to_bfloat16_and_back(layer: nn.Module) -> None:
    layer.to(torch.bfloat16).to(torch.float32)


CHANGES = {
    "in place": write_in_place,
    "sgd": step(torch.optim.SGD, foreach=False),
    "foreach sgd": step(torch.optim.SGD, foreach=True),
    "fused sgd": step(torch.optim.SGD, fused=True),
    "fused adam": step(torch.optim.Adam, fused=True),
    "data, then eval": write_data_then_eval,
    "swapped data": swap_data,
    "new parameter, same storage and version": share_storage,
    "new parameter": replace_parameter,
    "load_state_dict": load,
    "load_state_dict(assign=True)": load_by_assignment,
    "cast": round_to_bfloat16_and_back,
    "to double": lambda layer: layer.double(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_weight_is_never_predicted_from_a_stale_fold(
    layer: vgg11.FoldableLinear, change: Callable[[nn.Module], None]
) -> None:
    before = predict(layer)
    change(layer)
    assert not torch.equal(predict(layer).to(before.dtype), before)
    torch.testing.assert_close(predict(layer), dense(layer), rtol=1e-5, atol=1e-5)


def test_moving_a_layer_lets_go_of_its_old_storage(layer: vgg11.FoldableLinear) -> None:
    assert layer.to(torch.bfloat16)._cache is None


def test_an_unchanged_weight_is_folded_once(layer: vgg11.FoldableLinear) -> None:
    folded = layer._cache[3]
    predict(layer)
    assert layer._cache[3] is folded


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_takes_no_folded_weight_along_and_changes_alone(
    layer: vgg11.FoldableLinear, duplicate: Callable[[nn.Module], nn.Module]
) -> None:
    before, twin = predict(layer), duplicate(layer)
    assert twin._cache is None
    write_in_place(twin)
    torch.testing.assert_close(predict(twin), dense(twin))
    assert torch.equal(predict(layer), before)


def test_the_folded_weight_gets_the_gradient_of_the_unfolded_one(layer: vgg11.FoldableLinear) -> None:
    def gradients(features: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(layer(features).exp().sum(), list(layer.parameters()))

    found, expected = gradients(X), gradients(X.repeat_interleave(COPIES, dim=1))
    assert max(relative(a, b) for a, b in zip(found, expected, strict=True)) < 1e-4


def test_weights_lent_by_functional_call_are_used_for_that_call_only(layer: vgg11.FoldableLinear) -> None:
    before = predict(layer)
    lent = {name: p.detach() * 2 for name, p in layer.named_parameters()}
    with torch.no_grad():
        doubled = torch.func.functional_call(layer, lent, (X,))
    torch.testing.assert_close(doubled, 2 * before)
    assert layer._cache is None
    assert torch.equal(predict(layer), before)


def test_per_example_gradients_by_torch_func_match_autograd(layer: vgg11.FoldableLinear) -> None:
    def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(layer, weights, (x[None],)).square().sum()

    weights = {name: p.detach() for name, p in layer.named_parameters()}
    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, X)
    layer(X).square().sum().backward()
    torch.testing.assert_close(each["weight"].sum(0), layer.weight.grad)


def test_a_fold_made_in_inference_mode_serves_a_later_input_gradient(layer: vgg11.FoldableLinear) -> None:
    layer.requires_grad_(False).eval()  # a frozen teacher; eval forgets the fold
    with torch.inference_mode():
        layer(X)
    x = X.clone().requires_grad_()
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.weight.view(OUT, FEATURES, COPIES).sum((0, 2)).expand(3, -1))
