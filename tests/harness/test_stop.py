"""A wish to stop is never lost."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.execute import stop
from harness.execute.inline import Inline
from harness.registry import Catalogue
from harness.workspace import Settings, Workspace

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture
def handlers() -> Iterator[None]:
    """The handlers of the test run are put back, and nothing stays asked for."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    stop.listen()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_it_counts_even_where_its_exception_was_ignored(
    catalogue: Catalogue, tmp_path: Path, handlers: None, number: signal.Signals
) -> None:
    executor = Inline(Workspace(Settings(str(tmp_path)), catalogue))
    assert executor.wait(0) == []
    with contextlib.suppress(KeyboardInterrupt):  # as in a callback
        signal.raise_signal(number)
    with pytest.raises(KeyboardInterrupt):
        executor.wait(0)


def test_an_ignored_ctrl_c_stays_ignored(handlers: None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop.listen()
    signal.raise_signal(signal.SIGINT)
    stop.check()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
