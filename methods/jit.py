"""JiT (Just in Time): smooth the model around the forget points.

Foster, Fogarty, Schoepf, Dugue, Öztireli, Brintrup, "An Information Theoretic Approach to Machine
Unlearning", TMLR 2025, https://arxiv.org/abs/2402.01401.

Assumes that a point informed the model where it is steep. Zero-shot: sees forget images, never a label.

    ℓ(x) = (1/N) Σ_j ‖f_θ(x) − f_θ(x'_j)‖ / ‖x − x'_j‖,   x'_j = x + ξ_j,  ξ_j ~ N(0, σ²·I)       (Eq. 1)
    θ ← θ − η · ∇_θ mean_{x∈B} ℓ(x),   B ⊂ D_f in stored order, one pass

The released code differs from Eq. 1; each difference is a field, and `reference` sets them as that code does.
`mode`: it stays in train mode, so dropout differs between x and x' and BN statistics become those of noise.
`accumulate`: it never clears the gradients, so step k follows g_1 + … + g_k (`grad_clip` then clips the sum).
`detach_perturbed`: it sends no gradient through f(x'), nor does our default: the estimator behind published
numbers, with expectation 0 on an affine model. False is Eq. 1 to the letter.
`clip`: it clips x' to the extremes of the whole batch, so that a result depends on batch mates.
`norm_noise`: x' = (x+ξ)/√(1+σ²) is in the paper, for ImageNet, and not in the code.
`output`: the text says softmax classifier; the code takes logits.
`reduction`: it sums over the batch, so that the step grows with the batch.
Under bf16 autocast f(x) − f(x') drowns in rounding where σ is small, and with it the direction of the step:
take fp32 below σ ≈ 0.5.
Here as there ‖x − x'‖ is taken after clipping; here alone a quotient with ‖x − x'‖ = 0 counts as 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.api import Batches, Context, check_fields, method
from methods.loops import log_mean, required, set_mode, take_step, uses_batch_statistics

# Perturbed 3×32×32 images in one pass: fit for a CPU's cache, with activations kept for a gradient, without.
IMAGES_PER_PASS = {"cpu": 128, "gradient": 512, "detached": 4096}


def draw(shape: tuple[int, ...], ctx: Context) -> Tensor:
    """Standard normal noise from the run's own stream, on its device."""
    return torch.randn(shape, generator=ctx.generator, device=ctx.device)


def ratios(z: Tensor, z_near: Tensor, x: Tensor, x_near: Tensor) -> Tensor:
    """‖z − z'‖/‖x − x'‖ (n, B) for z (B, K), z' (n, B, K), x (B, C, H, W), x' (n, B, C, H, W)."""
    moved = torch.linalg.vector_norm((x - x_near).flatten(2), dim=2)  # (n, B)
    apart = torch.linalg.vector_norm(z - z_near, dim=2)  # (n, B)
    return torch.where(moved > 0, apart / moved.masked_fill(moved == 0, 1.0), 0.0)


