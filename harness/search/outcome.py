"""What a search found: the best trials, what mattered, the preset, and what that changes."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.presets import resolve
from harness.rows import Row
from harness.search.book import Book
from harness.search.definition import Search
from harness.search.objectives import PARTS
from harness.spec import Value, scenario_family

SHOWN = 5


@dataclass(frozen=True)
class Change:
    """One hyper-parameter, as presets have it now and as the search found it."""

    name: str
    in_force: Value
    found: Value


@dataclass(frozen=True)
class Finding:
    """A finished or interrupted search, read from its trials."""

    search: Search
    rows: Sequence[Row]
    spent: float
    best: Row | None
    front: Sequence[Row]  # of several objectives: trials that no other one beats in all
    importances: Mapping[str, float]
    changes: Sequence[Change]
    origin_in_force: str

    @property
    def counts(self) -> Counter[str]:
        return Counter(str(row["status"]) for row in self.rows)

    def top(self) -> list[Row]:
        return sorted(self.rows, key=lambda row: (float(row["value"]), int(row["number"])))[:SHOWN]


def find(search: Search, book: Book, catalogue: Any) -> Finding:
    """Read what a search has found so far."""
    rows = book.writer.rows
    ok = [row for row in rows if row["status"] == "ok"]
    best = min(ok, key=lambda row: (float(row["value"]), int(row["number"])), default=None)
    now = resolve(catalogue, search.method, search.task, dict(search.given))
    found = json.loads(best["params"]) if best else {}
    changes = [
        Change(name, dict(now.params)[name], value)
        for name, value in found.items()
        if dict(now.params)[name] != value
    ]
    return Finding(
        search, rows, book.spent, best, _front(search, ok), _importances(search, rows), changes, now.origin
    )


def _front(search: Search, rows: Sequence[Row]) -> list[Row]:
    names = search.objective.names
    if len(names) < 2:
        return []
    points = [[float(json.loads(row["values"])[name]) for name in names] for row in rows]
    return [row for row, mine in zip(rows, points, strict=True) if not any(_beats(o, mine) for o in points)]


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _importances(search: Search, rows: Sequence[Row]) -> dict[str, float]:
    """Share of the variance of the objective that each hyper-parameter explains (fANOVA, by Optuna)."""
    values = {float(row["value"]) for row in rows}
    if len(rows) < 4 or len(values) < 2:
        return {}
    from optuna.importance import get_param_importances

    from harness.search.study import open_study

    study = open_study(search, rows)
    several = len(search.objective.names) > 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target = (lambda trial: sum(trial.values[: len(PARTS)])) if several else None
        return {name: float(share) for name, share in get_param_importances(study, target=target).items()}


def preset_text(finding: Finding, budget: str) -> str:
    """The best trial as a preset row, for every target of the setting."""
    search, best = finding.search, finding.best
    assert best is not None
    found = json.loads(best["params"])
    named = {name for name, _ in search.space.dims} | set(dict(search.space.fixed))
    named |= {change.name for change in finding.changes}
    given = [name for name in sorted(named) if found[name] is not None]
    unset = [name for name in sorted(named) if found[name] is None]  # TOML has no null
    params = ", ".join(f"{name} = {json.dumps(found[name])}" for name in given)
    task = search.task
    on = f"{search.target}, " if search.target else ""
    source = (
        f"best of {len(finding.rows)} trials ({search.sampler}, seed {search.sampler_seed}, budget {budget}, "
        f"{finding.spent:.0f} s used) of search {search.id} by {search.objective_name}: "
        f"{best['value']:.2f} points on "
        f"{on}seeds {best['seeds']}"
    )
    lines = [
        "[[preset]]",
        f'method = "{search.method}"',
        f'dataset = ["{task.dataset}"]',
        f'model = ["{task.model}"]',
        f'scenario = ["{scenario_family(task.scenario)}"]',
        f'profile = "{task.profile}"',
        'origin = "tuned"',
        f'source = "{source}"',
        f"params = {{ {params} }}",
        *([f"unset = {json.dumps(unset)}"] if unset else []),
    ]
    return "\n".join(lines) + "\n"


def preset_name(search: Search) -> str:
    """The preset's file in STORE/presets: of each search its own, so that none overwrites another's."""
    task = search.task
    words = [search.method, task.dataset, task.model, scenario_family(task.scenario), search.objective_name]
    words.append(search.id[:8])
    return "-".join(word.replace(":", "_") for word in words) + ".toml"


# -------------------- for people


def text(finding: Finding) -> str:
    """The report at the end of a search."""
    search, counts = finding.search, finding.counts
    lost = ", ".join(f"{counts[s]} {s}" for s in ("diverged", "failed") if counts[s])
    lines = [
        f"search {search.id}: {search.label}, seeds {', '.join(map(str, search.seeds))}",
        f"{len(finding.rows)} trials{f' ({lost})' if lost else ''}, {finding.spent:.1f} device-seconds; "
        f"{search.objective_name} on {search.objective.judged_on}",
    ]
    if finding.best is None:
        why = next((row["error_message"] for row in reversed(finding.rows) if row["error_message"]), None)
        said = f"; the last error: {why}" if why else ": widen the space"
        return "\n".join([*lines, f"no trial came out finite{said}"])
    lines += ["", *_table(search, finding.top())]
    if finding.front:
        lines += ["", f"Pareto front ({len(finding.front)} of {len(finding.rows)}):"]
        lines += _table(search, sorted(finding.front, key=lambda row: float(row["value"]))[:20])
    if finding.importances:
        shares = ", ".join(f"{name} {share:.2f}" for name, share in finding.importances.items())
        lines += ["", f"importance (share of variance): {shares}"]
    lines += ["", f"against what is in force ({finding.origin_in_force}):"]
    lines += [f"  {c.name}: {c.in_force} → {c.found}" for c in finding.changes] or ["  nothing changes"]
    return "\n".join(lines)


def _table(search: Search, rows: Sequence[Row]) -> list[str]:
    names = [name for name, _ in search.space.dims]
    head = ["trial", "value", "Δ D_r", "Δ D_f", "Δ MIA", "seconds", *names]
    body = [head]
    for row in rows:
        params = json.loads(row["params"])
        gaps = [_number(row.get(f"gap_{part}"), 1) for part in PARTS]
        body.append(
            [str(row["number"]), _number(row["value"], 2), *gaps, _number(row.get("seconds"), 3)]
            + [
                f"{params[name]:g}" if isinstance(params[name], float) else str(params[name])
                for name in names
            ]
        )
    widths = [max(len(line[i]) for line in body) for i in range(len(head))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in body]


def _number(value: Any, decimals: int) -> str:
    return "–" if value is None else f"{value:.{decimals}f}"


def facts(finding: Finding, preset: str | None) -> dict[str, Any]:
    """The same as JSON."""
    best = finding.best
    return {
        "search_id": finding.search.id,
        "label": finding.search.label,
        "objective": finding.search.objective_name,
        "trials": len(finding.rows),
        "status": dict(finding.counts),
        "device_seconds": finding.spent,
        "best": _point(best) if best else None,
        "top": [_point(row) for row in finding.top()],
        "front": [_point(row) for row in finding.front],
        "importances": dict(finding.importances),
        "changes": {c.name: [c.in_force, c.found] for c in finding.changes},
        "preset": preset,
    }


def _point(row: Row) -> dict[str, Any]:
    return {
        "number": row["number"],
        "status": row["status"],
        "value": row["value"],
        "values": json.loads(row["values"]),
        "params": json.loads(row["params"]),
    }


def intention(search: Search, budget: str, references: int, seconds: float | None) -> str:
    """What `--dry-run` says: space, budget, objective, cost."""
    dims = [f"  {name}: {dim.text()}" for name, dim in search.space.dims]
    fixed = [f"  {name} = {value} (fixed)" for name, value in search.space.fixed]
    seeds = search.seeds[: 1 if search.deterministic else None]
    runs = len(seeds) * len(search.tasks)
    cost = (
        "unknown: nothing like it was measured" if seconds is None else f"about {seconds:.0f} device-seconds"
    )
    return "\n".join(
        [
            f"search {search.id}: {search.label}",
            f"objective: {search.objective_name}, {search.objective.summary} (on "
            f"{search.objective.judged_on})",
            f"sampler: {search.sampler}, seed {search.sampler_seed}; budget: {budget}",
            f"a trial: {runs} run{'s' if runs > 1 else ''} (seeds {', '.join(map(str, seeds))})",
            "space:",
            *dims,
            *fixed,
            f"references to be trained or scored first: {references}",
            f"cost: {cost}",
        ]
    )
