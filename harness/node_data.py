"""Data and weights from a URL, fetched once to each node: the first worker there copies, the others wait.

    CACHE/data/<url>-<version>/PART        what one data set needs of --data URL
    CACHE/weights/<url>-<version>/FILE     a file of published weights

CACHE is $EFFACE_CACHE or ~/.cache/efface. A version names what the source listed when the sweep began (names,
sizes, checksums or times), so that changed data are fetched anew, and a node that finds another version than
the driver says so. A copy gets its name only when it is whole: every size as listed and, where the source has
a file SHA256SUMS, every digest in it; one that broke off goes on with the files that it lacks.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from harness.errors import Misuse
from harness.urls import is_url, open_url

if TYPE_CHECKING:
    from harness.registry import Catalogue

FETCHERS = 8  # files at a time
CHUNK = 1 << 20  # bytes
SUMS = "SHA256SUMS"  # as `sha256sum` writes it, at the top of the source; names are relative to there
MARKS = ("ETag", "etag", "md5Hash", "content_md5", "mtime", "LastModified", "last_modified", "updated")


@dataclass(frozen=True)
class Part:
    """What one data set needs of a source, and which version of it the driver saw."""

    dataset: str
    path: str  # below the source; empty for all of it
    version: str


@dataclass(frozen=True)
class Source:
    """A source of data as the driver saw it; plain data, so that it can be sent to every node."""

    url: str
    parts: tuple[Part, ...]

    def folder(self, dataset: str) -> Path | None:
        """The data folder of this node for a data set, fetched if need be; None where it needs none."""
        part = next((part for part in self.parts if part.dataset == dataset), None)
        return None if part is None else _fetched(self.url, part, "data", "--data")


def source_of(url: str, catalogue: Catalogue, datasets: Iterable[str]) -> Source:
    """Find out what each data set needs of a folder or URL, without fetching it."""
    fs, root = open_url(url, "--data")
    if not _reach(lambda: fs.isdir(root), url, "--data"):
        raise Misuse(f"--data {url}: no such folder; give one that holds what --data-dir would hold")
    parts = []
    for dataset in sorted(set(datasets)):
        info = catalogue.dataset(dataset)
        if info.needs_folder:
            path = _needed(url, fs, root, dataset, info)
            parts.append(Part(dataset, path, _version(_listed(fs, _join(root, path)))))
    return Source(_absolute(url), tuple(parts))


def pinned(url: str) -> str:
    """URL#VERSION of a file of weights: what `weights_file` finds on any node, and the same on all."""
    fs, root = open_url(url, "--weights")
    if not _reach(lambda: fs.isfile(root), url, "--weights"):
        raise Misuse(f"--weights {url}: no such file; give a safetensors file or a torch state dict")
    return f"{url}#{_version(_listed(fs, root))}"


def weights_file(where: str) -> Path:
    """A file of weights on this node: fetched if it is URL#VERSION, else the path as it is."""
    if not is_url(where):
        return Path(where)
    url, _, version = where.rpartition("#")
    parent, _, name = url.rpartition("/")
    return _fetched(parent, Part("", name, version), "weights", "--weights") / name


def cache() -> Path:
    """Where this node keeps what it has fetched."""
    place = os.environ.get("EFFACE_CACHE")
    return Path(place).expanduser() if place else Path.home() / ".cache" / "efface"


def data_folder(dataset: str, data_dir: str | Path | None) -> Path | None:
    """What a data set is given as its data folder; None where nobody named one."""
    _, _, part = dataset.partition(":")
    folder = Path(data_dir).expanduser() if data_dir is not None else None
    if part and folder is None:
        raise Misuse(f"data set {dataset}: no data folder given; type --data-dir FOLDER that holds {part}/")
    return folder / part if folder is not None and part else folder


# -------------------- what is needed


def _needed(url: str, fs: Any, root: str, dataset: str, info: Any) -> str:
    """The part of a source that a data set looks into, found by showing it the source's folders, empty."""
    from tasks.images import DataError

    if info.find is None:
        return ""
    problem: DataError | None = None
    for depth in (1, 2):
        with tempfile.TemporaryDirectory(prefix="efface-") as made:
            skeleton = Path(made)
            _show(fs, root, skeleton, depth)
            try:
                found = Path(info.find(data_folder(dataset, skeleton)))
                return found.relative_to(skeleton).as_posix().removeprefix(".")
            except DataError as error:
                problem = type(error)(str(error).replace(made, url))
    raise Misuse(str(problem).replace("--data-dir", "--data"))


