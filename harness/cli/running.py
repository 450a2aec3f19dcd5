"""Verbs that run something, or say what they would run."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated

import typer

from harness.cli.app import app, say
from harness.cli.options import (
    DEFAULT_STORE,
    AsJson,
    DataDir,
    Datasets,
    DataUrl,
    Download,
    Limit,
    Methods,
    Models,
    PaperTables,
    Plugins,
    Presets,
    Scenarios,
    Seeds,
    StoreOption,
    StorePatience,
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
    presets: Presets = None,
    methods: Methods = None,
    models: Models = None,
    datasets: Datasets = None,
    scenarios: Scenarios = None,
    targets: Targets = None,
    seeds: Seeds = None,
    table: PaperTables = None,
    simulate: Annotated[
        str | None,
        typer.Option(
            help="On an imagined cluster: nodes=16,gpus=8[,per_gpu=1,spot_loss=0.05/h,price=5.67] | workers=2"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What a sweep of SUITE would run: counts, skips with reasons, estimated cost; --simulate: how long."""
    from harness import forecast, imagined, words

    only = select(methods, models, datasets, scenarios, targets, seeds, table)
    cluster = None if simulate is None else imagined.parse(simulate)
    made, _ = prepare(suite, existing(store), plugin, only, presets)
    found = forecast.forecast(made, cluster) if cluster else None
    if as_json:
        facts = words.plan_facts(made, only.tables)
        print(json.dumps(facts | {"simulation": found} if found else facts, indent=1))
        return
    print(words.plan_text(made, store, only.tables))
    if cluster and found:
        print(forecast.forecast_text(found, cluster))


@app.command()
def sweep(
    suite: SuiteName,
    store: StoreOption = DEFAULT_STORE,
    data_dir: DataDir = None,
    data: DataUrl = None,
    plugin: Plugins = None,
    presets: Presets = None,
    on: Annotated[
        str, typer.Option(help="inline (no Ray) | local (Ray here) | auto | a Ray address, head:6379")
    ] = "auto",
    workers: Annotated[int | None, typer.Option(help="Workers; default: one per core or device slot")] = None,
    per_gpu: Annotated[int, typer.Option(help="Runs that share one GPU")] = 1,
    device: Annotated[str, typer.Option(help="auto | cpu | cuda")] = "auto",
    time_limit: Annotated[float | None, typer.Option(help="Seconds after which one run is stopped")] = None,
    memory_limit: Annotated[
        float | None, typer.Option(help="GB of memory above which a worker is started afresh")
    ] = None,
    silence: Annotated[
        float, typer.Option(help="Seconds without a sign of life after which a worker is given up")
    ] = 45.0,
    store_patience: StorePatience = 600.0,
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
    from harness.fetch import fetch_data
    from harness.lock import StoreLock
    from harness.patience import Patience
    from harness.store import Store

    only = select(methods, models, datasets, scenarios, targets, seeds, table)
    where = launch.Where(on, workers, per_gpu, device, time_limit, memory_limit, silence)
    settings = launch.settings(store, data_dir, plugin, where, eval_batch, keep_weights, keep_outputs, limit)
    settings = replace(settings, store_patience=store_patience)
    held = Store.create(store)
    held.patience = Patience(store_patience, say)
    with StoreLock(held):
        made, catalogue = prepare(suite, held, plugin, only, presets)
        say(words.plan_line(made, store))
        if download:
            fetch_data(catalogue, made.datasets, data_dir, say)
        settings = launch.with_source(settings, data, made.datasets, catalogue)
        settings = launch.check(made, held, catalogue, settings, weights or (), download)
        try:
            outcome = launch.sweep(made, held, catalogue, settings, where)
        except KeyboardInterrupt:
            say("stopped. What is done is kept; type the same command to go on.")
            raise SystemExit(130) from None
    facts = words.outcome_facts(outcome, made, store)
    print(json.dumps(facts, indent=1) if as_json else words.outcome_text(outcome, made, store, suite))
    raise SystemExit(outcome.exit_code)
