"""Bad Teacher: learn from an incompetent teacher on the forget set and from the original elsewhere.

Chundawat, Tarun, Mandal, Kankanhalli, "Can Bad Teaching Induce Forgetting? Unlearning in Deep Networks Using
an Incompetent Teacher", AAAI 2023, https://arxiv.org/abs/2205.08096.

Assumes that a network which never learned anything shows how to answer on what must be forgotten. Sees the
images of both sets, no labels.

    q(x) = softmax(z_i(x)/τ) for x ∈ D_f,  softmax(z_c(x)/τ) for x ∈ S,   S ⊂ D_r random, |S| = ⌊ρ·|D_r|⌋
    θ ← Adam(θ, ∇_θ mean_{x∈B} KL(q(x) ‖ softmax(f_θ(x)/τ))),   B ⊂ D_f ∪ S shuffled

z_i is a fresh network in eval mode, z_c the original. There is no factor τ².
Memory: one model, and a second one for a pass over D_f: both teachers' logits are taken once before the first
step, (|D_f| + |S|) × K float32 numbers. The released code holds three models throughout. `micro_batch` bounds
the activations.
`reduction`: that code averages over classes as well, so its loss is 1/K of ours, which Adam hardly sees.
`mode`: it stays in train mode, where batch statistics follow D_f ∪ S; "freeze_bn" here keeps the original's.
`batch_size`: the JiT benchmark takes 128 for ViT.
Its incompetent ViT is an ImageNet-pretrained encoder under a fresh head; those weights come from a model hub,
so this is not reproduced here: the incompetent teacher is always `ctx.new_model()`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.api import Batches, Context, check_fields, method
from methods.loops import Loss, divergence, frozen_logits, numbered, required, set_mode, train_epochs


@method(
    "bad_teacher",
    needs={"forget", "retain"},
    scenarios={"full_class", "sub_class", "random", "worst_case"},
    paper="https://arxiv.org/abs/2205.08096",
    reference={"reduction": "mean", "mode": "train"},
)
@dataclass(frozen=True)
class BadTeacher:
    """Adam on the divergence from a fresh network on D_f, and from the original on a part of D_r."""

    lr: float = 1e-4  # Adam step
    epochs: int = 1
    retain_share: float = 0.3  # ρ, part of the retained data that is walked
    temperature: float = 1.0  # τ
    batch_size: int = 256
    reduction: str = "batchmean"  # "batchmean": sum over classes, or "mean" over batch and classes
    mode: str = "freeze_bn"  # "train", "freeze_bn": only dropout on, "eval": neither
    micro_batch: int | None = None  # images in one pass, None: the whole batch

    def __post_init__(self) -> None:
        check_fields(self, lr=">= 0", epochs=">= 0", retain_share=">= 0", temperature="> 0", batch_size="> 0")
        check_fields(self, retain_share="<= 1", reduction="batchmean | mean", micro_batch="> 0")
        check_fields(self, mode="train | freeze_bn | eval")

    def __call__(
        self, model: nn.Module, forget: Batches | None, retain: Batches | None, ctx: Context
    ) -> nn.Module:
        forget = required(forget, "bad_teacher", "forget")
        retain = self._part(required(retain, "bad_teacher", "retain"), ctx)
        if self.epochs == 0:
            return model
        loss = self._loss(self._targets(model, forget, retain, ctx))
        batches = numbered(forget.join(retain)).rebatch(self.batch_size, shuffle=True)
        set_mode(model, self.mode)
        adam = torch.optim.Adam(model.parameters(), self.lr)
        train_epochs(model, batches, loss, adam, self.epochs, log=ctx.log, micro_batch=self.micro_batch)
        return model

    def _part(self, retain: Batches, ctx: Context) -> Batches:
        count = retain.num_examples
        order = torch.randperm(count, generator=ctx.generator, device=ctx.device)
        return retain.subset(order[: int(self.retain_share * count)])

    def _targets(self, model: nn.Module, forget: Batches, retain: Batches, ctx: Context) -> Tensor:
        """The logits (|D_f| + |S|, K) to imitate: the fresh network's, then those of `model`."""
        size = min(self.batch_size, self.micro_batch or self.batch_size)
        incompetent = frozen_logits(ctx.new_model().to(ctx.device), forget.rebatch(size))
        competent = frozen_logits(model, retain.rebatch(size))
        return torch.cat([part for part in (incompetent, competent) if len(part)] or [competent])

    def _loss(self, targets: Tensor) -> Loss:
        """`targets` is looked up at the positions that come for labels."""
        return lambda model, x, at: divergence(targets[at], model(x), self.temperature, self.reduction)