def _show(fs: Any, root: str, folder: Path, depth: int) -> None:
    for entry in fs.ls(root, detail=True):
        place = folder / PurePosixPath(entry["name"]).name
        if entry["type"] != "directory":
            place.touch()
            continue
        place.mkdir(exist_ok=True)
        if depth > 1:
            _show(fs, entry["name"], place, depth - 1)


def _listed(fs: Any, root: str) -> dict[str, Mapping[str, Any]]:
    """Every file below a folder by its relative name; where there is a file instead, by no name."""
    if fs.isfile(root):
        return {"": fs.info(root)}
    found = fs.find(root, detail=True)
    start = fs._strip_protocol(root).rstrip("/") + "/"
    return {str(path).removeprefix(start): facts for path, facts in sorted(found.items())}


def _version(listed: Mapping[str, Mapping[str, Any]]) -> str:
    """12 hex digits over names, sizes, and what the source tells of the content or its time."""
    sha = hashlib.sha256()
    for name, facts in listed.items():
        mark = next((str(facts[key]) for key in MARKS if facts.get(key)), "")
        sha.update(repr((name, facts.get("size"), mark)).encode())
    return sha.hexdigest()[:12]


# -------------------- fetching


def _fetched(url: str, part: Part, kind: str, option: str) -> Path:
    """The folder of this node that holds a part, copied there by whoever comes first."""
    place = cache() / kind / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{part.version}"
    target = place / part.path if part.path else place / "whole"
    if not target.exists():
        try:
            with _alone(place, part.path):
                if not target.exists():
                    _copy(url, part, target, option)
        except OSError as error:
            raise Misuse(
                f"{option} {url}: cannot be copied to {place}: {error}; make room there, or name another "
                "place with EFFACE_CACHE=FOLDER"
            ) from error
    return place if part.path else target


@contextmanager
def _alone(place: Path, path: str) -> Iterator[None]:
    """One process of this node at a time; closing the file, or dying, gives the lock back."""
    place.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(path.encode()).hexdigest()[:8]
    with (place / f".{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _copy(url: str, part: Part, target: Path, option: str) -> None:
    fs, root = open_url(url, option)
    origin = _join(root, part.path)
    listed = _listed(fs, origin)
    if _version(listed) != part.version:
        raise Misuse(
            f"{option} {url}: {part.path or 'it'} is not what it was when the sweep began; type the command "
            "again, and leave the source alone while it runs"
        )
    sums = _sums(fs, root)
    temporary = target.with_name(f".{target.name}.partial")  # only one process at a time, so never two
    jobs: list[Future[None]] = []
    with ThreadPoolExecutor(FETCHERS) as pool:
        for name, facts in listed.items():
            place = temporary / name if name else temporary
            if place.is_file():
                continue  # whole: from a fetch that broke off
            expected = sums.get(_join(part.path, name))
            jobs.append(pool.submit(_copy_file, fs, _join(origin, name), place, facts, expected))
        for job in jobs:
            job.result()
    temporary.replace(target)


def _copy_file(fs: Any, path: str, target: Path, facts: Mapping[str, Any], expected: str | None) -> None:
    """One file, which gets its name when it is complete as far as its source can tell."""
    target.parent.mkdir(parents=True, exist_ok=True)
    sha, size = hashlib.sha256(), 0
    unfinished = target.with_name(f".{target.name}.part")
    with fs.open(path, "rb") as source, unfinished.open("wb") as copy:
        while chunk := source.read(CHUNK):
            sha.update(chunk)
            copy.write(chunk)
            size += len(chunk)
    if facts.get("size") not in (None, size):
        raise Misuse(f"{path}: {size:,} bytes came, {facts['size']:,} are listed; type the command again")
    if expected not in (None, sha.hexdigest()):
        raise Misuse(
            f"{path} has the SHA-256 {sha.hexdigest()[:16]}…, {SUMS} beside it says {str(expected)[:16]}…; "
            "put the right file there"
        )
    unfinished.replace(target)


def _sums(fs: Any, root: str) -> dict[str, str]:
    """SHA-256 by relative name, where the source says so."""
    try:
        lines = fs.cat_file(_join(root, SUMS)).decode().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    pairs = (line.split(maxsplit=1) for line in lines if line.strip())
    return {pair[1].lstrip("*").removeprefix("./"): pair[0] for pair in pairs if len(pair) == 2}


def _join(*parts: str) -> str:
    return "/".join(part.rstrip("/") for part in parts if part)


def _absolute(url: str) -> str:
    return url.rstrip("/") if is_url(url) else str(Path(url).expanduser().resolve())


def _reach(ask: Any, url: str, option: str) -> bool:
    try:
        return bool(ask())
    except OSError as error:
        raise Misuse(f"{option} {url}: cannot be read: {str(error)[:200]}") from None
