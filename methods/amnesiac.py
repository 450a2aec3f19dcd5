"""Amnesiac: train on wrong labels for the forget set and true ones for the rest.

Graves, Nagisetty, Ganesh, "Amnesiac Machine Learning", AAAI 2021, https://arxiv.org/abs/2010.10981.
Benchmarks that say "amnesiac" mean this paper's simpler method, which it calls unlearning (random
relabelling, no equation number), and not its amnesiac unlearning, which subtracts stored updates.

Assumes that a wrong label overwrites the right one while rehearsal on D_r keeps the rest. Sees both sets with
labels.

    ỹ(x) ~ U({0,…,K−1} \\ {y}) once for each x ∈ D_f;   S = {(x, ỹ)} ∪ D_r
    θ ← Adam(θ, ∇_θ mean_{(x,y)∈B} CE(f_θ(x), y)),   B ⊂ S shuffled

The released code of the JiT benchmark evaluates after each epoch inside its timed region; nothing is
evaluated here.
Code of the bad-teaching benchmark uses batches of 256 (`batch_size`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.api import Batches, Context, check_fields, method
from methods.loops import cross_entropy, required, set_mode, train_epochs


def wrong_labels(labels: Tensor, ctx: Context) -> Tensor:
    """For each of `labels` (N,) one of the other classes, all equally likely: (N,) int64 on the same device.

    Raises ValueError where there is no other class.
    """
    if ctx.num_classes < 2:
        raise ValueError(f"num_classes is {ctx.num_classes}, expected at least 2: no wrong label to draw")
    shift = torch.randint(1, ctx.num_classes, labels.shape, generator=ctx.generator, device=ctx.device)
    return (labels + shift.to(labels.device)) % ctx.num_classes


@method(
    "amnesiac",
    needs={"forget", "retain"},
    scenarios={"full_class", "sub_class", "random", "worst_case"},
    paper="https://arxiv.org/abs/2010.10981",
)
@dataclass(frozen=True)
class Amnesiac:
    """Adam on the relabelled forget set and the retained data together."""

    lr: float = 1e-4  # Adam step
    epochs: int = 3
    batch_size: int = 128
    mode: str = "train"  # "train", or "eval": dropout off, batch statistics frozen

    def __post_init__(self) -> None:
        check_fields(self, lr=">= 0", epochs=">= 0", batch_size="> 0", mode="train | eval")

    def __call__(
        self, model: nn.Module, forget: Batches | None, retain: Batches | None, ctx: Context
    ) -> nn.Module:
        forget, retain = required(forget, "amnesiac", "forget"), required(retain, "amnesiac", "retain")
        relabelled = forget.relabel(wrong_labels(forget.labels(), ctx))
        batches = relabelled.join(retain).rebatch(self.batch_size, shuffle=True)
        set_mode(model, self.mode)
        adam = torch.optim.Adam(model.parameters(), self.lr)
        train_epochs(model, batches, cross_entropy, adam, self.epochs, log=ctx.log)
        return model
