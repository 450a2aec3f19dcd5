"""From what was typed to a running sweep: which executor, how many workers, on which device."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import Misuse
from harness.execute.limits import FETCH_SECONDS, FIRST_SECONDS, Limits
from harness.node_data import source_of
from harness.plan import Plan
from harness.registry import Catalogue
from harness.schedule import Executor
from harness.store import Store
from harness.sweep import Listener, Outcome, check_data
from harness.sweep import sweep as run_sweep
from harness.weights import settle
from harness.workspace import Settings, Workspace, pick_device, read_data


@dataclass(frozen=True)
class Where:
    """Where to run, as typed."""

    on: str = "auto"  # inline | local | auto | a Ray address, head:6379
    workers: int | None = None
    per_gpu: int = 1
    device: str = "auto"
    time_limit: float | None = None
    memory_limit: float | None = None  # GB a worker
    silence: float = 45.0  # seconds without a sign of life after which a worker is given up

    def __post_init__(self) -> None:
        if self.on not in ("inline", "local", "auto") and ":" not in self.on:
            raise Misuse(f"--on {self.on}: expected inline, local, auto or an address such as head:6379")
        if self.address and "://" in self.address:
            raise Misuse(
                f"{self.address} (--on or RAY_ADDRESS): expected an address such as head:6379,"
                " on a machine of the cluster; from outside, type: efface submit SUITE --address http://127.0.0.1:8265"
            )
        if self.device not in ("auto", "cpu", "cuda"):
            raise Misuse(f"--device {self.device}: expected auto, cpu or cuda")
        for name, value in (
            ("workers", self.workers),
            ("per-gpu", self.per_gpu),
            ("time-limit", self.time_limit),
            ("memory-limit", self.memory_limit),
            ("silence", self.silence),
        ):
            if value is not None and value <= 0:
                raise Misuse(f"--{name} {value}: expected a number > 0")

    @property
    def address(self) -> str | None:
        """The cluster to connect to; None for a private one on this machine."""
        if self.on in ("inline", "local"):
            return None
        return os.environ.get("RAY_ADDRESS") if self.on == "auto" else self.on

    def limits(self, fetches: bool = False) -> Limits:
        """What a worker may take before it is given up; `fetches`: it may have to fetch data first."""
        memory = None if self.memory_limit is None else int(self.memory_limit * 1e9)
        first = FETCH_SECONDS if fetches else FIRST_SECONDS
        return Limits(self.time_limit, memory, self.silence, first=first)

    @property
    def inline(self) -> bool:
        return self.on == "inline" or (self.on == "auto" and importlib.util.find_spec("ray") is None)


def settings(
    store: str,
    data_dir: str | None,
    plugins: list[str] | None,
    where: Where,
    eval_batch: int,
    keep_weights: bool,
    keep_outputs: bool,
    limit: int | None,
) -> Settings:
    """What every worker is told, with local paths made absolute."""
    if eval_batch < 1 or (limit is not None and limit < 1):
        raise Misuse(f"--eval-batch {eval_batch}, --limit {limit}: expected numbers > 0")
    return Settings(
        store=store if "://" in store else str(Path(store).expanduser().resolve()),
        data_dir=str(Path(data_dir).expanduser().resolve()) if data_dir else None,
        plugins=tuple(str(Path(p).expanduser().resolve()) for p in plugins or ()),
        device=where.device,
        eval_batch=eval_batch,
        keep_weights=keep_weights,
        keep_outputs=keep_outputs,
        limit=limit,
    )


def check(
    plan: Plan,
    store: Store,
    catalogue: Catalogue,
    told: Settings,
    weights: Sequence[str] = (),
    fetch: bool = False,
) -> Settings:
    """Check the data and the published weights of a plan; the settings with what each worker must find."""
    digests = check_data(
        plan, store, lambda name: read_data(catalogue, name, told.data_dir, told.limit, told.source)
    )
    files = settle(plan, store, catalogue, weights, fetch)
    return replace(told, digests=tuple(digests.items()), weights=files)


def sweep(
    plan: Plan,
    store: Store,
    catalogue: Catalogue,
    told: Settings,
    where: Where,
    listener: Listener | None = None,
) -> Outcome:
    """Run a plan where it was asked for, with checked settings."""
    make = _inline(told, catalogue, store, where) if where.inline else _ray(told, where)
    return run_sweep(plan, store, catalogue, make, listener or _display())


def with_source(told: Settings, url: str | None, datasets: Iterable[str], catalogue: Catalogue) -> Settings:
    """What every worker is told of `--data URL`, where it was given."""
    if url is None:
        return told
    if told.data_dir is not None:
        raise Misuse(f"--data {url} and --data-dir {told.data_dir}: expected one of them")
    return replace(told, source=source_of(url, catalogue, datasets))


def _display() -> Listener:
    from rich.console import Console

    from harness.progress import Display

    return Display(Console(file=sys.stderr))


def _inline(told: Settings, catalogue: Catalogue, store: Store, where: Where) -> Callable[[], Executor]:
    def make() -> Executor:
        from harness.execute.inline import Inline

        return Inline(Workspace(told, catalogue, store), where.time_limit)

    return make


def _ray(told: Settings, where: Where) -> Callable[[], Executor]:
    def make() -> Executor:
        from harness.execute.ray import RayPool

        workers, gpus_each, exclusive = slots(where)
        return RayPool(
            replace(told, exclusive=exclusive),
            workers=workers,
            address=where.address,
            gpus_each=gpus_each,
            limits=where.limits(fetches=told.source is not None),
        )

    return make


def slots(where: Where) -> tuple[int | None, float, bool]:
    """Workers (None: ask the cluster), share of a GPU each has, and whether each has its device to itself."""
    cores = _cores()
    if where.address is not None:
        return where.workers, 0.0 if where.device == "cpu" else 1 / where.per_gpu, where.per_gpu == 1
    if pick_device(where.device).type == "cuda":
        return where.workers or _gpus() * where.per_gpu, 1 / where.per_gpu, where.per_gpu == 1
    workers = where.workers or cores
    return workers, 0.0, workers <= cores  # one thread a worker, and no more workers than cores


def _gpus() -> int:
    import torch

    return int(torch.cuda.device_count())


def _cores() -> int:
    found: Any = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return len(found)
