"""Tables as text: console, Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.compare import COLUMNS as COMPARED
from harness.compare import Comparison, summaries
from harness.tables import DASH, Table

HEAD = ("method", "data", "params")
LEGEND = """\
D_r: what stays, D_f: what is forgotten; on the reporting part of the test set, but D_f on its training images
where single images are forgotten. MIA: share of forgotten images that an entropy attack calls members. Gap:
mean distance to retrain in D_r, D_f and MIA, in points, paired by seed. Mean ± sample standard deviation over
n runs (targets and seeds); seconds: median, the method alone, on a device of its own."""
COMPARED_HEAD = ("score", "method", "ours", "paper", "Δ", "agree", "n")
COMPARED_LEGEND = """\
Mean ± sample standard deviation; n: our runs. Agree: the intervals mean ± standard deviation overlap, the
paper's widened by the rounding of its last digit. Times: means over runs on a device of their own."""


@dataclass(frozen=True)
class Sheet:
    """What every style draws: a title, a grid of text with its header first, and notes below."""

    title: str
    grid: list[list[str]]
    texts: int  # leading columns that hold words; the others hold numbers
    notes: list[str]


def render(tables: Sequence[Table], style: str) -> str:
    """Tables as console, markdown, latex or csv text."""
    if style == "csv":
        return _csv(tables)
    body = "\n".join(DRAW[style](_sheet(table)) for table in tables)
    return body if style == "latex" else f"{body}\n{LEGEND}\n"


def render_comparisons(found: Sequence[Comparison], style: str) -> str:
    """Our numbers beside published ones as console, markdown, latex or csv text, with a summary a table."""
    if style == "csv":
        return _compared_csv(found)
    body = "\n".join(DRAW[style](_compared_sheet(comparison)) for comparison in found)
    if style == "latex":
        return body + "".join(f"\n\\noindent {_tex(line)}\n" for line in summaries(found))
    end = "  \n" if style == "markdown" else "\n"
    return f"{body}\n{end.join(summaries(found))}\n\n{COMPARED_LEGEND}\n"


def _sheet(table: Table) -> Sheet:
    """Header and lines as text: method, data, params, then the numbers, then n."""
    rows = [[*HEAD, *(column.title for column in table.columns), "n"]]
    for line in table.lines:
        marks = "".join(f" [{number}]" for number in sorted(set(line.marks)))
        numbers = [cell.text(column) for cell, column in zip(line.cells, table.columns, strict=True)]
        rows.append([line.label + marks, line.data, line.origin, *numbers, str(line.n)])
    return Sheet(table.title, rows, len(HEAD), _notes(table))


def _compared_sheet(found: Comparison) -> Sheet:
    """A block of lines for each score, its name on the first of them."""
    rows = [list(COMPARED_HEAD)]
    for column in COMPARED:
        for number, cell in enumerate(cell for cell in found.cells if cell.column == column):
            head = column.title + _marks(found.column_marks.get(column.key, ())) if number == 0 else ""
            agree = {None: DASH, True: "yes", False: "no"}[cell.agrees]
            delta = DASH if cell.difference is None else f"{cell.difference:+.{column.decimals}f}"
            theirs = cell.published.text() if cell.published else DASH
            texts = [cell.ours.text(column), theirs, delta, agree, str(cell.ours.n)]
            rows.append([head, cell.label + _marks(cell.marks), *texts])
    return Sheet(found.title, rows, 2, _notes(found))


def _marks(numbers: Iterable[int]) -> str:
    return "".join(f" [{number}]" for number in sorted(set(numbers)))


