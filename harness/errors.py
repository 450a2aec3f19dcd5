"""The one exception that the command line turns into a message and exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class Misuse(ValueError):
    """What the user typed or gave cannot work: says what was found, what was expected, what to type."""


class OverTime(TimeoutError):
    """A run has taken longer than it may: not to be taken for a connection that timed out."""


def did_you_mean(found: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` where something near is known, else the known names."""
    names = sorted(known)
    near = difflib.get_close_matches(found, names, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names) or 'none'}"


def unknown(kind: str, found: str, known: Iterable[str], where: str = "") -> Misuse:
    """The error for a name that nobody registered."""
    return Misuse(f"{where + ': ' if where else ''}unknown {kind} {found!r}; {did_you_mean(found, known)}")
