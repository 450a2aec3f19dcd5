"""Sweeps in this process, on stores that a test throws away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from harness import results
from harness.execute.inline import Inline
from harness.plan import Plan
from harness.registry import Catalogue
from harness.spec import RunSpec, TrainSpec
from harness.store import Store
from harness.sweep import Listener, Outcome, check_data, sweep
from harness.workspace import Settings, Workspace, read_data


class Ground:
    """A store and what is needed to sweep on it."""

    def __init__(self, folder: Path, catalogue: Catalogue, planned: Callable[..., Plan]) -> None:
        self.store = Store.create(str(folder))
        self.catalogue, self.planned = catalogue, planned

    def space(self, **over: Any) -> Workspace:
        return Workspace(Settings(self.store.url, **over), self.catalogue)

    def sweep(self, settings: dict[str, Any] | None = None, **over: Any) -> Outcome:
        told = settings or {}
        self.store = Store.open(self.store.url)  # a fresh look at the files
        plan = self.planned(self.store, **over)
        read = lambda name: read_data(self.catalogue, name, told.get("data_dir"), told.get("limit"))  # noqa: E731
        check_data(plan, self.store, read)
        return sweep(plan, self.store, self.catalogue, lambda: Inline(self.space(**told)), Listener())

    def family(self, **over: Any) -> tuple[TrainSpec, TrainSpec, RunSpec]:
        """The original, the retrain and the first run of a plan."""
        jobs = self.planned(methods=["retrain"], seeds=1, **over).jobs
        original, retrain, run = (
            next(job.spec for job in jobs if job.kind == kind) for kind in ("original", "retrain", "run")
        )
        assert isinstance(original, TrainSpec) and isinstance(retrain, TrainSpec) and isinstance(run, RunSpec)
        return original, retrain, run

    def rows(self, kind: str = "run") -> pd.DataFrame:
        return results.load(self.store, kinds=[kind])


@pytest.fixture
def ground(tmp_path: Path, catalogue: Catalogue, planned: Callable[..., Plan]) -> Ground:
    return Ground(tmp_path / "store", catalogue, planned)


@pytest.fixture
def extra_method() -> Callable[..., str]:
    """Register a method for one test: `extra_method(body, **info)` gives its name."""
    from dataclasses import make_dataclass

    from methods.api import method

    def add(body: Callable[..., Any], name: str = "extra", needs: Any = ("forget",), **info: Any) -> str:
        cls = make_dataclass("Extra", [("lr", float, 0.1)], frozen=True)
        cls.__call__ = lambda self, model, forget, retain, ctx: body(model, forget, retain, ctx)  # type: ignore[operator]
        scenarios = info.pop("scenarios", {"full_class", "random"})
        method(name, needs=set(needs), scenarios=scenarios, **info)(cls)
        return name

    return add


@pytest.fixture(autouse=True)
def _global_generator_is_left_alone() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        yield
