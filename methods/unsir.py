"""UNSIR: impair with noise that raises the loss of one class, then repair on retained images.

Tarun, Chundawat, Mandal, Kankanhalli, "Fast Yet Effective Machine Unlearning", IEEE TNNLS 2023,
https://arxiv.org/abs/2111.08947.

Assumes that noise with a high loss for class k, trained to a low one, overwrites what the network knows of
that class. Sees the class id k and the retained data, never an image to be forgotten.

    n ← Adam steps on −CE(f_θ(n), k) + w·mean‖n‖²
    impair:  θ ← Adam(θ, ∇_θ mean_B CE),   B ⊂ copies of (n, k) ∪ S, shuffled;   S ⊂ D_r a few of each class
    repair:  θ ← Adam(θ, ∇_θ mean_B CE),   B ⊂ S shuffled

The released code of the JiT benchmark differs; each difference is a field, and `reference` sets them so.
`images_used`: it takes as many noise images as an image has channels, 3 of 32, and so does the authors' code.
`noise_mode`: it learns noise in train mode, with dropout and the statistics of noise.
`stale_gradients`: what learning the noise adds to the network's gradients enters the first impair step, and
stays in Adam's moments; the authors' code clears them.
`per_class`: it takes the first 500 images of a class (of a group, for sub-classes), all that CIFAR-100 has,
so that it fine-tunes on D_r; the authors' code takes 1,000 a class, a fifth of CIFAR-10's (`share`).
The authors' code labels all noise as class 0; here it bears the label of the class to forget.
The authors' learning rates are 0.02 and then 0.01; 1e-4 is the benchmark's, and may forget nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.api import Batches, Context, check_fields, method
from methods.loops import cross_entropy, required, set_mode, train_epochs
from methods.noise import Mixture, Recipe, forgotten_class, learn_noise, train_on, used_images


def first_of_each(labels: Tensor, share: float, most: int | None) -> Tensor:
    """Positions, sorted, of the first images of each class: `share` of them, at least 1 and at most
    `most`.
    """
    order = labels.argsort(stable=True)
    sorted_labels = labels[order]
    counts = labels.bincount()  # (K',)
    first = counts.cumsum(0) - counts
    rank = torch.arange(len(order), device=labels.device) - first[sorted_labels]
    wanted = (share * counts).round().clamp(min=1, max=most)
    return order[rank < wanted[sorted_labels]].sort().values


@method(
    "unsir",
    needs={"class_id", "retain"},
    scenarios={"full_class", "sub_class"},
    paper="https://arxiv.org/abs/2111.08947",
    reference={
        "images_used": "channels",
        "noise_mode": "train",
        "stale_gradients": True,
        "share": 1.0,
        "per_class": 500,
    },
)
@dataclass(frozen=True)
class UNSIR:
    """Adam on noise and retained images, then on retained images alone."""

    lr: float = 1e-4  # Adam step of the impair phase
    repair_lr: float | None = None  # Adam step of the repair phase, None: as `lr`
    epochs: int = 1  # of each phase
    batch_size: int = 32  # of the impair phase
    repair_batch_size: int = 128
    share: float = 0.2  # of each class's retained images
    per_class: int | None = None  # retained images of a class at most
    noise_images: int = 32
    copies: int = 80  # of each noise image in one epoch
    noise_steps: int = 25
    noise_lr: float = 0.1  # Adam step of the noise, in normalised pixel units
    penalty: float = 0.1  # w
    images_used: str = "all"  # noise images: all | channels (only the first C of them)
    noise_mode: str = "eval"  # of the network while noise is learned: eval | train
    mode: str = "train"  # of the network while it is trained: train | eval
    stale_gradients: bool = False  # the first step follows the gradients of learning noise too

    def __post_init__(self) -> None:
        check_fields(self, lr=">= 0", repair_lr=">= 0", epochs=">= 0", share="> 0", per_class="> 0")
        check_fields(self, share="<= 1", batch_size="> 0", repair_batch_size="> 0", noise_images="> 0")
        check_fields(self, copies="> 0", noise_steps=">= 0", noise_lr=">= 0", penalty=">= 0")
        check_fields(self, images_used="all | channels", noise_mode="eval | train", mode="train | eval")

    def __call__(
        self, model: nn.Module, forget: Batches | None, retain: Batches | None, ctx: Context
    ) -> nn.Module:
        retain = required(retain, "unsir", "retain")
        kept = retain.subset(first_of_each(retain.labels(), self.share, self.per_class))
        model.zero_grad(set_to_none=True)
        mixture = self._mixture(model, kept, ctx)
        set_mode(model, self.mode)
        impair = torch.optim.Adam(model.parameters(), self.lr)
        train_on(model, mixture, impair, self.epochs, log=ctx.log)
        repair = torch.optim.Adam(model.parameters(), self.lr if self.repair_lr is None else self.repair_lr)
        again = kept.rebatch(self.repair_batch_size, shuffle=True)
        train_epochs(model, again, cross_entropy, repair, self.epochs, log=ctx.log)
        return model

    def _mixture(self, model: nn.Module, kept: Batches, ctx: Context) -> Mixture:
        label = torch.tensor([forgotten_class(ctx, "unsir")], device=ctx.device)
        recipe = Recipe(
            self.noise_images,
            -1.0,
            self.noise_steps,
            self.noise_lr,
            self.penalty,
            self.noise_mode,
            self.stale_gradients,
        )
        noise = used_images(learn_noise(model, label, recipe, ctx), self.noise_images, self.images_used)
        return Mixture(noise, label.expand(len(noise)), self.copies, self.batch_size, ctx, kept)
