"""Whether `qwarden` has a command, as the images' entrypoint gets it."""

from __future__ import annotations

import functools
from typing import Any

import typer

from qwarden.cli import app


@functools.cache
def parse(words: tuple[str, ...]) -> str:
    """The command's name, such as `topics create`. Raises click's UsageError, or KeyError for a
    word that no group has."""
    at: Any = _whole()
    rest = list(words)
    while hasattr(at, "commands"):  # a group: the next word names one of them
        at = at.commands[rest.pop(0)]
    at.make_context("qwarden", list(rest))
    return " ".join(words[: len(words) - len(rest)])


@functools.cache
def _whole() -> Any:
    return typer.main.get_command(app)
