"""Fisher forgetting: blur each weight as far as the retained data let it.

Golatkar, Achille, Soatto, "Eternal Sunshine of the Spotless Net: Selective Forgetting in Deep Networks", CVPR
2020, https://arxiv.org/abs/1911.04933.

Assumes that a weight which the retained data do not pin down is where the forgotten are remembered. Sees
retained images, never a label nor an image to be forgotten; trains nothing.

    F = mean_{x∈D_r} Σ_c p_c(x) · (∂ log p_c(x)/∂θ)²        diagonal Fisher information, p = softmax(f_θ(x))
    v = α · min(1/(F + 1e-8), m), averaged over the fan-in axis (the second) of a weight
    θ ← θ + √v · ξ,   ξ ~ N(0, I);   v is 10 times as large for 1-D tensors and for the last layer

This is the JiT benchmark's form of the paper's noise; its code walks single images and runs C backward passes
for each, here many images and classes go through at once, with the same numbers.
`zero_absent`: in its full-class script the last layer's weights of the forgotten class become 0 before the
noise, which forgets by itself; here, where asked for, those of all classes that D_r has no image of.
Memory: the gradients of as many (image, class) pairs as fit into PASS floats, one pair at least. The cost is
C backward passes an image: for small models, or with `images`, a random part of D_r.
Squared gradients of log-probabilities lose digits in bf16, so autocast is switched off here.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from methods.api import Batches, Context, check_fields, method
from methods.loops import output_layer, required, set_mode

PASS = {"cpu": 2**23, "gpu": 2**29}  # floats: what a CPU caches best, and 2 GiB
EPSILON = 1e-8
WIDER = 10.0  # factor on v for 1-D tensors and for the last layer


def fisher_diagonal(model: nn.Module, batches: Batches, num_classes: int) -> dict[str, Tensor]:
    """Diagonal Fisher information of each parameter that takes gradients: float32, by name; 0 without images.

    The model must not mix the images of a batch: call it in eval mode.
    """
    params = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    fixed = {name: t.detach() for name, t in (*model.named_parameters(), *model.named_buffers())}
    total = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in params.items()}

    def of_image(x: Tensor, classes: Tensor) -> dict[str, Tensor]:
        """Σ_c p_c·(∂ log p_c/∂θ)² over `classes` (c, K), one-hot, for one image x (C, H, W)."""

        def log_probabilities(some: dict[str, Tensor]) -> Tensor:
            return functional_call(model, {**fixed, **some}, (x[None],))[0].float().log_softmax(0)

        log_p, pull = vjp(log_probabilities, params)
        weighted = classes * log_p.exp().sqrt()  # √p_c of each class, as its square is what counts
        (rows,) = vmap(pull)(weighted)
        return {name: row.float().square().sum(0) for name, row in rows.items()}

    size = sum(p.numel() for p in params.values())
    for x, _ in batches:
        images, classes = _chunks(size, num_classes, PASS["cpu" if x.device.type == "cpu" else "gpu"])
        for part, some in product(x.split(images), torch.eye(num_classes, device=x.device).split(classes)):
            with sdpa_kernel(SDPBackend.MATH):  # the one kind of attention that vmap knows
                found = vmap(of_image, in_dims=(0, None))(part, some)
            for name, value in found.items():
                total[name] += value.sum(0)
    return {name: value / max(batches.num_examples, 1) for name, value in total.items()}


def _chunks(size: int, num_classes: int, floats: int) -> tuple[int, int]:
    """How many images and classes go through at once: all classes of several images, or some of one."""
    pairs = max(1, floats // max(size, 1))
    return max(1, pairs // num_classes), min(pairs, num_classes)


@method(
    "fisher",
    needs={"retain"},
    scenarios={"full_class", "sub_class", "random", "worst_case"},
    paper="https://arxiv.org/abs/1911.04933",
    reference={"zero_absent": True},
)
@dataclass(frozen=True)
class Fisher:
    """Gaussian noise on the weights, of a variance that falls with their Fisher information."""

    alpha: float = 1e-6  # α
    cap: float = 1e3  # m, the largest value of 1/F
    zero_absent: bool = False  # set the last layer's weights of classes without retained images to 0
    images: int | None = None  # retained images used at most, None: all
    batch_size: int = 128

    def __post_init__(self) -> None:
        check_fields(self, alpha=">= 0", cap=">= 0", images="> 0", batch_size="> 0")

    def __call__(
        self, model: nn.Module, forget: Batches | None, retain: Batches | None, ctx: Context
    ) -> nn.Module:
        retain = required(retain, "fisher", "retain")
        last = output_layer(model, ctx.num_classes, "fisher")
        set_mode(model, "eval")
        some = self._some(retain, ctx).rebatch(self.batch_size)
        with torch.autocast(ctx.device.type, enabled=False):
            fisher = fisher_diagonal(model, some, ctx.num_classes)
        if self.zero_absent:
            self._zero_rows(last, retain.labels())
        self._blur(model, last, fisher, ctx)
        torch.clear_autocast_cache()
        return model

    def _some(self, retain: Batches, ctx: Context) -> Batches:
        if self.images is None or self.images >= retain.num_examples:
            return retain
        order = torch.randperm(retain.num_examples, generator=ctx.generator, device=ctx.device)
        return retain.subset(order[: self.images])

    @torch.no_grad()
    def _zero_rows(self, last: nn.Linear, labels: Tensor) -> None:
        present = labels.bincount(minlength=last.out_features) > 0  # (K,)
        for p in (last.weight, last.bias):
            if p is not None:
                p[~present.to(p.device)] = 0.0

    @torch.no_grad()
    def _blur(self, model: nn.Module, last: nn.Linear, fisher: dict[str, Tensor], ctx: Context) -> None:
        for name, p in model.named_parameters():
            if name not in fisher:
                continue
            variance = self.alpha * (1 / (fisher[name] + EPSILON)).clamp(max=self.cap)
            if p.ndim > 1:
                variance = variance.mean(dim=1, keepdim=True)
            if p.ndim == 1 or p is last.weight:
                variance = WIDER * variance
            noise = torch.randn(p.shape, generator=ctx.generator, device=ctx.device)
            p.add_(variance.sqrt() * noise)
