"""A store that is away is waited for, and told of once; what will not pass is an error at once."""

from __future__ import annotations

import errno
import http.client
import io
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import aiohttp
import fsspec
import google.auth.exceptions
import numpy as np
import pandas as pd
import pytest
import requests
from botocore import exceptions as botocore
from botocore.parsers import ResponseParserError
from fsspec.implementations.memory import MemoryFileSystem

from harness import artifacts, row_writer
from harness import patience as patience_module
from harness.errors import OverTime
from harness.execute.inline import Inline
from harness.lock import StoreLock
from harness.patience import Patience, StoreAway, StoreError, http_status, may_pass
from harness.plan import Job, Plan
from harness.registry import Catalogue
from harness.row_writer import RowWriter
from harness.rows import Row
from harness.schedule import Done
from harness.store import Store
from harness.sweep import Listener, sweep
from harness.workspace import Settings, Workspace
from tasks.api import Outputs
from tests.harness.conftest import Ground


class Flaky(MemoryFileSystem):
    """An object store that fails as long as `error` says so, for names with `part` in them."""

    protocol = "flaky"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    error: ClassVar[Callable[[str, str], BaseException | None]] = staticmethod(lambda verb, path: None)
    tried: ClassVar[list[str]] = []
    condition: ClassVar[bool] = False  # the write at hand must not be over what is there

    def _maybe(self, verb: str, path: str) -> None:
        type(self).tried.append(f"{verb} {path}")
        error = type(self).error(verb, path)
        if error is not None:
            raise error

    def pipe_file(self, path: str, value: bytes, **more: Any) -> None:
        type(self).condition = more.get("mode") == "create"
        self._maybe("write", path)
        super().pipe_file(path, value, **more)

    def cat_file(self, path: str, *more: Any, **named: Any) -> bytes:
        self._maybe("read", path)
        return bytes(super().cat_file(path, *more, **named))


class ServerError(Exception):
    """As botocore has it, which nobody needs to have installed."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the server said {status}")
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


def out_of_reach() -> BaseException:
    """What botocore raises where nothing answers at the endpoint."""
    return botocore.EndpointConnectionError(endpoint_url="http://10.0.0.1:9000/bucket")


def translated(status: int) -> OSError:
    """What s3fs makes of a server's answer that it does not know."""
    error = OSError(errno.EIO, f"status {status}")
    error.__cause__ = ServerError(status)
    return error


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(patience_module, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(patience_module, "LONGEST_WAIT", 0.02)
    monkeypatch.setattr(patience_module, "UNNOTICED", 0.03)
    monkeypatch.setattr(row_writer, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(row_writer, "LONGEST_WAIT", 0.02)
    monkeypatch.setattr(row_writer, "FLUSH_SECONDS", 0.0)
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    Flaky.store.clear()
    Flaky.pseudo_dirs[:] = [""]
    Flaky.tried.clear()
    Flaky.error = staticmethod(lambda verb, path: None)
    yield
    Flaky.error = staticmethod(lambda verb, path: None)


@pytest.fixture
def store() -> Store:
    return Store.create("flaky://bucket/store")


def failing(times: int, error: Callable[[], BaseException], part: str = "", verb: str = "") -> None:
    """The next `times` accesses to names with `part` in them fail."""
    left = iter(range(times))

    def answer(did: str, path: str) -> BaseException | None:
        hit = part in path and verb in did and next(left, None) is not None
        return error() if hit else None

    Flaky.error = staticmethod(answer)


def row(number: int) -> Row:
    return {"run_id": f"{number:016x}", "kind": "run", "status": "ok", "dataset": "digits"}


PASSING = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EIO, "Input/output error"),
    ConnectionResetError("reset by peer"),
    TimeoutError("timed out"),
    ServerError(503),
    ServerError(429),
    ServerError(409),
    translated(500),
    out_of_reach(),
    botocore.ConnectTimeoutError(endpoint_url="http://x"),
    botocore.ReadTimeoutError(endpoint_url="http://x"),
    botocore.ConnectionClosedError(endpoint_url="http://x"),
    botocore.ProxyConnectionError(proxy_url="http://x"),
    botocore.SSLError(endpoint_url="http://x", error="handshake"),
    botocore.ResponseStreamingError(error="broken off"),
    botocore.IncompleteReadError(actual_bytes=1, expected_bytes=2),
    botocore.CredentialRetrievalError(provider="iam-role", error_msg="no answer"),
    ResponseParserError("not XML"),
    aiohttp.ServerDisconnectedError(),
    aiohttp.ClientPayloadError("half of it"),
    requests.exceptions.ConnectionError("no route"),
    requests.exceptions.ReadTimeout("slow"),
    google.auth.exceptions.TransportError("no route"),
    http.client.IncompleteRead(b"half"),
    socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
]
LASTING = [
    PermissionError(errno.EACCES, "Permission denied"),
    OSError(errno.EROFS, "Read-only file system"),
    OSError(errno.ENAMETOOLONG, "File name too long"),
    FileNotFoundError("no such bucket"),
    ServerError(403),
    translated(400),
    botocore.NoCredentialsError(),
    botocore.PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"),
    botocore.ParamValidationError(report="x"),
    google.auth.exceptions.RefreshError("revoked"),
    socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
    type("ConnectionError", (Exception,), {})("of somebody else"),
    OverTime("longer than the time limit"),
    KeyError("x"),
]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_what_may_pass_is_tried_again_until_it_works(store: Store, error: BaseException) -> None:
    assert may_pass(error)
    failing(3, lambda: error)
    store.write("x", b"1")
    failing(3, lambda: error)
    assert store.read("x") == b"1"


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_what_will_not_pass_is_an_error_at_once(store: Store, error: BaseException) -> None:
    failing(1, lambda: error)
    Flaky.tried.clear()
    told = type(error) if isinstance(error, (OverTime, KeyError)) else StoreError
    with pytest.raises(told) as refused:
        store.write("x", b"1")
    assert len(Flaky.tried) == 1
    if told is StoreError:
        assert not isinstance(refused.value, StoreAway)
        assert "your credentials may use it, or give another one with --store" in str(refused.value)


