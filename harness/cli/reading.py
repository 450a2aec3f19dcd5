"""Verbs that read a store or the catalogue."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.app import app, say
from harness.cli.options import (
    DEFAULT_STORE,
    AsJson,
    DataDir,
    Datasets,
    Methods,
    Models,
    PaperTables,
    Plugins,
    Presets,
    Scenarios,
    Seeds,
    StoreOption,
    SuiteName,
    Targets,
    prepare,
    select,
)
from harness.errors import Misuse


@app.command()
def tables(
    suite: SuiteName,
    store: StoreOption = DEFAULT_STORE,
    plugin: Plugins = None,
    presets: Presets = None,
    style: Annotated[str, typer.Option("--format", help="console | markdown | latex | csv")] = "console",
    by: Annotated[str | None, typer.Option(help="target: one table for each target")] = None,
    against: Annotated[
        str | None, typer.Option(help="published: beside the paper's numbers; or a .csv of such numbers")
    ] = None,
    methods: Methods = None,
    models: Models = None,
    datasets: Datasets = None,
    scenarios: Scenarios = None,
    targets: Targets = None,
    seeds: Seeds = None,
    table: PaperTables = None,
) -> None:
    """Mean ± std tables of SUITE from what the store holds."""
    from harness import results
    from harness.compare import compare_with
    from harness.render import render, render_comparisons
    from harness.store import Store
    from harness.tables import make_tables
    from harness.words import skip_facts, wanted_frame

    if style not in ("console", "markdown", "latex", "csv"):
        raise Misuse(f"--format {style}: expected console, markdown, latex or csv")
    if by not in (None, "target"):
        raise Misuse(f"--by {by}: expected target")
    held = Store.open(store)
    only = select(methods, models, datasets, scenarios, targets, seeds, table)
    made, _ = prepare(suite, held, plugin, only, presets)
    if against is not None:
        found = compare_with(against, results.load(held), wanted_frame(made), made.suite, only.tables)
        print(render_comparisons(found, style), end="")
        return
    made_tables = make_tables(
        results.load(held), wanted_frame(made), skip_facts(made), by_target=by == "target"
    )
    print(render(made_tables, style), end="")


@app.command()
def best(
    suite: SuiteName,
    store: StoreOption = DEFAULT_STORE,
    plugin: Plugins = None,
    objective: Annotated[
        str, typer.Option(help="What to minimise: val_gap, gap or a score column")
    ] = "val_gap",
) -> None:
    """Of a suite with a grid: the best hyper-parameters of each setting, as preset rows to review."""
    from harness import results, words
    from harness.store import Store

    held = Store.open(store)
    made, catalogue = prepare(suite, held, plugin, select(None, None, None, None, None, None))
    frame = results.of_suite(results.load(held), [wanted.spec.id for wanted in made.wanted])
    print(words.preset_text(results.best(frame, objective), made, catalogue, objective), end="")


@app.command()
def figures(
    suite: SuiteName,
    name: Annotated[
        str | None,
        typer.Argument(
            help="boundaries (2), sigmoid (3), entropy (4), runtime (5), sensitivity (7) or "
            "sensitivity_mia (8), by name or number; default: those that SUITE is made for"
        ),
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    to: Annotated[str, typer.Option(help="Folder for the files")] = "figures",
    style: Annotated[str, typer.Option("--format", help="Some of png,svg,pdf")] = "png,svg,pdf",
    data_dir: DataDir = None,
    plugin: Plugins = None,
    presets: Presets = None,
    methods: Methods = None,
    models: Models = None,
    datasets: Datasets = None,
    scenarios: Scenarios = None,
    targets: Targets = None,
    seeds: Seeds = None,
) -> None:
    """The paper's figures of SUITE from what a store holds, each with its caption and its numbers as CSV."""
    from harness import figures as drawing
    from harness.figures.canvas import formats_of
    from harness.figures.stored import Held
    from harness.store import Store

    formats = formats_of(style)
    held = Store.open(store)
    only = select(methods, models, datasets, scenarios, targets, seeds)
    made, catalogue = prepare(suite, held, plugin, only, presets)
    names = drawing.chosen(name, made)
    done = drawing.make(names, Held(made, held, catalogue, suite, data_dir), Path(to), formats)
    for path in done.paths:
        print(path)
    for problem in done.problems:
        say(f"efface: {problem}")
    raise SystemExit(1 if done.problems else 0)


@app.command()
def status(
    store: StoreOption = DEFAULT_STORE,
    address: Annotated[
        str | None, typer.Option(help="A cluster's dashboard: its jobs instead of a store")
    ] = None,
    follow: Annotated[str | None, typer.Option(help="With --address: what this job says, to its end")] = None,
    as_json: AsJson = False,
) -> None:
    """What a store holds and who is writing it; with --address, what a cluster runs."""
    from harness import words
    from harness.store import Store

    if address is not None or follow is not None:
        from harness.cli.cluster import HERE, show_jobs

        show_jobs(address or HERE, follow, as_json)
        return
    facts = words.store_facts(Store.open(store))
    print(json.dumps(facts, indent=1) if as_json else words.store_text(facts))


@app.command("list")
def list_(
    what: Annotated[
        str, typer.Argument(help="methods, datasets, models, scenarios, metrics, suites, columns, trials")
    ],
    plugin: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """The catalogue: what can be named, and where each came from."""
    from harness import listing

    rows = listing.rows_of(what, plugin or ())
    print(json.dumps(rows, indent=1) if as_json else listing.text(rows))


@app.command()
def show(
    run_id: str, store: StoreOption = DEFAULT_STORE, plugin: Plugins = None, as_json: AsJson = False
) -> None:
    """One run: its scores, its parameters and their sources, its log, and the command to run it alone."""
    from harness import registry, words
    from harness.store import Store

    facts = words.run_facts(Store.open(store), run_id, registry.load(plugin or ()))
    print(json.dumps(facts, indent=1, default=str) if as_json else words.run_text(facts))
