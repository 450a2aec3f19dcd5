"""A store that is away: its disk is full, its server does not answer. Only what may pass is waited for.

No client library of an object store is imported here: their errors are told apart by what they carry.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable
from typing import Any, TypeGuard, TypeVar

from harness.errors import Misuse, OverTime
from harness.urls import without_secrets

T = TypeVar("T")
QUICK = 5.0  # seconds that a verb which only reads, or starts, waits for
FIRST_WAIT, LONGEST_WAIT = 0.2, 5.0  # between two tries; each is twice the one before
UNNOTICED = 1.0  # seconds after which a user is told; most failures are over by then

NAMES = (
    *("ENOSPC", "EDQUOT", "EIO", "EREMOTEIO", "ESTALE", "EAGAIN", "EBUSY", "ENOLCK", "EMFILE", "ENFILE"),
    *("ETIMEDOUT", "ENETDOWN", "ENETUNREACH", "EHOSTDOWN", "EHOSTUNREACH", "ENOTCONN"),
)
PASSING = {getattr(errno, name) for name in NAMES if hasattr(errno, name)}
LASTING = (PermissionError, FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
# of each package that speaks to a server: no connection, one that broke off, half an answer, or none from
# where credentials come from; what derives from these counts as well
CONNECTION_ERRORS = {
    "botocore": {
        *("ConnectionError", "HTTPClientError", "IncompleteReadError", "ResponseParserError"),
        "CredentialRetrievalError",
    },
    "aiohttp": {"ClientConnectionError", "ClientPayloadError"},
    "google": {"TransportError"},
    "http": {"IncompleteRead"},
    "requests": {"ChunkedEncodingError", "ConnectionError", "Timeout"},
    "urllib3": {"MaxRetryError", "ProtocolError", "TimeoutError"},
}
CONFLICT = 409  # somebody else writes the same object at this moment


class StoreError(Misuse):
    """The store cannot be read or written. The message says what was found and what to type."""


class StoreAway(StoreError):
    """It cannot now, for a reason that may pass."""

    def __init__(self, message: str, store: str, why: str) -> None:
        super().__init__(message)
        self.store, self.why = store, why


def may_pass(error: BaseException) -> bool:
    """A full disk, a lost connection, a server that says 5xx or that it is asked too often."""
    if isinstance(error, (*LASTING, OverTime)):
        return False
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    status = http_status(error)
    if status is not None:
        return status >= 500 or status in (408, CONFLICT, 429)
    if isinstance(error, socket.gaierror):  # its numbers are not those of other OSErrors
        return error.errno == socket.EAI_AGAIN
    if isinstance(error, OSError) and error.errno in PASSING:
        return True
    return any(kind.__name__ in CONNECTION_ERRORS.get(_package(kind), ()) for kind in type(error).__mro__)


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _is_status(found: Any) -> TypeGuard[int | str]:
    return isinstance(found, int | str) and str(found).isdecimal() and 100 <= int(found) < 600


def http_status(error: BaseException) -> int | None:
    """What a server answered: as botocore, gcsfs, aiohttp and requests keep it, in the error or its cause."""
    answer: Any = getattr(error, "response", None)
    told = answer.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(answer, dict) else None
    if _is_status(told):
        return int(told)
    for name in ("status", "code", "status_code"):  # one after the other: aiohttp warns of its own `code`
        if _is_status(found := getattr(error, name, None)):
            return int(found)
    return http_status(error.__cause__) if error.__cause__ is not None else None


def reason_of(error: BaseException) -> str:
    """In a few words."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return without_secrets(" ".join(text.split()))[:200]


def attempt(act: Callable[[], T], store: str, what: str, local: bool) -> T:
    """What `act` gives; StoreAway where it fails for a reason that may pass.

    Of a folder any other error is as it was, of an object store a StoreError; that a file is not there is no
    error of a store that is read.
    """
    try:
        return act()
    except Exception as error:
        why = f"cannot be {what}: {reason_of(error)}"
        if not may_pass(error):
            absent = isinstance(error, FileNotFoundError) and what == "read"
            ours = type(error).__module__ == "builtins" and not isinstance(
                error, OSError
            )  # a mistake in code
            if local or absent or ours or isinstance(error, (Misuse, OverTime)):
                raise
            raise StoreError(
                f"store {store} {why}; see that it exists and that your credentials may use it, or give "
                "another one with --store"
            ) from error
        hint = "make room or give" if local else "see that it can be reached, or give"
        raise StoreAway(f"store {store} {why}; {hint} another one with --store", store, why) from error


class Patience:
    """How long a store is waited for, and who is told: once when it is away, once when it is back."""

    def __init__(self, seconds: float = QUICK, tell: Callable[[str], None] = lambda text: None) -> None:
        self.seconds, self.tell = seconds, tell
        self.waited = 0.0  # seconds in all, the wait that goes on at this moment as of its last try
        self._told: str | None = None  # of which store

    def call(self, act: Callable[[], T]) -> T:
        """What `act` gives, tried again and again while the store is away."""
        began, wait, before = time.monotonic(), FIRST_WAIT, self.waited
        while True:
            try:
                found = act()
            except StoreAway as error:
                self.waited = before + time.monotonic() - began
                self.missed(error, began)
            else:
                self.met()
                return found
            time.sleep(min(wait, max(self.seconds, FIRST_WAIT)))  # Ctrl-C ends it at once
            self.waited = before + time.monotonic() - began
            wait = min(2 * wait, LONGEST_WAIT)

    def missed(self, error: StoreAway, since: float) -> None:
        """The store was away; raises once that has lasted too long."""
        lasted = time.monotonic() - since
        if lasted >= self.seconds:
            raise error
        if lasted >= UNNOTICED and self._told is None:
            self._told = error.store
            self.tell(f"store {error.store} is away ({error.why}); waiting for up to {self.seconds:g} s")

    def met(self) -> None:
        """It is there."""
        if self._told:
            self.tell(f"store {self._told} is back; going on")
            self._told = None
