"""The command line: parse, call, print. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import os
import sys

from harness.cli import (  # noqa: F401 (their verbs register themselves)
    checking,
    cluster,
    reading,
    running,
    tuning,
)
from harness.cli.app import app, say
from harness.errors import Misuse


def entry() -> None:
    """The command `efface`.

    Ends without the C++ destructors of the libraries it has loaded: at a quick exit some of their threads are
    still starting, which aborts the process and would replace its exit code.
    """
    # before numpy is imported: small matrices on many threads are slower, and a sweep counts on one thread
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    """Parse and run: a misuse is one message and exit code 2, never a traceback."""
    try:
        app()
    except Misuse as error:
        _fail(str(error))
    except KeyboardInterrupt:
        say("stopped")
        raise SystemExit(130) from None
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(0) from None


def _fail(message: str) -> None:
    say(f"efface: {message}")
    raise SystemExit(2)