def test_a_store_without_credentials_is_one_message_and_a_missing_file_is_none(
    efface: Callable[..., tuple[int, str, str]],
) -> None:
    failing(10**6, botocore.NoCredentialsError)
    code, _, said = efface("sweep", "demo", "--store", "flaky://bucket/none")
    assert (code, len(said.strip().splitlines())) == (2, 1)
    assert "store flaky://bucket/none cannot be" in said and "Unable to locate credentials" in said
    failing(0, KeyError)
    with pytest.raises(FileNotFoundError):
        Store("flaky://bucket/none").read("rows/x")


def test_the_status_of_an_answer_is_found_where_clients_keep_it() -> None:
    found = [ServerError(503), translated(500), type("E", (Exception,), {"code": "502"})(), ValueError("503")]
    assert [http_status(error) for error in found] == [503, 500, 502, None]


def test_a_disk_that_cannot_be_written_to_is_refused_at_once(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = Store.create(str(tmp_path / "s"))

    def read_only(self: Any, data: bytes) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("pathlib.Path.write_bytes", read_only)
    with pytest.raises(StoreError, match="Read-only file system; make room or give a writable folder"):
        local.write("x", b"1")


def test_patience_ends_with_what_was_found_and_what_to_type(store: Store) -> None:
    store.patience = Patience(0.05)
    failing(10**6, lambda: ServerError(503))
    with pytest.raises(
        StoreAway, match=r"cannot be written: the server said 503; .* another one with --store"
    ):
        store.write("x", b"1")


def test_an_endpoint_that_never_answers_ends_with_its_name_once_patience_is_over(store: Store) -> None:
    store.patience = Patience(0.05)
    failing(10**6, out_of_reach)
    with pytest.raises(
        StoreAway, match=r'endpoint URL: "http://10.0.0.1:9000/bucket"; see that it can be re'
    ):
        store.write("x", b"1")
    assert len(Flaky.tried) > 2


def test_a_short_failure_is_not_told_and_a_long_one_once() -> None:
    said: list[str] = []
    store = Store("flaky://bucket/told", Patience(60, said.append))
    failing(1, lambda: ServerError(503))
    store.write("x", b"1")
    assert said == []
    failing(10, lambda: ServerError(503))
    store.write("x", b"1")
    assert len(said) == 2
    assert "flaky://bucket/told is away (cannot be written: the server said 503); waiting" in said[0]
    assert "is back" in said[1]


def test_the_seconds_that_a_store_was_waited_for_add_up() -> None:
    store = Store("flaky://bucket/slow", Patience(60))
    store.write("x", b"1")
    assert store.patience.waited == 0.0
    for _ in range(2):
        began, before = time.monotonic(), store.patience.waited
        failing(4, lambda: ServerError(503))
        store.write("x", b"1")
        assert 0.03 < store.patience.waited - before <= time.monotonic() - began


def test_more_rows_than_a_segment_holds_are_all_written_once_a_store_is_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_writer, "SEGMENT_ROWS", 10)
    writer = RowWriter(store)
    failing(3, lambda: ServerError(503), "/rows/")
    for number in range(37):
        writer.add(row(number))
        writer.flush_if_due()
    writer.flush()
    assert writer.safe == 37 and not writer.paused
    assert len(store.segments()) == 4
    assert [len(store.segment(name)) for name in store.segments()] == [10, 10, 10, 7]


