"""Tables as text: console, Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from harness.tables import Table

HEAD = ("method", "data", "params")
LEGEND = """\
D_r: what stays, D_f: what is forgotten; on the reporting part of the test set, but D_f on its training images
where single images are forgotten. MIA: share of forgotten images that an entropy attack calls members. Gap:
mean distance to retrain in D_r, D_f and MIA, in points, paired by seed. Mean ± sample standard deviation over
n runs (targets and seeds); seconds: median, the method alone, on a device of its own."""


def render(tables: Sequence[Table], style: str) -> str:
    """Tables as console, markdown, latex or csv text."""
    if style == "csv":
        return _csv(tables)
    draw = {"console": _console, "markdown": _markdown, "latex": _latex}[style]
    body = "\n".join(draw(table) for table in tables)
    return body if style == "latex" else f"{body}\n{LEGEND}\n"


def _grid(table: Table) -> list[list[str]]:
    """Header and lines as text: method, data, params, then the numbers, then n."""
    rows = [[*HEAD, *(column.title for column in table.columns), "n"]]
    for line in table.lines:
        marks = "".join(f" [{number}]" for number in sorted(set(line.marks)))
        numbers = [cell.text(column) for cell, column in zip(line.cells, table.columns, strict=True)]
        rows.append([line.label + marks, line.data, line.origin, *numbers, str(line.n)])
    return rows


def _console(table: Table) -> str:
    grid = _grid(table)
    widths = [max(len(row[i]) for row in grid) for i in range(len(grid[0]))]
    texts = len(HEAD)
    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))

    def put(row: list[str]) -> str:
        cells = [
            c.ljust(w) if i < texts else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    body = [table.title, rule, put(grid[0]), rule, *map(put, grid[1:]), rule]
    return "\n".join([*body, *_notes(table), ""])


def _notes(table: Table) -> list[str]:
    return [*(f"[{number}] {text}" for number, text in enumerate(table.notes, 1)), *table.facts]


def _markdown(table: Table) -> str:
    grid = [[cell.replace("|", "\\|") for cell in row] for row in _grid(table)]
    align = ["---"] * len(HEAD) + ["---:"] * (len(grid[0]) - len(HEAD))
    lines = ["| " + " | ".join(row) + " |" for row in [grid[0], align, *grid[1:]]]
    notes = "".join(f"\n{note}  " for note in _notes(table))
    return f"**{table.title}**\n\n" + "\n".join(lines) + (f"\n{notes}" if notes else "") + "\n"


def _latex(table: Table) -> str:
    grid = [[_tex(cell) for cell in row] for row in _grid(table)]
    spec = "l" * len(HEAD) + "r" * (len(grid[0]) - len(HEAD))
    lines = [" & ".join(row) + r" \\" for row in grid]
    notes = r" \\ ".join(_tex(note) for note in _notes(table))
    parts = [
        r"\begin{table}",
        rf"\caption{{{_tex(table.title)}}}",
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


TEX = {"\\": r"\textbackslash{}", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "$": r"\$"}
TEX |= {
    "±": r"$\pm$",
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
