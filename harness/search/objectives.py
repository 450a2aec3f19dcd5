"""What a search minimises, by name: pure functions of the scores of a trial's runs.

The gap is the mean of |Δ retain_acc|, |Δ forget_acc| and |Δ mia| in points, to the retrained model of the
same forget set. A trial that diverges or fails has no scores: it gets `PENALTY`. One whose retain accuracy
fell below half of the original's has collapsed: `COLLAPSE` points are added, so that a model that answers
nothing can never win.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import Misuse, unknown
from harness.spec import Task, scenario_family

PENALTY = 200.0  # points; worse than any model that was scored
PENALTY_SECONDS = 1e6  # longer than any method takes: else a trial that diverged is on the front
COLLAPSE = 100.0
COLLAPSED_BELOW = 0.5  # of the original's retain accuracy
PARTS = ("retain_acc", "forget_acc", "mia")
POINTS = 100.0


Case = tuple[str | None, int]  # what is forgotten, and the seed that draws it


@dataclass(frozen=True)
class Truth:
    """What the runs of a search are compared with."""

    retrained: Mapping[Case, Mapping[str, float]]  # each of PARTS
    original_retain: float  # accuracy of the untouched model on what stays, the mean over targets

    def of(self, case: Case, deterministic: bool) -> Mapping[str, float]:
        """The retrained model of a case; of a run that stands for all seeds, their mean."""
        if not deterministic:
            return self.retrained[case]
        same = [scores for (target, _), scores in self.retrained.items() if target == case[0]]
        return {part: statistics.fmean(scores[part] for scores in same) for part in PARTS}


@dataclass(frozen=True)
class Scores:
    """The runs of one trial, finished and finite."""

    runs: Sequence[tuple[Case, Mapping[str, Any]]]  # with the columns of each row
    prefix: str  # of the columns that are judged: "val_" on the tuning half
    deterministic: bool
    truth: Truth | None

    def mean(self, column: str) -> float:
        """The mean of a judged column over the runs; a score that could not be computed counts as 0."""
        return statistics.fmean(float(row.get(self.prefix + column) or 0.0) for _, row in self.runs)

    def gaps(self) -> dict[str, float]:
        """Mean distance to retrain of each part, in points; empty where no retrain is known."""
        if self.truth is None:
            return {}
        return {
            part: statistics.fmean(
                POINTS
                * abs(
                    float(row.get(self.prefix + part) or 0.0) - self.truth.of(case, self.deterministic)[part]
                )
                for case, row in self.runs
            )
            for part in PARTS
        }

    def collapsed(self) -> bool:
        if self.truth is None:
            return False
        return self.mean("retain_acc") < COLLAPSED_BELOW * self.truth.original_retain

    def seconds(self) -> float:
        return statistics.fmean(float(row.get("seconds") or 0.0) for _, row in self.runs)


@dataclass(frozen=True)
class Objective:
    """One way to judge a trial. `values` gives each number to be minimised, by name."""

    name: str
    summary: str
    judged_on: str  # tuning half | test set | forget set
    names: tuple[str, ...]
    values: Callable[[Scores], dict[str, float]]
    needs_retrain: bool = True
    metrics: tuple[str, ...] = PARTS

    @property
    def prefix(self) -> str:
        return "val_" if self.judged_on == "tuning half" else ""

    def worst(self) -> dict[str, float]:
        """What a trial without scores gets."""
        return {name: PENALTY_SECONDS if name == "seconds" else PENALTY for name in self.names}


def _gap(scores: Scores) -> dict[str, float]:
    return {"gap": statistics.fmean(scores.gaps().values()) + COLLAPSE * scores.collapsed()}


def _parts(scores: Scores) -> dict[str, float]:
    extra = COLLAPSE * scores.collapsed()
    return {**{part: gap + extra for part, gap in scores.gaps().items()}, "seconds": scores.seconds()}


def _masked(scores: Scores) -> dict[str, float]:
    return {
        "masked_distance": POINTS * statistics.fmean(float(row["masked_distance"]) for _, row in scores.runs)
    }


OBJECTIVES: Mapping[str, Objective] = {
    each.name: each
    for each in (
        Objective("gap_to_retrain", "mean gap to a true retrain, points", "tuning half", ("gap",), _gap),
        Objective(
            "gap_to_retrain_test",
            "the same on the images that are reported, as a search without a tuning half must",
            "test set",
            ("gap",),
            _gap,
        ),
        Objective(
            "pareto",
            "gaps of retain, forget and mia to a true retrain, and the method's seconds: a front",
            "tuning half",
            (*PARTS, "seconds"),
            _parts,
        ),
        Objective(
            "retrain_free",
            "distance on the forgotten images to the original's outputs without the class, points: "
            "what a user has who holds neither retained data nor a retrain",
            "forget set",
            ("masked_distance",),
            _masked,
            needs_retrain=False,
            metrics=(*PARTS, "masked_distance"),
        ),
    )
}


def find_objective(name: str | None, task: Task) -> Objective:
    """An objective by name, or a profile's own. Misuse where the profile or scenario cannot compute it."""
    if name is None:
        name = "gap_to_retrain" if task.profile == "corrected" else "gap_to_retrain_test"
    if name not in OBJECTIVES:
        raise unknown("objective", name, OBJECTIVES)
    found = OBJECTIVES[name]
    if found.judged_on == "tuning half" and task.profile != "corrected":
        raise Misuse(
            f"--objective {name}: profile {task.profile} has no tuning half of the test set; type "
            "--objective "
            "gap_to_retrain_test (judged on what is reported), or search in a suite of profile corrected"
        )
    if name == "retrain_free" and scenario_family(task.scenario) != "full_class":
        raise Misuse(
            f"--objective {name}: of {task.scenario} nobody knows without a retrain what should be "
            "said of the "
            "forgotten images; it is defined for full_class, elsewhere type --objective gap_to_retrain"
        )
    return found