def _console(sheet: Sheet) -> str:
    grid, texts = sheet.grid, sheet.texts
    widths = [max(len(row[i]) for row in grid) for i in range(len(grid[0]))]
    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))

    def put(row: list[str]) -> str:
        cells = [
            c.ljust(w) if i < texts else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    body = [sheet.title, rule, put(grid[0]), rule, *map(put, grid[1:]), rule]
    return "\n".join([*body, *sheet.notes, ""])


def _notes(table: Table | Comparison) -> list[str]:
    return [*(f"[{number}] {text}" for number, text in enumerate(table.notes, 1)), *table.facts]


def _markdown(sheet: Sheet) -> str:
    grid = [[cell.replace("|", "\\|") for cell in row] for row in sheet.grid]
    align = ["---"] * sheet.texts + ["---:"] * (len(grid[0]) - sheet.texts)
    lines = ["| " + " | ".join(row) + " |" for row in [grid[0], align, *grid[1:]]]
    notes = "".join(f"\n{note}  " for note in sheet.notes)
    return f"**{sheet.title}**\n\n" + "\n".join(lines) + (f"\n{notes}" if notes else "") + "\n"


def _latex(sheet: Sheet) -> str:
    grid = [[_tex(cell) for cell in row] for row in sheet.grid]
    spec = "l" * sheet.texts + "r" * (len(grid[0]) - sheet.texts)
    lines = [" & ".join(row) + r" \\" for row in grid]
    notes = r" \\ ".join(_tex(note) for note in sheet.notes)
    parts = [
        r"\begin{table}",
        rf"\caption{{{_tex(sheet.title)}}}",
        rf"\begin{{tabular}}{{{spec}}}",
        r"\toprule",
        lines[0],
        r"\midrule",
        *lines[1:],
        r"\bottomrule",
        r"\end{tabular}",
        *([rf"\\ {{\footnotesize {notes}}}"] if notes else []),
        r"\end{table}",
    ]
    return "\n".join(parts) + "\n"


DRAW = {"console": _console, "markdown": _markdown, "latex": _latex}
TEX = {"\\": r"\textbackslash{}", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "$": r"\$"}
TEX |= {
    "±": r"$\pm$",
    "Δ": r"$\Delta$",
    "η": r"$\eta$",
    "σ": r"$\sigma$",
    "·": r"$\cdot$",
    "–": "--",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\^{}",
}


def _tex(text: str) -> str:
    return "".join(TEX.get(letter, letter) for letter in text)


def _csv(tables: Sequence[Table]) -> str:
    """One line a number, unrounded: title, method, data, params, metric, statistic, value, std, n."""
    buffer = io.StringIO()
    out = csv.writer(buffer, lineterminator="\n")
    out.writerow(["table", "method", "data", "params", "metric", "statistic", "value", "std", "n"])
    for table in tables:
        for line in table.lines:
            for cell, column in zip(line.cells, table.columns, strict=True):
                value = "" if cell.value is None else repr(cell.value)
                std = "" if cell.std is None else repr(cell.std)
                head = [table.title, line.label, line.data, line.origin]
                out.writerow([*head, column.key, column.statistic, value, std, cell.n])
    return buffer.getvalue()


def _compared_csv(found: Sequence[Comparison]) -> str:
    """One line a number, unrounded."""
    buffer = io.StringIO()
    out = csv.writer(buffer, lineterminator="\n")
    ours = ["value", "std", "n", "published", "published_std", "published_n", "difference", "agree", "notes"]
    out.writerow(["table", "dataset", "model", "scenario", "target", "method", "score", *ours])
    for one in found:
        for cell in one.cells:
            theirs = cell.published
            numbers = [cell.ours.value, cell.ours.std, cell.ours.n]
            numbers += [theirs.mean, theirs.std, theirs.n] if theirs else [None, None, None]
            agree = {None: "", True: "yes", False: "no"}[cell.agrees]
            known = sorted({*cell.marks, *one.column_marks.get(cell.column.key, ())})
            notes = " | ".join(one.notes[number - 1] for number in known)
            texts = ["" if value is None else repr(value) for value in (*numbers, cell.difference)]
            where = [one.table, *one.setting, one.target or ""]
            out.writerow([*where, cell.label, cell.column.key, *texts, agree, notes])
    return buffer.getvalue()
