"""Exact ranks among the entries of many tensors at once, e.g. of all of a model's gradients.

A sort, and so torch.quantile, which in some releases stops at 16 million entries, wants all of them in one
tensor, twice. Read as an integer, the bits of a non-negative float32 are ordered as the number is: counting
the entries by their upper bits, and those of the one bin that matters by their lower, finds the entry of any
rank without rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

LOWER = 16  # how many of the 31 bits beside the sign are left to the second count
INFINITE = 0x7F800000 >> LOWER  # the upper bits of ∞: more than a finite number has, less than NaN
CHUNK = 2**24  # entries looked at together, which bounds what is held besides `values`


def _bits(values: Sequence[Tensor]) -> Iterator[Tensor]:
    """All entries' bits without the sign, which NaN may bear: int32 (n,) in chunks."""
    for v in values:
        for part in v.flatten().split(CHUNK):
            yield part.view(torch.int32) & 0x7FFFFFFF


def _by_upper_bits(values: Sequence[Tensor]) -> Tensor:
    """How many entries have each value of the upper bits: (2**15,) int64."""
    size = 1 << (31 - LOWER)
    return torch.stack([torch.bincount(b >> LOWER, minlength=size) for b in _bits(values)]).sum(0)


def _find(counts: Tensor, n: int) -> tuple[int, int]:
    """The bin that holds the entry of rank `n`, and that entry's rank in it."""
    below = counts.cumsum(0)  # (bins,)
    where = int((below <= n).sum())
    return where, n - int(below[where] - counts[where])


@torch.no_grad()
def nth_smallest(values: Sequence[Tensor], n: int) -> float:
    """The entry of rank n = 0, 1, … among all of `values` (≥ 0, float32); ∞ and then NaN rank last."""
    upper, rank = _find(_by_upper_bits(values), n)
    low = [b[b >> LOWER == upper] & ((1 << LOWER) - 1) for b in _bits(values)]
    lower, _ = _find(torch.bincount(torch.cat(low), minlength=1 << LOWER), rank)
    return float(torch.tensor((upper << LOWER) | lower, dtype=torch.int32).view(torch.float32))


@torch.no_grad()
def percentile(values: Sequence[Tensor], percent: float) -> float:
    """The percentile of the finite entries of `values` (≥ 0, float32), interpolated linearly; ∞ of none."""
    count = int(_by_upper_bits(values)[:INFINITE].sum()) if values else 0
    if count == 0:
        return math.inf
    place = (count - 1) * percent / 100
    below, above = math.floor(place), math.ceil(place)
    low = nth_smallest(values, below)
    high = nth_smallest(values, above) if above > below else low
    return low + (high - low) * (place - below)


@torch.no_grad()
def largest(values: Sequence[Tensor], count: int) -> list[Tensor]:
    """Bool masks, one a tensor, of the `count` largest entries of `values` (≥ 0); of equal ones the first."""
    total = sum(v.numel() for v in values)
    if not 0 < count < total:
        return [torch.full_like(v, count > 0, dtype=torch.bool) for v in values]
    cut = nth_smallest(values, total - count)
    room = count - torch.stack([(v > cut).sum() for v in values]).sum()
    masks = []
    for v in values:
        equal = (v == cut).flatten()
        masks.append((v > cut) | (equal & (equal.cumsum(0, dtype=torch.int32) <= room)).view_as(v))
        room = room - equal.sum()
    return masks
