"""Small stand-ins for what the harness hands to a method: batches in memory, a context, and tiny models."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from methods.api import Batches, Context

SHAPE = (3, 16, 16)
CLASSES = 4


@dataclass(frozen=True)
class MemoryBatches:
    """`Batches` over two tensors. Shuffles with torch's global generator, afresh on every walk."""

    images: Tensor  # (N, C, H, W)
    targets: Tensor  # (N,)
    size: int = 32
    shuffle: bool = False

    @property
    def num_examples(self) -> int:
        return len(self.targets)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        count = self.num_examples
        order = torch.randperm(count) if self.shuffle else torch.arange(count)
        for part in order.split(self.size) if count else ():
            yield self.images[part], self.targets[part]

    def rebatch(self, size: int, *, shuffle: bool = False) -> Batches:
        return replace(self, size=size, shuffle=shuffle)

    def relabel(self, labels: Tensor) -> Batches:
        assert labels.shape == self.targets.shape
        return replace(self, targets=labels, shuffle=False)

    def subset(self, positions: Tensor) -> Batches:
        return replace(self, images=self.images[positions], targets=self.targets[positions])

    def join(self, other: Batches) -> Batches:
        assert isinstance(other, MemoryBatches)
        images = torch.cat([self.images, other.images])
        return replace(self, images=images, targets=torch.cat([self.targets, other.targets]))

    def labels(self) -> Tensor:
        return self.targets


def conv_net(dropout: float) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(4),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(8 * 4 * 4, CLASSES),
    )


def tiny_vit() -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=16, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=CLASSES
    )


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 32), nn.ReLU(), nn.Linear(32, CLASSES))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: conv_net(0.5),
    "conv_without_dropout": lambda: conv_net(0.0),
    "mlp": mlp,
    "vit": tiny_vit,
}


def build(kind: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return MODELS[kind]().eval()


def context(seed: int = 0, **changes: Any) -> Context:
    plain = Context(
        num_classes=CLASSES,
        input_shape=SHAPE,
        device=torch.device("cpu"),
        generator=torch.Generator().manual_seed(seed),
        new_model=lambda: build("conv"),
        train=lambda model, batches: model,
        pixel_range=(torch.full((3,), -1.0), torch.full((3,), 1.0)),
    )
    return replace(plain, **changes)


def drawn(count: int, classes: list[int], seed: int) -> MemoryBatches:
    """Noise images around one random image a class."""
    source = torch.Generator().manual_seed(seed)
    targets = torch.tensor(classes)[torch.randint(len(classes), (count,), generator=source)]
    centres = torch.randn((CLASSES, *SHAPE), generator=torch.Generator().manual_seed(99))
    return MemoryBatches(
        centres[targets] + 0.5 * torch.randn((count, *SHAPE), generator=source), targets, size=8
    )


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def memory() -> type[MemoryBatches]:
    return MemoryBatches


@pytest.fixture
def make_model() -> Callable[[str], nn.Module]:
    """`make_model("conv" | "conv_without_dropout" | "mlp" | "vit")`: always the same weights, eval mode."""
    return build


@pytest.fixture
def make_ctx() -> Callable[..., Context]:
    """`make_ctx(seed, **changes)`: a context for CPU, with any of its fields changed."""
    return context


@pytest.fixture
def forget() -> MemoryBatches:
    """22 images of class 0, in batches of 8."""
    return drawn(22, [0], seed=1)


@pytest.fixture
def retain() -> MemoryBatches:
    """50 images of the classes 1, 2, 3, in batches of 8."""
    return drawn(50, [1, 2, 3], seed=2)


@pytest.fixture
def unlearn(forget: MemoryBatches, retain: MemoryBatches) -> Callable[..., nn.Module]:
    """Run a method on a copy of a model as the harness does: seeded, and None for what is not declared."""

    def run(hyper: Any, model: nn.Module, seed: int = 0, **data: MemoryBatches) -> nn.Module:
        torch.manual_seed(seed)
        needs = hyper.info.needs
        given = {"forget": data.get("forget", forget), "retain": data.get("retain", retain)}
        parts = [given[name] if name in needs else None for name in ("forget", "retain")]
        return hyper(copy.deepcopy(model).eval(), *parts, context(seed)).eval()

    return run


@dataclass(frozen=True)
class Digits:
    """A model that has learned the 8×8 digits, the images of class 3, and those of all other classes."""

    model: nn.Module
    forget: MemoryBatches
    retain: MemoryBatches
    ctx: Context

    def drops(self, model: nn.Module) -> tuple[float, float]:
        """Accuracy lost on the forget set and on the retained data, as fractions."""
        lost = [self.accuracy(self.model, p) - self.accuracy(model, p) for p in (self.forget, self.retain)]
        return lost[0], lost[1]

    def accuracy(self, model: nn.Module, part: MemoryBatches) -> float:
        with torch.no_grad():
            return float((model.eval()(part.images).argmax(1) == part.targets).float().mean())


@pytest.fixture(scope="session")
def trained() -> Digits:
    images, targets = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1
    y = torch.tensor(targets, dtype=torch.int64)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10)
    )
    adam = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(8):
        for part in torch.randperm(len(y)).split(64):
            adam.zero_grad()
            F.cross_entropy(model(x[part]), y[part]).backward()
            adam.step()
    adam.zero_grad(set_to_none=True)
    ctx = context(0, num_classes=10, input_shape=(1, 8, 8), pixel_range=(-torch.ones(1), torch.ones(1)))
    is_three = y == 3
    return Digits(
        model.eval(),
        MemoryBatches(x[is_three], y[is_three]),
        MemoryBatches(x[~is_three], y[~is_three]),
        ctx,
    )
