"""The engine on Ray Tune: OptunaSearch asks, actors that are reused try, data and originals stay loaded in
them.

What Tune remembers lies in a temporary folder and is thrown away: a search goes on from its Parquet trials.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from harness.errors import Misuse
from harness.execute.faults import is_broken
from harness.execute.limits import LONG_SECONDS, MANY_TIMES
from harness.execute.room import DEMAND, Nodes, lack_of_room, limit_of, places
from harness.provenance import code_digest, driver_facts
from harness.rows import Row
from harness.search.book import Book
from harness.search.definition import Search
from harness.search.evaluate import Evaluator, Trial, describe, lost
from harness.search.objectives import Truth
from harness.search.study import distributions, remember, sampler_of, tried_again
from harness.sweep import QUIET_SECONDS
from harness.workspace import Settings

QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # a trial is one row, not five files
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends a search as it ends a sweep
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_WARN_THRESHOLD_S": "600",
    "TUNE_MAX_PENDING_TRIALS_PG": "auto",
    "RAY_AIR_NEW_OUTPUT": "0",
}
LOST_TWICE = 2  # how often a trial is tried again after its worker died
ENDLESS_SECONDS = 300.0  # no trial is given up before that, and none before MANY_TIMES the longest so far


@dataclass(frozen=True)
class Workers:
    """Where trials run."""

    settings: Settings
    concurrent: int | None  # None: as many as the cluster has room for
    address: str | None = None
    gpus_each: float = 0.0


@dataclass(frozen=True)
class Errand:
    """What a worker is told once: plain data, small enough to be sent with each actor."""

    search: Search
    settings: Settings
    truth: Truth | None
    known: dict[str, Row]
    code: str


_EVALUATORS: dict[str, Evaluator] = {}  # of this worker process: it outlives its trials


def _evaluator(errand: Errand) -> Evaluator:
    from harness import registry
    from harness.workspace import Workspace

    key = errand.search.id
    if key not in _EVALUATORS:
        if code_digest() != errand.code:
            raise RuntimeError(
                f"this worker runs other code ({code_digest()}) than the driver ({errand.code})"
            )
        told = replace(errand.settings, plugins=tuple(map(_here, errand.settings.plugins)))
        space = Workspace(told, registry.load(told.plugins))
        _EVALUATORS[key] = Evaluator(errand.search, space, errand.truth, errand.known)
    return _EVALUATORS[key]


def _on(workers: Workers, nodes: Nodes, most: Mapping[str, float] | None) -> Workers:
    """Trials at once, and their share of a GPU, on the machines that are there or may come."""
    from harness.execute.ray import share_of

    share = share_of(nodes, most, workers.gpus_each, workers.settings.device)
    room = limit_of(most, share) or places(nodes, share) or DEMAND
    return replace(workers, gpus_each=share, concurrent=workers.concurrent or room)


def _here(plugin: str) -> str:
    """Where a plugin file lies in this worker: Tune moves a trial out of the working directory."""
    places = (Path(folder) / plugin for folder in sys.path)
    return str(next((path for path in places if path.is_file()), plugin))


def run(search: Search, workers: Workers, truth: Truth | None, known: dict[str, Row], book: Book) -> None:
    """Try points on Ray until the budget is used up."""
    from harness.execute import ray as door
    from harness.execute import stop

    os.environ.update(QUIET)
    plugins = workers.settings.plugins
    folder = door.plugin_folder(plugins)
    there = replace(workers.settings, plugins=tuple(Path(p).name for p in plugins))
    ray = door.connect(workers.address, workers.concurrent, folder)
    scratch = tempfile.mkdtemp(prefix="efface-tune-")
    try:
        stop.listen()
        workers = _on(workers, door.living(ray), door.growth(ray))
        lack = partial(_lack, door, ray, workers.gpus_each)
        _fit(search, workers, Errand(search, there, truth, known, code_digest()), book, scratch, lack)
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(scratch, ignore_errors=True)


def _lack(door: Any, ray: Any, share: float) -> str:
    return lack_of_room(door.living(ray), share)


def _fit(
    search: Search, workers: Workers, errand: Errand, book: Book, scratch: str, lack: Callable[[], str]
) -> None:
    from ray import tune

    share: dict[str, float] = {"cpu": 0, "gpu": workers.gpus_each} if workers.gpus_each else {"cpu": 1}
    tuner = tune.Tuner(
        tune.with_resources(_trainable(errand), share),
        tune_config=tune.TuneConfig(
            num_samples=-1,  # the searcher says when the budget is used up
            max_concurrent_trials=workers.concurrent,
            search_alg=_asker(search, book),
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            storage_path=scratch,
            name=search.id,
            verbose=0,
            callbacks=[_sink(search, book, lack)],
            failure_config=tune.FailureConfig(max_failures=LOST_TWICE),
        ),
    )
    tuner.fit()


def _trainable(errand: Errand) -> Callable[[dict[str, Any]], None]:
    def trial(config: dict[str, Any]) -> None:
        from ray import tune

        row = _evaluator(errand)(Trial(**config))
        if is_broken(row):
            raise RuntimeError(row["error_message"])  # Tune tries it again, in a new process
        row["started_at"] = row["started_at"].isoformat()
        tune.report({**json.loads(row["values"]), "row": json.dumps(row)})

    return trial


def _asker(search: Search, book: Book) -> Any:
    """OptunaSearch that knows the past trials, numbers its trials, and stops at the budget."""
    from ray.tune.search import Searcher
    from ray.tune.search.optuna import OptunaSearch

    sampler = sampler_of(search, book.numbers)
    names = list(search.objective.names)
    again: dict[str, Trial] = {}  # tried in an earlier session: the study has not asked for them
    opened: list[bool] = []  # the study is told of past trials once those tried again are out

    class Asker(OptunaSearch):
        def suggest(self, trial_id: str) -> Any:
            if not book.room:
                return Searcher.FINISHED
            trial = book.again()
            if trial is not None:
                again[trial_id] = trial
            else:
                if not opened:
                    opened.append(True)
                    study: Any = self._ot_study
                    remember(study, search, book.past)
                drawn: Any = super().suggest(trial_id)
                trial = sampler.trial(self._ot_trials[trial_id].number, drawn)
            book.start()
            return asdict(replace(trial, known=book.scores_of(search.runs(trial.drawn))))

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            if error or not result:  # Optuna would leave it without a value: it gets the penalty
                result = search.objective.worst()
            if trial_id not in again:
                super().on_trial_complete(trial_id, result, error=False)
            elif opened:
                study: Any = self._ot_study
                study.add_trial(tried_again(search, again[trial_id], result))

        def save(self, checkpoint_path: str) -> None:
            """Nothing: the trials in the store are what a search goes on from."""

    asker: Any = Asker(space=distributions(search), metric=names, mode=["min"] * len(names), sampler=sampler)
    return asker


class Deadline:
    """Ends the actor of a trial that has no end: Tune tries it again on another one, twice at most."""

    def __init__(self, kill: Callable[[Any], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._kill, self._clock = kill, clock
        self._began: dict[str, float] = {}  # by trial
        self.longest = 0.0  # seconds of a finished one

    def start(self, trial: Any) -> None:
        self._began[trial.trial_id] = self._clock()

    def end(self, trial: Any, seconds: float = 0.0) -> None:
        self._began.pop(trial.trial_id, None)
        self.longest = max(self.longest, seconds)

    def look(self, trials: Any) -> None:
        """Nothing is known of how long a trial takes until the first has ended."""
        limit = max(ENDLESS_SECONDS, MANY_TIMES * self.longest) if self.longest else LONG_SECONDS
        late = {name for name, began in self._began.items() if self._clock() - began > limit}
        for trial in [trial for trial in trials if trial.trial_id in late] if late else ():
            self.end(trial)
            self._kill(trial.temporary_state.ray_actor)


def _end_actor(actor: Any) -> None:
    """In a thread of its own: nobody waits for a machine that is gone."""
    import ray

    threading.Thread(target=lambda: ray.kill(actor, no_restart=True), daemon=True).start()


def _sink(search: Search, book: Book, lack: Callable[[], str]) -> Any:
    """Writes each finished trial, looks whether somebody wants to stop, and says what nothing starts for."""
    from ray import tune

    from harness.execute import stop

    facts = driver_facts()
    deadline = Deadline(_end_actor)
    began: dict[str, float] = {}  # when each trial was tried first
    quiet = [time.monotonic() + QUIET_SECONDS]  # when to say that none has started

    class Sink(tune.Callback):
        def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
            stop.check()
            deadline.look(trials)
            if not began and quiet and time.monotonic() > quiet[0]:
                quiet.clear()
                book.say(f"no trial has started yet: {lack()}")

        def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
            book.flush()  # here and nowhere else: an error in what follows makes Tune try a trial again

        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            began.setdefault(trial.trial_id, time.monotonic())
            deadline.start(trial)

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            row = json.loads(trial.last_result["row"])
            deadline.end(trial, row["wall_seconds"])
            row["started_at"] = datetime.fromisoformat(row["started_at"])
            book.finish({**row, **facts})

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            deadline.end(trial)
            why = _first_line(trial)
            if "runs other code" in why:
                raise Misuse(f"a worker refused to start: {why}; install the same efface on every node")
            row = {**describe(search, Trial(**trial.config)), **lost(search, "failed", "worker_error", why)}
            seconds = time.monotonic() - began.get(trial.trial_id, time.monotonic())
            book.finish({**row, **facts, "device_seconds": seconds, "run_scores": "{}"})

    return Sink()


def _first_line(trial: Any) -> str:
    """What a trial ended with: the last line of the error that Tune wrote down."""
    noted = Path(trial.error_file) if trial.error_file else None
    text = noted.read_text(encoding="utf-8") if noted and noted.is_file() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else "the worker died"
