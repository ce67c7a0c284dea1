"""Times as people name them to a command."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from qwarden.cli.terminal import WRONG_USE, end

_AGE = re.compile(r"(\d+)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def instant(option: str, text: str) -> datetime:
    """The time that an option names; ends the command where it names none."""
    try:
        return instant_of(text, datetime.now(UTC))
    except ValueError as error:
        end(WRONG_USE, f"{option}: {error}")


def instant_of(text: str, now: datetime) -> datetime:
    """A time as a person names it, in UTC: ISO 8601 with its zone, or an age such as 90m or 2d.
    Raises `ValueError` with a sentence."""
    try:
        if age := _AGE.fullmatch(text):
            return now - timedelta(seconds=int(age[1]) * _SECONDS[age[2]])
        named = datetime.fromisoformat(text)
        if named.tzinfo is not None:
            return named.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is no time; write it as 2026-03-01T12:00Z, or as an age: 90m, 12h, 2d"
        ) from None
    raise ValueError(f"{text!r} has no time zone; add Z, or +01:00")


def hours(option: str, text: str) -> float:
    """The length of time that an option names, in hours; ends the command where it names none."""
    length = _AGE.fullmatch(text)
    if length is None or int(length[1]) == 0:
        end(WRONG_USE, f"{option}: {text!r} is no length of time; write it as 90m, 24h or 2d")
    return int(length[1]) * _SECONDS[length[2]] / 3600
