"""Searches so small that a test can afford them: digits, mlp, one class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.launch import Where, settings
from harness.registry import Catalogue
from harness.search import driver
from harness.search.book import Book, Budget
from harness.search.definition import Search, Wish, define
from harness.store import Store
from harness.suite import Suite
from harness.sweep import Listener

DIGITS = tuple("0123456789")


@pytest.fixture
def defined(catalogue: Catalogue, small: Callable[..., Suite]) -> Callable[..., Search]:
    """`defined(method="jit", suite={...})`: a search of the small suite."""

    def make(suite: dict[str, Any] | None = None, **over: Any) -> Search:
        wish = Wish(**({"method": "jit", "model": "mlp", "scenario": "full_class"} | over))
        return define(small(**(suite or {})), catalogue, wish, lambda dataset: DIGITS)

    return make


@pytest.fixture
def searched(
    tmp_path: Path, catalogue: Catalogue, small: Callable[..., Suite]
) -> Callable[[Search, Budget], Book]:
    """Run a search in this process, on a store that stays for the test."""
    store = Store.create(str(tmp_path / "store"))

    def go(search: Search, budget: Budget, suite: Suite | None = None) -> Book:
        where = Where("inline")
        told = settings(store.url, None, None, where, 512, False, False, None)
        bench = driver.Bench(suite or small(), catalogue, store, told, where, budget, Listener())
        return driver.run(search, bench, lambda row: None, lambda book: None)

    return go