class Told(Listener):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.reported: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def row(self, job: Job, row: Row) -> None:
        self.reported.append(job.id)


class Instant:
    """Finishes a job as soon as it is waited for, one at a time, and remembers when each was handed out."""

    slots = 1

    def __init__(self) -> None:
        self.queue: deque[Job] = deque()
        self.submitted: list[float] = []

    def submit(self, job: Job) -> None:
        self.submitted.append(time.monotonic())
        self.queue.append(job)

    def wait(self, seconds: float) -> list[Done]:
        return [Done(self.queue.popleft(), {"status": "ok"})] if self.queue else []

    def trouble(self) -> str | None:
        return None

    def close(self) -> None: ...


def run(store: Store, plan: Plan, catalogue: Catalogue, listener: Listener) -> Instant:
    executor = Instant()
    sweep(plan, store, catalogue, lambda: executor, listener)
    return executor


def run_really(store: Store, plan: Plan, catalogue: Catalogue) -> pd.DataFrame:
    space = Workspace(Settings(store.url), catalogue, store)
    sweep(plan, store, catalogue, lambda: Inline(space), Told())
    return frame(store)


def frame(store: Store) -> pd.DataFrame:
    parts = [pd.read_parquet(io.BytesIO(store.read(f"rows/{name}"))) for name in store.segments()]
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("error", [ServerError(503), out_of_reach()], ids=["503", "out of reach"])
def test_a_sweep_pauses_while_its_rows_cannot_be_written_and_then_goes_on(
    store: Store, planned: Callable[..., Plan], catalogue: Catalogue, error: BaseException
) -> None:
    plan, told = planned(store, seeds=4), Told()
    store.patience = Patience(60)
    away: list[float] = []  # when the store was away

    def answer(verb: str, path: str) -> BaseException | None:
        if verb == "write" and "/rows/" in path and len(away) < 12:
            away.append(time.monotonic())
            return error
        return None

    Flaky.error = staticmethod(answer)
    executor = run(store, plan, catalogue, told)
    assert not any(away[0] < moment < away[-1] for moment in executor.submitted)
    assert any(moment > away[-1] for moment in executor.submitted)
    assert len(told.said) == 2 and "waiting" in told.said[0] and "is back" in told.said[1]
    rows = frame(store)
    assert sorted(rows["run_id"]) == sorted(job.id for job in plan.jobs) == sorted(told.reported)
    assert set(rows["status"]) == {"ok"}


def test_a_sweep_ends_when_patience_does_and_keeps_what_was_safe(
    store: Store, planned: Callable[..., Plan], catalogue: Catalogue
) -> None:
    plan, told = planned(store, seeds=4), Told()
    store.patience = Patience(0.2)

    def answer(verb: str, path: str) -> BaseException | None:
        full = verb == "write" and "/rows/" in path and len(told.reported) >= 3
        return OSError(errno.ENOSPC, "No space left on device") if full else None

    Flaky.error = staticmethod(answer)
    with pytest.raises(StoreAway, match="No space left on device"):
        run(store, plan, catalogue, told)
    assert "will be run again" in told.said[-1]
    Flaky.error = staticmethod(lambda verb, path: None)
    assert sorted(frame(store)["run_id"]) == sorted(told.reported)
    assert 3 <= len(told.reported) < len(plan.jobs)
    again = planned(Store.open(store.url), seeds=4)
    run(store, again, catalogue, Told())
    assert sorted(frame(store)["run_id"]) == sorted(job.id for job in plan.jobs)


def test_a_stopped_sweep_does_not_wait_for_a_store_that_is_away(
    store: Store, planned: Callable[..., Plan], catalogue: Catalogue
) -> None:
    told = Told()
    store.patience = Patience(600)
    tries: list[float] = []

    def answer(verb: str, path: str) -> BaseException | None:
        if verb == "write" and "/rows/" in path:
            tries.append(time.monotonic())
            if len(tries) == 5:
                raise KeyboardInterrupt
            return ServerError(503)
        return None

    Flaky.error = staticmethod(answer)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(store, planned(store), catalogue, told)
    assert time.monotonic() - began < 20
    assert len(tries) == 6  # one last time, without waiting


