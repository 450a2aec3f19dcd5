from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from methods.ranks import largest, nth_smallest, percentile


def awkward(seed):
    """Tensors with ties, zeros, tiny and huge numbers, infinities and both kinds of NaN."""
    source = torch.Generator().manual_seed(seed)
    wide = torch.exp(20 * torch.randn(500, generator=source))
    zero = torch.zeros(2)
    odd = torch.tensor([0.0, -0.0, 1e-45, 3.4e38, float("inf"), float("inf")])
    return [
        wide.view(20, 25).t(),
        torch.randint(3, (7, 9), generator=source).float(),
        torch.tensor(1.0),
        torch.empty(0),
        odd,
        zero / zero,
        -(zero / zero),
    ]


def test_every_rank_is_that_of_a_sort():
    values = awkward(0)
    ordered = torch.cat([v.flatten() for v in values]).abs().sort().values  # NaN last
    assert len(ordered) == 574 and int(ordered.isnan().sum()) == 4
    for n in [*range(0, 70), *range(70, 560, 37), 566, 567, 568, 569]:
        assert nth_smallest(values, n) == ordered[n].item()
    assert math.isnan(nth_smallest(values, 570))


@pytest.mark.parametrize("percent", [0.0, 12.3, 50.0, 99.3069, 100.0])
def test_percentiles_are_numpys_over_the_finite_entries(percent):
    values = awkward(1)
    flat = torch.cat([v.flatten() for v in values]).double().numpy()
    expected = np.percentile(flat[np.isfinite(flat)], percent)
    assert percentile(values, percent) == pytest.approx(expected, rel=1e-6)


def test_percentile_of_nothing_selects_nothing():
    for values in ([], [torch.empty(0)], [torch.tensor([float("nan"), float("inf")])]):
        assert percentile(values, 50.0) == float("inf")


@pytest.mark.parametrize("chunk", [4, 2**24])
def test_the_largest_are_taken_in_order_among_equals(monkeypatch, chunk):
    monkeypatch.setattr("methods.ranks.CHUNK", chunk)
    values = [torch.tensor([[1.0, 2.0], [2.0, 0.0]]), torch.tensor(2.0), torch.tensor([3.0, 2.0, 2.0])]

    def chosen(count):
        return "".join(str(int(b)) for m in largest(values, count) for b in m.flatten())

    assert [chosen(n) for n in (0, 1, 2, 4, 6, 8)] == [
        "00000000",
        "00000100",
        "01000100",
        "01101100",
        "01101111",
        "11111111",
    ]


def test_more_than_16_million_entries_are_ranked_exactly():
    big = torch.arange(2**24 + 5, dtype=torch.float32)
    assert percentile([big], 25.0) == (2**24 + 4) / 4
