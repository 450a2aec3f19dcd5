"""Verbs that check what is registered, installed and there."""

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
    Download,
    Plugins,
    StoreOption,
    Weights,
    prepare,
    select,
)
from harness.errors import Misuse


@app.command()
def check(
    plugin: Plugins = None,
    names: Annotated[str | None, typer.Option("--methods", help="Only these, comma-separated")] = None,
    as_json: AsJson = False,
) -> None:
    """Conformance of everything registered; with --plugin, of what that file registers."""
    from harness import conformance, registry

    catalogue = registry.load(plugin or ())
    chosen = [part.strip() for part in names.split(",")] if names else None
    findings = conformance.check(catalogue, chosen, say if not as_json else lambda _: None)
    if as_json:
        print(json.dumps([finding.facts() for finding in findings], indent=1))
    else:
        print(conformance.summary(findings))
    raise SystemExit(1 if any(finding.outcome == "failed" for finding in findings) else 0)


@app.command()
def ledger(
    effects: Annotated[str | None, typer.Option(help="Store of suite switches: measure effects")] = None,
    ablation: Annotated[str | None, typer.Option(help="Store of suites jit_ablation*: measure them")] = None,
    tuning: Annotated[str | None, typer.Option(help="Store of suite tuning: measure it")] = None,
    repeats: Annotated[
        bool, typer.Option(help="With --tuning: how near it comes to what is shipped")
    ] = False,
    searches: Annotated[str | None, typer.Option(help="Store of searches: summarise them")] = None,
) -> None:
    """The fidelity ledger of all shipped methods, or what a store says of their switches (CSV)."""
    from harness import ledger as book
    from harness import registry, results, tuned
    from harness.store import Store

    if searches is not None:
        from harness.search.trials import read_all

        print(tuned.summarise(read_all(Store.open(searches)).to_pandas()), end="")
        return
    store = effects or ablation or tuning
    if store is None:
        print(book.page(registry.load()), end="")
        return
    held = Store.open(store)
    everything = select(None, None, None, None, None, None)
    suites = ("switches",) if effects else book.ABLATIONS if ablation else ("tuning",)
    wanted = [each for suite in suites for each in prepare(suite, held, None, everything)[0].wanted]
    frame = results.of_suite(results.load(held), [each.spec.id for each in wanted])
    if tuning is not None:
        found = tuned.measure(frame, wanted)
        print(tuned.repeated(found, tuned.read()) if repeats else found, end="")
        return
    if effects is None:
        print(book.measure_ablation(frame), end="")
        return
    bases: dict[str, str] = {}
    for each in wanted:
        bases.setdefault(each.spec.method, json.dumps(dict(each.spec.params)))
    print(book.measure_effects(frame, bases), end="")


@app.command(hidden=True)
def flops() -> None:
    """Count the forward operations that plans are estimated from: harness/suites/cost/flops.csv."""
    from harness import flops as counting
    from harness import registry

    print(counting.page(registry.load()), end="")


@app.command()
def doctor(
    suite: Annotated[str | None, typer.Argument(help="Check the data of this suite too")] = None,
    store: StoreOption = DEFAULT_STORE,
    data_dir: DataDir = None,
    download: Download = False,
    weights: Weights = None,
    plugin: Plugins = None,
) -> None:
    """Environment and data checks, each with what to type."""
    from harness import doctor as examine

    if download and suite is None:
        raise Misuse("--download: name the suite whose data sets are to be fetched: efface doctor SUITE")
    folder = Path(data_dir).expanduser() if data_dir else None
    failed = False
    tell = say if download else None
    for line in examine.examine(suite, store, folder, plugin or (), tell, weights or ()):
        print(line.text(), flush=True)
        failed |= not line.ok
    raise SystemExit(int(failed))
