"""Our numbers beside a paper's: the difference, whether the intervals overlap, and known reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from harness.errors import Misuse
from harness.plan import table_key
from harness.published import Number, Paper, load_paper
from harness.selection import serves
from harness.suite import Suite
from harness.tables import Cell, Column, cell_of, common_facts, troubles

# the paper's time is that of the method and its evaluation
COLUMNS = (
    Column("retain_acc", "D_r acc %", 100),
    Column("forget_acc", "D_f acc %", 100),
    Column("mia", "MIA %", 100),
    Column("seconds_with_scoring", "method and scoring, s"),
    Column("seconds", "method alone, s", decimals=2),
)
PUBLISHED_AS = {
    "retain_acc": "retain_acc",
    "forget_acc": "forget_acc",
    "mia": "mia",
    "seconds_with_scoring": "runtime_s",
}
PLACE = ["dataset", "model", "scenario", "target"]
EPSILON = 1e-9  # of sums of decimal fractions


@dataclass(frozen=True)
class Compared:
    """One number of ours and the paper's for it."""

    label: str  # the method
    column: Column
    ours: Cell
    published: Number | None
    marks: tuple[int, ...] = ()  # footnotes

    @property
    def difference(self) -> float | None:
        """Ours minus published."""
        if self.ours.value is None or self.published is None:
            return None
        return self.ours.value - self.published.mean

    @property
    def agrees(self) -> bool | None:
        """Whether both mean ± std overlap, the paper's widened by its rounding; None where one is missing."""
        if self.difference is None or self.published is None:
            return None
        reach = (self.ours.std or 0.0) + (self.published.std or 0.0) + self.published.rounding
        return abs(self.difference) <= reach + EPSILON


