"""The verb that searches hyper-parameters."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.app import app, say
from harness.cli.options import (
    DEFAULT_STORE,
    AsJson,
    DataDir,
    DataUrl,
    Download,
    Limit,
    Plugins,
    StoreOption,
    StorePatience,
    SuiteName,
    Weights,
    names_of,
    seeds_of,
)
from harness.errors import Misuse

if TYPE_CHECKING:
    from harness.search.definition import Search
    from harness.search.driver import Bench
    from harness.search.outcome import Finding


@app.command()
def tune(
    suite: SuiteName,
    method: Annotated[str, typer.Option(help="Method, or several, comma-separated, or all")],
    model: Annotated[str | None, typer.Option(help="Model, or several; default: the suite's")] = None,
    scenario: Annotated[str | None, typer.Option(help="Scenario, or several; default: the suite's")] = None,
    dataset: Annotated[str | None, typer.Option(help="Data set, where the suite has several")] = None,
    target: Annotated[
        str | None, typer.Option(help="Class to search on, or several; default: one not reported")
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Trials; default 250, or no limit if seconds")] = None,
    budget_seconds: Annotated[float | None, typer.Option(help="Device-seconds instead of trials")] = None,
    objective: Annotated[
        str | None, typer.Option(help="gap_to_retrain | gap_to_retrain_test | retrain_free | pareto")
    ] = None,
    sampler: Annotated[str, typer.Option(help="tpe | nsga2 | random")] = "tpe",
    seed: Annotated[int, typer.Option(help="Seed of the sampler")] = 0,
    seeds: Annotated[str, typer.Option(help="Seeds of a trial's runs")] = "100,101",
    space: Annotated[str | None, typer.Option(help="TOML file with [[space]] rows of your own")] = None,
    concurrent: Annotated[int | None, typer.Option(help="Trials at once; default: one per core")] = None,
    per_gpu: Annotated[int, typer.Option(help="Trials that share one GPU")] = 1,
    on: Annotated[str, typer.Option(help="inline | local | auto | a Ray address, head:6379")] = "auto",
    device: Annotated[str, typer.Option(help="auto | cpu | cuda")] = "auto",
    store: StoreOption = DEFAULT_STORE,
    store_patience: StorePatience = 600.0,
    data_dir: DataDir = None,
    data: DataUrl = None,
    plugin: Plugins = None,
    download: Download = False,
    weights: Weights = None,
    limit: Limit = None,
    plots: Annotated[str | None, typer.Option(help="Folder for history, slice, contour, importances")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be searched, and stop")] = False,
    as_json: AsJson = False,
) -> None:
    """Search hyper-parameters on one class of SUITE; the best become a preset for all others. Goes on where it stopped."""  # noqa: E501
    from harness import launch, registry
    from harness.fetch import fetch_data
    from harness.patience import Patience
    from harness.search import driver
    from harness.search.book import DEFAULT_TRIALS, Budget
    from harness.search.definition import Wish, asked_of
    from harness.store import Store
    from harness.suite_file import load_suite

    if trials is None and budget_seconds is None:
        trials = DEFAULT_TRIALS
    budget = Budget(trials, budget_seconds)
    where = launch.Where(on, concurrent, per_gpu, device)
    told = launch.settings(store, data_dir, plugin, where, 512, False, False, limit)
    told = replace(told, store_patience=store_patience)
    catalogue = registry.load(plugin or ())
    loaded = load_suite(suite, catalogue)
    wishes = [
        Wish(
            m,
            of_model,
            of_scenario,
            dataset,
            names_of(target),
            objective,
            sampler,
            seed,
            seeds_of(seeds),
            space,
        )
        for m in _methods(method, catalogue)
        for of_model in names_of(model) or _known(loaded, "models")
        for of_scenario in names_of(scenario) or _known(loaded, "scenario")
    ]
    datasets = {name for wish in wishes for name in asked_of(loaded, wish)}
    if download and not dry_run:
        fetch_data(catalogue, datasets, data_dir, say)
    told = launch.with_source(told, data, datasets, catalogue)
    searches, problems = driver.define_all(loaded, catalogue, wishes, told)
    for problem in problems:
        say(f"left out: {problem}")
    if not searches:
        raise Misuse("nothing to search; see why above" if problems else f"--method {method!r} names none")
    if dry_run:
        _intend(searches, loaded, catalogue, store, budget, as_json)
        return
    pictures = _writable(plots) if plots else None
    held = Store.create(store)
    held.patience = Patience(store_patience, say)
    bench = driver.Bench(loaded, catalogue, held, told, where, budget, weights=weights or (), fetch=download)
    _run(searches, bench, suite, pictures, as_json)


def _writable(plots: str) -> Path:
    """The folder for pictures, tried before a search that may take hours."""
    folder = Path(plots)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise Misuse(f"--plots {plots}: {error.strerror or error}; give a folder to write to") from None


def _methods(typed: str, catalogue: Any) -> tuple[str, ...]:
    return tuple(catalogue.methods) if typed == "all" else names_of(typed)


def _known(suite: Any, what: str) -> tuple[str, ...]:
    rows = [getattr(row, what) for row in suite.tasks]
    flat = [name for row in rows for name in (row if isinstance(row, tuple) else (row,))]
    return tuple(dict.fromkeys(flat))


def _intend(
    searches: list[Search], suite: Any, catalogue: Any, store: str, budget: Any, as_json: bool
) -> None:
    """Space, budget, objective and cost of each search."""
    from harness.cli.options import existing
    from harness.cost import Cost
    from harness.search import driver, outcome
    from harness.search.trials import read_search

    held = existing(store)
    cost = Cost(held.measured_seconds() if held else [], catalogue)
    told = []
    for search in searches:
        plan = driver.references(search, suite, held, catalogue)
        runs = search.runs({name: dim.ends()[0] for name, dim in search.space.dims})
        one = cost.of(runs[0]) or cost.estimate(runs[0])
        rows = read_search(held, search.id) if held else []
        tried = [float(row["device_seconds"]) for row in rows if row["device_seconds"] is not None]
        each = statistics.median(tried) if tried else one and one * len(runs)
        seconds = budget.seconds or (each * budget.trials if each else None)
        told.append(outcome.intention(search, budget.text(), len(plan.jobs), seconds))
    print(json.dumps(told, indent=1) if as_json else "\n\n".join(told))


def _run(searches: list[Search], bench: Bench, suite: str, pictures: Path | None, as_json: bool) -> None:
    """One search after the other; what each found is told at once."""
    from harness.lock import StoreLock
    from harness.store import StoreError

    found: list[dict[str, Any]] = []
    with StoreLock(bench.store):
        for search in searches:
            try:
                found.append(_one(search, bench, pictures, as_json))
            except KeyboardInterrupt:
                say("stopped. Every finished trial is kept; type the same command to go on.")
                raise SystemExit(130) from None
            except Misuse as error:  # of one method: the other searches have nothing to do with it
                if len(searches) == 1 or isinstance(error, StoreError):
                    raise
                say(f"{search.label}: {error}")
    if as_json:
        print(json.dumps(found, indent=1))
    elif any(facts["preset"] for facts in found):
        where = f"{bench.store.url}/presets"
        print(
            f"presets to review: {where}; to use them, type: efface sweep {suite} --presets {where} "
            f"--store {bench.store.url}"
        )
    raise SystemExit(int(len(found) < len(searches) or not all(facts["preset"] for facts in found)))


def _one(search: Search, bench: Bench, pictures: Path | None, as_json: bool) -> dict[str, Any]:
    """Go on with one search to its end, with live progress; what it found."""
    from rich.console import Console

    from harness.search import driver, outcome
    from harness.search.display import SearchDisplay

    display = SearchDisplay(Console(file=sys.stderr), search.label)
    try:
        book = driver.run(search, bench, display.row, display.begin, display.say)
    finally:
        display.end()
    return _tell(outcome.find(search, book, bench.catalogue), bench, pictures, as_json)


def _tell(finding: Finding, bench: Bench, pictures: Path | None, as_json: bool) -> dict[str, Any]:
    """Write the preset and the pictures of a search, and say what it found."""
    from harness.search import outcome

    preset = None
    if finding.best is not None:
        preset = f"presets/{outcome.preset_name(finding.search)}"
        bench.store.require_held(True)
        bench.store.write(preset, outcome.preset_text(finding, bench.budget.text()).encode())
    if not as_json:
        print(outcome.text(finding) + "\n", flush=True)
    if pictures is not None:
        from harness.figures.search import draw

        for path in draw(finding, pictures):
            (say if as_json else print)(str(path))
    return outcome.facts(finding, preset and f"{bench.store.url}/{preset}")
