"""Figure 4: does the entropy of forgotten images look as if they had never been seen?

The paper shows the forgotten images and a test that does not reject. Here the retained images stand beside
them, and with each p-value an effect size and a distance: failing to reject is weak evidence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from harness.errors import Misuse
from harness.figures.canvas import STYLES, Drawn, add_footer, footer, name_of, new_figure, stem_of
from harness.figures.stored import Halves, Held, settings_of
from harness.statistics import compare
from harness.suite import Wanted
from tasks.api import Split
from tasks.metrics.entropy import entropy

Array = NDArray[np.floating]
Entropies = dict[str, dict[str, Array]]  # of "forget" and "retain": model → nats of each image
PARTS = {"forget": "forgotten images, $D_f$", "retain": "retained images, $D_r$"}
SMALLEST = 1e-8  # nats: what is below is drawn there
BINS = (12, 40)  # fewest and most
MOST_METHODS = len(STYLES) - 2
HEADS = (
    *("", "", "n", "Wilcoxon p", "rank-biserial r", "Cliff's δ", "W₁ (nats)"),
    *("p over all seeds", "r over all seeds"),
)
SEEDS = ["train_seed", "seed"]
KEYS = ("p", "rank_biserial")  # of which the table gives the range over all seeds


def histograms(held: Held) -> Iterator[Drawn]:
    """One figure for each setting: the first seed as histograms, all seeds as numbers."""
    settings = settings_of(held.wanted)
    if not settings:
        raise Misuse(
            f"figure entropy: suite {held.plan.suite.name} has no method to compare with its retrain, "
            "only references; add jit to its methods"
        )
    for key, wanted in settings.items():
        yield _one(held, key, _methods(held, wanted))


def _methods(held: Held, wanted: list[Wanted]) -> list[Wanted]:
    """The runs to show: those of JiT where a suite has many methods."""
    names = {w.spec.method for w in wanted}
    if len(names) > MOST_METHODS and "jit" in names:
        names = {"jit"}
    shown = [w for w in wanted if w.spec.method in names]
    settings = len({(w.spec.method, w.spec.params) for w in shown})
    if settings > len(names) or len(names) > MOST_METHODS:
        raise Misuse(
            f"figure entropy: suite {held.plan.suite.name} has {len(names)} methods in {settings} settings, "
            f"expected at most {MOST_METHODS} in one each; choose with --methods, or a suite without a grid"
        )
    return shown


def _one(held: Held, key: tuple[Any, ...], wanted: list[Wanted]) -> Drawn:
    rows = held.of(wanted, "entropy")
    shown, table = _every_seed(held, wanted)
    figure = new_figure(6.8, 5.4)
    layout: Any = [["forget", "retain"], ["forget below", "retain below"], ["table", "table"]]
    panels = figure.subplot_mosaic(layout, height_ratios=[2.2, 1.6, 1.1])
    for part, title in PARTS.items():
        _histogram(panels[part], shown[part], title)
        _shares(panels[f"{part} below"], shown[part])
    panels["forget"].set_ylabel("share of images")
    panels["forget below"].set_ylabel("share at or below")
    _legend(figure, panels["forget"])
    first = table[(table[SEEDS] == table[SEEDS].iloc[0]).all(axis=1)]
    _numbers(panels["table"], first, table)
    dataset, model, scenario, target, count = key
    what = " ".join(str(part) for part in (scenario, target, f"{count} images" if count else None) if part)
    figure.suptitle(f"{dataset} · {model} · {what}", fontsize=9)
    small = footer(held.plan, rows, f"shown: seed {first['seed'].iloc[0]}")
    add_footer(figure, small)
    stem = stem_of(held.plan.suite.name, "histograms", *key)
    return Drawn(stem, figure, _caption(table, small, what), table)


def _every_seed(held: Held, wanted: list[Wanted]) -> tuple[Entropies, pd.DataFrame]:
    """The entropies of the first seed, and the comparisons of all."""
    origins = dict.fromkeys((w.spec.original.train_seed, w.spec.seed) for w in wanted)
    shown: dict[tuple[int, int], Entropies] = {}
    lines: list[dict[str, Any]] = []
    for origin in origins:
        found = entropies(held, [w for w in wanted if (w.spec.original.train_seed, w.spec.seed) == origin])
        shown = shown or {origin: found}
        lines += [dict(zip(SEEDS, origin, strict=True)) | line for line in comparisons(found)]
    return next(iter(shown.values())), pd.DataFrame(lines)


# -------------------- numbers


def entropies(held: Held, runs: list[Wanted]) -> Entropies:
    """Entropy in nats of each forgotten and each retained training image, under each model of one seed."""
    first = runs[0]
    models: dict[str, Halves] = {
        "baseline": held.reference(first.spec.original, "entropy"),
        "retrain": held.reference(first.retrain, "entropy"),
    }
    models |= {run.spec.method: held.outputs(run, "entropy") for run in runs}
    split: Split = held.split(first, models["baseline"])
    return {
        part: {name: entropy(halves["train"].logits[getattr(split, part)]) for name, halves in models.items()}
        for part in PARTS
    }


def comparisons(found: Entropies) -> Iterator[dict[str, Any]]:
    """Every other model against the retrained one, image by image, on both sets."""
    for part, models in found.items():
        for name, values in models.items():
            if name == "retrain":
                continue
            line: dict[str, Any] = {"images": part, "model": name, "against": "retrain"}
            line |= {"mean": float(values.mean()), "mean_of_retrain": float(models["retrain"].mean())}
            yield line | asdict(compare(values, models["retrain"]))


# -------------------- drawing


def _histogram(ax: Axes, models: dict[str, Array], title: str) -> None:
    """The retrained model filled, the others as outlines; counts span orders of magnitude."""
    highest = max(float(values.max()) for values in models.values())
    images = len(next(iter(models.values())))
    bins = int(np.clip(1.5 * images**0.5, *BINS))
    edges = np.linspace(0, max(highest, 1e-3), bins + 1).tolist()
    for style, (name, values) in zip(STYLES, models.items(), strict=False):
        share = np.full(len(values), 1 / len(values))
        if name == "retrain":
            ax.hist(values, edges, weights=share, color="#d5dce4", edgecolor=style.colour, hatch=style.hatch,
                    histtype="stepfilled", lw=0.8, label=name_of(name), zorder=1)  # fmt: skip
        else:
            ax.hist(values, edges, weights=share, color=style.colour, ls=style.line, histtype="step",
                    lw=1.5, label=name_of(name), zorder=2)  # fmt: skip
    ax.set_yscale("log")
    ax.set_ylim(0.5 / images, 1.3)
    ax.set(title=f"{title} (n = {images})", xlabel="entropy (nats)", xlim=(0, edges[-1]))


def _shares(ax: Axes, models: dict[str, Array]) -> None:
    """The distribution functions over a logarithmic axis: most entropies are close to 0."""
    for style, values in zip(STYLES, models.values(), strict=False):
        ordered = np.sort(np.maximum(values, SMALLEST))
        ax.step(ordered, np.arange(1, len(ordered) + 1) / len(ordered), where="post", color=style.colour,
                ls=style.line, lw=1.3)  # fmt: skip
    ax.set(xscale="log", xlabel="entropy (nats)", ylim=(0, 1.03))


def _legend(figure: Figure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(handles), fontsize=7, frameon=False)


def _numbers(ax: Axes, lines: pd.DataFrame, every: pd.DataFrame) -> None:
    """The statistics of the seed that is shown as a small table, with their range over all seeds."""
    ranges = every.groupby(["images", "model"])[list(KEYS)].agg(["min", "max"])
    cells = []
    for line in lines.to_dict("records"):
        key = (line["images"], line["model"])
        p, r = ([float(ranges.loc[key][name, end]) for end in ("min", "max")] for name in KEYS)
        cells.append(
            [
                "forgotten" if line["images"] == "forget" else "retained",
                f"{name_of(line['model'])} – {name_of('retrain')}",
                f"{line['n']}",
                p_text(line["p"]),
                f"{line['rank_biserial']:+.3f}",
                f"{line['cliffs_delta']:+.3f}",
                f"{line['wasserstein']:.4f}",
                span(*map(p_text, p)),
                span(*(f"{value:+.3f}" for value in r)),
            ]
        )
    ax.axis("off")
    table = ax.table(cells, colLabels=list(HEADS), loc="center", edges="horizontal", cellLoc="right")
    table.auto_set_font_size(False)
    table.set_fontsize(7)
    table.auto_set_column_width(list(range(len(HEADS))))
    for cell in table.get_celld().values():
        cell.set_linewidth(0.4)


def p_text(p: float) -> str:
    """A p-value as printed; what underflows is a bound."""
    if p < 1e-300:
        return "< 1e-300"
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"


def span(least: str, most: str) -> str:
    """From the least to the most, or the one value that both are."""
    return least if least == most else f"{least} to {most}"


def _caption(table: pd.DataFrame, small: str, what: str) -> str:
    words = [
        f"Entropy of the predictions on the training images, {what} (Figure 4 of the paper; the paper shows "
        "forgotten images only). Above: histograms, vertical axis logarithmic. Below them: distribution "
        "functions over a logarithmic axis. Table: each model against the retrained one, image by image: "
        "two-sided Wilcoxon signed-rank test, matched-pairs rank-biserial correlation, Cliff's delta, "
        "Wasserstein-1 distance; positive effects: higher entropy than retrained. "
        "A p-value that is not small is weak evidence of likeness; read it beside the effect.",
    ]
    for (part, model), lines in table.groupby(["images", "model"], sort=False):
        p, r, w = ((lines[name].min(), lines[name].max()) for name in (*KEYS, "wasserstein"))
        words.append(
            f"{name_of(str(model))}, {PARTS[str(part)].split(',')[0]}, n = {len(lines)} seeds: "
            f"p {span(*map(p_text, p))}, r {span(*(f'{value:+.3f}' for value in r))}, "
            f"W1 {span(*(f'{value:.4f}' for value in w))}."
        )
    return "\n".join([*words, small])
