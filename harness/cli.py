"""The command line: parse, call, print. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.errors import Misuse

if TYPE_CHECKING:
    from harness.plan import Plan
    from harness.registry import Catalogue
    from harness.store import Store
    from harness.suite import Selection, Suite

app = typer.Typer(
    name="efface",
    help="A benchmark harness for machine unlearning of image classifiers.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

SuiteName = Annotated[
    str, typer.Argument(help="A shipped suite (efface list suites) or the path of a .toml file")
]
StoreOption = Annotated[str, typer.Option("--store", help="Folder or URL that holds the results")]
Plugins = Annotated[list[str] | None, typer.Option("--plugin", help="Python file that registers a method, …")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON")]
DataDir = Annotated[str | None, typer.Option("--data-dir", help="Folder that holds the data sets")]
Download = Annotated[bool, typer.Option("--download", help="Fetch missing data into --data-dir, and weights")]
Limit = Annotated[int | None, typer.Option("--limit", help="Use only N images per half; rows say so")]
Methods = Annotated[str | None, typer.Option("--methods", help="Only these, comma-separated")]
Models = Annotated[str | None, typer.Option("--models", help="Only these, comma-separated")]
Datasets = Annotated[str | None, typer.Option("--datasets", help="Only these, comma-separated")]
Scenarios = Annotated[str | None, typer.Option("--scenarios", help="Only these, comma-separated")]
Targets = Annotated[str | None, typer.Option("--targets", help="Only these, comma-separated")]
Seeds = Annotated[str | None, typer.Option("--seeds", help="Only these: 0,1 or 0-4")]
PaperTables = Annotated[str | None, typer.Option("--table", help="Only what these tables of a paper need")]
Weights = Annotated[
    list[str] | None,
    typer.Option("--weights", help="FILE, or NAME=FILE, of the published weights that training starts from"),
]
DEFAULT_STORE = "efface-store"


def entry() -> None:
    """The command `efface`.

    Ends without the C++ destructors of the libraries it has loaded: at a quick exit some of their threads are
    still starting, which aborts the process and would replace its exit code.
    """
    # before numpy is imported: small matrices on many threads are slower, and a sweep counts on one thread
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    """Parse and run: a misuse is one message and exit code 2, never a traceback."""
    try:
        app()
    except Misuse as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _say("stopped")
        raise SystemExit(130) from None
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(0) from None


def _fail(message: str) -> None:
    _say(f"efface: {message}")
    raise SystemExit(2)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


# -------------------- selecting


def _select(
    methods: str | None,
    models: str | None,
    datasets: str | None,
    scenarios: str | None,
    targets: str | None,
    seeds: str | None,
    tables: str | None = None,
) -> Selection:
    from harness.suite import Selection

    def split(text: str | None) -> tuple[str, ...]:
        return tuple(part.strip() for part in text.split(",") if part.strip()) if text else ()

    return Selection(
        split(methods),
        split(models),
        split(datasets),
        split(scenarios),
        split(targets),
        _seeds(seeds),
        split(tables),
    )


def _seeds(text: str | None) -> tuple[int, ...]:
    found: list[int] = []
    for part in (text or "").split(","):
        first, dash, last = part.strip().partition("-")
        if not part.strip():
            continue
        if not first.isdigit() or (dash and not last.isdigit()):
            raise Misuse(f"--seeds {text}: expected numbers such as 0,1,2 or 0-4")
        found.extend(range(int(first), int(last if dash else first) + 1))
    return tuple(dict.fromkeys(found))


def _prepare(
    suite: str, store: Store | None, plugins: list[str] | None, only: Selection
) -> tuple[Plan, Catalogue]:
    """The registry, the suite and its plan against a store."""
    from harness import registry
    from harness.plan import make_plan
    from harness.suite import expand
    from harness.suite_file import load_suite

    catalogue = registry.load(plugins or ())
    loaded: Suite = load_suite(suite, catalogue)
    return make_plan(loaded, expand(loaded, catalogue, only), store, catalogue), catalogue


def _existing(url: str) -> Store | None:
    """The store if there is one; a folder that is something else is refused."""
    from harness.store import Store

    if Store(url).is_missing():
        return None
    return Store.open(url)


# -------------------- verbs


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

    only = _select(methods, models, datasets, scenarios, targets, seeds, table)
    made, _ = _prepare(suite, _existing(store), plugin, only)
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

    only = _select(methods, models, datasets, scenarios, targets, seeds, table)
    where = launch.Where(on, workers, per_gpu, device, time_limit)
    settings = launch.settings(store, data_dir, plugin, where, eval_batch, keep_weights, keep_outputs, limit)
    held = Store.create(store)
    with StoreLock(held):
        made, catalogue = _prepare(suite, held, plugin, only)
        _say(words.plan_line(made, store))
        if download:
            launch.download(made, catalogue, data_dir, _say)
        try:
            outcome = launch.sweep(
                made, held, catalogue, settings, where, weights=weights or (), fetch=download
            )
        except KeyboardInterrupt:
            _say("stopped. What is done is kept; type the same command to go on.")
            raise SystemExit(130) from None
    facts = words.outcome_facts(outcome, made, store)
    print(json.dumps(facts, indent=1) if as_json else words.outcome_text(outcome, made, store, suite))
    raise SystemExit(outcome.exit_code)


@app.command()
def tables(
    suite: SuiteName,
    store: StoreOption = DEFAULT_STORE,
    plugin: Plugins = None,
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
    only = _select(methods, models, datasets, scenarios, targets, seeds, table)
    made, _ = _prepare(suite, held, plugin, only)
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
    made, catalogue = _prepare(suite, held, plugin, _select(None, None, None, None, None, None))
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
    only = _select(methods, models, datasets, scenarios, targets, seeds)
    made, catalogue = _prepare(suite, held, plugin, only)
    names = drawing.chosen(name, made)
    done = drawing.make(names, Held(made, held, catalogue, suite, data_dir), Path(to), formats)
    for path in done.paths:
        print(path)
    for problem in done.problems:
        _say(f"efface: {problem}")
    raise SystemExit(1 if done.problems else 0)


@app.command()
def status(store: StoreOption = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """What a store holds, and who is writing it."""
    from harness import words
    from harness.store import Store

    facts = words.store_facts(Store.open(store))
    print(json.dumps(facts, indent=1) if as_json else words.store_text(facts))


@app.command("list")
def list_(
    what: Annotated[
        str, typer.Argument(help="methods, datasets, models, scenarios, metrics, suites, columns")
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
    findings = conformance.check(catalogue, chosen, _say if not as_json else lambda _: None)
    if as_json:
        print(json.dumps([finding.facts() for finding in findings], indent=1))
    else:
        print(conformance.summary(findings))
    raise SystemExit(1 if any(finding.outcome == "failed" for finding in findings) else 0)


@app.command()
def ledger(
    effects: Annotated[str | None, typer.Option(help="Store of suite switches: measure effects")] = None,
    ablation: Annotated[str | None, typer.Option(help="Store of suites jit_ablation*: measure them")] = None,
) -> None:
    """The fidelity ledger of all shipped methods, or what a store says of their switches (CSV)."""
    from harness import ledger as book
    from harness import registry, results
    from harness.store import Store

    if effects is None and ablation is None:
        print(book.page(registry.load()), end="")
        return
    held = Store.open(str(effects or ablation))
    everything = _select(None, None, None, None, None, None)
    suites = ("switches",) if effects is not None else book.ABLATIONS
    wanted = [each for suite in suites for each in _prepare(suite, held, None, everything)[0].wanted]
    frame = results.of_suite(results.load(held), [each.spec.id for each in wanted])
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
    say = _say if download else None
    for line in examine.examine(suite, store, folder, plugin or (), say, weights or ()):
        print(line.text(), flush=True)
        failed |= not line.ok
    raise SystemExit(int(failed))


if __name__ == "__main__":
    entry()