def test_what_a_run_writes_waits_as_well_and_fails_with_a_row_when_it_cannot(
    store: Store, planned: Callable[..., Plan], catalogue: Catalogue
) -> None:
    alone = planned(store, methods=["baseline"])
    store.patience = Patience(60)
    failing(3, lambda: ServerError(500), "/outputs/", "write")
    assert set(run_really(store, alone, catalogue)["status"]) == {"ok"}
    other = Store.create("flaky://bucket/other")
    other.patience = Patience(0.05)
    failing(10**6, lambda: ServerError(500), "/outputs/", "write")
    rows = run_really(other, alone, catalogue).set_index("kind")
    assert rows.loc["train", "status"] == "failed" and rows.loc["train", "error_type"] == "StoreAway"
    assert "the server said 500" in rows.loc["train", "error_message"]


class Asleep(Instant):
    """Nothing ends for a few moments, as when workers wait for a store themselves."""

    def __init__(self, waits: int) -> None:
        super().__init__()
        self.left = waits

    def wait(self, seconds: float) -> list[Done]:
        self.left -= 1
        time.sleep(0.01)
        return [] if self.left > 0 else super().wait(seconds)


@pytest.mark.parametrize("local", [True, False])
def test_a_store_in_trouble_is_told_of_once_when_nothing_ends_any_more(
    local: bool, tmp_path: Any, planned: Callable[..., Plan], catalogue: Catalogue, monkeypatch: Any
) -> None:
    monkeypatch.setattr("harness.sweep.QUIET_SECONDS", 0.05)
    store = Store.create(str(tmp_path / "s") if local else "flaky://bucket/asleep")
    if local:
        monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1_200_000}))
    else:
        failing(10**6, lambda: ServerError(503), "efface.json", "read")
    told = Told()
    sweep(planned(store), store, catalogue, lambda: Asleep(30), told)
    assert len(told.said) == 1 and "nothing has ended for 0 s; store" in told.said[0]
    assert ("has 1.2 MB left" if local else "the server said 503") in told.said[0]


def test_a_store_in_good_health_is_not_spoken_of_however_long_a_run_takes(
    store: Store, planned: Callable[..., Plan], catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.sweep.QUIET_SECONDS", 0.05)
    told = Told()
    sweep(planned(store), store, catalogue, lambda: Asleep(20), told)
    assert told.said == []


def test_a_lease_outlives_a_store_that_is_away_for_a_moment(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.lock.RENEW_SECONDS", 0.02)
    with StoreLock(store) as lock:
        failing(4, lambda: ServerError(503), "lease.json")
        time.sleep(0.3)
        assert lock._renewer is not None and lock._renewer.is_alive() and not lock.lost
    assert "lease.json" not in store.names("")


@pytest.mark.parametrize("status", [400, 501])
def test_on_a_server_that_cannot_make_sure_of_it_the_first_outputs_stay_as_well(
    store: Store, status: int
) -> None:
    labels = np.arange(3)
    first, second = ({"train": Outputs(np.full((3, 4), n, np.float32), labels)} for n in (1, 2))

    def answer(verb: str, path: str) -> BaseException | None:
        return translated(status) if Flaky.condition else None

    Flaky.error = staticmethod(answer)
    assert artifacts.save_outputs(store, "x", first, known=())
    assert not artifacts.save_outputs(store, "x", second, known=())
    Flaky.error = staticmethod(lambda verb, path: None)
    assert artifacts.load_outputs(store, "x")["train"].logits.max() == 1
    assert not artifacts.save_outputs(store, "x", second, known=())
    assert artifacts.save_outputs(store, "x", second, known={"outputs/x.parquet"})
    assert artifacts.load_outputs(store, "x")["train"].logits.max() == 2


def test_waiting_for_the_store_is_no_part_of_a_time_limit_in_this_process(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is full for three seconds, a run may take two."""
    store = ground.store
    store.patience = Patience(30.0)
    full_until = time.monotonic() + 3.0
    write = store._write

    def full(name: str, data: bytes) -> None:
        if time.monotonic() < full_until:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(name, data)

    monkeypatch.setattr(store, "_write", full)
    executor = Inline(Workspace(Settings(store.url), ground.catalogue, store), time_limit=2.0)
    executor.submit(ground.planned(store).jobs[0])
    (done,) = executor.wait(1.0)
    assert done.row["status"] == "ok", done.row["error_message"]
    assert store.patience.waited > 2.0
