"""Ending gently: SIGTERM, as batch systems and clouds send it before they kill, does what Ctrl-C does.

An exception that a signal raises can be lost: whatever runs just then may be a callback whose exceptions are
ignored. The request is therefore noted as well, and executors look at it between two jobs.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

_asked = threading.Event()


def listen() -> None:
    """Take Ctrl-C and SIGTERM as a wish to stop from now on. Call it after Ray has put its handlers there."""
    _asked.clear()
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _stop)


def check() -> None:
    """Raise KeyboardInterrupt where somebody has asked to stop."""
    if _asked.is_set():
        raise KeyboardInterrupt


def _stop(number: int, frame: FrameType | None) -> None:
    _asked.set()
    raise KeyboardInterrupt
