"""What the verbs share: options that many take, and from what was typed to a suite's plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from harness.errors import Misuse

if TYPE_CHECKING:
    from harness.plan import Plan
    from harness.registry import Catalogue
    from harness.selection import Selection
    from harness.store import Store
    from harness.suite import Suite

SuiteName = Annotated[
    str, typer.Argument(help="A shipped suite (efface list suites) or the path of a .toml file")
]
StoreOption = Annotated[str, typer.Option("--store", help="Folder or URL that holds the results")]
Plugins = Annotated[list[str] | None, typer.Option("--plugin", help="Python file that registers a method, …")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON")]
DataDir = Annotated[str | None, typer.Option("--data-dir", help="Folder that holds the data sets")]
DataUrl = Annotated[
    str | None, typer.Option("--data", help="Folder or URL of the data sets, fetched once to each node")
]
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
Presets = Annotated[
    list[str] | None, typer.Option("--presets", help="File or folder of presets, over the shipped ones")
]
StorePatience = Annotated[
    float, typer.Option(help="Seconds to wait for a store that is full or does not answer", min=0)
]
DEFAULT_STORE = "efface-store"


def names_of(text: str | None) -> tuple[str, ...]:
    """Comma-separated names."""
    return tuple(part.strip() for part in text.split(",") if part.strip()) if text else ()


def select(
    methods: str | None,
    models: str | None,
    datasets: str | None,
    scenarios: str | None,
    targets: str | None,
    seeds: str | None,
    tables: str | None = None,
) -> Selection:
    from harness.selection import Selection

    return Selection(
        names_of(methods),
        names_of(models),
        names_of(datasets),
        names_of(scenarios),
        names_of(targets),
        seeds_of(seeds),
        names_of(tables),
    )


def seeds_of(text: str | None) -> tuple[int, ...]:
    found: list[int] = []
    for part in (text or "").split(","):
        first, dash, last = part.strip().partition("-")
        if not part.strip():
            continue
        if not first.isdigit() or (dash and not last.isdigit()):
            raise Misuse(f"--seeds {text}: expected numbers such as 0,1,2 or 0-4")
        found.extend(range(int(first), int(last if dash else first) + 1))
    return tuple(dict.fromkeys(found))


def prepare(
    suite: str,
    store: Store | None,
    plugins: list[str] | None,
    only: Selection,
    presets: list[str] | None = None,
) -> tuple[Plan, Catalogue]:
    """The registry, the suite and its plan against a store."""
    from dataclasses import replace

    from harness import registry
    from harness.plan import make_plan
    from harness.presets import read_presets
    from harness.suite import expand
    from harness.suite_file import load_suite

    catalogue = registry.load(plugins or ())
    loaded: Suite = load_suite(suite, catalogue)
    if presets:
        loaded = replace(loaded, presets=read_presets(*presets))
    return make_plan(loaded, expand(loaded, catalogue, only), store, catalogue), catalogue


def existing(url: str) -> Store | None:
    """The store if there is one; a folder that is something else is refused."""
    from harness.store import Store

    if Store(url).is_missing():
        return None
    return Store.open(url)
