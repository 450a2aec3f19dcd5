"""l1-sparse: go on training on the retained data under a pull of all weights towards zero.

Jia, Liu, Ram, Yao, Liu, Liu, Sharma, Liu, "Model Sparsity Can Simplify Machine Unlearning", NeurIPS 2023,
https://arxiv.org/abs/2304.04934.

Assumes that a sparser model has less room for what only D_f needs. Sees the retained data, never the forget
set.

    α_e = α·(1 − e/(E−E_0)) for epochs e < E−E_0, else 0
    θ ← θ − η_k · (∇_θ [mean_{(x,y)∈B} CE(f_θ(x), y) + α_e·‖θ‖₁] + w·θ),   B ⊂ D_r,  with momentum

The norm is of all parameters, biases and normalisation included, as in the code released with SalUn.
`alpha`: the literature takes 1e-5 to 5e-4, the top of which is the default here; that code's command line
defaults to 0.2, which belongs to another method and leaves nothing of a model.
`schedule`: its learning-rate steps at epochs 91 and 136 are never reached, so η stays constant.
E, w, momentum and batch size are those of that code's random labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import SGD

from methods.api import Batches, Context, check_fields, method
from methods.loops import cosine, cross_entropy, num_steps, required, set_mode, train_epochs
from methods.ssd import trainable


def l1_norm(model: nn.Module) -> Tensor:
    """‖θ‖₁ of all trainable parameters: a scalar with gradient sign(θ), 0 at 0."""
    return torch.stack([torch.linalg.vector_norm(p, ord=1) for p in trainable(model)]).sum()


def penalised(model: nn.Module, x: Tensor, y: Tensor, penalty: float) -> Tensor:
    """Mean cross-entropy over the batch + penalty·‖θ‖₁: a float32 scalar."""
    loss = cross_entropy(model, x, y)
    return loss + penalty * l1_norm(model) if penalty else loss


@method(
    "l1_sparse",
    needs={"retain"},
    scenarios={"full_class", "sub_class", "random", "worst_case"},
    paper="https://arxiv.org/abs/2304.04934",
    reference={"schedule": "constant"},
)
@dataclass(frozen=True)
class L1Sparse:
    """SGD with momentum on the retained data, with an l1 penalty that fades out."""

    lr: float = 0.01  # η, at the first step
    alpha: float = 5e-4  # α, weight of the penalty in the first epoch
    epochs: int = 10  # E
    plain_epochs: int = 0  # E_0, of these without penalty, at the end
    momentum: float = 0.9
    weight_decay: float = 5e-4  # w
    batch_size: int = 256
    schedule: str = "cosine"  # "constant", or "cosine": η falls to 0 over all steps
    mode: str = "train"  # "train", "freeze_bn": only dropout on, "eval": neither

    def __post_init__(self) -> None:
        check_fields(self, lr=">= 0", alpha=">= 0", epochs=">= 0", plain_epochs=">= 0", momentum=">= 0")
        check_fields(self, weight_decay=">= 0", batch_size="> 0", schedule="constant | cosine")
        check_fields(self, mode="train | freeze_bn | eval")

    def __call__(
        self, model: nn.Module, forget: Batches | None, retain: Batches | None, ctx: Context
    ) -> nn.Module:
        batches = required(retain, "l1_sparse", "retain").rebatch(self.batch_size, shuffle=True)
        set_mode(model, self.mode)
        sgd = SGD(model.parameters(), self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        steps = num_steps(batches, self.batch_size, self.epochs)
        schedule = cosine(sgd, steps) if self.schedule == "cosine" else None
        for epoch in range(self.epochs):
            loss = partial(penalised, penalty=self.penalty(epoch))
            train_epochs(model, batches, loss, sgd, 1, schedule, log=ctx.log)
        return model

    def penalty(self, epoch: int) -> float:
        """α_e, for epochs counted from 0."""
        under_penalty = self.epochs - self.plain_epochs
        return self.alpha * (1 - epoch / under_penalty) if epoch < under_penalty else 0.0
