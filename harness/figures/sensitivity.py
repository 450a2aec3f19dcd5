"""Figures 7 and 8: a score over two hyper-parameters as a heat map. Cells that diverged are hatched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_hex
from matplotlib.patches import Rectangle

from harness.errors import Misuse
from harness.figures.canvas import (
    HEAT,
    Drawn,
    add_footer,
    footer,
    ink_on,
    name_of,
    new_figure,
    stem_of,
)
from harness.figures.stored import Held
from harness.figures.tried import trials_over_two
from harness.plan import Plan
from harness.suite import Wanted

TITLES = {"retain_acc": "retain accuracy (%)", "mia": "MIA (%)"}
NUMBERS = {"retain_acc": 7, "mia": 8}
SYMBOLS = {"lr": "η", "sigma": "σ", "samples": "N"}
HATCHES = {"diverged": "xxxx", "failed": "....", "no score": "////"}


@dataclass(frozen=True)
class Axis:
    """One hyper-parameter of a grid."""

    name: str
    values: tuple[float, ...]

    @property
    def label(self) -> str:
        return f"{SYMBOLS[self.name]} ({self.name})" if self.name in SYMBOLS else self.name


def axes_of(plan: Plan) -> tuple[str, Axis, Axis] | None:
    """The method of a suite whose grid spans exactly two numbers, with both; the first goes upwards."""
    for method, grid in plan.suite.grid.items():
        spans = [(name, values) for name, values in grid.items() if len(values) > 1]
        numbers = all(
            isinstance(value, (int, float)) and not isinstance(value, bool)
            for _, values in spans
            for value in values
        )
        if len(spans) == 2 and numbers:
            first, second = (Axis(name, tuple(sorted(map(_number, values)))) for name, values in spans)
            return method, first, second
    return None


def _number(value: Any) -> float:
    return float(value)


def heat_maps(held: Held, column: str) -> Iterator[Drawn]:
    """One figure with a panel for each data set, model and scenario of the suite."""
    figure = "sensitivity" if column == "retain_acc" else f"sensitivity_{column}"
    found = axes_of(held.plan)
    if found is None:  # no grid: whatever searches have tried
        yield from trials_over_two(held, figure, column, TITLES[column], NUMBERS[column])
        return
    method, up, across = found
    wanted = [w for w in held.wanted if w.spec.method == method]
    if not wanted:
        raise Misuse(f"figure {figure}: no run of {method} is left; leave it in --methods")
    rows = held.of(wanted, figure)
    places: dict[tuple[str, str, str], list[Wanted]] = {}
    for item in wanted:
        task = item.spec.task
        places.setdefault((task.dataset, task.model, task.scenario), []).append(item)
    parts = [cells(held.of(runs, figure), up, across, column) for runs in places.values()]
    table = pd.concat([part.assign(**_place(p)) for part, p in zip(parts, places, strict=True)])
    width = 0.48 * len(across.values) + 1.5
    drawn = new_figure(width * len(places) + 0.6, 0.3 * len(up.values) + 1.6)
    panels = drawn.subplots(1, len(places), squeeze=False)[0]
    for ax, place in zip(panels, places, strict=True):
        own = table[(table[["dataset", "model", "scenario"]] == list(place)).all(axis=1)]
        _panel(ax, own, up, across)
        targets = ", ".join(str(t) for t in dict.fromkeys(w.spec.task.target for w in places[place]) if t)
        ax.set_title(" · ".join([name_of(method), *place, *([f"forget {targets}"] if targets else [])]))
        _scale(ax, held, place, column)
    small = footer(held.plan, rows, f"{_each(table)} runs a cell")
    add_footer(drawn, small)
    caption = (
        f"{TITLES[column].capitalize()} of {name_of(method)} over {up.label} and {across.label} (Figure "
        f"{NUMBERS[column]} of the paper): means over targets and seeds. Crossed cells diverged, dotted ones "
        "failed, striped ones have no score; a number with * is the mean of the runs that have one. Lines on "
        f"the scale: what the original and the retrained model score.\n{small}"
    )
    yield Drawn(stem_of(held.plan.suite.name, "heat", column), drawn, caption, table)


def _place(place: tuple[str, str, str]) -> dict[str, str]:
    return dict(zip(("dataset", "model", "scenario"), place, strict=True))


def _each(table: pd.DataFrame) -> str:
    low, high = int(table["runs"].min()), int(table["runs"].max())
    return str(low) if low == high else f"{low} to {high}"


def cells(rows: pd.DataFrame, up: Axis, across: Axis, column: str) -> pd.DataFrame:
    """One line for each point of the grid: mean and spread in percent, and how many runs came to what."""
    lines = []
    for first in up.values:
        for second in across.values:
            here = rows[(rows[f"param_{up.name}"] == first) & (rows[f"param_{across.name}"] == second)]
            scores = here.loc[here["status"] == "ok", column].dropna().astype(float) * 100
            lines.append(
                {
                    up.name: first,
                    across.name: second,
                    "score": column,
                    "mean_percent": scores.mean() if len(scores) else np.nan,
                    "std_percent": scores.std(ddof=1) if len(scores) > 1 else np.nan,
                    "n": len(scores),
                    "runs": len(here),
                    "diverged": int((here["status"] == "diverged").sum()),
                    "failed": int((~here["status"].isin(["ok", "diverged"])).sum()),
                }
            )
    return pd.DataFrame(lines)


def _panel(ax: Axes, table: pd.DataFrame, up: Axis, across: Axis) -> None:
    """Cells in the order of the values, however far apart these are."""
    for line in table.to_dict("records"):
        x, y = across.values.index(line[across.name]), up.values.index(line[up.name])
        mean = line["mean_percent"]
        if np.isnan(mean):
            kind = "diverged" if line["diverged"] else "failed" if line["failed"] else "no score"
            face, edge, hatch = "white", "#404040", HATCHES[kind]
        else:
            face, edge, hatch = to_hex(HEAT(mean / 100)), "white", ""
        ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fc=face, ec=edge, hatch=hatch, lw=0.3))
        if np.isnan(mean):
            continue
        text = f"{mean:.0f}" + ("*" if line["n"] < line["runs"] else "")
        ax.text(x, y, text, ha="center", va="center", fontsize=6, color=ink_on(face))
    ax.set(xlim=(-0.5, len(across.values) - 0.5), ylim=(-0.5, len(up.values) - 0.5))
    ax.set_xticks(range(len(across.values)), [f"{value:g}" for value in across.values], fontsize=6.5)
    ax.set_yticks(range(len(up.values)), [f"{value:g}" for value in up.values], fontsize=6.5)
    ax.set_xlabel(across.label)
    ax.set_ylabel(up.label)
    ax.tick_params(length=0)


def _scale(ax: Axes, held: Held, place: tuple[str, str, str], column: str) -> None:
    """The colour bar, with lines at the scores of original and retrained model."""
    figure = ax.figure
    bar = figure.colorbar(ScalarMappable(Normalize(0, 100), HEAT), ax=ax, pad=0.02)
    bar.ax.set_title(TITLES[column], fontsize=7)
    rows = held.rows[(held.rows[["dataset", "model", "scenario"]] == list(place)).all(axis=1)]
    levels: dict[str, float] = {}
    for method, style in (("baseline", "-"), ("retrain", ":")):
        scores = rows.loc[(rows["method"] == method) & (rows["status"] == "ok"), column].dropna()
        if len(scores):
            level = 100 * float(scores.mean())
            bar.ax.axhline(level, color="white", lw=2.2)
            bar.ax.axhline(level, color="black", ls=style, lw=1.2)
            levels[name_of(method)] = level
    for name, height in _apart(levels).items():
        bar.ax.annotate(name, (1, height), (27, 0), xycoords=("axes fraction", "data"),
                        textcoords="offset points", va="center", fontsize=6)  # fmt: skip


def _apart(levels: dict[str, float], least: float = 4.0) -> dict[str, float]:
    """Heights of labels beside a scale of 100, the lower one moved down where two would overlap."""
    heights: dict[str, float] = {}
    for name in sorted(levels, key=lambda key: -levels[key]):
        heights[name] = min([levels[name], *(height - least for height in heights.values())])
    return heights
