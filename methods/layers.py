"""The blocks of a network in the order of definition, and how to train the last few of them alone.

A block is a layer or module with a weight matrix (a parameter of two dimensions or more), e.g. a convolution,
a linear layer, a residual block, a transformer block. What has none (normalisation, dropout, activations,
pooling) belongs to the block before it. Sequential, ModuleList, ModuleDict and the model itself are opened,
and so is a module with children that holds more than half of all weights, e.g. a backbone; their own
parameters, e.g. a class token, are part of the block they stand in. The last block is the classifier.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass
class Block:
    """Modules that follow one another, the first of them, or a bare parameter, with a weight matrix."""

    modules: list[nn.Module] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)  # all their parameters and buffers
    weighty: bool = False  # whether a module with a weight matrix is among them


def blocks(model: nn.Module) -> list[Block]:
    """All blocks of `model`, from the first to the classifier. Two models of one kind have the same."""
    found: list[Block] = []
    for part in _parts(model, _size(model)):
        of_part = list(part.parameters()) if isinstance(part, nn.Module) else []
        weighty = any(p.ndim > 1 for p in of_part)
        if not found or (weighty and found[-1].weighty):
            found.append(Block())
        block = found[-1]
        block.weighty |= weighty
        if isinstance(part, nn.Module):
            block.modules.append(part)
            block.tensors += [*of_part, *part.buffers()]
        else:
            block.tensors.append(part)
    return found


def _parts(module: nn.Module, whole: int) -> Iterator[nn.Module | Tensor]:
    """What an opened module consists of: its own tensors, then its children, opened where they should be."""
    yield from chain(module.parameters(recurse=False), module.buffers(recurse=False))
    for child in module.children():
        wraps_most = 2 * _size(child) > whole and any(True for _ in child.children())
        if type(child) in CONTAINERS or wraps_most:
            yield from _parts(child, whole)
        else:
            yield child


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@contextmanager
def only_last(model: nn.Module, k: int) -> Iterator[list[nn.Parameter]]:
    """Within it only the last `k` blocks and the classifier learn: their parameters.

    Whoever trains the model, and in whatever mode: all before is a fixed function, without gradients, with
    dropout off and batch statistics frozen. A model with fewer blocks learns as a whole.
    """
    every = blocks(model)
    frozen, last = every[: -k - 1], every[-k - 1 :]
    free = {id(tensor) for block in last for tensor in block.tensors}
    learning = [p for p in model.parameters() if p.requires_grad and id(p) in free]
    stopped = [p for p in model.parameters() if p.requires_grad and id(p) not in free]
    hooks = [m.register_forward_pre_hook(_stand_still) for block in frozen for m in block.modules]
    for p in stopped:
        p.requires_grad_(False)
    try:
        yield learning
    finally:
        for hook in hooks:
            hook.remove()
        for p in stopped:
            p.requires_grad_(True)


def _stand_still(module: nn.Module, args: Any) -> None:
    if module.training:
        module.eval()


@torch.no_grad()
def replace_last(model: nn.Module, fresh: nn.Module, k: int) -> None:
    """Give the last `k` blocks and the classifier of `model` the weights and buffers of `fresh`, in place."""
    for old, new in zip(blocks(model)[-k - 1 :], blocks(fresh)[-k - 1 :], strict=True):
        for tensor, value in zip(old.tensors, new.tensors, strict=True):
            tensor.copy_(value)
