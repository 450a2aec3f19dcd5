"""The figures of Foster et al., "An Information Theoretic Approach to Machine Unlearning", TMLR 2025.

Each is drawn from rows and stored outputs alone; nothing is trained here. A figure has a name and the paper's
number, and says which suites are made for it:

    boundaries        2   decision boundaries in the plane              with data set points2d
    sigmoid           3   a sigmoid before and after                    with data set points1d
    entropy           4   entropy of forgotten and of retained images   with one method and the references
    runtime           5   median seconds in both definitions            all others
    sensitivity       7   retain accuracy over η and σ                  with a grid over two hyper-parameters
    sensitivity_mia   8   MIA over η and σ                              the same
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import matplotlib as mpl

from harness.errors import Misuse, did_you_mean
from harness.figures.canvas import PARAMETERS, Drawn, save
from harness.figures.entropy import histograms
from harness.figures.lowdim import boundaries, sigmoids
from harness.figures.runtime import runtimes
from harness.figures.sensitivity import axes_of, heat_maps
from harness.figures.stored import Held
from harness.plan import Plan
from harness.spec import REFERENCES


@dataclass(frozen=True)
class Kind:
    """One figure: how it is drawn, and which suites are made for it."""

    number: str  # in the paper
    draw: Callable[[Held], Iterator[Drawn]]
    made_for: Callable[[Plan], bool]


@dataclass
class Made:
    """The files that were written, and why some figures could not be drawn."""

    paths: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def _has(dataset: str, plan: Plan) -> bool:
    return any(row.dataset == dataset for row in plan.suite.tasks)


def _compares_one(plan: Plan) -> bool:
    methods = {method for row in plan.suite.tasks for method in row.methods}
    points = any(row.dataset in ("points1d", "points2d") for row in plan.suite.tasks)
    return len(methods - set(REFERENCES)) == 1 and methods > set(REFERENCES) and not _has_grid(plan, points)


def _has_grid(plan: Plan, points: bool = False) -> bool:
    return points or axes_of(plan) is not None


FIGURES: dict[str, Kind] = {
    "boundaries": Kind("2", boundaries, partial(_has, "points2d")),
    "sigmoid": Kind("3", sigmoids, partial(_has, "points1d")),
    "entropy": Kind("4", histograms, _compares_one),
    "runtime": Kind("5", runtimes, lambda plan: len(_special(plan)) == 0),
    "sensitivity": Kind("7", partial(heat_maps, column="retain_acc"), _has_grid),
    "sensitivity_mia": Kind("8", partial(heat_maps, column="mia"), _has_grid),
}


def _special(plan: Plan) -> list[str]:
    return [name for name, kind in FIGURES.items() if name != "runtime" and kind.made_for(plan)]


def chosen(name: str | None, plan: Plan) -> list[str]:
    """A figure by its name or the paper's number; without a name those that the suite is made for."""
    if name is None:
        return _special(plan) or ["runtime"]
    numbers = {kind.number: known for known, kind in FIGURES.items()}
    found = numbers.get(name, name)
    if found not in FIGURES:
        raise Misuse(f"unknown figure {name!r}; {did_you_mean(name, [*FIGURES, *numbers])}")
    return [found]


def make(names: Sequence[str], held: Held, folder: Path, formats: Sequence[str]) -> Made:
    """Draw and save the named figures. One that cannot be drawn is told of and does not stop the others.

    Raises Misuse where it is the only one.
    """
    made = Made()
    for name in names:
        try:
            with mpl.rc_context(PARAMETERS):
                for drawn in FIGURES[name].draw(held):
                    made.paths += save(drawn, folder, formats)
        except Misuse as error:
            if len(names) == 1:
                raise
            made.problems.append(str(error))
    return made
