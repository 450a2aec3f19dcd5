"""Activation probes: what chosen layers of any model put out, caught in passing by forward hooks.

Attention maps follow Zagoruyko, Komodakis, "Paying More Attention to Attention", ICLR 2017,
https://arxiv.org/abs/1612.03928.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.loops import set_mode


@contextmanager
def probed(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Outputs of the layers `names` in the latest forward pass, by name, gradients attached.

    A layer that runs more than once is caught at its last call, and what the next layer changes in place as
    changed. A name that the model does not know is an AttributeError.
    """
    caught: dict[str, Tensor] = {}
    layers = [(name, model.get_submodule(name)) for name in names]
    handles = [layer.register_forward_hook(partial(_keep, caught, name)) for name, layer in layers]
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()


def _keep(caught: dict[str, Tensor], name: str, layer: nn.Module, args: Any, output: Any) -> None:
    first = output[0] if isinstance(output, (tuple, list)) and output else output
    caught.pop(name, None)  # so that the order is that of the last calls
    if isinstance(first, Tensor):
        caught[name] = first


def map_layers(model: nn.Module, input_shape: tuple[int, int, int]) -> list[str]:
    """Names of the layers whose outputs are worth attending to, in the order of a forward pass.

    These are the blocks of a residual network or transformer: modules in a list, with parts of their own.
    Where there are none, it is the last layer at each size of feature map. Outputs with a single position are
    passed over, for their attention is 1 whatever they hold. The model is left in eval mode.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    set_mode(model, "eval")
    every = [name for name, _ in model.named_modules() if name]
    with torch.no_grad(), probed(model, every) as caught:
        model(torch.zeros(2, *input_shape, device=device))
    sizes = {name: size for name, h in caught.items() if (size := _positions(h))}
    blocks = set(_blocks(model))
    if blocks & set(sizes):
        return [name for name in sizes if name in blocks]
    last = {size: name for name, size in sizes.items()}
    return [name for name in sizes if name in last.values()]


def _positions(h: Tensor) -> tuple[int, ...]:
    """(H, W) of feature maps (B, C, H, W), (T,) of tokens (B, T, D); () where there are not two positions."""
    size = tuple(h.shape[2:]) if h.ndim == 4 else tuple(h.shape[1:2]) if h.ndim == 3 else ()
    return size if max(size, default=1) > 1 else ()


def _blocks(model: nn.Module) -> Iterator[str]:
    lists = (nn.Sequential, nn.ModuleList)
    for name, parent in model.named_modules():
        for part, layer in parent.named_children() if isinstance(parent, lists) else ():
            if next(layer.children(), None) is not None and not isinstance(layer, lists):
                yield f"{name}.{part}" if name else part


def attention(h: Tensor, tokens_by: str = "position") -> Tensor:
    """Where a layer is active: the mean of squares over features, at every position, of L2 norm 1 an image.

    (B, C, H, W) → (B, H·W); tokens (B, T, D) → (B, T), or with tokens_by "feature" the mean over tokens
    (B, D); (B, D) → (B, 1), a constant 1. Float32.
    """
    over = 2 if h.ndim == 3 and tokens_by == "position" else 1
    squares = h.float().pow(2).mean(over, keepdim=True)
    return F.normalize(squares.flatten(1), dim=1)


def logits_and_attention(
    model: nn.Module, x: Tensor, layers: Sequence[str], tokens_by: str = "position"
) -> list[Tensor]:
    """Logits (B, K) float32 of one forward pass, then the attention of each of `layers`."""
    with probed(model, layers) as caught:
        logits = model(x).float()
    return [logits, *(attention(caught[name], tokens_by) for name in layers)]
