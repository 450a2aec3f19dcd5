"""Figures 2 and 3: what forgetting does to a boundary in the plane, and to a sigmoid.

The test half of the data sets points2d and points1d is a grid, so the outputs stored with a run are its model
on the whole plane or line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from harness.errors import Misuse
from harness.figures.canvas import (
    STYLES,
    TWO_CLASSES,
    Drawn,
    add_footer,
    footer,
    name_of,
    new_figure,
    stem_of,
)
from harness.figures.stored import Halves, Held, settings_of
from harness.suite import Wanted
from tasks.api import Data, Outputs, Split
from tasks.datasets.lowdim import GRID_SIDE, coordinates
from tasks.metrics.entropy import softmax

Array = NDArray[np.floating]
RETRAINED = STYLES[1]
FORGOTTEN = "#c1121f"


@dataclass(frozen=True)
class Scene:
    """One forget set: the data, what is forgotten, and every model on them, original and retrained first."""

    target: str
    data: Data
    split: Split
    models: dict[str, Halves]
    wanted: list[Wanted]

    def agreement(self, name: str) -> float:
        """Share of the grid on which a model predicts as the retrained one does."""
        mine, other = self.models[name]["test"], self.models[name_of("retrain")]["test"]
        return float((mine.logits.argmax(1) == other.logits.argmax(1)).mean())

    def still_own(self, name: str) -> int:
        """How many of the forgotten points a model still gives their own class."""
        gone = self.models[name]["train"].take(self.split.forget)
        return int((gone.logits.argmax(1) == gone.labels).sum())

    def places(self, half: str) -> Array:
        """(N, D) coordinates."""
        return coordinates(getattr(self.data, half).images)


def right(outputs: Outputs) -> Array:
    """Probability (N,) of the second class."""
    return softmax(outputs.logits)[:, 1]


def scenes(held: Held, dataset: str, figure: str) -> list[Scene]:
    """A scene for each forget set of a data set, in the order of the suite, each with its first seeds."""
    found = []
    settings = settings_of(held.wanted).items()
    firsts = {key[3]: _first_of_each(runs) for key, runs in settings if key[0] == dataset}
    held.of([w for first in firsts.values() for w in first], figure)
    for target, first in firsts.items():
        if len(first) + 2 > len(STYLES):
            raise Misuse(
                f"figure {figure}: {len(first)} methods, expected at most {len(STYLES) - 2} beside "
                "original and retrained; choose with --methods"
            )
        models = {
            name_of("baseline"): held.reference(first[0].spec.original, figure),
            name_of("retrain"): held.reference(first[0].retrain, figure),
        }
        models |= {name_of(w.spec.method): held.outputs(w, figure) for w in first}
        split = held.split(first[0], models[name_of("baseline")])
        found.append(Scene(str(target), held.data(first[0]), split, models, first))
    if not found:
        raise Misuse(
            f"figure {figure}: suite {held.plan.suite.name} has no method on data set {dataset}; "
            "type: efface figures lowdim"
        )
    return found


def _first_of_each(runs: list[Wanted]) -> list[Wanted]:
    """The first run of each method, in the order of the suite."""
    firsts: dict[str, Wanted] = {}
    for wanted in runs:
        firsts.setdefault(wanted.spec.method, wanted)
    return list(firsts.values())


def _rows(held: Held, drawn: list[Scene], figure: str) -> pd.DataFrame:
    return held.of([w for scene in drawn for w in scene.wanted], figure)


def _table(drawn: list[Scene]) -> pd.DataFrame:
    """Agreement with the retrained model, and what each says of the forgotten points."""
    rows: list[dict[str, Any]] = []
    for scene in drawn:
        forgotten = scene.split.forget
        for name, halves in scene.models.items():
            train = halves["train"]
            p = softmax(train.logits[forgotten])[np.arange(len(forgotten)), train.labels[forgotten]]
            rows.append(
                {
                    "forgotten": scene.target,
                    "points": len(forgotten),
                    "model": name,
                    "grid_agreement_with_retrained": scene.agreement(name),
                    "still_in_own_class": scene.still_own(name),
                    "mean_probability_of_own_class": float(p.mean()),
                }
            )
    return pd.DataFrame(rows)


def _settings(drawn: list[Scene]) -> str:
    """Seeds and hyper-parameters in words."""
    told = {}
    for wanted in (w for scene in drawn for w in scene.wanted):
        fields = ", ".join(f"{key}={value}" for key, value in wanted.spec.params)
        told[f"{name_of(wanted.spec.method)} ({wanted.spec.method}): {fields}; seed {wanted.spec.seed}"] = (
            True
        )
    return ". ".join(told)


# -------------------- Figure 2


def boundaries(held: Held) -> Iterator[Drawn]:
    """Figure 2: a row for each forget set, a column for each model."""
    drawn = scenes(held, "points2d", "boundaries")
    columns = list(drawn[0].models)
    figure = new_figure(1.75 * len(columns) + 0.4, 2.05 * len(drawn) + 0.75)
    axes = figure.subplots(len(drawn), len(columns), squeeze=False, sharex=True, sharey=True)
    for row, scene in zip(axes, drawn, strict=True):
        for ax, name in zip(row, columns, strict=True):
            _plane(ax, scene, name)
        row[0].set_ylabel(f"forget “{scene.target}”", fontsize=8.5)
    for ax, name in zip(axes[0], columns, strict=True):
        ax.set_title(name)
    _plane_legend(figure, axes[0, 0])
    rows = _rows(held, drawn, "boundaries")
    small = footer(held.plan, rows, "references of the same seeds")
    add_footer(figure, small)
    caption = (
        "Decision boundaries in the plane (Figure 2 of the paper, on points of our own). Shade: probability "
        "of the class right. Solid line: where the model is undecided; dashed: where the retrained one is. "
        "Below each picture: share of the plane on which it predicts as the retrained model does, and what "
        "it says of the forgotten points. "
        f"{_settings(drawn)}.\n{small}"
    )
    yield Drawn(stem_of(held.plan.suite.name, "boundaries"), figure, caption, _table(drawn))


def _plane(ax: Axes, scene: Scene, name: str) -> None:
    """One model over the plane, with the training points on it."""
    side = GRID_SIDE[2]
    p, other = (right(scene.models[key]["test"]).reshape(side, side).T for key in (name, name_of("retrain")))
    axis = scene.places("test").reshape(side, side, 2)[:, 0, 0]  # the first coordinate is the slower one
    ax.contourf(axis, axis, p, levels=np.linspace(0, 1, 11), cmap=TWO_CLASSES)
    lines: list[tuple[Array, str, Any]] = [(other, RETRAINED.colour, RETRAINED.line), (p, "black", "-")]
    for level, colour, line in lines[: 1 if name == name_of("retrain") else 2]:
        if np.ptp(np.sign(level - 0.5)):  # a model that decides for one class everywhere has no boundary
            ax.contour(axis, axis, level, [0.5], colors=[colour], linestyles=[line], linewidths=1.4)
    places, labels = scene.places("train"), scene.data.train.labels.numpy()
    kept, gone = np.isin(np.arange(len(places)), scene.split.retain), scene.split.forget
    for label, marker in enumerate("o^"):
        x, y = places[kept & (labels == label)].T
        ax.scatter(x, y, s=6, marker=marker, facecolors="none", edgecolors="#303030", linewidths=0.5)
    x, y = places[gone].T
    ax.scatter(x, y, s=16, marker="X", c=FORGOTTEN, edgecolors="white", linewidths=0.4, zorder=3)
    ax.set(xticks=[], yticks=[], aspect="equal", xlim=(-1, 1), ylim=(-1, 1))
    for spine in ax.spines.values():
        spine.set_visible(True)
    still = f"{scene.still_own(name)} of {len(gone)} forgotten points in own class"
    ax.set_xlabel(f"as retrained on {100 * scene.agreement(name):.1f} %\n{still}", fontsize=6.5)


def _plane_legend(figure: Figure, ax: Axes) -> None:
    handles: list[Any] = [
        ax.plot([], [], "-", color="black", lw=1.5, label="boundary")[0],
        ax.plot([], [], ls=RETRAINED.line, color=RETRAINED.colour, lw=1.3, label="retrained boundary")[0],
        ax.plot([], [], "o", mfc="none", mec="#303030", ms=4, label="class left")[0],
        ax.plot([], [], "^", mfc="none", mec="#303030", ms=4, label="class right")[0],
        ax.plot([], [], "X", color=FORGOTTEN, mec="white", ms=5, label="forgotten")[0],
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=5, fontsize=7, frameon=False)


# -------------------- Figure 3


def sigmoids(held: Held) -> Iterator[Drawn]:
    """Figure 3: a panel for each forget set, a curve for each model."""
    drawn = scenes(held, "points1d", "sigmoid")
    figure = new_figure(3.3 * len(drawn) + 0.3, 3.0)
    axes = figure.subplots(1, len(drawn), squeeze=False, sharey=True)[0]
    for ax, scene in zip(axes, drawn, strict=True):
        _line(ax, scene)
    axes[0].set_ylabel("probability of class right")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(handles), fontsize=7, frameon=False)
    rows = _rows(held, drawn, "sigmoid")
    small = footer(held.plan, rows, "references of the same seeds")
    add_footer(figure, small)
    caption = (
        "A logistic regression before and after (Figure 3 of the paper, on points of our own). Crosses: "
        "forgotten points on the original curve; black dots: the same points on the curve after JiT. Ticks: "
        f"retained training points of each class. {_settings(drawn)}.\n{small}"
    )
    yield Drawn(stem_of(held.plan.suite.name, "sigmoid"), figure, caption, _table(drawn))


def _line(ax: Axes, scene: Scene) -> None:
    """All models over the line."""
    x = scene.places("test")[:, 0]
    for style, (name, halves) in zip(STYLES, scene.models.items(), strict=False):
        ax.plot(x, right(halves["test"]), color=style.colour, ls=style.line, lw=1.6, label=name)
    gone, places = scene.split.forget, scene.places("train")[:, 0]
    before = right(scene.models[name_of("baseline")]["train"].take(gone))
    ax.plot(places[gone], before, "X", color=FORGOTTEN, mec="white", ms=6.5, mew=0.5, label="forgotten")
    if name_of("jit") in scene.models:
        after = right(scene.models[name_of("jit")]["train"].take(gone))
        ax.plot(places[gone], after, "o", color="black", ms=3, label="after JiT", zorder=4)
    labels = scene.data.train.labels.numpy()
    for label, height in enumerate((-0.05, 1.05)):
        kept = scene.split.retain[labels[scene.split.retain] == label]
        ax.plot(places[kept], np.full(len(kept), height), "|", color="#606060", ms=5, mew=0.6)
    ax.axhline(0.5, color="#a0a0a0", lw=0.5, zorder=0)
    told = ", ".join(
        f"{name} {100 * scene.agreement(name):.1f} %" for name in scene.models if name != name_of("retrain")
    )
    ax.set_title(f"forget “{scene.target}”\n")
    ax.text(0.5, 1.02, f"as retrained on: {told}", transform=ax.transAxes, ha="center", fontsize=6)
    ax.set(xlabel="x", xlim=(-1, 1), ylim=(-0.1, 1.1), xticks=np.linspace(-1, 1, 5))
