"""One trial in a worker: the runs of one point, through the same stages as a sweep, judged by the "
"objective."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from harness.plan import Job
from harness.rows import FINISHED, Row
from harness.search.definition import Search
from harness.search.objectives import PARTS, Scores, Truth
from harness.spec import RunSpec, Value

if TYPE_CHECKING:
    from harness.workspace import Workspace

KEPT = ("status", "seconds", "seconds_total", *PARTS, *(f"val_{part}" for part in PARTS), "masked_distance")


@dataclass(frozen=True)
class Trial:
    """A point to try, as the sampler drew it."""

    number: int
    drawn: Mapping[str, Value]
    generation: int | None = None  # of a sampler that breeds
    known: Mapping[str, Row] = field(default_factory=dict)  # scores of its runs that others have computed


@dataclass
class Evaluator:
    """Tries points. `known` holds the scores of runs that the store has already, by run id."""

    search: Search
    space: Workspace
    truth: Truth | None
    known: dict[str, Row] = field(default_factory=dict)

    def __call__(self, trial: Trial) -> Row:
        """The trial's row; whatever goes wrong inside is in it."""
        started, wall, begun = datetime.now(UTC), time.perf_counter(), self._clock()
        runs = self.search.runs(trial.drawn)
        self.known.update(trial.known)
        rows: list[tuple[RunSpec, Row]] = []
        reused = 0
        for spec in runs:
            reused += spec.id in self.known
            rows.append((spec, self.known.get(spec.id) or self._run(spec)))
            if rows[-1][1]["status"] != "ok":
                break
        return {
            **describe(self.search, trial),
            **self._facts(rows),
            **self._judge(rows),
            "runs": ",".join(spec.id for spec in runs),
            "run_scores": json.dumps({spec.id: _kept(row) for spec, row in rows}),
            "reused": reused,
            "started_at": started,
            "device_seconds": self._clock() - begun,
            "wall_seconds": time.perf_counter() - wall,
        }

    def _run(self, spec: RunSpec) -> Row:
        from harness.stages import execute

        row = execute(Job(spec, self.search.suite, self.search.objective.metrics, "tuned"), self.space)
        row |= json.loads(row.get("scores") or "{}")
        if row["status"] in FINISHED:
            self.known[spec.id] = _kept(row)
        return row

    def _clock(self) -> float:
        """Seconds of the device: what a core really worked, so that a busy machine does not shorten a search
        by seconds; on a GPU, whose work no such clock counts, wall time.
        """
        return time.process_time() if self.space.device.type == "cpu" else time.perf_counter()

    def _facts(self, rows: list[tuple[RunSpec, Row]]) -> Row:
        from harness.provenance import worker_facts

        facts = worker_facts(self.space.device)
        names = ("device", "host", "torch_version")
        return {name: facts[name] for name in names} | {
            "data_digest": self.space.loaded(self.search.task.dataset).digest
        }

    def _judge(self, rows: list[tuple[RunSpec, Row]]) -> Row:
        objective = self.search.objective
        last = rows[-1][1]
        if last["status"] != "ok":
            return lost(self.search, last["status"], last.get("error_type"), last.get("error_message"))
        scores = Scores(
            [((spec.task.target, spec.seed), row) for spec, row in rows],
            objective.prefix,
            self.search.deterministic,
            self.truth,
        )
        values, gaps = objective.values(scores), scores.gaps()
        return {
            "status": "ok",
            "value": _value(values, gaps),
            "values": json.dumps(values),
            "collapsed": scores.collapsed(),
            "seconds": scores.seconds(),
            **{f"gap_{part}": gap for part, gap in gaps.items()},
            **{part: scores.mean(part) for part in PARTS},
        }


def _value(values: Mapping[str, float], gaps: Mapping[str, float]) -> float:
    """The objective; of several, the mean of those that are gaps."""
    if len(values) == 1:
        return next(iter(values.values()))
    return statistics.fmean(value for name, value in values.items() if name in gaps)


def _kept(row: Row) -> Row:
    return {name: row[name] for name in KEPT if row.get(name) is not None}


def lost(search: Search, status: str, kind: str | None, message: str | None) -> Row:
    """What the row of a trial without scores says: a finite penalty."""
    worst = search.objective.worst()
    return {
        "status": "diverged" if status == "diverged" else "failed",
        "value": _value(worst, dict.fromkeys(PARTS, 0.0)),
        "values": json.dumps(worst),
        "error_type": kind,
        "error_message": message,
    }


def describe(search: Search, trial: Trial) -> Row:
    """What a trial's row says before it is tried."""
    task = search.task
    return {
        "search_id": search.id,
        "number": trial.number,
        "generation": trial.generation,
        "suite": search.suite,
        "profile": task.profile,
        "dataset": task.dataset,
        "model": task.model,
        "scenario": task.scenario,
        "target": search.target,
        "count": task.count,
        "method": search.method,
        "method_version": search.method_version,
        "train_seed": search.original.train_seed,
        "seeds": ",".join(map(str, search.seeds)),
        "sampler": search.sampler,
        "sampler_seed": search.sampler_seed,
        "objective": search.objective_name,
        "judged_on": search.objective.judged_on,
        "drawn": json.dumps(dict(trial.drawn)),
        "params": json.dumps(dict(search.space.params(search.base, trial.drawn))),
    }


def scores_of(row: Mapping[str, Any]) -> Row:
    """The scores of a run's row in a store, as trials keep them."""
    return _kept({**row, **json.loads(row.get("scores") or "{}")})
