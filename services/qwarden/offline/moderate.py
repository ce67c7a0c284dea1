"""A JSONL of events judged without Kafka: the moderator's own handler, fed from a file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import islice

import msgspec

from qwarden.contracts import topics
from qwarden.contracts.dead_letter import DeadLetter
from qwarden.contracts.verdict import encode
from qwarden.delivery.owed import Decide, Message, Owed, decided
from qwarden.moderator.case import Case
from qwarden.moderator.moderator import Moderator
from qwarden.outcomes.source import Source

_WRITTEN = (topics.VERDICTS, topics.DEAD_LETTERS)

LINES_A_BATCH = 512
"""Lines judged at a time: some requests to the guard, so that it is never idle between them."""


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

        def finish(index: int, owed: Owed | Decide, /) -> None:
            outcomes[index] = decided(owed)  # noqa: B023  each batch is finished before the next begins

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


def tasks_of(case: Case) -> list[str | None]:
    """The task of each verdict that an event gets; a withdrawn one gets a single one, without."""
    return [question.task.value for question in case.questions] or [None]
