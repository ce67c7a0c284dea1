"""A JSONL of events judged without Kafka: the moderator's own handler, fed from a file."""

from __future__ import annotations

import asyncio
import codecs
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec

from qwarden.contracts import topics
from qwarden.contracts.dead_letter import DeadLetter
from qwarden.contracts.refusal import Refused
from qwarden.contracts.verdict import encode
from qwarden.delivery.owed import Message, Owed
from qwarden.moderator.case import Admission
from qwarden.moderator.moderator import Moderator
from qwarden.outcomes.source import Source

_WRITTEN = (topics.VERDICTS, topics.DEAD_LETTERS)

LINES_A_BATCH = 512
"""Lines judged at a time: some requests to the guard, so that it is never idle between them."""


class ResumeError(ValueError):
    """What stands in the output does not go with the input; the message says what to do."""


def lines_of(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a JSONL, without their ends; blank ones are left out."""
    for number, line in enumerate(file):
        stripped = line.rstrip(b"\r\n")
        if number == 0:
            stripped = stripped.removeprefix(codecs.BOM_UTF8)
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
    """Writes for each line of input, in order, a line for each of its verdicts, or one that says
    why it has none.

    `first`: the number of the first line, for where a dead letter came from. `done` is told how
    many lines of input have theirs.
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
            for message in owed:
                if message.topic in _WRITTEN:
                    write(_line(message) + b"\n")
        offset += len(batch)
        done(len(batch))
        await asyncio.sleep(0)


def _line(message: Message) -> bytes:
    """What stands in the file: a dead letter without its times, so that the same input gives the
    same file however often it is judged, and wherever it was gone on with."""
    if message.topic != topics.DEAD_LETTERS:
        return message.value
    letter = msgspec.json.decode(message.value, type=DeadLetter)
    return encode(msgspec.structs.replace(letter, first_tried_at=None, last_tried_at=None))


class _Named(msgspec.Struct):
    name: str = ""
    version: str = ""
    revision: str = ""


class _Outcome(msgspec.Struct):
    """What tells whether an outcome belongs to a line of the input: a verdict names its event, a
    dead letter has the line's hash."""

    event_id: str = ""
    task: str | None = None
    guard: _Named | None = None
    policy: _Named | None = None
    content: dict[str, Any] | None = None


def resume(
    out: Path,
    lines: Sequence[bytes],
    revision: str,
    policies: Mapping[str, str],
    admission: Admission,
) -> int:
    """How many of `lines` have all their outcomes in `out` already; what stands behind those, a
    broken line or the first of two verdicts, is cut off.

    `policies`: name to version, of those that may be used now. Raises `ResumeError` where an
    outcome is of another line, guard or policy.
    """
    if not out.exists():
        return 0
    decoder = msgspec.json.Decoder(_Outcome)
    whole = 0
    done = 0
    owed: list[_Expected] = []
    with out.open("r+b") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            where = f"line {number} of {out}"
            try:
                outcome = decoder.decode(line)
            except msgspec.DecodeError:
                raise ResumeError(
                    f"{where} is not an outcome; name another file with --out"
                ) from None
            begins = not owed
            if begins and done < len(lines):
                owed = _expected(lines[done], admission)
            if not owed or not owed[0].is_met_by(outcome, begins):
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
                    "with that one and its --views, or name another file with --out"
                )
            owed = [] if outcome.content is not None else owed[1:]
            if not owed:
                whole = file.tell()
                done += 1
        file.truncate(whole)
    return done


class _Expected(NamedTuple):
    """An outcome that a line of input is to have: a verdict on this event and task. A line that
    can have no verdict has no event here."""

    line: bytes
    event_id: str | None
    task: str | None

    def is_met_by(self, outcome: _Outcome, begins: bool) -> bool:
        """`begins`: nothing of this line was met yet, so that its dead letter may stand here."""
        if outcome.content is not None:
            sent = outcome.content.get("sha256")
            return begins and sent == hashlib.sha256(self.line).hexdigest()
        return self.event_id is not None and (outcome.event_id, outcome.task) == self[1:]


def _expected(line: bytes, admission: Admission) -> list[_Expected]:
    try:
        case = admission.admit(Source("", 0, 0, 0, None, line, ()))
    except Refused:
        return [_Expected(line, None, None)]
    event_id = case.event.event_id
    tasks = [_Expected(line, event_id, question.task.value) for question in case.questions]
    return tasks or [_Expected(line, event_id, None)]
