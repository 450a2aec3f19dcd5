"""A part of a suite, as given on the command line: which runs it selects, and what it may name."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.errors import Misuse, did_you_mean
from harness.spec import Task

if TYPE_CHECKING:
    from harness.suite import Suite


@dataclass(frozen=True)
class Selection:
    """A part of a suite, as given on the command line; empty means all."""

    methods: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    scenarios: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    tables: tuple[str, ...] = ()  # of a paper


EVERYTHING = Selection()


def serves(table: str, asked: str) -> bool:
    """Whether `table` is what was asked for: 2 asks for both 2a and 2b."""
    return asked in (table, table.rstrip(string.ascii_lowercase))


def selects(only: Selection, task: Task) -> bool:
    """Whether a task is in the selected part."""
    return (
        (not only.models or task.model in only.models)
        and (not only.datasets or task.dataset in only.datasets)
        and (not only.scenarios or task.scenario in only.scenarios)
        and (not only.targets or task.target in only.targets)
    )


def check_selection(suite: Suite, only: Selection) -> None:
    """Refuse a selection that names what the suite does not have."""
    has: dict[str, set[Any]] = {
        "methods": {method for row in suite.tasks for method in row.methods},
        "models": {model for row in suite.tasks for model in row.models},
        "datasets": {row.dataset for row in suite.tasks},
        "scenarios": {row.scenario for row in suite.tasks},
        "targets": {target for row in suite.tasks for target in row.targets if target is not None},
        "seeds": {seed for row in suite.tasks for seed in row.seeds or suite.seeds},
    }
    _check_tables(suite, only.tables)
    for name, known in has.items():
        for value in getattr(only, name):
            if value not in known:
                hint = did_you_mean(str(value), map(str, known))
                raise Misuse(f"--{name}: suite {suite.name} has no {name[:-1]} {value!r}; {hint}")


def _check_tables(suite: Suite, asked: Sequence[str]) -> None:
    known = {table for row in suite.tasks for table in row.tables}
    shown = ", ".join(sorted(known))
    for name in asked:
        if not any(serves(table, name) for table in known):
            raise Misuse(f"--table: suite {suite.name} has no table {name!r}; known: {shown or 'none'}")
