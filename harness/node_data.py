"""Data and weights from a URL, fetched once to each node: the first worker there copies, the others wait.

    CACHE/data/<url>-<version>/PART        what one data set needs of --data URL
    CACHE/weights/<url>-<version>/FILE     a file of published weights

CACHE is $EFFACE_CACHE or ~/.cache/efface. A version names what the source listed when the sweep began (names,
sizes, checksums or times), so that changed data are fetched anew, and a node that finds another version than
the driver says so. A copy gets its name only when it is whole: every size as listed and, where the source has
a file SHA256SUMS, every digest in it; one that broke off goes on with the files that it lacks. A source that
is away is waited for. What it says is not trusted: its names stay below the folder, its errors show no query.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, TypeVar

from harness import urls
from harness.errors import Misuse, OverTime
from harness.patience import QUICK, may_pass
from harness.urls import is_url, open_url, without_secrets

if TYPE_CHECKING:
    from harness.registry import Catalogue

T = TypeVar("T")
FETCHERS = 8  # files at a time
CHUNK = 1 << 20  # bytes
SUMS = "SHA256SUMS"  # as `sha256sum` writes it, at the top of the source; names are relative to there
AWAY_SECONDS = 300.0  # that a node waits for a source which gives no file; the driver waits QUICK
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # between two tries; each is twice the one before


class SourceAway(Misuse):
    """The source cannot be read now, for a reason that may pass."""

    came = 0  # files that it gave before


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
    if not _asked(f"--data {url}", urls.exists, fs, fs.isdir, root):
        raise Misuse(f"--data {url}: no such folder; give one that holds what --data-dir would hold")
    parts = []
    for dataset in sorted(set(datasets)):
        info = catalogue.dataset(dataset)
        if info.needs_folder:
            path = _needed(url, fs, root, dataset, info)
            listed = _asked(f"--data {url}", urls.files_of, fs, urls.join(root, path))
            parts.append(Part(dataset, path, urls.version_of(listed)))
    where = url.rstrip("/") if is_url(url) else str(Path(url).expanduser().resolve())
    return Source(where, tuple(parts))


def pinned(url: str) -> str:
    """URL#VERSION of a file of weights: what `weights_file` finds on any node, and the same on all."""
    fs, root = open_url(url, "--weights")
    if not _asked(f"--weights {url}", urls.exists, fs, fs.isfile, root):
        raise Misuse(f"--weights {url}: no such file; give a safetensors file or a torch state dict")
    return f"{url}#{urls.version_of(_asked(f'--weights {url}', urls.files_of, fs, root))}"


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
            _asked(f"--data {url}", _show, fs, root, skeleton, depth)
            try:
                found = Path(info.find(data_folder(dataset, skeleton))).relative_to(skeleton).as_posix()
                return "" if found == "." else urls.below(found, url)
            except DataError as error:
                problem = type(error)(str(error).replace(made, url))
    raise Misuse(str(problem).replace("--data-dir", "--data"))


def _show(fs: Any, root: str, folder: Path, depth: int) -> None:
    for entry in fs.ls(root, detail=True):
        place = folder / urls.below(entry["name"].rstrip("/").rpartition("/")[2], root)
        if entry["type"] == "directory":
            place.mkdir(exist_ok=True)
            if depth > 1:
                _show(fs, entry["name"], place, depth - 1)
        elif not urls.is_marker(entry):
            place.touch()


# -------------------- asking a source


def _asked(source: str, act: Callable[..., T], *given: Any) -> T:
    """What the driver asks, who soon wants to know."""
    return _patiently(partial(_asking(source)(act), *given), QUICK)


@contextmanager
def _asking(source: str) -> Iterator[None]:
    """What goes wrong in here is the source's. A redirect may have led to a signed URL: no message, and no
    error that is behind it, tells where.
    """
    try:
        yield
    except (Misuse, OverTime):
        raise
    except Exception as caught:  # noqa: BLE001  whatever a client library raises
        error = urls.cause_of(caught)
        text = without_secrets(str(error))
        why = " ".join((text if isinstance(error, OSError) else f"{type(error).__name__}: {text}").split())
        kind = SourceAway if may_pass(error) else Misuse
        raise kind(f"{source}: cannot be read: {why[:200]}") from None


def _patiently(act: Callable[[], T], seconds: float) -> T:
    """What `act` gives, tried again while the source is away and for so long no file came."""
    since, pause = None, FIRST_PAUSE
    while True:
        try:
            return act()
        except SourceAway as away:
            if since is None or away.came:
                since, pause = monotonic(), FIRST_PAUSE
            left = since + seconds - monotonic()
            if left <= 0:
                raise Misuse(
                    f"{away}; {socket.gethostname()} has asked for {seconds:g} s; see that the source can be "
                    "reached from there, and type the command again"
                ) from None
        sleep(min(pause, left))
        pause = min(2 * pause, LONGEST_PAUSE)


# -------------------- fetching


def _fetched(url: str, part: Part, kind: str, option: str) -> Path:
    """The folder of this node that holds a part, copied there by whoever comes first."""
    place = cache() / kind / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{part.version}"
    target = place / part.path if part.path else place / "whole"
    if not target.exists():
        try:
            with _alone(place, part.path):
                if not target.exists():
                    _patiently(lambda: _copy(url, part, target, option), AWAY_SECONDS)
        except OverTime:
            raise
        except OSError as error:  # of the source there is none left
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
    origin = urls.join(root, part.path)
    with _asking(f"{option} {url}"):
        listed, sums = urls.files_of(fs, origin), _sums(fs, root)
    if urls.version_of(listed) != part.version:
        raise Misuse(
            f"{option} {url}: {part.path or 'it'} is not what it was when the sweep began; type the command "
            "again, and leave the source alone while it runs"
        )
    temporary = target.with_name(f".{target.name}.partial")  # only one process at a time, so never two
    jobs: list[Future[None]] = []
    pool = ThreadPoolExecutor(FETCHERS)
    try:
        for name, facts in listed.items():
            place = temporary / name if name else temporary
            if place.is_file():
                continue  # whole: from a fetch that broke off
            expected = sums.get(urls.join(part.path, name))
            path = urls.join(origin, name)
            jobs.append(pool.submit(_copy_file, fs, path, place, facts, expected, f"{option} {url}"))
        for job in as_completed(jobs):
            job.result()
    except SourceAway as away:
        pool.shutdown(cancel_futures=True)
        away.came = sum(not job.cancelled() and job.exception() is None for job in jobs)
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    temporary.replace(target)


def _copy_file(
    fs: Any, path: str, target: Path, facts: Mapping[str, Any], expected: str | None, source: str
) -> None:
    """One file, which gets its name when it is complete as far as its source can tell."""
    target.parent.mkdir(parents=True, exist_ok=True)
    sha, size = hashlib.sha256(), 0
    unfinished = target.with_name(f".{target.name}.part")
    with unfinished.open("wb") as copy, closing(_chunks(fs, path, source)) as chunks:
        for chunk in chunks:
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


def _chunks(fs: Any, path: str, source: str) -> Generator[bytes]:
    """What a file of the source holds. An error of whoever takes it is none of the source's."""
    with _asking(source), fs.open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _sums(fs: Any, root: str) -> dict[str, str]:
    """SHA-256 by relative name, where the source says so."""
    try:
        lines = fs.cat_file(urls.join(root, SUMS)).decode(errors="replace").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    pairs = (line.split(maxsplit=1) for line in lines if line.strip())
    return {pair[1].lstrip("*").removeprefix("./"): pair[0] for pair in pairs if len(pair) == 2}
