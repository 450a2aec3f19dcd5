"""GKT (gated knowledge transfer): a student learns what the original knows of images that are not the class.

Chundawat, Tarun, Mandal, Kankanhalli, "Zero-Shot Machine Unlearning", IEEE Transactions on Information
Forensics and Security 2023, https://arxiv.org/abs/2201.05629.

Assumes that the student does not learn what it is never shown. Zero-shot: sees the model and the id of the
class, no image.

    x = g(z), z ~ N(0, I₁₂₈), without those where p_T(class | x) > ε (the gate)
    g ← Adam(g, −∇_g KL(p_T(x) ‖ p_s(x)))                                            n_g times, then
    s ← Adam(s, ∇_s [KL(p_T(x) ‖ p_s(x)) + β·Σ_layers mean((A(h_s) − A(h_T))²)])      n_s times on the same z
    A(h): at each position the mean of squares over channels, then of norm 1 over positions

Memory: three networks (teacher, student, generator), Adam's state for two, one pseudo-batch and the
teacher's outputs on it; `micro_batch` bounds the activations.
A pseudo-batch of which no image passes the gate is drawn anew and not counted. After `patience` of those in a
row the generator starts afresh, `restarts` times; after that it is an error.
`pseudo_batches`: the original takes 4000, as a preset says; the default is a short trial.
The JiT benchmark's code (`reference`, values for VGG) takes 1000, n_g = 2, n_s = 15 and β = 5.
`student`: that student inherits all of the teacher but the weights of convolutions, so the gate leaks.
`teacher_mode`: both released codes leave the teacher in train mode, so dropout blurs what it says.
`reduction`: both average the KL over classes too, which makes β weigh K times as much.
`tokens_by`: the benchmark's averages a ViT's squared tokens over positions instead of features.
Its ViT feeds the embeddings to every layer, in the evaluation too; that model is not reproduced.
`optimizer`, `lr`, `schedule`: SGD with one cycle up to 0.1 for its student; the original lowers Adam's
rates on plateaus, here they are constant.
`generator`: transposed convolutions, where the original upsamples.
Its generator is restored from files that are never written; a fresh one is taken here.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from methods.api import Batches, Context, check_fields, method
from methods.generator import gated_images
from methods.loops import backward, divergence, log_mean, set_mode, take_step
from methods.probes import logits_and_attention, map_layers

REFERENCE = {
    **{"pseudo_batches": 1000, "batch_size": 128, "generator_steps": 2, "student_steps": 15, "beta": 5.0},
    **{"lr": 0.1, "generator_lr": 0.01, "optimizer": "sgd", "schedule": "one_cycle", "reduction": "mean"},
    **{"student": "teacher_but_conv", "teacher_mode": "train", "tokens_by": "feature"},
    **{"generator": "transposed", "patience": 1000},
}


@method(
    "gkt",
    needs={"class_id"},
    scenarios={"full_class"},
    paper="https://arxiv.org/abs/2201.05629",
    reference=REFERENCE,
)
@dataclass(frozen=True)
class GKT:
    """Distillation into a new network through generated images that pass a gate."""

    lr: float = 1e-3  # of the student; with one_cycle the highest
    generator_lr: float = 1e-3
    pseudo_batches: int = 10  # 0 returns the model as it is
    batch_size: int = 256  # images generated for each
    generator_steps: int = 1  # n_g
    student_steps: int = 10  # n_s
    beta: float = 250.0  # β, weight of attention
    threshold: float = 0.01  # ε, largest probability of the class that passes the gate
    optimizer: str = "adam"  # adam | sgd
    momentum: float = 0.9  # of sgd
    schedule: str = "constant"  # of the student's rate: constant | one_cycle
    grad_clip: float | None = 5.0  # largest joint norm of either's gradients, None: as they are
    reduction: str = "batchmean"  # "batchmean": sum over classes, or "mean" over batch and classes
    student: str = "fresh"  # fresh | teacher_but_conv (Xavier for convolutions, the teacher's elsewhere)
    teacher_mode: str = "eval"  # eval | train
    tokens_by: str = "position"  # attention of tokens: position | feature
    generator: str = "upsample"  # upsample | transposed
    patience: int = 20  # stopped pseudo-batches in a row before a fresh generator
    restarts: int = 50  # fresh generators before giving up
    micro_batch: int | None = None  # images in one pass, None: the whole batch

    def __post_init__(self) -> None:
        check_fields(self, lr=">= 0", generator_lr=">= 0", pseudo_batches=">= 0", batch_size="> 1")
        check_fields(self, generator_steps=">= 0", student_steps="> 0", beta=">= 0", threshold="> 0")
        check_fields(self, optimizer="adam | sgd", momentum=">= 0", schedule="constant | one_cycle")
        check_fields(self, grad_clip="> 0", reduction="batchmean | mean", student="fresh | teacher_but_conv")
        check_fields(self, teacher_mode="eval | train", tokens_by="position | feature")
        check_fields(self, generator="upsample | transposed", patience="> 0", restarts=">= 0")
        check_fields(self, micro_batch="> 0")

    def __call__(
        self, model: nn.Module, forget: Batches | None, retain: Batches | None, ctx: Context
    ) -> nn.Module:
        if ctx.forget_class is None:
            raise ValueError("gkt: ctx.forget_class is None, expected a class id; use scenario full_class")
        if self.pseudo_batches == 0:
            return model
        layers = map_layers(model, ctx.input_shape)
        student = set_mode(self._student(model, ctx), "train")
        teacher = set_mode(model, self.teacher_mode).requires_grad_(False)
        optimizer = self.step_rule(student, self.lr)
        steps = self.pseudo_batches * self.student_steps
        schedule = OneCycleLR(optimizer, self.lr, steps) if self.schedule == "one_cycle" else None
        losses: list[Tensor] = []
        for x in islice(gated_images(self, teacher, student, ctx), self.pseudo_batches):
            for step in range(self.student_steps):
                if step == 0 or self.teacher_mode == "train":
                    lesson = self._lesson(teacher, layers, x)
                optimizer.zero_grad(set_to_none=True)
                losses.append(backward(partial(self.loss, student, layers), self.micro_batch, x, *lesson))
                take_step(student, optimizer, self.grad_clip)
                if schedule is not None:
                    schedule.step()
        log_mean(ctx.log, "loss", losses[-self.student_steps :])
        optimizer.zero_grad(set_to_none=True)
        return student

    def loss(self, student: nn.Module, layers: list[str], x: Tensor, *lesson: Tensor) -> Tensor:
        """The student's loss on x (B, C, H, W), given the teacher's logits (B, K) and attention maps."""
        logits, *maps = logits_and_attention(student, x, layers, self.tokens_by)
        gaps = [(own - its).square().mean() for own, its in zip(maps, lesson[1:], strict=True)]
        return divergence(lesson[0], logits, reduction=self.reduction) + self.beta * sum(gaps)

    @torch.no_grad()
    def _lesson(self, teacher: nn.Module, layers: list[str], x: Tensor) -> list[Tensor]:
        parts = x.split(self.micro_batch or len(x))
        outputs = [logits_and_attention(teacher, part, layers, self.tokens_by) for part in parts]
        return [torch.cat(tensors) for tensors in zip(*outputs, strict=True)]

    def step_rule(self, net: nn.Module, lr: float) -> Optimizer:
        """The optimizer of the student or of the generator."""
        if self.optimizer == "adam":
            return torch.optim.Adam(net.parameters(), lr)
        return torch.optim.SGD(net.parameters(), lr, momentum=self.momentum)

    def _student(self, teacher: nn.Module, ctx: Context) -> nn.Module:
        if self.student == "fresh":
            return ctx.new_model().to(ctx.device)
        student = copy.deepcopy(teacher)
        for layer in student.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight, generator=ctx.generator)
        return student
