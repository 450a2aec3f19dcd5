"""Verbs that run something, or say what they would run."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from harness.cli.app import app, say
from harness.cli.options import (
    DEFAULT_STORE,
    AsJson,
    DataDir,
    Datasets,
    Download,
    Limit,
    Methods,
    Models,
    PaperTables,
    Plugins,
    Scenarios,
    Seeds,
    StoreOption,
    SuiteName,
    Targets,
    Weights,
    existing,
    prepare,
    select,
)


@app.command()
def plan(
    suite: SuiteName,
    store: StoreOption = DEFAULT_STORE,
    plugin: Plugins = None,
    methods: Methods = None,
    models: Models = None,
    datasets: Datasets = None,
    scenarios: Scenarios = None,
    targets: Targets = None,
    seeds: Seeds = None,
    table: PaperTables = None,
    as_json: AsJson = False,
) -> None:
    """What a sweep of SUITE would run: counts, skips with reasons, estimated cost."""
    from harness import words

    only = select(methods, models, datasets, scenarios, targets, seeds, table)
    made, _ = prepare(suite, existing(store), plugin, only)
    if as_json:
        print(json.dumps(words.plan_facts(made, only.tables), indent=1))
    else:
        print(words.plan_text(made, store, only.tables))


@app.command()
def sweep(
    suite: SuiteName,
    store: StoreOption = DEFAULT_STORE,
    data_dir: DataDir = None,
    plugin: Plugins = None,
    on: Annotated[
        str, typer.Option(help="inline (no Ray) | local (Ray here) | auto | a Ray address")
    ] = "auto",
    workers: Annotated[int | None, typer.Option(help="Workers; default: one per core or device slot")] = None,
    per_gpu: Annotated[int, typer.Option(help="Runs that share one GPU")] = 1,
    device: Annotated[str, typer.Option(help="auto | cpu | cuda")] = "auto",
    time_limit: Annotated[float | None, typer.Option(help="Seconds after which one run is stopped")] = None,
    eval_batch: Annotated[int, typer.Option(help="Images per forward pass when scoring")] = 512,
    keep_weights: Annotated[bool, typer.Option(help="Store the weights of every model")] = False,
    keep_outputs: Annotated[bool, typer.Option(help="Store outputs of runs above 50 MB too")] = False,
    download: Download = False,
    weights: Weights = None,
    limit: Limit = None,
    methods: Methods = None,
    models: Models = None,
    datasets: Datasets = None,
    scenarios: Scenarios = None,
    targets: Targets = None,
    seeds: Seeds = None,
    table: PaperTables = None,
    as_json: AsJson = False,
) -> None:
    """Run what is missing of SUITE. Type it again after any interruption: it goes on where it stopped."""
    from harness import launch, words
    from harness.lock import StoreLock
    from harness.store import Store

    only = select(methods, models, datasets, scenarios, targets, seeds, table)
    where = launch.Where(on, workers, per_gpu, device, time_limit)
    settings = launch.settings(store, data_dir, plugin, where, eval_batch, keep_weights, keep_outputs, limit)
    held = Store.create(store)
    with StoreLock(held):
        made, catalogue = prepare(suite, held, plugin, only)
        say(words.plan_line(made, store))
        if download:
            launch.download(made, catalogue, data_dir, say)
        try:
            outcome = launch.sweep(
                made, held, catalogue, settings, where, weights=weights or (), fetch=download
            )
        except KeyboardInterrupt:
            say("stopped. What is done is kept; type the same command to go on.")
            raise SystemExit(130) from None
    facts = words.outcome_facts(outcome, made, store)
    print(json.dumps(facts, indent=1) if as_json else words.outcome_text(outcome, made, store, suite))
    raise SystemExit(outcome.exit_code)
