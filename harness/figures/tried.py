"""Figures 7 and 8 from the trials of a search: each trial a point over two hyper-parameters, "
"coloured by a score."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from harness.errors import Misuse
from harness.figures.canvas import HEAT, Drawn, add_footer, name_of, new_figure, stem_of
from harness.figures.stored import Held
from harness.search.trials import read_all

FIRST = ("lr", "sigma", "alpha", "lam")  # the order in which two of many hyper-parameters are chosen
MOST_PANELS = 6
DECADE = 10.0


def trials_over_two(held: Held, figure: str, column: str, title: str, number: int) -> Iterator[Drawn]:
    """One figure with a panel for each search of the suite's methods that varied two numbers or more."""
    table = _of_suite(held)
    axes_of = {str(search): _axes(rows) for search, rows in table.groupby("search_id", sort=False)}
    panels = [(search, names) for search, names in axes_of.items() if len(names) == 2][:MOST_PANELS]
    if not panels:
        raise Misuse(
            f"figure {figure}: suite {held.plan.suite.name} has no grid over two numbers, and "
            f"{held.store.url} no "
            f"search over two numbers for it; type: efface figures sensitivity, or efface tune {held.typed} "
            f"--method jit --store {held.store.url}"
        )
    drawn = new_figure(3.4 * len(panels) + 0.6, 3.1)
    axes = drawn.subplots(1, len(panels), squeeze=False)[0]
    for ax, (search, (across, up)) in zip(axes, panels, strict=True):
        rows = table[table["search_id"] == search]
        _points(ax, rows, across, up, column)
        first = rows.iloc[0]
        where = [first["dataset"], first["model"], first["scenario"], first["target"]]
        named = [name_of(first["method"]), *(word for word in where if word is not None)]
        ax.set_title("\n".join([" · ".join(named), f"{first['objective']} on {first['judged_on']}"]))
    drawn.colorbar(ScalarMappable(Normalize(0, 100), HEAT), ax=list(axes), label=title)
    chosen = table[table["search_id"].isin([search for search, _ in panels])]
    lost = int((chosen["status"] != "ok").sum())
    small = (
        f"suite {held.plan.suite.name} · {len(chosen)} trials, {lost} of them diverged or failed (crosses) · "
        f"{' and '.join(chosen['device'].dropna().unique())}"
    )
    add_footer(drawn, small)
    caption = (
        f"{title.capitalize()} of each trial of a search over two hyper-parameters (Figure {number} "
        "of the paper, "
        f"from trials instead of a grid): means over the search's seeds.\n{small}"
    )
    yield Drawn(stem_of(held.plan.suite.name, "trials", column), drawn, caption, chosen)


def _of_suite(held: Held) -> pd.DataFrame:
    """The trials of searches for the settings and methods of the suite, or the selected part of it."""
    table: pd.DataFrame = read_all(held.store).to_pandas()
    settings = {
        (w.spec.method, w.spec.task.dataset, w.spec.task.model, w.spec.task.scenario, w.spec.task.profile)
        for w in held.wanted
    }
    keys = ["method", "dataset", "model", "scenario", "profile"]
    mine = [tuple(row) in settings for row in table[keys].itertuples(index=False)]
    return table[np.array(mine, dtype=bool)].reset_index(drop=True)


def _axes(rows: pd.DataFrame) -> Sequence[str]:
    """The two numbers that are drawn: η and σ where there are such, else the first ones."""
    drawn = pd.DataFrame([json.loads(text) for text in rows["drawn"]])
    kinds = pd.api.types
    numbers = [
        str(n) for n in drawn if kinds.is_numeric_dtype(drawn[n]) and not kinds.is_bool_dtype(drawn[n])
    ]
    return sorted(numbers, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))[:2]


def _points(ax: Axes, rows: pd.DataFrame, across: str, up: str, column: str) -> None:
    drawn = pd.DataFrame([json.loads(text) for text in rows["drawn"]])
    ok = (rows["status"] == "ok").to_numpy()
    score = 100 * rows[column].to_numpy(float)
    ax.scatter(
        drawn.loc[ok, across],
        drawn.loc[ok, up],
        c=score[ok],
        cmap=HEAT,
        norm=Normalize(0, 100),
        s=16,
        edgecolors="#404040",
        linewidths=0.3,
    )
    ax.scatter(drawn.loc[~ok, across], drawn.loc[~ok, up], marker="x", c="#404040", s=14, linewidths=0.8)
    for name, scale in ((across, ax.set_xscale), (up, ax.set_yscale)):
        values = drawn[name].astype(float)
        if values.min() > 0 and values.max() > DECADE * values.min():
            scale("log")
    ax.set_xlabel(across)
    ax.set_ylabel(up)
