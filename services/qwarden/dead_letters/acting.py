"""Replay and drop: what is sent, then the mark that says so; a second run goes on from there.

A run that is killed between the two sends again what it had not marked, at most `_MOST_AT_ONCE`
letters: as everywhere here, what is repeated is recognised by its event id.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from aiokafka import AIOKafkaProducer
from aiokafka.errors import UnknownTopicOrPartitionError

from qwarden.contracts import headers, topics
from qwarden.contracts.dead_letter import Mark, Origin
from qwarden.contracts.verdict import encode
from qwarden.dead_letters.letters import Place, Sent, original_from, replayed
from qwarden.dead_letters.reading import at_origin, letters_at
from qwarden.delivery.owed import Message, size_of
from qwarden.kafka import acknowledged, message_limits, producing
from qwarden.settings import Kafka

_MOST_AT_ONCE = 100
"""Letters sent before their acknowledgements are awaited together: some 100 MB of the largest."""


@dataclass(frozen=True, slots=True)
class Done:
    """What became of one letter: where its record stands now, if it was sent; or why it is left."""

    place: Place
    sent_to: Origin | None = None
    left: str | None = None


async def replay(
    kafka: Kafka, places: Sequence[Place], *, by: str, rate: float, dry_run: bool
) -> AsyncIterator[Done]:
    """Sends the records of these letters to `content.backlog`, at most `rate` a second, and marks
    each. A letter whose whole record nobody has is left, with the reason.

    With `dry_run` all is done but the sending. Raises `KafkaError`; what was marked stays so.
    """
    limits = await message_limits(kafka, (topics.BACKLOG, topics.DEAD_LETTERS))
    if topics.BACKLOG not in limits:
        raise UnknownTopicOrPartitionError(f"there is no topic {topics.BACKLOG}")
    at_once = max(1, min(_MOST_AT_ONCE, int(rate / 10)))
    async with producing(kafka, limits.values()) as producer:
        next_at = time.monotonic()
        chunk: list[tuple[Place, Sent]] = []
        gone = set(places)
        async for place, dead in letters_at(kafka, places):
            gone.discard(place)
            try:
                original = original_from(dead, await at_origin(kafka, dead))
                sent = replayed(place, dead, original)
                _check_size(sent, limits[topics.BACKLOG])
            except ValueError as error:
                yield Done(place, left=str(error))
                continue
            if dry_run:
                yield Done(place)
                continue
            chunk.append((place, sent))
            if len(chunk) == at_once:
                await asyncio.sleep(next_at - time.monotonic())
                next_at = max(time.monotonic(), next_at) + len(chunk) / rate
                for done in await _send(kafka, producer, chunk, by):
                    yield done
                chunk = []
        await asyncio.sleep(next_at - time.monotonic())
        for done in await _send(kafka, producer, chunk, by):
            yield done
        for place in sorted(gone):
            yield Done(place, left=f"{topics.DEAD_LETTERS} does not keep it any more")


async def drop(
    kafka: Kafka, places: Sequence[Place], *, by: str, dry_run: bool
) -> AsyncIterator[Done]:
    """Marks these letters as dropped. Raises `KafkaError`; what was marked stays so."""
    limits = await message_limits(kafka, (topics.DEAD_LETTERS,))
    async with producing(kafka, limits.values()) as producer:
        for first in range(0, len(places), _MOST_AT_ONCE):
            chunk = [Done(place) for place in places[first : first + _MOST_AT_ONCE]]
            if not dry_run:
                await _mark(kafka, producer, "dropped", chunk, by)
            for done in chunk:
                yield done


async def _send(
    kafka: Kafka, producer: AIOKafkaProducer, chunk: list[tuple[Place, Sent]], by: str
) -> list[Done]:
    acknowledgements = [
        await producer.send(
            topics.BACKLOG, key=sent.key, value=sent.value, headers=list(sent.headers)
        )
        for _, sent in chunk
    ]
    chunk_done = []
    for (place, _), acknowledgement in zip(chunk, acknowledgements, strict=True):
        to = await acknowledged(kafka, acknowledgement)
        chunk_done.append(Done(place, Origin(to.topic, to.partition, to.offset, to.timestamp)))
    await _mark(kafka, producer, "replayed", chunk_done, by)
    return chunk_done


async def _mark(
    kafka: Kafka,
    producer: AIOKafkaProducer,
    what: Literal["replayed", "dropped"],
    chunk: list[Done],
    by: str,
) -> None:
    acknowledgements = []
    for done in chunk:
        mark = Mark(
            partition=done.place.partition,
            offset=done.place.offset,
            what=what,
            at=datetime.now(UTC),
            by=by,
            sent_to=done.sent_to,
        )
        acknowledgements.append(
            await producer.send(
                topics.DEAD_LETTERS,
                key=str(done.place).encode(),
                value=encode(mark),
                headers=headers.cloud_event("dead-letter-mark", str(done.place), by=headers.CLI),
                partition=done.place.partition,  # behind its letter, whoever reads
            )
        )
    for acknowledgement in acknowledgements:
        await acknowledged(kafka, acknowledgement)


def _check_size(sent: Sent, limit: int) -> None:
    """Raises `ValueError` for what the broker would refuse, and the producer could not outlive."""
    named = [(name, data or b"") for name, data in sent.headers]
    size = size_of(Message(topics.BACKLOG, sent.key, sent.value or b"", named))
    if size > limit:
        raise ValueError(
            f"the record has {size:,} bytes and {topics.BACKLOG} takes {limit:,}; raise that "
            "topic's max.message.bytes, or drop the letter"
        )
