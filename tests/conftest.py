"""Shared by all tests: one thread, the registry, and small suites."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import cli, registry
from harness.plan import Plan, make_plan
from harness.registry import Catalogue
from harness.selection import Selection
from harness.store import Store
from harness.suite import Suite, expand
from harness.suite_file import parse_suite

torch.set_num_threads(1)
Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    return registry.load()


@pytest.fixture(scope="session")
def small(catalogue: Catalogue) -> Callable[..., Suite]:
    """A suite of few, quick runs: digits, mlp, one class."""

    def make(**over: Any) -> Suite:
        raw: dict[str, Any] = {
            "seeds": 2,
            "models": ["mlp"],
            "methods": ["baseline", "retrain", "finetune", "jit"],
            "task": [{"dataset": "digits", "scenario": "full_class", "targets": ["3"]}],
        }
        return parse_suite("small", raw | over, catalogue)

    return make


@pytest.fixture(scope="session")
def planned(catalogue: Catalogue, small: Callable[..., Suite]) -> Callable[..., Plan]:
    def make(store: Store | None = None, only: Selection | None = None, **over: Any) -> Plan:
        suite = small(**over)
        return make_plan(suite, expand(suite, catalogue, only or Selection()), store, catalogue)

    return make


@pytest.fixture(autouse=True)
def _nothing_stays_registered(catalogue: Catalogue) -> Iterator[None]:
    """What a test registers is gone after it, so that the order of tests does not matter."""
    tables = [catalogue.methods, catalogue.datasets, catalogue.models, catalogue.scenarios, catalogue.metrics]
    before = [dict(table) for table in tables]
    yield
    for table, entries in zip(tables, before, strict=True):
        for name in set(table) - set(entries):
            del table[name]  # type: ignore[attr-defined]
    for name in [name for name in sys.modules if name.startswith("efface_plugin_")]:
        del sys.modules[name]


@pytest.fixture
def efface(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Typed:
    """Type a command in the test's own folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def typed(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["efface", *words])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        return (code, *capsys.readouterr())

    return typed
