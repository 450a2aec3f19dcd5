"""Pictures of a search, drawn by Optuna from its trials: history, slice, contour, importances, front."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from harness.figures.canvas import Drawn, save, stem_of
from harness.search.objectives import PARTS
from harness.search.outcome import Finding

FORMATS = ("png", "svg")


def draw(finding: Finding, folder: Path) -> list[Path]:
    """Draw what the trials of a search allow; returns the files."""
    if len(finding.rows) < 2:
        return []
    return [path for drawn in _pictures(finding) for path in save(drawn, folder, FORMATS)]


def _pictures(finding: Finding) -> Iterator[Drawn]:
    mpl.use("Agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as plots

    from harness.search.study import open_study

    search = finding.search
    study = open_study(search, finding.rows)
    kinds: dict[str, Callable[..., Any]] = {
        "history": plots.plot_optimization_history,
        "slice": plots.plot_slice,
    }
    if finding.importances:
        kinds["importances"] = plots.plot_param_importances
    if len(search.space.dims) > 1:
        kinds["contour"] = plots.plot_contour
    several = len(search.objective.names) > 1
    words: dict[str, Any] = {"target_name": search.objective_name}
    if several:
        words["target"] = lambda trial: sum(trial.values[: len(PARTS)]) / len(PARTS)
    table = pd.DataFrame(list(finding.rows))
    for name, plot in kinds.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna calls its plots experimental
            plot(study, **words)
        figure: Figure = pyplot.gcf()
        figure.suptitle(f"{search.label}: {name}", fontsize=9)
        task = search.task
        stem = stem_of("search", name, search.method, task.dataset, task.model, task.scenario, search.id)
        caption = (
            f"{name} of search {search.id}: {search.label}, {len(table)} trials, {search.objective_name}"
        )
        yield Drawn(stem, figure, caption, table)
        pyplot.close(figure)
