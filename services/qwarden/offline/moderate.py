"""A JSONL of events judged without Kafka: the moderator's own handler, fed from a file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import msgspec

from qwarden.delivery.owed import Owed
from qwarden.moderator.case import Source
from qwarden.moderator.moderator import Moderator

LINES_A_BATCH = 512
"""Lines judged at a time: some requests to the guard, so that it is never idle between them."""


class ResumeError(ValueError):
    """What stands in the output does not go with the input; the message says what to do."""


def lines_of(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a JSONL, without their ends; blank ones are left out."""
    for line in file:
        stripped = line.rstrip(b"\r\n")
        if stripped:
            yield stripped


async def moderate(
    moderator: Moderator,
    lines: Iterator[bytes],
    *,
    name: str,
    first: int,
    write: Callable[[bytes], object],
    done: Callable[[int], object],
) -> None:
    """Writes one line for each line of input, in order: its verdict, or why it has none.

    `first`: the number of the first line, for where a dead letter came from. `done` is told how
    many lines are written.
    """
    offset = first
    while batch := list(islice(lines, LINES_A_BATCH)):
        outcomes: list[Owed | None] = [None] * len(batch)

        def finish(index: int, owed: Owed, outcomes: list[Owed | None] = outcomes) -> None:
            outcomes[index] = owed

        sources = [
            Source(name, 0, offset + index, 0, None, line, ()) for index, line in enumerate(batch)
        ]
        await moderator.handle(sources, finish)
        for owed in outcomes:
            assert owed is not None
            write(owed[0].value + b"\n")
        offset += len(batch)
        done(len(batch))
        await asyncio.sleep(0)


class _Outcome(msgspec.Struct):
    guard: dict[str, str] | None = None


def resume(out: Path, revision: str) -> int:
    """How many lines `out` holds already, after its last, broken line is cut off.

    Raises `ResumeError` where they came from another guard than `revision`.
    """
    if not out.exists():
        return 0
    decoder = msgspec.json.Decoder(_Outcome)
    whole = 0
    lines = 0
    with out.open("r+b") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            try:
                outcome = decoder.decode(line)
            except msgspec.DecodeError:
                raise ResumeError(
                    f"line {lines + 1} of {out} is not an outcome; name another file with --out"
                ) from None
            if outcome.guard is not None and outcome.guard.get("revision") != revision:
                raise ResumeError(
                    f"{out} was begun with the guard {outcome.guard.get('revision')} and this one "
                    f"is {revision}; finish it with that one, or name another file with --out"
                )
            whole += len(line)
            lines += 1
        file.truncate(whole)
    return lines
