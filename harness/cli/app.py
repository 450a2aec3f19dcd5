"""The Typer application, and how every verb speaks to people."""

from __future__ import annotations

import sys

import typer

app = typer.Typer(
    name="efface",
    help="A benchmark harness for machine unlearning of image classifiers.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def say(text: str) -> None:
    """A line for people, out of the way of what is piped on."""
    print(text, file=sys.stderr)