@dataclass
class Comparison:
    """One table of a paper for one target, or one table that has none."""

    table: str
    setting: tuple[str, str, str]  # data set, model, scenario: ours
    target: str | None
    title: str
    cells: list[Compared] = field(default_factory=list)
    column_marks: dict[str, list[int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    strange: str = ""  # what makes agreement meaningless: other data, another setting

    def note(self, text: str) -> int:
        """The number of a footnote; equal texts share one."""
        if text not in self.notes:
            self.notes.append(text)
        return self.notes.index(text) + 1


def compare_with(
    against: str, frame: pd.DataFrame, wanted: pd.DataFrame, suite: Suite, only: Sequence[str] = ()
) -> list[Comparison]:
    """`compare` with what --against names; refuses a suite that serves no table of a paper."""
    if not any(len(tables) for tables in wanted["tables"]):
        raise Misuse(
            f"--against {against}: no [[task]] of suite {suite.name} says which table of a paper it serves; "
            'add e.g. table = ["9"], or type: efface tables paper --against published'
        )
    return compare(frame, wanted, load_paper(against), suite, only)


def compare(
    frame: pd.DataFrame, wanted: pd.DataFrame, paper: Paper, suite: Suite, only: Sequence[str] = ()
) -> list[Comparison]:
    """A comparison for each table and target that `wanted` serves, or of the tables in `only`.

    `frame` is what the store holds (`results.load`), `wanted` the runs that the suite asks for, one a row,
    with the `tables` that each serves.
    """
    frame = frame.assign(seconds_with_scoring=frame["seconds"] + frame["seconds_scoring"])
    held = frame.set_index("run_id", drop=False)
    names = sorted({table for tables in wanted["tables"] for table in tables}, key=table_key)
    found = []
    for table in names:
        if only and not any(serves(table, asked) for asked in only):
            continue
        mine = wanted[[table in tables for tables in wanted["tables"]]]
        groups: Any = mine.groupby(PLACE, sort=False, dropna=False)
        for place, group in groups:
            dataset, model, scenario, target = (None if pd.isna(part) else str(part) for part in place)
            setting = (str(dataset), str(model), str(scenario))
            found.append(_compare_one(table, setting, target, group, held, paper, suite))
    return found


def _compare_one(
    table: str,
    setting: tuple[str, str, str],
    target: str | None,
    group: pd.DataFrame,
    held: pd.DataFrame,
    paper: Paper,
    suite: Suite,
) -> Comparison:
    title = " · ".join([f"Table {table}", *setting, *([f"forget {target}"] if target else [])])
    made = Comparison(table, setting, target, title)
    said: list[list[str]] = []  # of each cell: what is known of it
    several = Counter(group.drop_duplicates(["method", "params"])["method"])
    for (method, params), runs in group.groupby(["method", "params"], sort=False):
        rows = held[held.index.isin(runs["run_id"])]
        ok = rows[rows["status"] == "ok"]
        told = troubles(runs, rows)
        origin = "" if ok.empty else str(ok["params_origin"].iloc[0])
        facts = dict(zip(("table", "dataset", "model", "scenario"), (table, *setting), strict=True))
        facts |= {"method": str(method), "profile": suite.profile, "retrain_start": suite.retrain_start}
        counts = group["count"].dropna()
        facts["count"] = str(int(counts.iloc[0])) if len(counts) else ""
        label = str(method) if several[method] == 1 else f"{method} {params}"
        for column in COLUMNS:
            number = paper.number(table, target, str(method), PUBLISHED_AS.get(column.key, ""))
            made.cells.append(Compared(label, column, cell_of(ok, column), number))
            comparable = number is not None or column.key not in PUBLISHED_AS
            known = paper.known(facts | {"score": column.key, "origin": origin}, number) if comparable else []
            said.append([*told, *known])
    made.cells, said = _by_column(made.cells, said)
    _attach(made, said)
    _state_facts(made, held[held.index.isin(group["run_id"])], paper)
    return made


def _by_column(cells: list[Compared], said: list[list[str]]) -> tuple[list[Compared], list[list[str]]]:
    order = sorted(range(len(cells)), key=lambda i: COLUMNS.index(cells[i].column))
    return [cells[i] for i in order], [said[i] for i in order]


def _attach(made: Comparison, said: Sequence[Sequence[str]]) -> None:
    """Footnotes where they belong: below all, at a score, or at single numbers."""
    places: dict[str, set[int]] = {}
    for number, texts in enumerate(said):
        for text in texts:
            places.setdefault(text, set()).add(number)
    compared = {i for i, cell in enumerate(made.cells) if cell.published is not None}
    marks: dict[int, list[int]] = {}
    for text, where in places.items():
        if where >= (compared or set(range(len(made.cells)))):
            made.facts.append(text)
            continue
        for column in COLUMNS:
            block = {i for i, cell in enumerate(made.cells) if cell.column == column}
            inside = where & block
            if inside and inside >= (block & compared or block):
                made.column_marks.setdefault(column.key, []).append(made.note(text))
            else:
                for i in inside:
                    marks.setdefault(i, []).append(made.note(text))
    made.cells = [
        Compared(cell.label, cell.column, cell.ours, cell.published, tuple(sorted(marks.get(i, ()))))
        for i, cell in enumerate(made.cells)
    ]


def _state_facts(made: Comparison, rows: pd.DataFrame, paper: Paper) -> None:
    ok = rows[rows["status"] == "ok"]
    common = common_facts(ok)
    theirs = paper.setting(made.table)
    if theirs is None:
        made.strange = "not a table of the paper"
    elif not all(paper.means(name, ours) for name, ours in zip(theirs, made.setting, strict=True)):
        made.strange = f"not the paper's setting ({' · '.join(theirs)})"
        common.append(f"{made.strange[0].upper()}{made.strange[1:]}: agreement or not, it says nothing.")
    if any(fact.startswith("Not the official data") for fact in common):
        made.strange = ", ".join(filter(None, [made.strange, "not the official data"]))
    made.facts += common


def summaries(found: Sequence[Comparison]) -> list[str]:
    """A line for each table, and for each reading of it: how many numbers agree."""
    groups: dict[tuple[str, tuple[str, str, str]], list[Comparison]] = {}
    for one in found:
        groups.setdefault((one.table, one.setting), []).append(one)
    readings = Counter(table for table, _ in groups)
    lines = []
    for (table, setting), ones in groups.items():
        name = f"Table {table}" + (f" ({setting[2]})" if readings[table] > 1 else "")
        cells = [cell for one in ones for cell in one.cells]
        scores = _tally([cell for cell in cells if not cell.column.key.startswith("seconds")])
        times = _tally([cell for cell in cells if cell.column.key == "seconds_with_scoring"])
        strange = ", ".join(dict.fromkeys(one.strange for one in ones if one.strange))
        lines.append(
            f"{name}: {scores['agree']} of {scores['both']} scores agree with the paper"
            + (f"; {scores['not run']} not run" if scores["not run"] else "")
            + (f"; {scores['not published']} not published" if scores["not published"] else "")
            + (f"; {times['agree']} of {times['both']} times agree" if times["both"] else "")
            + (f". Careful: {strange}." if strange else ".")
        )
    return lines


def _tally(cells: Sequence[Compared]) -> dict[str, int]:
    return {
        "agree": sum(cell.agrees is True for cell in cells),
        "both": sum(cell.agrees is not None for cell in cells),
        "not run": sum(cell.published is not None and cell.ours.value is None for cell in cells),
        "not published": sum(cell.published is None and cell.ours.value is not None for cell in cells),
    }
