"""Forward operations of the models that plans are estimated for, counted on torch's meta device."""

from __future__ import annotations

import tomllib

import torch
from torch.utils.flop_counter import FlopCounterMode

from harness.cost import FLOPS_HEADER, FOLDER
from harness.registry import Catalogue

CLASSES = 100  # the last layer hardly counts


def count(catalogue: Catalogue, model: str, side: int) -> int:
    """Operations of one image (3, side, side) through `model`; a multiplication and its addition are two."""
    counter = FlopCounterMode(display=False)
    with torch.device("meta"):
        network = catalogue.models[model].build(CLASSES, (3, side, side)).eval()
        image = torch.zeros(1, 3, side, side)
    with torch.no_grad(), counter:
        network(image)
    return int(counter.get_total_flops())


def page(catalogue: Catalogue) -> str:
    """flops.csv: model, side, flops."""
    told = tomllib.loads((FOLDER / "cost.toml").read_text(encoding="utf-8"))
    rows = [
        (model, str(side), str(count(catalogue, model, side)))
        for model, sides in sorted(told["sides"].items())
        if model in catalogue.models
        for side in sides
    ]
    return "".join(",".join(row) + "\n" for row in [FLOPS_HEADER, *rows])
