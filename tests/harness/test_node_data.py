"""Data and weights from a URL: fetched once, only what is needed, whole or not at all."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from harness import node_data, registry, urls
from harness.errors import Misuse, OverTime
from harness.node_data import Part, Source, pinned, source_of, weights_file
from harness.registry import Catalogue
from harness.workspace import Settings, Workspace, read_data
from tests.tasks.make_trees import cifar10_tree, imagenet_tree, pins_tree

URL = "memory://bucket/data"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Callable[[Path], None]]:
    """An object store in memory; `bucket(folder)` puts a folder there."""
    fs = fsspec.filesystem("memory")

    def put(folder: Path) -> None:
        fs.put(f"{folder}/", URL, recursive=True)

    yield put
    for path in [path for path in fs.store if path.startswith("/bucket")]:
        del fs.store[path]


@pytest.fixture
def cifar(tmp_path: Path, bucket: Callable[[Path], None]) -> Path:
    """CIFAR-10 in small, beside something that nobody needs."""
    cifar10_tree(tmp_path / "data")
    (tmp_path / "data" / "other").mkdir()
    (tmp_path / "data" / "other" / "large.bin").write_bytes(b"x" * 1000)
    bucket(tmp_path / "data")
    return tmp_path / "data"


def copied(cache: Path) -> list[str]:
    """Files of whole copies."""
    found = (p.relative_to(cache) for p in cache.rglob("*") if p.is_file())
    return sorted(p.name for p in found if not any(part.startswith(".") for part in p.parts))


def test_data_from_a_url_are_those_of_the_folder_and_nothing_else_is_fetched(
    cifar: Path, own_cache: Path, catalogue: Catalogue
) -> None:
    source = source_of(URL, catalogue, ["cifar10", "digits"])
    assert [part.path for part in source.parts] == ["cifar-10-batches-py"]
    assert not own_cache.exists()  # only looked at
    digest = read_data(catalogue, "cifar10", None, source=source).digest()
    assert digest == read_data(catalogue, "cifar10", cifar).digest()
    assert copied(own_cache) == sorted(p.name for p in (cifar / "cifar-10-batches-py").iterdir())
    assert source.folder("digits") is None


@pytest.mark.parametrize("root", ["imagenet", "."])
def test_what_is_needed_of_a_deeper_tree_is_found_by_looking(
    tmp_path: Path, bucket: Callable[[Path], None], catalogue: Catalogue, root: str
) -> None:
    imagenet_tree(tmp_path / "made", train_each=1, classes=2)
    (tmp_path / "data").mkdir()
    (tmp_path / "made" / "imagenet").rename(tmp_path / "data" / "imagenet")
    folder = tmp_path / "data" / ("imagenet" if root == "." else "")
    bucket(folder)
    source = source_of(URL, catalogue, ["imagenet"])
    assert source.parts[0].path == ("" if root == "." else "imagenet")
    here, there = (
        read_data(catalogue, "imagenet", folder),
        read_data(catalogue, "imagenet", None, None, source),
    )
    assert len(here.train) == len(there.train) and here.digest() == there.digest()


def test_a_plain_folder_is_a_source_too(cifar: Path, own_cache: Path, catalogue: Catalogue) -> None:
    source = source_of(str(cifar), catalogue, ["cifar10"])
    found = source.folder("cifar10")
    assert found is not None and own_cache in found.parents
    assert (found / "cifar-10-batches-py" / "test_batch").read_bytes() == (
        cifar / "cifar-10-batches-py" / "test_batch"
    ).read_bytes()


def test_a_second_worker_reads_nothing_from_the_source(
    cifar: Path, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(URL, catalogue, ["cifar10"])
    first = source.folder("cifar10")
    monkeypatch.setattr(node_data, "open_url", lambda *_: pytest.fail("asked the source again"))
    assert source.folder("cifar10") == first


def test_changed_data_are_fetched_anew_and_refused_where_the_driver_saw_others(
    cifar: Path, bucket: Callable[[Path], None], catalogue: Catalogue
) -> None:
    before = source_of(URL, catalogue, ["cifar10"])
    (cifar / "cifar-10-batches-py" / "readme.html").write_text("longer than it was")
    bucket(cifar)
    after = source_of(URL, catalogue, ["cifar10"])
    assert after.folder("cifar10") is not None and before != after
    with pytest.raises(Misuse, match="is not what it was when the sweep began"):
        before.folder("cifar10")


def test_half_a_copy_is_never_used(
    cifar: Path, own_cache: Path, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(URL, catalogue, ["cifar10"])
    copy, seen = node_data._copy_file, []

    def break_off(*args: object) -> None:
        seen.append(args)
        if len(seen) > 3:
            raise OSError(28, "No space left on device")
        copy(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(node_data, "_copy_file", break_off)
    with pytest.raises(Misuse, match=r"No space left on device.*EFFACE_CACHE=FOLDER"):
        source.folder("cifar10")
    assert copied(own_cache) == []
    asked: list[object] = []

    def note(*args: object) -> None:
        asked.append(args)
        copy(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(node_data, "_copy_file", note)
    read_data(catalogue, "cifar10", None, source=source)
    assert len(asked) == len(copied(own_cache)) - 3  # what had come whole is kept


def test_a_file_that_arrives_short_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"123")
    with pytest.raises(Misuse, match="3 bytes came, 4 are listed"):
        node_data._copy_file(
            fsspec.filesystem("file"), str(tmp_path / "a"), tmp_path / "b", {"size": 4}, None, "--data x"
        )


def test_published_sums_are_checked(
    cifar: Path, bucket: Callable[[Path], None], own_cache: Path, catalogue: Catalogue
) -> None:
    batch = cifar / "cifar-10-batches-py" / "test_batch"
    right = hashlib.sha256(batch.read_bytes()).hexdigest()
    for digest, fits in (("0" * 64, False), (right, True)):
        (cifar / "SHA256SUMS").write_text(f"{digest}  ./cifar-10-batches-py/test_batch\n")
        bucket(cifar)
        source = source_of(URL, catalogue, ["cifar10"])
        if fits:
            assert source.folder("cifar10")
            continue
        with pytest.raises(Misuse, match=r"test_batch has the SHA-256 .*SHA256SUMS beside it says 0000"):
            source.folder("cifar10")
        assert copied(own_cache) == []


FETCH = """
import os, sys, time
from harness import node_data
from harness.node_data import Part, Source
copy = node_data._copy_file
def slowly(*args):
    os.write(1, b"copied\\n")  # whole: print writes word and newline apart, and four threads write
    time.sleep(0.2)
    copy(*args)
