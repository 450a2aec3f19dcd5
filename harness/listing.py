"""The catalogue as rows: every name that can be typed, what it is, and where it came from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from harness import registry, rows, suite_file
from harness.errors import unknown
from harness.registry import Catalogue
from harness.search import trials

Rows = list[dict[str, str]]


def rows_of(what: str, plugins: Iterable[str | Path] = ()) -> Rows:
    """The rows of one kind; `what` is a key of KINDS, suites, columns (of runs) or trials (their columns)."""
    if what not in {*KINDS, "suites", "columns", "trials"}:
        raise unknown("list", what, [*KINDS, "suites", "columns", "trials"])
    if what in ("columns", "trials"):
        return [dict(row) for row in (rows.describe() if what == "columns" else trials.describe())]
    catalogue = registry.load(plugins)
    if what == "suites":
        return [_suite(name, catalogue) for name in suite_file.suite_names()]
    table: Mapping[str, Any] = getattr(catalogue, what)
    return [
        {"name": name, **KINDS[what](entry), "origin": catalogue.origins.get((what, name), "?")}
        for name, entry in sorted(table.items())
    ]


def _suite(name: str, catalogue: Catalogue) -> dict[str, str]:
    loaded = suite_file.load_suite(name, catalogue)
    return {
        "name": name,
        "profile": loaded.profile,
        "tasks": str(sum(len(row.models) * len(row.targets) for row in loaded.tasks)),
        "seeds": str(len(loaded.seeds)),
        "title": loaded.title,
    }


def _method(entry: Any) -> dict[str, str]:
    info = entry.info
    access = "+".join(sorted(info.needs)) or "model only"
    return {
        "needs": access,
        "zero-shot": "yes" if info.zero_shot else "no",
        "scenarios": ", ".join(sorted(info.scenarios)),
        "version": str(info.version),
        "paper": info.paper,
    }


def _dataset(entry: Any) -> dict[str, str]:
    groups = "from the folder" if entry.groups is None else str(len(entry.groups))
    return {
        "groups": groups,
        "folder": "--data-dir" if entry.needs_folder else "not needed",
        "source": entry.source,
    }


def _model(entry: Any) -> dict[str, str]:
    return {"family": entry.family, "source": entry.source}


def _scenario(entry: Any) -> dict[str, str]:
    return {"target": entry.target, "count": "yes" if entry.needs_count else "no", "summary": entry.summary}


def _metric(entry: Any) -> dict[str, str]:
    return {"columns": ", ".join(entry.columns), "unit": entry.unit, "summary": entry.summary}


KINDS: dict[str, Callable[[Any], dict[str, str]]] = {
    "methods": _method,
    "datasets": _dataset,
    "models": _model,
    "scenarios": _scenario,
    "metrics": _metric,
}


def text(found: Rows) -> str:
    """Rows as aligned columns."""
    if not found:
        return "none"
    heads = list(found[0])
    widths = [max(len(head), *(len(row[head]) for row in found)) for head in heads]
    lines = [heads, *([row[head] for head in heads] for row in found)]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines
    )
