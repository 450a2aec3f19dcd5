"""Figure 5: median runtimes in both definitions, the method alone and the paper's with evaluation.

Only rows that had their device to themselves are shown.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from harness.errors import Misuse
from harness.figures.canvas import STYLES, Drawn, add_footer, footer, name_of, new_figure, stem_of
from harness.figures.stored import Held

DEFINITIONS = {
    "seconds": ("method alone", STYLES[1]),
    "seconds_with_scoring": ("method and evaluation (the paper's)", STYLES[3]),
}
PLACE = ["dataset", "model"]


def runtimes(held: Held) -> Iterator[Drawn]:
    """One figure for each data set and model, with a panel for each scenario."""
    rows = held.of(held.wanted, "runtime")
    timed = rows[(rows["status"] == "ok") & rows["exclusive"].fillna(False).astype(bool)].copy()
    timed = timed.dropna(subset=["seconds", "seconds_scoring"])
    if timed.empty:
        raise Misuse(
            f"figure runtime: none of the {len(rows)} runs of suite {held.plan.suite.name} in "
            f"{held.store.url} had its device to itself; type: efface sweep {held.typed} --store NEW "
            "--per-gpu 1 (on a CPU: no more workers than cores)"
        )
    timed["seconds_with_scoring"] = timed["seconds"] + timed["seconds_scoring"]
    for place, group in timed.groupby(PLACE, sort=False):
        yield _one(held, tuple(str(part) for part in place), group, len(rows) - len(timed))


def medians(group: pd.DataFrame) -> pd.DataFrame:
    """Of each scenario and method: n, median and quartiles of both times, slowest method first."""
    keys = ["scenario", "method"]
    lines = []
    for (scenario, method), runs in group.groupby(keys, sort=False):
        line = {"scenario": scenario, "method": method, "n": len(runs)}
        for column in DEFINITIONS:
            low, middle, high = np.percentile(runs[column].astype(float), [25, 50, 75])
            line |= {f"{column}_q25": low, column: middle, f"{column}_q75": high}
        lines.append(line)
    return pd.DataFrame(lines).sort_values(["scenario", "seconds"], ascending=[True, False], kind="stable")


def _one(held: Held, place: tuple[str, ...], group: pd.DataFrame, left_out: int) -> Drawn:
    table = medians(group)
    scenarios = list(dict.fromkeys(group["scenario"]))
    most = int(table.groupby("scenario").size().max())
    figure = new_figure(max(3.6, 3.1 * len(scenarios)), 0.3 * most + 1.5)
    axes = figure.subplots(1, len(scenarios), squeeze=False)[0]
    for ax, scenario in zip(axes, scenarios, strict=True):
        _bars(ax, table[table["scenario"] == scenario])
        ax.set_title(" · ".join([*place, scenario]))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, fontsize=7, frameon=False)
    more = f"{left_out} runs without a time of their own left out" if left_out else ""
    small = footer(held.plan, group, more)
    add_footer(figure, small)
    caption = (
        f"Runtimes on {' · '.join(place)} (Figure 5 of the paper): medians over targets and seeds, whiskers "
        "from the lower to the upper quartile, logarithmic axis; only runs that had their device to "
        "themselves. Method alone: synchronised and warmed up, for retrained its training, for original "
        "nothing. The paper's definition adds the evaluation after it; its evaluations in between and its "
        f"attack that reads one image at a time are not repeated here.\n{small}"
    )
    return Drawn(stem_of(held.plan.suite.name, "runtime", *place), figure, caption, table)


def _bars(ax: Axes, lines: pd.DataFrame) -> None:
    """Two bars for each method, the slowest on top."""
    height = 0.38
    places = np.arange(len(lines))[::-1]
    floor = _floor(lines)
    for number, (column, (label, style)) in enumerate(DEFINITIONS.items()):
        values = lines[column].to_numpy(float)
        at = places + (0.5 - number) * height
        whiskers = np.abs(lines[[f"{column}_q25", f"{column}_q75"]].to_numpy(float).T - values)
        ax.barh(at, np.maximum(values, floor), height, color=style.colour, hatch=style.hatch, label=label,
                edgecolor="white", lw=0.4)  # fmt: skip
        seen = values > 0
        ax.errorbar(
            values[seen], at[seen], xerr=whiskers[:, seen], fmt="none", ecolor="#303030", lw=0.8, capsize=1.5
        )
        ends = lines[f"{column}_q75"].to_numpy(float)
        for value, end, y in zip(values, ends, at, strict=True):
            ax.annotate(f"{value:.3g} s", (max(end, floor), y), (3, 0), textcoords="offset points",
                        va="center", fontsize=5.5)  # fmt: skip
    ax.set_xscale("log")
    ax.set_xlim(floor, lines["seconds_with_scoring_q75"].max() * 6)
    names = [f"{name_of(method)} ({n})" for method, n in zip(lines["method"], lines["n"], strict=True)]
    ax.set_yticks(places, names, fontsize=7)
    ax.set_xlabel("seconds")


def _floor(lines: pd.DataFrame) -> float:
    """Where the logarithmic axis begins: below the shortest time that is not 0."""
    values = lines[list(DEFINITIONS)].to_numpy(float)
    return float(10 ** np.floor(np.log10(values[values > 0].min()) - 0.2)) if (values > 0).any() else 1e-3
