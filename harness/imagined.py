"""A cluster that is only imagined: what was typed after `--simulate`, and what is assumed of it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from harness.cost import FOLDER
from harness.errors import Misuse

MOST = 100_000  # workers
EXAMPLE = "--simulate nodes=16,gpus=8,per_gpu=1,spot_loss=0.05/h,price=5.67 or --simulate workers=2"


@lru_cache(maxsize=1)
def facts() -> Mapping[str, Any]:
    """What is assumed of clusters; lies beside the other assumptions of a plan's cost."""
    told = tomllib.loads((FOLDER / "cost.toml").read_text(encoding="utf-8"))
    return dict(told["simulate"])


@dataclass(frozen=True)
class Cluster:
    """Nodes with GPUs that are started for a sweep, or `workers` on a machine that is there (gpus = 0)."""

    nodes: int = 1
    gpus: int = 0  # on each node
    per_gpu: int = 1  # runs that share a GPU, and its speed
    workers: int = 0  # without GPUs
    spot_loss: float = 0.0  # losses of a node an hour
    price: float | None = None  # of one GPU for an hour
    start: float = 0.0  # seconds until a node runs workers
    seed: int = 0

    @property
    def slots(self) -> int:
        return self.nodes * self.gpus * self.per_gpu or self.workers

    @property
    def size(self) -> int:
        """GPUs, or workers where there are none."""
        return self.nodes * self.gpus or self.workers

    @property
    def stretch(self) -> float:
        """How much longer a run takes on its share of a GPU."""
        return float(self.per_gpu) if self.gpus else 1.0

    def resized(self, size: int) -> Cluster:
        """The same with another number of GPUs, or of workers."""
        return replace(self, nodes=size // self.gpus) if self.gpus else replace(self, workers=size)


WHOLE = ("nodes", "gpus", "per_gpu", "workers", "seed")
FRACTION = ("spot_loss", "price", "start")


def parse(text: str) -> Cluster:
    """`nodes=16,gpus=8,per_gpu=1,spot_loss=0.05/h,price=5.67`, or `workers=2`."""
    given: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or name not in WHOLE + FRACTION:
            raise _wrong(part, f"one of {', '.join(WHOLE + FRACTION)}, each with = and a number")
        if name in given:
            raise _wrong(part, f"{name} once")
        given[name] = _number(name, value)
    if ("workers" in given) == ("nodes" in given or "gpus" in given or "per_gpu" in given):
        raise _wrong(text, "either nodes and gpus, or workers")
    if "workers" not in given and not {"nodes", "gpus"} <= set(given):
        raise _wrong(text, "both nodes and gpus")
    if "price" in given and "workers" in given:
        raise _wrong(text, "a price, which is one of a GPU-hour, only with nodes and gpus")
    told = facts()
    base = {"spot_loss": told["spot_loss"]} if "nodes" in given else {}
    start = told["worker_start"] + (told["node_start"] if "nodes" in given else 0.0)
    cluster = Cluster(**{**base, "start": start, **given})
    if cluster.slots > MOST:
        raise _wrong(text, f"at most {MOST:,} workers (this has {cluster.slots:,})")
    return cluster


def _number(name: str, value: str) -> int | float:
    if name in WHOLE:
        if not value.isdecimal() or (int(value) < 1 and name != "seed"):
            raise _wrong(
                f"{name}={value}", "a whole number from 1 on" if name != "seed" else "a whole number"
            )
        return int(value)
    try:
        number = float(value.removesuffix("/h") if name == "spot_loss" else value)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise _wrong(f"{name}={value}", "a number, 0 or more" + (" (an hour)" if name == "spot_loss" else ""))
    return number


def _wrong(found: str, expected: str) -> Misuse:
    return Misuse(f"--simulate {found}: expected {expected}; for example {EXAMPLE}")
