"""Environment and data checks: what is there, what is missing, and what to type."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import Misuse

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


@dataclass(frozen=True)
class Line:
    """One check."""

    ok: bool
    what: str
    found: str
    remedy: str = ""

    def text(self) -> str:
        tail = f"  → {self.remedy}" if self.remedy else ""
        return f"{'ok' if self.ok else 'MISSING':8}{self.what:16}{self.found}{tail}"


def examine(suite: str | None, store: str, data_dir: Path | None, plugins: Iterable[str]) -> list[Line]:
    """All checks, those of a suite's data sets too where one is named."""
    lines = [*_software(), *_hardware(), _store(store)]
    if suite is not None:
        lines += _data(suite, data_dir, plugins)
    return lines


def _software() -> Iterator[Line]:
    version = platform.python_version()
    yield Line(
        (3, 11) <= sys.version_info[:2] <= (3, 13), "python", version, "" if version else "use 3.11 to 3.13"
    )
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


def _data(suite_name: str, data_dir: Path | None, plugins: Iterable[str]) -> Iterator[Line]:
    from harness import registry
    from harness.suite_file import load_suite
    from harness.workspace import read_data

    catalogue = registry.load(plugins)
    suite = load_suite(suite_name, catalogue)
    for dataset in sorted({row.dataset for row in suite.tasks}):
        try:
            data = read_data(catalogue, dataset, data_dir)
        except (Misuse, ValueError) as error:
            yield Line(False, dataset, str(error))
            continue
        state = "official" if data.official else f"not official: {data.note}"
        sizes = f"{len(data.train)} + {len(data.test)} images, {len(data.classes)} classes"
        yield Line(True, dataset, f"{sizes}, {state}, digest {data.digest()}")
