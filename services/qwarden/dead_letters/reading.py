"""The dead letters as they stand on their topic. Raises `KafkaError` where it cannot be read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from typing import NamedTuple

from aiokafka.errors import UnknownTopicOrPartitionError

from qwarden.contracts import topics
from qwarden.contracts.dead_letter import DeadLetter, Mark, Original, original_of
from qwarden.dead_letters.letters import (
    Letter,
    Open,
    Place,
    Wanted,
    letter_of,
    read_letter,
)
from qwarden.kafka import reading
from qwarden.settings import Kafka


async def open_letters(kafka: Kafka, wanted: Wanted) -> Open:
    """Reads the whole topic: a mark may stand anywhere behind its letter. Contents are not kept."""
    found = Open(wanted)
    async with reading(kafka, topics.DEAD_LETTERS, from_beginning=True, follow=False) as records:
        async for record in records:
            found.take(record)
    return found


async def letters_at(
    kafka: Kafka, places: Collection[Place]
) -> AsyncIterator[tuple[Place, DeadLetter]]:
    """The letters at these places with their contents, those of one partition in order."""
    left = set(places)
    starts: dict[int, int] = {}
    for place in sorted(places, reverse=True):
        starts[place.partition] = place.offset
    if not left:
        return
    async with reading(
        kafka, topics.DEAD_LETTERS, from_beginning=True, follow=False, starts=starts
    ) as records:
        async for record in records:
            place = Place(record.partition, record.offset)
            if place not in left:
                continue
            left.discard(place)
            said = read_letter(record)
            if isinstance(said, DeadLetter):
                yield place, said
            if not left:
                return


class Shown(NamedTuple):
    """A letter with all that it holds, and what was done with it."""

    letter: Letter
    dead: DeadLetter
    mark: Mark | None


async def shown(kafka: Kafka, place: Place) -> Shown | None:
    """The letter at this place; None where there is none. Raises `ValueError` for a partition that
    is not there."""
    found: Shown | None = None
    async with reading(
        kafka,
        topics.DEAD_LETTERS,
        from_beginning=True,
        follow=False,
        starts={place.partition: place.offset},
    ) as records:
        async for record in records:
            said = read_letter(record)
            if found is None:
                if record.offset != place.offset or not isinstance(said, DeadLetter):
                    return None
                found = Shown(letter_of(record, said), said, None)
            elif isinstance(said, Mark) and Place(said.partition, said.offset) == place:
                return found._replace(mark=said)
    return found


async def at_origin(kafka: Kafka, dead: DeadLetter) -> Original | None:
    """The record at a letter's origin, where the letter needs it and the topic still has it."""
    if original_of(dead) is not None:
        return None
    origin = dead.origin
    starts = {origin.partition: origin.offset}
    try:
        async with reading(
            kafka, origin.topic, from_beginning=True, follow=False, starts=starts
        ) as records:
            async for record in records:
                if record.offset != origin.offset:  # the topic begins behind it, or lacks it
                    return None
                return Original(record.key, record.value, list(record.headers))
    except (UnknownTopicOrPartitionError, ValueError):  # neither topic nor partition are there
        return None
    return None
