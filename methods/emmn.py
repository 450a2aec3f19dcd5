"""EMMN: train on noise that raises the loss of one class and noise that lowers that of all others.

Chundawat, Tarun, Mandal, Kankanhalli, "Zero-Shot Machine Unlearning", IEEE TIFS 2023,
https://arxiv.org/abs/2201.05629 (error minimisation-maximisation noise).

Assumes that noise with a low loss stands in for a class's images, and that noise with a high loss, trained to
a low one, undoes the class. Zero-shot and data-free: sees the model and the id k of the class.

    n_k ← Adam steps on −CE(f_θ(n), k) + w·mean‖n‖²,      n_c ← Adam steps on CE(f_θ(n), c)  for all c ≠ k
    θ ← Adam(θ, ∇_θ mean_{(n,c)∈B} CE(f_θ(n), c)),   B ⊂ copies of all noise, shuffled

No code of the paper's authors is public for this method, so all values are those of the JiT benchmark; its
code differs from the above, each difference is a field, and `reference` sets them as it does.
`images_used`: it takes as many noise images of a class as an image has channels, 3 of 4.
`noise_mode`: it learns noise in train mode, with dropout and the statistics of noise.
`mode`: it trains in train mode, where batch statistics become those of noise.
`stale_gradients`: what learning the noise adds to the network's gradients enters the first training step.
It looks at retained images for their size, and for an accuracy to log; nothing is looked at here.
Cost: K·images_per_class·copies/batch_size steps an epoch, 8,000 at K = 100; `copies`, `batch_size` and
`max_steps` cut it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.api import Batches, Context, check_fields, method
from methods.loops import set_mode
from methods.noise import Mixture, Recipe, forgotten_class, learn_noise, train_on, used_images


@method(
    "emmn",
    needs={"class_id"},
    scenarios={"full_class"},
    paper="https://arxiv.org/abs/2201.05629",
    reference={"images_used": "channels", "noise_mode": "train", "mode": "train", "stale_gradients": True},
)
@dataclass(frozen=True)
class EMMN:
    """Adam on noise images of every class."""

    lr: float = 1e-4  # Adam step of the network
    epochs: int = 2  # walks over the copies
    batch_size: int = 4
    max_steps: int | None = None  # of the network at most, None: as many as the epochs have
    images_per_class: int = 4  # noise images of each class
    copies: int = 80  # of each noise image in one epoch
    forget_steps: int = 25  # to raise the loss of noise of class k
    retain_steps: int = 30  # to lower that of the others'
    noise_lr: float = 0.1  # Adam step of the noise, in normalised pixel units
    penalty: float = 0.1  # w
    images_used: str = "all"  # noise images of a class: all | channels (only the first C of them)
    noise_mode: str = "eval"  # of the network while noise is learned: eval | train
    mode: str = "eval"  # of the network while it is trained: eval | train
    stale_gradients: bool = False  # the first step follows the gradients of learning noise too

    def __post_init__(self) -> None:
        check_fields(self, lr=">= 0", epochs=">= 0", batch_size="> 0", max_steps=">= 0", copies="> 0")
        check_fields(self, images_per_class="> 0", forget_steps=">= 0", retain_steps=">= 0")
        check_fields(self, noise_lr=">= 0", penalty=">= 0", images_used="all | channels")
        check_fields(self, noise_mode="eval | train", mode="eval | train")

    def __call__(
        self, model: nn.Module, forget: Batches | None, retain: Batches | None, ctx: Context
    ) -> nn.Module:
        model.zero_grad(set_to_none=True)
        images, labels = self._noise(model, ctx)
        set_mode(model, self.mode)
        adam = torch.optim.Adam(model.parameters(), self.lr)
        mixture = Mixture(images, labels, self.copies, self.batch_size, ctx)
        train_on(model, mixture, adam, self.epochs, self.max_steps, ctx.log)
        return model

    def _noise(self, model: nn.Module, ctx: Context) -> tuple[Tensor, Tensor]:
        """Noise (N, C, H, W) of all classes and their labels (N,), those of the class to forget first."""
        forget = torch.tensor([forgotten_class(ctx, "emmn")], device=ctx.device)
        others = torch.arange(ctx.num_classes, device=ctx.device)
        others = others[others != forget]  # (K−1,)
        common = (self.noise_mode, self.stale_gradients)
        worse = Recipe(self.images_per_class, -1.0, self.forget_steps, self.noise_lr, self.penalty, *common)
        better = Recipe(self.images_per_class, 1.0, self.retain_steps, self.noise_lr, 0.0, *common)
        found = [learn_noise(model, forget, worse, ctx), learn_noise(model, others, better, ctx)]
        images = used_images(torch.cat(found), self.images_per_class, self.images_used)
        labels = torch.cat([forget, others]).repeat_interleave(len(images) // ctx.num_classes)
        return images, labels
