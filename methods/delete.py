"""DELETE: distil the model's own answer with the true class taken out.

Zhou, Zheng, Mo, Lu, Lin, Zheng, "Decoupled Distillation to Erase: A General Unlearning Method for Any
Class-centric Tasks", CVPR 2025, https://arxiv.org/abs/2503.23751.

Assumes that what a model says besides the true class is what one that never saw the image would say.
Zero-shot: sees the forget images and their labels.

    q(x) = softmax(T(x) with its entry y at −∞)
    θ ← θ − η · ∇_θ mean_{(x,y)∈B} KL(q(x) ‖ softmax(f_θ(x))),   B ⊂ D_f,  with momentum

The target model T is the model before the first step, so all q are found in one pass and no copy is kept.
The released code trains in train mode and can freeze the batch statistics ("freeze_bn"): the default here, or
they would become those of the forget set.
That code augments the forget images at random; here they come as they are.
Its CIFAR-10 script takes η = 1e-3, its configuration files 1e-4 and 5e-5.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.api import Batches, Context, check_fields, method
from methods.loops import divergence, frozen_logits, numbered, required, set_mode, train_epochs

NEVER = -1e10  # a logit of probability 0 that stays finite


def without_true_class(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits (N, K) in which the entry of each of `labels` (N,) has probability 0."""
    return logits.scatter(1, labels[:, None], NEVER)


@method(
    "delete",
    needs={"forget"},
    scenarios={"full_class", "sub_class", "random", "worst_case"},
    paper="https://arxiv.org/abs/2503.23751",
    reference={"mode": "train"},
)
@dataclass(frozen=True)
class DELETE:
    """SGD with momentum towards the model's own probabilities of the other classes."""

    lr: float = 1e-3  # η
    epochs: int = 20
    momentum: float = 0.9
    batch_size: int = 128
    mode: str = "freeze_bn"  # "train", "eval", or "freeze_bn": train, but batch statistics frozen

    def __post_init__(self) -> None:
        check_fields(self, lr=">= 0", epochs=">= 0", momentum=">= 0", batch_size="> 0")
        check_fields(self, mode="train | eval | freeze_bn")

    def __call__(
        self, model: nn.Module, forget: Batches | None, retain: Batches | None, ctx: Context
    ) -> nn.Module:
        forget = required(forget, "delete", "forget").rebatch(self.batch_size)
        if not forget.num_examples:
            return model
        targets = without_true_class(frozen_logits(model, forget), forget.labels())  # (N, K)

        def distance(model: nn.Module, x: Tensor, position: Tensor) -> Tensor:
            return divergence(targets[position], model(x))

        set_mode(model, self.mode)
        sgd = torch.optim.SGD(model.parameters(), self.lr, momentum=self.momentum)
        batches = numbered(forget).rebatch(self.batch_size, shuffle=True)
        train_epochs(model, batches, distance, sgd, self.epochs, log=ctx.log)
        return model
