"""Networks that turn noise into images, and the gate and the training that GKT puts around them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from methods.api import Context
from methods.loops import divergence, take_step, uses_batch_statistics

if TYPE_CHECKING:
    from methods.gkt import GKT

NOISE = 128  # numbers of noise an image


class Generator(nn.Module):
    """Noise (B, 128) → images (B, C, H, W) that are normalised over the batch.

    "upsample": 128 maps of a quarter of the side, nearest upsampling and convolution twice.
    "transposed": 64 maps, transposed convolution of stride 2 twice.
    A side that is no multiple of 4 is rounded up and the image cut.
    """

    def __init__(self, kind: str, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.size = (height, width)
        start = (math.ceil(height / 4), math.ceil(width / 4))
        widths = (128, 128, 64) if kind == "upsample" else (64, 64, 32)
        enlarge = _upsample if kind == "upsample" else _transpose
        linear = nn.Linear(NOISE, widths[0] * start[0] * start[1])
        self.start = nn.Sequential(
            linear,
            nn.Identity() if kind == "upsample" else nn.ReLU(),
            nn.Unflatten(1, (widths[0], *start)),
            nn.BatchNorm2d(widths[0]),
        )
        self.enlarge = nn.Sequential(enlarge(widths[0], widths[1]), enlarge(widths[1], widths[2]))
        self.finish = nn.Sequential(nn.Conv2d(widths[2], channels, 3, padding=1), nn.BatchNorm2d(channels))

    def forward(self, z: Tensor) -> Tensor:
        """(B, 128) → (B, C, H, W) float32."""
        images: Tensor = self.finish(self.enlarge(self.start(z)))
        return images[:, :, : self.size[0], : self.size[1]].float()


def _upsample(before: int, after: int) -> nn.Sequential:
    conv = nn.Conv2d(before, after, 3, padding=1)
    return nn.Sequential(nn.Upsample(scale_factor=2), conv, nn.BatchNorm2d(after), nn.LeakyReLU(0.2))


def _transpose(before: int, after: int) -> nn.Sequential:
    conv = nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.LeakyReLU(0.2))


def new_generator(kind: str, ctx: Context) -> Generator:
    """A fresh generator for the images of `ctx`, on its device, drawn from its random stream alone."""
    seed = int(torch.randint(2**31, (), generator=ctx.generator, device=ctx.device))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Generator(kind, ctx.input_shape).to(ctx.device)


def passes(logits: Tensor, class_id: int | None, threshold: float) -> Tensor:
    """Which of logits (B, K) give the class a probability of at most `threshold`: (B,) bool."""
    return logits.float().softmax(1)[:, class_id] <= threshold


def gated_images(hyper: GKT, teacher: nn.Module, student: nn.Module, ctx: Context) -> Iterator[Tensor]:
    """Pseudo-batch after pseudo-batch, (n, C, H, W) of each that pass; the generator learns before each.

    RuntimeError where one fresh generator after another makes only images that the gate stops.
    """
    for _ in range(1 + hyper.restarts):
        generator = new_generator(hyper.generator, ctx)
        optimizer = hyper.step_rule(generator, hyper.generator_lr)
        stopped = 0
        while stopped < hyper.patience:
            z = torch.randn(hyper.batch_size, NOISE, generator=ctx.generator, device=ctx.device)
            steps = range(hyper.generator_steps)
            if all(mislead(hyper, generator, optimizer, teacher, student, z, ctx) for _ in steps):
                x = _kept(hyper, generator, teacher, z, ctx)
                if len(x) >= _fewest(student):
                    stopped = 0
                    yield x
                    continue
            stopped += 1
    raise RuntimeError(
        f"gkt: {1 + hyper.restarts} generators in turn gave {hyper.patience} pseudo-batches of which nothing "
        f"passes, expected a class probability <= {hyper.threshold}; raise gkt.threshold or gkt.batch_size"
    )


def mislead(
    hyper: GKT,
    generator: nn.Module,
    optimizer: Optimizer,
    teacher: nn.Module,
    student: nn.Module,
    z: Tensor,
    ctx: Context,
) -> bool:
    """One step of the generator up KL(teacher ‖ student) on noise z (B, 128); False where nothing passes."""
    x = generator(z)  # (B, C, H, W)
    slopes, count = [], 0
    for part in x.detach().split(hyper.micro_batch or len(x)):
        logits = teacher(part.requires_grad_())  # (b, K)
        kept = passes(logits, ctx.forget_class, hyper.threshold)
        some = int(kept.sum())
        slopes.append(torch.zeros_like(part))
        if some >= _fewest(student):
            gap = divergence(logits[kept], student(part[kept]), reduction=hyper.reduction)
            (slopes[-1],) = torch.autograd.grad(-some * gap, part)
            count += some
    if count:
        optimizer.zero_grad(set_to_none=True)
        x.backward(torch.cat(slopes) / count)
        take_step(generator, optimizer, hyper.grad_clip)
    return count > 0


@torch.no_grad()
def _kept(hyper: GKT, generator: nn.Module, teacher: nn.Module, z: Tensor, ctx: Context) -> Tensor:
    x: Tensor = generator(z)  # (B, C, H, W)
    logits = torch.cat([teacher(part) for part in x.split(hyper.micro_batch or len(x))])
    torch.clear_autocast_cache()  # a copy kept from no_grad lets no gradient through in some PyTorch versions
    return x[passes(logits, ctx.forget_class, hyper.threshold)]


def _fewest(student: nn.Module) -> int:
    """Batch statistics of a single image may not exist."""
    return 2 if uses_batch_statistics(student) else 1
