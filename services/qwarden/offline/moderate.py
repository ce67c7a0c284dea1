"""A JSONL of events judged without Kafka: the moderator's own handler, fed from a file."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

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


class _Named(msgspec.Struct):
    name: str = ""
    version: str = ""
    revision: str = ""


class _Outcome(msgspec.Struct):
    """What tells whether an outcome belongs to a line of the input: a verdict names its event, a
    dead letter has the line's hash."""

    event_id: str = ""
    guard: _Named | None = None
    policy: _Named | None = None
    content: dict[str, Any] | None = None


class _Event(msgspec.Struct):
    event_id: str = ""


def resume(out: Path, lines: Sequence[bytes], revision: str, policies: Mapping[str, str]) -> int:
    """How many of `lines` have their outcome in `out` already; its last, broken line is cut off.

    `policies`: name to version, of those that may be used now. Raises `ResumeError` where an
    outcome is of another line, guard or policy.
    """
    if not out.exists():
        return 0
    decoder = msgspec.json.Decoder(_Outcome)
    whole = 0
    done = 0
    with out.open("r+b") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            where = f"line {done + 1} of {out}"
            try:
                outcome = decoder.decode(line)
            except msgspec.DecodeError:
                raise ResumeError(
                    f"{where} is not an outcome; name another file with --out"
                ) from None
            if done >= len(lines) or not _is_of(outcome, lines[done]):
                raise ResumeError(
                    f"{where} is not the outcome of line {done + 1} of this input; name another "
                    "file with --out"
                )
            if outcome.guard is not None and outcome.guard.revision != revision:
                raise ResumeError(
                    f"{where} was begun with the guard {outcome.guard.revision} and this one is "
                    f"{revision}; finish it with that one, or name another file with --out"
                )
            used = outcome.policy
            if used is not None and policies.get(used.name, used.version) != used.version:
                raise ResumeError(
                    f"{where} was begun with another version of the policy {used.name}; finish it "
                    "with that one, or name another file with --out"
                )
            whole += len(line)
            done += 1
        file.truncate(whole)
    return done


def _is_of(outcome: _Outcome, line: bytes) -> bool:
    if outcome.content is not None:
        return outcome.content.get("sha256") == hashlib.sha256(line).hexdigest()
    try:
        return msgspec.json.decode(line, type=_Event).event_id == outcome.event_id
    except msgspec.DecodeError:
        return False