@method(
    "jit",
    needs={"forget"},
    scenarios={"full_class", "sub_class", "random", "worst_case"},
    paper="https://arxiv.org/abs/2402.01401",
    reference={"mode": "train", "accumulate": True, "clip": "batch_minmax", "reduction": "sum"},
)
@dataclass(frozen=True)
class JiT:
    """One pass of plain SGD on the local Lipschitz quotient of the forget images."""

    lr: float = 3e-4  # η
    sigma: float = 0.5  # σ, standard deviation of the noise, in normalised pixel units
    samples: int = 25  # N, perturbed copies of each image
    epochs: int = 1
    batch_size: int = 128
    mode: str = "eval"  # eval | train
    accumulate: bool = False  # keep adding up gradients over all steps
    detach_perturbed: bool = True  # no gradient through f(x')
    clip: str = "none"  # of x': none | batch_minmax | channel_range (the valid range of each channel)
    norm_noise: bool = False  # x' = (x+ξ)/√(1+σ²), which keeps the variance of the pixels
    output: str = "logits"  # logits | softmax
    reduction: str = "mean"  # over the batch: mean | sum
    grad_clip: float | None = None  # largest joint norm of the gradients, None: as they are
    antithetic: bool = False  # draw the noise in pairs ±ξ

    def __post_init__(self) -> None:
        check_fields(self, lr=">= 0", sigma="> 0", samples="> 0", epochs=">= 0", batch_size="> 0")
        check_fields(self, mode="train | eval", clip="none | batch_minmax | channel_range", grad_clip="> 0")
        check_fields(self, output="logits | softmax", reduction="mean | sum")
        if self.antithetic and self.samples % 2:
            raise ValueError(f"jit.samples is {self.samples}, expected an even number with antithetic=True")

    def __call__(
        self, model: nn.Module, forget: Batches | None, retain: Batches | None, ctx: Context
    ) -> nn.Module:
        batches = required(forget, "jit", "forget").rebatch(self.batch_size)
        set_mode(model, self.mode)
        sgd = torch.optim.SGD(model.parameters(), self.lr)
        sgd.zero_grad(set_to_none=True)
        for _ in range(self.epochs):
            losses: list[Tensor] = []
            for x, _ in batches:
                losses.append(self.backward(model, x, ctx))
                take_step(model, sgd, self.grad_clip)
                if not self.accumulate:
                    sgd.zero_grad(set_to_none=True)
            log_mean(ctx.log, "loss", losses)
        sgd.zero_grad(set_to_none=True)
        return model

    def backward(self, model: nn.Module, x: Tensor, ctx: Context) -> Tensor:
        """Add the gradient of the loss on x (B, C, H, W) to the parameters' own; the loss, a scalar.

        Passes over perturbed copies end in gradients at the leaf z, so f(x) is walked back through only once.
        """
        z = self._outputs(model, x)  # (B, K)
        leaf = z.detach().requires_grad_()
        scale = 1.0 / (self.samples * (len(x) if self.reduction == "mean" else 1))
        loss = torch.zeros((), device=x.device)
        for x_near in self._perturbed(x, self._copies_per_pass(model, x), ctx):  # (n, B, C, H, W)
            with torch.set_grad_enabled(not self.detach_perturbed):
                z_near = self._outputs(model, x_near.flatten(0, 1)).unflatten(0, x_near.shape[:2])
            part = scale * ratios(leaf, z_near, x, x_near).sum()
            part.backward()
            loss += part.detach()
        z.backward(leaf.grad)
        return loss

    def _outputs(self, model: nn.Module, x: Tensor) -> Tensor:
        logits: Tensor = model(x).float()
        return logits.softmax(dim=1) if self.output == "softmax" else logits

    def _copies_per_pass(self, model: nn.Module, x: Tensor) -> int:
        if uses_batch_statistics(model):
            return 1  # several copies in one batch would change its statistics
        kind = "cpu" if x.device.type == "cpu" else "detached" if self.detach_perturbed else "gradient"
        return max(1, IMAGES_PER_PASS[kind] * 3 * 32 * 32 // x.numel())

    def _perturbed(self, x: Tensor, per_pass: int, ctx: Context) -> Iterator[Tensor]:
        """All N copies x' of x, at most `per_pass` at a time: (n, B, C, H, W)."""
        lowest, highest = self._limits(x, ctx)
        signs = 2 if self.antithetic else 1
        per_draw = max(1, per_pass // signs)
        for first in range(0, self.samples // signs, per_draw):
            count = min(per_draw, self.samples // signs - first)
            noise = self.sigma * draw((count, *x.shape), ctx)
            if self.antithetic:
                noise = torch.stack([noise, -noise], dim=1).flatten(0, 1)  # ξ₁, −ξ₁, ξ₂, −ξ₂, …
            near = (x + noise) / math.sqrt(1 + self.sigma**2) if self.norm_noise else x + noise
            yield from (near if lowest is None else near.clamp(lowest, highest)).split(per_pass)

    def _limits(self, x: Tensor, ctx: Context) -> tuple[Tensor | None, Tensor | None]:
        if self.clip != "channel_range":
            return (x.min(), x.max()) if self.clip == "batch_minmax" else (None, None)
        if ctx.pixel_range is None:
            raise ValueError("jit.clip is 'channel_range', but ctx.pixel_range is None; set clip='none'")
        lowest, highest = (bound.to(x).view(-1, 1, 1) for bound in ctx.pixel_range)  # (C, 1, 1)
        return lowest, highest
