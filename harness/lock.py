"""One sweep at a time on one store: flock on a local disk, a renewed lease on an object store."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Any

from harness.patience import StoreError
from harness.store import Store

RENEW_SECONDS = 10.0
VOID_SECONDS = 30.0  # without a renewal
LOOK_SECONDS = 1.0  # between two looks at a lease that somebody else has left or holds
LEASE = "lease.json"


def _holder() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "token": uuid.uuid4().hex,
    }


def _who(held: dict[str, Any]) -> str:
    return f"process {held.get('pid', '?')} on {held.get('host', '?')} since {held.get('since', '?')}"


def _refuse(url: str, held: dict[str, Any]) -> StoreError:
    return StoreError(
        f"store {url} is in use by another sweep ({_who(held)}); wait for it, or give another --store"
    )


def holder_of(store: Store) -> dict[str, Any] | None:
    """Who is writing in a store, without getting in its way.

    Of an object store this is told at once, and so by the clocks of two machines, which may be wrong: good
    enough to be shown. Whoever takes a store over watches its lease instead.
    """
    if store.local is None:
        held = read_lease(store)
        fresh = held and time.time() - float(held.get("renewed", 0)) < VOID_SECONDS
        return held if fresh else None
    try:
        file = os.open(store.local / ".lock", os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _parse(os.pread(file, 4096, 0)) or None
    finally:
        os.close(file)
    return None


def read_lease(store: Store, wait: bool = True) -> dict[str, Any] | None:
    store.fs.invalidate_cache()
    try:
        return _parse(store.read(LEASE, wait))
    except FileNotFoundError:
        return None


class StoreLock:
    """Holds a store for writing while its `with` block lasts; refuses and says who holds it otherwise."""

    def __init__(self, store: Store, sleep: Callable[[float], None] = time.sleep) -> None:
        self.store, self._sleep = store, sleep
        self.lost = False  # the lease was taken by somebody else while this process slept
        self._me = _holder()
        self._file: int | None = None
        self._stop = threading.Event()
        self._renewer: threading.Thread | None = None
        self._renewed = 0.0

    def __enter__(self) -> StoreLock:
        if self.store.local is not None:
            self._lock_file()
        else:
            self._take_lease()
            self.store.require_held = self._require_held
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            os.close(self._file)  # closing gives the flock back; so does any death of this process
        elif self._renewer is not None:
            self._stop.set()
            self._renewer.join()
            if not self.lost:
                with contextlib.suppress(StoreError):  # it is away: the lease runs out by itself
                    self.store.remove(LEASE)

    def _lock_file(self) -> None:
        assert self.store.local is not None
        path = self.store.local / ".lock"
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StoreError(
                f"cannot write in {self.store.url}: {error.strerror}; give a writable folder with --store"
            ) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            held = _parse(os.pread(self._file, 4096, 0))
            os.close(self._file)
            self._file = None
            raise _refuse(self.store.url, held) from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps(self._me).encode(), 0)

    def _take_lease(self) -> None:
        held = read_lease(self.store)
        if held:
            self._watch(held)
        self._write_lease()
        self._sleep(0.5)  # object stores have no lock: whoever wrote last holds it
        if (read_lease(self.store) or {}).get("token") != self._me["token"]:
            raise _refuse(self.store.url, read_lease(self.store) or {})
        self._renewer = threading.Thread(target=self._renew, name="efface-lease", daemon=True)
        self._renewer.start()

    def _watch(self, held: dict[str, Any]) -> None:
        """Refuse where a lease is renewed; give it up for void where it stays as it is.

        How old it is by its own account says nothing: clocks of two machines may be minutes apart.
        """
        self.store.patience.tell(
            f"store {self.store.url} has the lease of another sweep ({_who(held)}); watching it for up "
            f"to {VOID_SECONDS:g} s to see whether that one still runs"
        )
        for _ in range(math.ceil(VOID_SECONDS / LOOK_SECONDS)):
            self._sleep(LOOK_SECONDS)
            found = read_lease(self.store)
            if found is None:
                return  # it has just ended
            if found != held:
                raise _refuse(self.store.url, found)

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_SECONDS):
            try:
                if (read_lease(self.store, wait=False) or {}).get("token") != self._me["token"]:
                    self.lost = True
                    return
                self._write_lease(wait=False)
            except StoreError:
                continue  # the sweep waits for it as well, or ends with that

    def _write_lease(self, wait: bool = True) -> None:
        began = time.monotonic()  # others may see it from now on, and count from there
        self.store.write(LEASE, json.dumps({**self._me, "renewed": time.time()}).encode(), wait)
        self._renewed = began

    def _require_held(self, wait: bool) -> None:
        """Raises where another sweep took the store over: both would run the same jobs and report them."""
        if not self.lost and time.monotonic() - self._renewed > VOID_SECONDS:  # this process slept
            self.lost = (read_lease(self.store, wait) or {}).get("token") != self._me["token"]
        if self.lost:
            raise StoreError(
                f"store {self.store.url} was taken over by another sweep while this one was out of reach for "
                f"more than {VOID_SECONDS:.0f} s; what was reported is safe, and the other one does the rest"
            )


def _parse(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
