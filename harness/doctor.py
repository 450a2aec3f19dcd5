"""Environment and data checks: what is there, what is missing, and what to type."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import Misuse
from harness.plan import table_key

if TYPE_CHECKING:
    from harness.registry import Catalogue
    from harness.suite import Suite
    from harness.weights import Need

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "ray",
    "optuna",
    "pyarrow",
    "pandas",
    "scikit-learn",
    "safetensors",
)
OPTIONAL = frozenset({"ray", "optuna"})
ROOM = 1 << 30  # bytes that a sweep should find free
WIDTH = 110  # characters, from which on what to type stands on lines of its own


@dataclass(frozen=True)
class Line:
    """One check."""

    ok: bool
    what: str
    found: str
    remedy: str = ""

    def text(self) -> str:
        """One line, and where that is long, each remedy on one of its own below it."""
        first = f"{'ok' if self.ok else 'MISSING':8}{self.what:16}{self.found}"
        remedies = [f"→ {remedy}" for remedy in self.remedy.splitlines()]
        whole = "  ".join([first, *remedies])
        return whole if len(whole) <= WIDTH else "\n".join([first, *(" " * 24 + each for each in remedies)])


def examine(
    suite: str | None,
    store: str,
    data_dir: Path | None,
    plugins: Iterable[str],
    download: Callable[[str], None] | None = None,
    weights: Sequence[str] = (),
) -> Iterator[Line]:
    """All checks, those of a suite's data sets and published weights too where one is named.

    `download` tells of each data set that is fetched; without it nothing is fetched. `weights` are files as
    typed after `--weights`.
    """
    yield from (*_software(), *_hardware(), _store(store))
    if suite is not None:
        yield from _of_suite(suite, data_dir, plugins, download, weights)


def _software() -> Iterator[Line]:
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Line(fits, "python", platform.python_version(), "" if fits else "use 3.11 to 3.13")
    for name in PACKAGES:
        try:
            yield Line(True, name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            remedy = "without it: --on inline" if name in OPTIONAL else f"pip install {name}"
            yield Line(name in OPTIONAL, name, "not installed", remedy)


def _hardware() -> Iterator[Line]:
    import torch

    yield Line(True, "cpu", f"{os.cpu_count()} cores")
    if not torch.cuda.is_available():
        yield Line(True, "cuda", "no device: runs go to the CPU")
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        facts = torch.cuda.get_device_properties(index)
        yield Line(True, f"cuda:{index}", f"{facts.name}, {facts.total_memory >> 30} GiB")


def _store(url: str) -> Line:
    from harness.store import Store

    store = Store(url)
    if store.local is None:
        return Line(True, "store", url)
    place = store.local if store.local.exists() else store.local.absolute().parent
    if not os.access(place, os.W_OK):
        return Line(False, "store", f"{url} is not writable", "give another folder with --store")
    free = shutil.disk_usage(place).free
    return Line(free > ROOM, "store", f"{url}, {free >> 30} GiB free", "" if free > ROOM else "make room")


def _of_suite(
    suite_name: str,
    data_dir: Path | None,
    plugins: Iterable[str],
    download: Callable[[str], None] | None,
    weights: Sequence[str],
) -> Iterator[Line]:
    """One line for each data set of a suite, and for each file of weights that its originals start from."""
    from harness import registry
    from harness.fetch import fetch_data
    from harness.suite_file import load_suite
    from harness.weights import of_suite, parse

    catalogue = registry.load(plugins)
    suite = load_suite(suite_name, catalogue)
    needs = of_suite(suite, catalogue)
    given = parse(weights, needs)
    lacking: set[str] = set()  # data sets and models
    for dataset in sorted({row.dataset for row in suite.tasks}):
        try:
            if download is not None:
                fetch_data(catalogue, [dataset], data_dir, download)
        except Misuse as error:
            line = Line(False, dataset, f"not downloaded: {error}")
        else:
            line = _data_line(catalogue, dataset, data_dir, suite_name)
        lacking |= set() if line.ok else {dataset}
        yield line
    for need in needs:
        line = _weights_line(need, given.get(need.name), download)
        lacking |= set() if line.ok else {need.model}
        yield line
    yield from _tables(suite, lacking)


def _tables(suite: Suite, lacking: set[str]) -> Iterator[Line]:
    """Which of a paper's tables have all that they need; nothing where a suite serves none."""
    waits: dict[str, set[str]] = {}
    for row in suite.tasks:
        for table in row.tables:
            waits.setdefault(table, set()).update(lacking & {row.dataset, *row.models})
    ready = [name for name in sorted(waits, key=table_key) if not waits[name]]
    if waits:
        none = "" if ready else "none"
        late = [name for name in sorted(waits, key=table_key) if waits[name]]
        found = f"ready: {', '.join(ready)}{none}" + (f"; not yet: {', '.join(late)}" if late else "")
        yield Line(not late, "tables", found)


def _data_line(catalogue: Catalogue, dataset: str, data_dir: Path | None, suite: str) -> Line:
    """Whether a data set is verified, present, partial, unreadable or missing, and where."""
    from harness.node_data import data_folder
    from harness.workspace import read_data
    from tasks.api import DataMissing

    info = catalogue.dataset(dataset)
    try:
        data = read_data(catalogue, dataset, data_dir)
        place = info.find(data_folder(dataset, data_dir)) if info.find else None
    except (Misuse, ValueError) as error:
        if not isinstance(error.__cause__, DataMissing):
            return Line(False, dataset, f"unreadable: {error}")
        why, _, how = str(error).removeprefix(f"{dataset}: ").partition("; ")
        command = f"efface doctor {suite} --data-dir FOLDER --download"
        remedy = f"{how.removesuffix('; or add --download')}\n{command}" if info.download else how
        return Line(False, dataset, f"missing: {why}", remedy)
    state = "verified" if data.official else f"{'partial' if data.partial else 'present'}: {data.note}"
    where = [f"in {place}"] if place else []
    sizes = f"{len(data.train):,} + {len(data.test):,} images, {len(data.classes)} classes"
    found = ", ".join([state, sizes, *where, f"digest {data.digest()}"])
    return Line(True, dataset, found, f"whole: {info.source}" if data.partial else "")


def _weights_line(need: Need, given: str | None, download: Callable[[str], None] | None) -> Line:
    """Whether published weights are verified (pinned by their recipe), present, unreadable or missing."""
    from harness.weights import find, read_weights
    from tasks.pretrained import downloaded, how

    what = f"{need.model} weights"
    path: str | Path | None = given or downloaded(need.name)
    if path is None and download is None:
        return Line(False, what, f"missing: timm/{need.name}", how(need.name))
    try:
        if path is None and download is not None:
            download(f"downloading timm/{need.name}")
            path = find(need, download=True)
    except Misuse as error:
        return Line(False, what, f"not downloaded: {error}")
    try:
        checkpoint = read_weights(need.recipe, ((need.name, str(path)),))
    except Misuse as error:
        return Line(False, what, f"unreadable: {error}")
    state = "verified" if need.recipe.weights_digest else "present"
    return Line(True, what, f"{state}, timm/{need.name}, in {path}, digest {checkpoint.digest}")