node_data._copy_file = slowly
source = Source(sys.argv[1], (Part("d", sys.argv[2], sys.argv[3]),))
print(source.folder("d"))
"""


def test_of_several_processes_one_copies_and_the_others_wait(tmp_path: Path) -> None:
    (tmp_path / "data" / "part").mkdir(parents=True)
    for number in range(4):
        (tmp_path / "data" / "part" / str(number)).write_text("x")
    fs = fsspec.filesystem("file")
    version = urls.version_of(urls.files_of(fs, str(tmp_path / "data" / "part")))
    command = [sys.executable, "-c", FETCH, str(tmp_path / "data"), "part", version]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) for _ in range(3)
    ]
    said = [process.communicate(timeout=60)[0].split() for process in running]
    assert sum(words.count("copied") for words in said) == 4
    assert len({words[-1] for words in said}) == 1


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://bucket/nothing", "no such folder"),
        ("/nowhere/at/all", "no such folder"),
        ("memory://bucket/data/cifar-10-batches-py", "looked for memory://bucket/data/cifar-10-batches-py/"),
        ("moon://x", "--data moon://x: Protocol not known"),
    ],
)
def test_a_source_without_the_data_is_named(
    cifar: Path, catalogue: Catalogue, url: str, message: str
) -> None:
    with pytest.raises(Misuse) as refused:
        source_of(url, catalogue, ["cifar10"])
    assert message in str(refused.value) and "/efface-" not in str(refused.value)


def test_one_named_folder_of_images_is_a_part(
    tmp_path: Path, bucket: Callable[[Path], None], catalogue: Catalogue
) -> None:
    for name in ("pets", "cars"):
        made = pins_tree(tmp_path / name, each=2, people=2)
        (tmp_path / "data").mkdir(exist_ok=True)
        (made if made.name.startswith("105") else tmp_path / name).rename(tmp_path / "data" / name)
    bucket(tmp_path / "data")
    source = source_of(URL, catalogue, ["imagefolder:pets"])
    assert [part.path for part in source.parts] == ["pets"]
    assert read_data(catalogue, "imagefolder:pets", None, source=source).classes


def test_a_worker_with_other_data_than_the_driver_says_so(
    cifar: Path, tmp_path: Path, catalogue: Catalogue
) -> None:
    told = Settings(str(tmp_path / "s"), data_dir=str(cifar), device="cpu", digests=(("cifar10", "0" * 16),))
    with pytest.raises(Misuse, match="the driver's 0000000000000000"):
        Workspace(told, catalogue).loaded("cifar10")
    same = read_data(catalogue, "cifar10", cifar).digest()
    assert Workspace(replace(told, digests=(("cifar10", same),)), catalogue).loaded("cifar10").digest == same


def test_weights_are_fetched_once_and_named_by_their_version(own_cache: Path) -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/bucket/w/model.pth", b"first")
    where = pinned("memory://bucket/w/model.pth")
    assert weights_file(where).read_bytes() == b"first"
    fs.pipe_file("/bucket/w/model.pth", b"another")
    assert weights_file(where).read_bytes() == b"first"  # what the sweep began with
    assert weights_file(pinned("memory://bucket/w/model.pth")).read_bytes() == b"another"
    assert weights_file("/here/model.pth") == Path("/here/model.pth")
    with pytest.raises(Misuse, match=r"--weights memory://bucket/w/none.pth: no such file"):
        pinned("memory://bucket/w/none.pth")
    fs.rm("/bucket", recursive=True)


def test_a_pickle_that_runs_a_program_is_not_read_as_weights(tmp_path: Path) -> None:
    from tasks.images import DataError
    from tasks.pretrained import read_checkpoint

    class Program:
        def __reduce__(self) -> object:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"weight": Program()}, tmp_path / "w.pth")
    with pytest.raises(DataError, match="no state dict that can be read safely"):
        read_checkpoint(tmp_path / "w.pth")
    assert not (tmp_path / "ran").exists()


def test_a_source_can_be_sent_to_a_worker(cifar: Path) -> None:
    import pickle

    source = source_of(URL, registry.load(), ["cifar10"])
    assert isinstance(pickle.loads(pickle.dumps(source)), Source)


# -------------------- a source that is not to be trusted


def listed_by(root: str) -> Part:
    """All that a source lists, as a driver would pin it that trusts every name."""
    fs = fsspec.filesystem("memory")
    found = fs.find(root, detail=True)
    names = {path.removeprefix(fs._strip_protocol(root) + "/"): found[path] for path in sorted(found)}
    return Part("d", root.rpartition("/")[2], urls.version_of(names))


CLIMBING = ["../../../../escaped", "train/../../../../../escaped", "ABSOLUTE", "./a", ".."]


@pytest.mark.parametrize("name", CLIMBING)
def test_a_name_that_climbs_out_of_its_folder_is_refused(
    bucket: object, own_cache: Path, tmp_path: Path, name: str
) -> None:
    name = name.replace("ABSOLUTE", str(tmp_path / "escaped"))
    for key in ("train/1.png", name):
        MemoryFileSystem.store[f"/bucket/data/pets/{key}"] = MemoryFile(data=b"x")
    with pytest.raises(Misuse) as refused:
        Source(URL, (listed_by(f"{URL}/pets"),)).folder("d")
    assert repr(name) in str(refused.value) and "outside of its folder" in str(refused.value)
    assert copied(own_cache) == [] and not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize("name", ["..", "."])
def test_looking_for_the_data_makes_no_folder_outside_either(
    cifar: Path, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    evil = [{"name": f"/bucket/data/{name}", "type": "directory"}]
    monkeypatch.setattr(MemoryFileSystem, "ls", lambda *_, **__: evil)
    with pytest.raises(Misuse, match=rf"lists '{name}', which would be written outside"):
        source_of(URL, catalogue, ["cifar10"])


def test_what_published_sums_name_is_only_looked_up(cifar: Path, own_cache: Path, tmp_path: Path) -> None:
    fs = fsspec.filesystem("memory")
    lines = [f"{'0' * 64}  {name}\n" for name in ("../../../escaped", str(tmp_path / "escaped"), "..", "/")]
    fs.pipe_file(f"{URL}/SHA256SUMS", "".join(lines).encode() + b"\xff\xfe\n0  \n")
    assert Source(URL, (listed_by(f"{URL}/other"),)).folder("d")
    assert copied(own_cache) == ["large.bin"] and not list(tmp_path.rglob("escaped"))


def test_by_what_a_buckets_console_shows_folders_is_no_file(
    tmp_path: Path, bucket: Callable[[Path], None], catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    pins_tree(tmp_path / "made", each=2, people=2).rename(tmp_path / "data" / "pets")
    bucket(tmp_path / "data")
    marks = [{"name": f"/bucket/data/{name}", "size": 0, "type": "file"} for name in ("", "pets/", "pets/a/")]
    found = {str(mark["name"]): mark for mark in marks[1:]}
    ls, find = MemoryFileSystem.ls, MemoryFileSystem.find
    monkeypatch.setattr(MemoryFileSystem, "ls", lambda *given, **more: [*marks, *ls(*given, **more)])
    monkeypatch.setattr(MemoryFileSystem, "find", lambda *given, **more: find(*given, **more) | found)
    source = source_of(URL, catalogue, ["imagefolder:pets"])
    assert read_data(catalogue, "imagefolder:pets", None, source=source).classes


class Elsewhere(BaseHTTPRequestHandler):
    """A server that sends whoever asks for a file on to a signed URL."""

    answer = 200

    def do_GET(self) -> None:
        signed = self.path.startswith("/signed")
        status = type(self).answer if signed else 302 if self.path == "/pub/w.pt" else 404
        self.send_response(status)
        self.send_header("Location", "/signed/w.pt?X-Amz-Signature=SECRET&X-Amz-Credential=AKIA")
        self.send_header("Content-Length", "5" if status == 200 else "0")
        self.end_headers()
        if status == 200 and self.command == "GET":
            self.wfile.write(b"hello")

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    monkeypatch.setattr(Elsewhere, "answer", 200)
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.01,))
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.mark.parametrize(("answer", "asked"), [(403, 0.0), (503, 300.0)])
def test_a_signed_url_to_which_a_source_redirects_is_told_to_nobody(
    server: ThreadingHTTPServer, clock: Clock, answer: int, asked: float
) -> None:
    url = f"http://127.0.0.1:{server.server_port}/pub/w.pt"
    where = pinned(url)
    assert "SECRET" not in where
    Elsewhere.answer = answer
    for ask in (lambda: weights_file(where), lambda: pinned(url)):
        with pytest.raises(Misuse, match=f"cannot be read: ClientResponseError: {answer}") as refused:
            ask()
        told = str(refused.value) + "".join(traceback.format_exception(refused.value))
        assert "SECRET" not in told and "AKIA" not in told and "/signed/w.pt?…" in told
    assert clock.now == pytest.approx(asked and asked + node_data.QUICK)


# -------------------- a source that is away


@dataclass
class Clock:
    """Time that passes only while somebody waits."""

    now: float = 0.0
    pauses: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(node_data, "sleep", found.sleep)
    monkeypatch.setattr(node_data, "monotonic", lambda: found.now)
    return found


def away(monkeypatch: pytest.MonkeyPatch, call: str, while_: Callable[[], bool]) -> None:
    """The object store resets the connection at this call."""
    real = getattr(MemoryFileSystem, call)

    def act(*given: Any, **more: Any) -> Any:
        if while_():
            raise ConnectionResetError(104, "Connection reset by peer")
        return real(*given, **more)

    monkeypatch.setattr(MemoryFileSystem, call, act)


@pytest.mark.parametrize("call", ["open", "find", "cat_file"])
def test_a_source_that_is_away_is_waited_for(
    cifar: Path, catalogue: Catalogue, clock: Clock, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    source = source_of(URL, catalogue, ["cifar10"])
    away(monkeypatch, call, lambda: clock.now < 20)
    digest = read_data(catalogue, "cifar10", None, source=source).digest()
    assert digest == read_data(catalogue, "cifar10", cifar).digest()
    assert clock.pauses == [0.5, 1, 2, 4, 8, 16]


@pytest.mark.parametrize("call", ["open", "find", "cat_file"])
def test_a_source_that_stays_away_is_named_and_not_the_cache(
    cifar: Path, own_cache: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    source = Source(URL, (listed_by(f"{URL}/other"),))
    away(monkeypatch, call, lambda: True)
    with pytest.raises(Misuse, match=r"cannot be read: .*reset by peer; .* has asked for 300 s") as refused:
        source.folder("d")
    assert str(refused.value).startswith(f"--data {URL}: ") and "EFFACE_CACHE" not in str(refused.value)
    assert clock.now == 300 and max(clock.pauses) == 30 and copied(own_cache) == []


def test_as_long_as_files_come_a_source_is_not_given_up(
    cifar: Path, catalogue: Catalogue, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(URL, catalogue, ["cifar10"])
    back = [0.0]

    def breaks_after_each_file() -> bool:
        if clock.now < back[0]:
            return True
        back[0] = clock.now + 200
        return False

    away(monkeypatch, "open", breaks_after_each_file)
    assert source.folder("cifar10") and clock.now > 1000


@pytest.mark.parametrize("error", [PermissionError(13, "Forbidden"), OverTime("longer than the time limit")])
def test_what_does_not_pass_is_not_waited_for(
    cifar: Path, catalogue: Catalogue, clock: Clock, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    source = source_of(URL, catalogue, ["cifar10"])

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(MemoryFileSystem, "open", fail)
    expected = OverTime if isinstance(error, OverTime) else Misuse
    with pytest.raises(expected, match=r"cannot be read: .*Forbidden$|longer than the time limit$"):
        source.folder("cifar10")
    assert clock.pauses == []


def test_a_full_disk_of_the_node_is_no_source_that_is_away(
    cifar: Path, own_cache: Path, clock: Clock
) -> None:
    part = listed_by(f"{URL}/other")
    place = own_cache / "data" / f"{hashlib.sha256(URL.encode()).hexdigest()[:12]}-{part.version}"
    (place / ".other.partial").mkdir(parents=True)
    (place / ".other.partial" / ".large.bin.part").symlink_to("/dev/full")
    with pytest.raises(Misuse, match=r"cannot be copied to .*No space left.*EFFACE_CACHE=FOLDER"):
        Source(URL, (part,)).folder("d")
    assert clock.pauses == []


@pytest.mark.parametrize("call", ["isdir", "isfile"])
def test_a_driver_soon_says_that_a_source_is_away(
    cifar: Path, catalogue: Catalogue, clock: Clock, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """fsspec says of a server that does not answer that there is no such file."""
    monkeypatch.setattr(MemoryFileSystem, call, lambda *_: False)
    away(monkeypatch, "info", lambda: True)
    with pytest.raises(Misuse, match=rf"{URL}: cannot be read: .*reset by peer; .* asked for 5 s"):
        source_of(URL, catalogue, ["cifar10"]) if call == "isdir" else pinned(URL)
    assert clock.now == node_data.QUICK


def test_a_server_that_has_ended_is_away(server: ThreadingHTTPServer, clock: Clock) -> None:
    where = pinned(f"http://127.0.0.1:{server.server_port}/pub/w.pt")
    server.shutdown()
    server.server_close()
    with pytest.raises(Misuse, match=r"--weights http://127.*cannot be read: .*onnect.* asked for 300 s"):
        weights_file(where)
    assert clock.now == 300
