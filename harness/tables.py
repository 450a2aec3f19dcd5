"""From rows to mean ± std tables: every number with its n, every hole with its reason."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from harness.spec import REFERENCES

PLACE = ("dataset", "model", "scenario")
DASH = "–"


@dataclass(frozen=True)
class Column:
    """A column of numbers: where they come from and how they are written."""

    key: str
    title: str
    scale: float = 1.0
    decimals: int = 1
    statistic: str = "mean"  # or "median"


# D_r, D_f: what stays and what is forgotten; gap: mean distance to retrain in points
COLUMNS = (
    Column("retain_acc", "D_r acc %", 100),
    Column("forget_acc", "D_f acc %", 100),
    Column("test_acc", "test acc %", 100),
    Column("mia", "MIA %", 100),
    Column("gap", "gap to retrain"),
    Column("seconds", "seconds", decimals=3, statistic="median"),
)


@dataclass(frozen=True)
class Cell:
    """One number: mean and sample standard deviation (ddof 1), or a median, over n runs."""

    value: float | None
    std: float | None
    n: int
    absent: str = DASH  # what stands where there is no value

    def text(self, column: Column) -> str:
        if self.value is None:
            return self.absent
        shown = f"{self.value:.{column.decimals}f}"
        return shown if self.std is None else f"{shown} ± {self.std:.{column.decimals}f}"


@dataclass
class Line:
    """One method of a table."""

    label: str
    data: str  # what it was given
    origin: str  # of its hyper-parameters
    n: int
    cells: list[Cell]
    marks: list[int] = field(default_factory=list)  # footnotes


@dataclass
class Table:
    """One table: a data set, a model and a scenario, a line for each method."""

    title: str
    columns: Sequence[Column]
    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)  # of the whole table: hardware, data

    def note(self, text: str) -> int:
        """The number of a footnote; equal texts share one."""
        if text not in self.notes:
            self.notes.append(text)
        return self.notes.index(text) + 1


def make_tables(
    frame: pd.DataFrame,
    wanted: pd.DataFrame,
    skips: Sequence[dict[str, Any]] = (),
    *,
    by_target: bool = False,
    columns: Sequence[Column] = COLUMNS,
) -> list[Table]:
    """A table for each (data set, model, scenario) of `wanted`, in its order.

    `wanted` has one row for each run that the suite asks for (run_id, dataset, model, scenario, target,
    method, params); `frame` what the store holds of them, with gaps. Means go over targets and seeds
    unless `by_target`.
    """
    keys = [*PLACE, "target"] if by_target else list(PLACE)
    held = frame.set_index("run_id", drop=False)
    tables = []
    for place, group in wanted.groupby(keys, sort=False, dropna=False):
        facts = dict(zip(keys, place if isinstance(place, tuple) else (place,), strict=True))
        table = Table(_title(facts, group), columns)
        for (method, _), runs in group.groupby(["method", "params"], sort=False):
            found = held[held.index.isin(runs["run_id"])]
            table.lines.append(_line(table, str(method), _label(str(method), runs, group), runs, found))
        for skip in skips:
            if all(_same(skip.get(key), facts[key]) for key in keys):
                _skipped(table, skip)
        _common_notes(table, held[held.index.isin(group["run_id"])])
        if "retrain" not in set(group["method"]):
            _no_gap(table)
        tables.append(table)
    return tables


def _same(a: Any, b: Any) -> bool:
    return bool(a == b or (pd.isna(a) and pd.isna(b)))


def _title(facts: dict[str, Any], group: pd.DataFrame) -> str:
    targets = [str(t) for t in dict.fromkeys(group["target"].dropna())]
    counts = [str(int(c)) for c in dict.fromkeys(group["count"].dropna())]
    what = f"{facts['dataset']} · {facts['model']} · {facts['scenario']}"
    if targets:
        what += f" · forget {', '.join(targets)}"
    if counts:
        what += f" · {', '.join(counts)} images"
    return what


def _label(method: str, runs: pd.DataFrame, group: pd.DataFrame) -> str:
    """The method's name, and where a suite runs it with several settings what is particular to this one."""
    mine = json.loads(runs["params"].iloc[0] or "{}")
    others = [json.loads(text or "{}") for text in group.loc[group["method"] == method, "params"].unique()]
    differing = [name for name in mine if len({json.dumps(other.get(name)) for other in others}) > 1]
    return " ".join([method, *(f"{name}={mine[name]}" for name in differing)])


