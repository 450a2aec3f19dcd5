"""SCRUB: a student that disobeys its teacher on the forget set and obeys it elsewhere.

Kurmanji, Triantafillou, Hayes, Triantafillou, "Towards Unbounded Machine Unlearning", NeurIPS 2023,
https://arxiv.org/abs/2302.09880.

Assumes that outputs unlike the original's on D_f mean forgetting, and that passes over D_r repair the rest.
Sees forget images, and the retained data with labels.

    KD(x) = τ²·KL(softmax(z_T(x)/τ) ‖ softmax(z_s(x)/τ)),   z_T the original's logits, s = T at the start
    epoch e = 1, 2, …:
        if e ≤ msteps, for all B ⊂ D_f   θ ← SGD(θ, −∇_θ mean_{x∈B} KD(x))                        (max steps)
        then, for all B ⊂ D_r            θ ← SGD(θ, ∇_θ mean_{(x,y)∈B} γ·CE(f_θ(x), y) + α·KD(x))  (min steps)

One optimizer with one momentum serves both. At the first max step s = T, so without dropout only weight decay
moves the weights.
Memory: one model. The teacher's logits are taken once before the first step, N × K float32 numbers; the
released code also holds the teacher, and an averaged copy of the student that has weight 0. `micro_batch`
bounds the activations.
`mode`: the authors' large experiments disable batch norm, taken here as "freeze_bn" (dropout stays on); the
JiT benchmark's code stays in train mode, where statistics of D_f alone enter the running ones.
`grad_clip`: the authors do not clip, that code clips to 1 in its full-class script alone; published spreads
suggest that some runs diverge without it.
`alpha`, `gamma`: its sub-class and random scripts take 1 and 5; the full-class one sets others, unused.
`forget_batch_size`, `retain_batch_size`, `shuffle_forget`: it takes 128 and 128 (64 in its sub-class script),
and walks D_f in stored order.
`optimizer`: the authors' small experiments take Adam, τ = 2, α = 0.5, γ = 1, w = 0.1, msteps = 3, 10 epochs.
Learning-rate steps at epochs 5, 8 and 9 lie beyond the last epoch and are left out.
SCRUB+R, which rewinds to the epoch whose error on D_f is nearest to that on held-out images of the same kind,
is left out: such images are no part of D_f or D_r, so a method here cannot see them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from methods.api import Batches, Context, check_fields, method
from methods.loops import Log, Loss, divergence, frozen_logits, numbered, required, set_mode, train_epochs


@method(
    "scrub",
    needs={"forget", "retain"},
    scenarios={"full_class", "sub_class", "random", "worst_case"},
    paper="https://arxiv.org/abs/2302.09880",
    reference={
        "forget_batch_size": 128,
        "retain_batch_size": 128,
        "shuffle_forget": False,
        "grad_clip": None,
        "mode": "train",
    },
)
@dataclass(frozen=True)
class Scrub:
    """Max steps on the forget set and min steps on the retained data, in turns."""

    lr: float = 5e-4
    epochs: int = 3
    msteps: int = 2  # epochs that begin with a walk over the forget set
    alpha: float = 0.001  # α, weight of the teacher on the retained data
    gamma: float = 0.99  # γ, weight of the labels there
    temperature: float = 4.0  # τ
    forget_batch_size: int = 512
    retain_batch_size: int = 256
    shuffle_forget: bool = True
    optimizer: str = "sgd"  # sgd | adam
    momentum: float = 0.9  # of sgd
    weight_decay: float = 5e-4  # added to the gradient
    grad_clip: float | None = 1.0  # largest joint norm of the gradients, None: as they are
    mode: str = "freeze_bn"  # "train", "freeze_bn": only dropout on, "eval": neither
    micro_batch: int | None = None  # images in one pass, None: the whole batch

    def __post_init__(self) -> None:
        check_fields(self, lr=">= 0", epochs=">= 0", msteps=">= 0", alpha=">= 0", gamma=">= 0")
        check_fields(self, temperature="> 0", forget_batch_size="> 0", retain_batch_size="> 0")
        check_fields(self, optimizer="sgd | adam", momentum=">= 0", weight_decay=">= 0", grad_clip="> 0")
        check_fields(self, mode="train | freeze_bn | eval", micro_batch="> 0")

    def __call__(
        self, model: nn.Module, forget: Batches | None, retain: Batches | None, ctx: Context
    ) -> nn.Module:
        forget, retain = required(forget, "scrub", "forget"), required(retain, "scrub", "retain")
        if self.epochs == 0:
            return model
        apart = self._apart(self._teacher(model, forget, self.forget_batch_size))
        close = self._close(self._teacher(model, retain, self.retain_batch_size), retain.labels())
        forget = numbered(forget).rebatch(self.forget_batch_size, shuffle=self.shuffle_forget)
        retain = numbered(retain).rebatch(self.retain_batch_size, shuffle=True)
        set_mode(model, self.mode)
        optimizer = self._optimizer(model)
        for epoch in range(self.epochs):
            if epoch < self.msteps:
                self._walk(model, forget, apart, optimizer, lambda _, loss: ctx.log("divergence", -loss))
            self._walk(model, retain, close, optimizer, ctx.log)
        return model

    def _walk(self, model: nn.Module, batches: Batches, loss: Loss, optimizer: Optimizer, log: Log) -> None:
        train_epochs(model, batches, loss, optimizer, 1, None, self.grad_clip, log, self.micro_batch)

    def _teacher(self, model: nn.Module, batches: Batches, size: int) -> Tensor:
        return frozen_logits(model, batches.rebatch(min(size, self.micro_batch or size)))  # (N, K)

    def _apart(self, teacher: Tensor) -> Loss:
        """The loss of max steps; `teacher` (N, K) is looked up at the positions that come for labels."""
        return lambda model, x, at: -self._distance(teacher[at], model(x))

    def _close(self, teacher: Tensor, labels: Tensor) -> Loss:
        """The loss of min steps."""

        def loss(model: nn.Module, x: Tensor, at: Tensor) -> Tensor:
            z = model(x).float()  # (B, K)
            return self.gamma * F.cross_entropy(z, labels[at]) + self.alpha * self._distance(teacher[at], z)

        return loss

    def _distance(self, teacher: Tensor, student: Tensor) -> Tensor:
        return self.temperature**2 * divergence(teacher, student, self.temperature)

    def _optimizer(self, model: nn.Module) -> Optimizer:
        if self.optimizer == "adam":
            return torch.optim.Adam(model.parameters(), self.lr, weight_decay=self.weight_decay)
        return torch.optim.SGD(
            model.parameters(), self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )
