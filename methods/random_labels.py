"""Random labels: train on the forget set under labels drawn anew in each epoch, with rehearsal or without.

Golatkar, Achille, Soatto, "Eternal Sunshine of the Spotless Net: Selective Forgetting in Deep Networks", CVPR
2020, https://arxiv.org/abs/1911.04933 (a baseline there); in the form of Fan, Liu, Zhang, Wong, Wei, Liu,
"SalUn", ICLR 2024, https://arxiv.org/abs/2310.12508, whose method SalUn masks it.

Assumes that labels which change all the time leave nothing to hold on to, while rehearsal on D_r keeps the
rest. `random_labels` sees both sets with labels; `random_labels_zs` is zero-shot, sees D_f and its labels
alone, and has nothing to stop it but few epochs and a small η.

    in each epoch  ỹ(x) ~ U({0,…,K−1} \\ {y}) for each x ∈ D_f
    θ ← θ − η_k · (∇_θ mean_{(x,y)∈B} CE(f_θ(x), y) + w·θ),  with momentum
    two passes:  B ⊂ {(x, ỹ)}, then B ⊂ D_r        mixed:  B ⊂ {(x, ỹ)} ∪ D_r, shuffled

`walk`: the released code makes two passes on CIFAR-10 and SVHN and mixes on CIFAR-100. Mixed is the default,
for after two passes D_r has the last word, and batch statistics are of one set at a time.
`labels`: the paper draws y' ≠ y; that code draws from all K classes, so that one label in K is the true one.
`schedule`: its learning-rate steps at epochs 91 and 136 are never reached, so η stays constant.
The retain-free variant has no published values: it takes a smaller η, no decay and eval mode, as neggrad does
for the same reasons; in profile `reference` it is the released code without its pass over D_r.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import SGD

from methods.amnesiac import wrong_labels
from methods.api import Batches, Context, check_fields, method
from methods.loops import cosine, cross_entropy, num_steps, required, set_mode, train_epochs


def drawn_labels(labels: Tensor, kind: str, ctx: Context) -> Tensor:
    """For each of `labels` (N,) a random class, `kind` "wrong": another one, or "any": (N,) int64."""
    if kind == "wrong":
        return wrong_labels(labels, ctx)
    drawn = torch.randint(ctx.num_classes, labels.shape, generator=ctx.generator, device=ctx.device)
    return drawn.to(labels.device)


@method(
    "random_labels",
    needs={"forget", "retain"},
    scenarios={"full_class", "sub_class", "random", "worst_case"},
    paper="https://arxiv.org/abs/1911.04933",
    reference={"labels": "any", "schedule": "constant"},
)
@dataclass(frozen=True)
class RandomLabels:
    """SGD with momentum on fresh random labels for the forget set and on the retained data."""

    lr: float = 0.013  # η, at the first step
    epochs: int = 10
    momentum: float = 0.9
    weight_decay: float = 5e-4  # w
    batch_size: int = 256
    walk: str = "mixed"  # "mixed", or "two_passes": over the forget set, then over the retained data
    labels: str = "wrong"  # "wrong": never the true one; "any": drawn from all classes
    schedule: str = "cosine"  # "constant", or "cosine": η falls to 0 over all steps
    mode: str = "train"  # "train", "freeze_bn": only dropout on, "eval": neither

    def __post_init__(self) -> None:
        check_fields(self, lr=">= 0", epochs=">= 0", momentum=">= 0", weight_decay=">= 0", batch_size="> 0")
        check_fields(self, walk="mixed | two_passes", labels="wrong | any", schedule="constant | cosine")
        check_fields(self, mode="train | freeze_bn | eval")

    def __call__(
        self, model: nn.Module, forget: Batches | None, retain: Batches | None, ctx: Context
    ) -> nn.Module:
        forget = required(forget, "random_labels", "forget")
        retain = required(retain, "random_labels", "retain")
        sgd = SGD(model.parameters(), self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        return self.train(model, forget, retain, sgd, ctx)

    def train(
        self, model: nn.Module, forget: Batches, retain: Batches | None, sgd: SGD, ctx: Context
    ) -> nn.Module:
        """All epochs with the given optimizer; without `retain`, the walks over the forget set alone."""
        set_mode(model, self.mode)
        steps = sum(num_steps(part, self.batch_size, self.epochs) for part in self.walks(forget, retain))
        schedule = cosine(sgd, steps) if self.schedule == "cosine" else None
        for _ in range(self.epochs):
            relabelled = forget.relabel(drawn_labels(forget.labels(), self.labels, ctx))
            for batches in self.walks(relabelled, retain):
                train_epochs(model, batches, cross_entropy, sgd, 1, schedule, log=ctx.log)
        return model

    def walks(self, forget: Batches, retain: Batches | None) -> list[Batches]:
        """What one epoch walks over, in turn."""
        parts = [forget] if retain is None else [forget, retain]
        if self.walk == "mixed" and retain is not None:
            parts = [forget.join(retain)]
        return [part.rebatch(self.batch_size, shuffle=True) for part in parts]


@method(
    "random_labels_zs",
    needs={"forget"},
    scenarios={"full_class", "sub_class", "random", "worst_case"},
    paper="https://arxiv.org/abs/1911.04933",
    reference={"lr": 0.013, "weight_decay": 5e-4, "labels": "any", "schedule": "constant", "mode": "train"},
)
@dataclass(frozen=True)
class RandomLabelsZS:
    """SGD with momentum on fresh random labels for the forget set, and on nothing else."""

    lr: float = 1e-3  # η, at the first step
    epochs: int = 10
    momentum: float = 0.9
    weight_decay: float = 0.0  # w
    batch_size: int = 256
    labels: str = "wrong"  # "wrong": never the true one; "any": drawn from all classes
    schedule: str = "cosine"  # "constant", or "cosine": η falls to 0 over all steps
    mode: str = "eval"  # "eval": dropout off, batch statistics frozen; "train"; "freeze_bn": dropout only

    def __post_init__(self) -> None:
        check_fields(self, lr=">= 0", epochs=">= 0", momentum=">= 0", weight_decay=">= 0", batch_size="> 0")
        check_fields(self, labels="wrong | any", schedule="constant | cosine")
        check_fields(self, mode="train | freeze_bn | eval")

    def __call__(
        self, model: nn.Module, forget: Batches | None, retain: Batches | None, ctx: Context
    ) -> nn.Module:
        forget = required(forget, "random_labels_zs", "forget")
        sgd = SGD(model.parameters(), self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        return RandomLabels(**vars(self)).train(model, forget, None, sgd, ctx)
