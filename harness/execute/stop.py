"""Ending gently: SIGTERM, as batch systems and clouds send it before they kill, does what Ctrl-C does."""

from __future__ import annotations

import signal
import threading
from types import FrameType


def on_sigterm() -> None:
    """Raise KeyboardInterrupt at SIGTERM from now on. Call it after Ray has put its own handler there."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