def _line(table: Table, method: str, label: str, runs: pd.DataFrame, found: pd.DataFrame) -> Line:
    ok = found[found["status"] == "ok"]
    line = Line(
        label=label,
        data=_data(method, found),
        origin=DASH
        if method in REFERENCES or ok.empty
        else "/".join(sorted(set(ok["params_origin"].dropna()))),
        n=len(ok),
        cells=[cell_of(ok, column) for column in table.columns],
    )
    line.marks += [table.note(text) for text in troubles(runs, found)]
    return line


def troubles(runs: pd.DataFrame, found: pd.DataFrame) -> list[str]:
    """What became of the runs that are no number: failed, blocked, diverged, or not run yet."""
    states = Counter(found["status"])
    texts = []
    for status in ("failed", "blocked", "diverged"):
        if states[status]:
            why = found.loc[found["status"] == status, "error_message"].iloc[0]
            texts.append(f"{states[status]} of {len(runs)} {status}: {why}")
    if len(found) < len(runs):
        texts.append(f"{len(runs) - len(found)} of {len(runs)} not run yet")
    return texts


def _data(method: str, found: pd.DataFrame) -> str:
    if method == "baseline" or found.empty:
        return DASH
    needs = str(found["needs"].iloc[0]) or DASH
    zero_shot = found["zero_shot"].iloc[0]
    return f"{needs} (zero-shot)" if zero_shot is True or zero_shot == 1 else needs


def cell_of(ok: pd.DataFrame, column: Column) -> Cell:
    """Only rows that had their device to themselves enter a column of times."""
    if column.key not in ok:
        return Cell(None, None, 0)
    rows = ok[ok["exclusive"].fillna(False).astype(bool)] if column.key.startswith("seconds") else ok
    values = rows[column.key].dropna().astype(float) * column.scale
    if values.empty:
        return Cell(None, None, 0)
    if column.statistic == "median":
        return Cell(float(values.median()), None, len(values))
    return Cell(float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None, len(values))


def _skipped(table: Table, skip: dict[str, Any]) -> None:
    """A pair that the method does not define: a line of dashes with its reason below."""
    label = str(skip["method"])
    empty = [Cell(None, None, 0) for _ in table.columns]
    if all(line.label != label for line in table.lines):
        table.lines.append(Line(label, DASH, DASH, 0, empty, [table.note(str(skip["error_message"]))]))


def _no_gap(table: Table) -> None:
    """Where no retrain is asked for and none is there, say that a gap cannot be."""
    places = [number for number, column in enumerate(table.columns) if column.key == "gap"]
    for place in places:
        if all(line.cells[place].n == 0 for line in table.lines):
            for line in table.lines:
                line.cells[place] = Cell(None, None, 0, absent="n/a")
            table.facts.append("Gap n/a: a distance to a retrained model, and none is asked for here.")


def _common_notes(table: Table, held: pd.DataFrame) -> None:
    ok = held[held["status"] == "ok"]
    alike = ok[ok["deterministic"].fillna(False).astype(bool)]
    for line in table.lines:
        if line.label.split(" ")[0] in set(alike["method"]):
            line.marks.append(
                table.note("deterministic: one run stands for all seeds; its gap is to their mean retrain")
            )
        if (
            any(cell.n == 0 for cell, c in zip(line.cells, table.columns, strict=True) if c.key == "seconds")
            and line.n
        ):
            line.marks.append(
                table.note("no time: the runs shared their device; efface sweep --per-gpu 1 times them")
            )
    table.facts += common_facts(ok)


def common_facts(ok: pd.DataFrame) -> list[str]:
    """What holds for all of these runs: unofficial or limited data, and where they were computed."""
    facts = []
    if not ok.empty and not ok["data_official"].fillna(True).astype(bool).all():
        notes = ", ".join(dict.fromkeys(ok["data_note"].dropna())) or "not the official files"
        facts.append(f"Not the official data set: {notes}.")
    known = ok.dropna(subset=["device", "threads"])
    machines = dict.fromkeys(
        f"{device}, {int(threads)} thread{'s' if threads > 1 else ''}, {precision}"
        for device, threads, precision in zip(
            known["device"], known["threads"].astype(int), known["precision"], strict=True
        )
    )
    if machines:
        facts.append(f"Computed on {'; '.join(machines)}.")
    return facts
