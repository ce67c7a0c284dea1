"""Finds a verdict, and what goes with it, on the topics.

The verdict topic is searched from its beginning for the id. The event's other verdicts have the
same key and so the same partition; the other topics are searched whole. A record is decoded only
where it holds the bytes of the id, or of the event's.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from typing import TypeVar

import msgspec
from aiokafka import ConsumerRecord
from aiokafka.errors import UnknownTopicOrPartitionError

from qwarden.contracts import headers, topics
from qwarden.contracts.dead_letter import DeadLetter, Mark, is_mark
from qwarden.contracts.decision import Decision
from qwarden.contracts.escalation import Escalation, Evidence
from qwarden.contracts.verdict import Verdict
from qwarden.explain.trail import (
    Decided,
    Escalated,
    Found,
    Kept,
    Place,
    Refusal,
    Trail,
    instant,
    relations,
    standing_id,
)
from qwarden.settings import Kafka
from qwarden.stretch import Stretch, records_of, stretch_of

T = TypeVar("T")

Step = Callable[[int], object]


class Search:
    """One search. `total`: offsets to read at most. Made by `search_of`."""

    def __init__(self, kafka: Kafka, verdict_id: str, stretches: dict[str, Stretch]) -> None:
        self._kafka = kafka
        self._id = verdict_id
        self._stretches = stretches

    @property
    def total(self) -> int:
        verdicts = self._stretches[topics.VERDICTS]
        widest = max((end - start for start, end in verdicts.offsets.values()), default=0)
        return widest + sum(each.total for each in self._stretches.values())

    async def trail(self, step: Step) -> Trail | None:
        """What was found; None where no verdict has this id. `step` is told of records as they are
        read. Raises `KafkaError`."""
        first = await self._first(step)
        if first is None:
            return None
        own = first.verdict
        partition = self._stretches[topics.VERDICTS].of(first.place.partition)
        names = msgspec.json.encode(own.event_id)
        beside = [
            found
            async for record in self._holding(partition, (names,), step)
            if (found := _verdict(record)) is not None
            and (found.verdict.tenant, found.verdict.event_id) == (own.tenant, own.event_id)
        ]
        ids = self._id.encode()
        decided_by = (ids, names, *(() if own.decision is None else (own.decision.encode(),)))
        return Trail(
            first,
            sum(each.verdict.verdict_id == self._id for each in beside),
            standing_id(own, beside),
            relations(first, beside),
            tuple(
                Escalated(_place(record), escalation)
                for record in await self._all(topics.REVIEW, (names,), step)
                if (escalation := _read(record, Escalation)) and _is_of(escalation.verdict, own)
            ),
            tuple(
                Kept(_place(record), kept.content, _headers(record).get(headers.SAMPLE_RATE))
                for record in await self._all(topics.EVIDENCE, (ids,), step)
                if (kept := _read(record, Evidence)) and kept.verdict.verdict_id == self._id
            ),
            tuple(
                Decided(_place(record), said)
                for record in await self._all(topics.DECISIONS, decided_by, step)
                if (said := _read(record, Decision)) and _decides(said, own)
            ),
            await self._refusals(first, step),
        )

    async def _first(self, step: Step) -> Found | None:
        needle = self._id.encode()
        async with aclosing(
            self._holding(self._stretches[topics.VERDICTS], (needle,), step)
        ) as records:
            async for record in records:
                found = _verdict(record)
                if found is not None and found.verdict.verdict_id == self._id:
                    return found
        return None

    async def _refusals(self, first: Found, step: Step) -> tuple[Refusal, ...]:
        """The dead letters of its event, or of the record that it answers."""
        own, origin = first.verdict, first.headers.get(headers.ORIGIN)
        letters: dict[tuple[int, int], tuple[Place, DeadLetter]] = {}
        marks: dict[tuple[int, int], list[Mark]] = {}
        stretch = self._stretches.get(topics.DEAD_LETTERS)
        if stretch is None:
            return ()
        async for record in records_of(self._kafka, stretch, step):
            if is_mark(record.headers):
                mark = _read(record, Mark)
                if mark is not None:
                    marks.setdefault((mark.partition, mark.offset), []).append(mark)
                continue
            letter = _read(record, DeadLetter)
            if letter is None:
                continue
            came = letter.origin
            same = (letter.tenant, letter.event_id) == (own.tenant, own.event_id)
            if same or f"{came.topic}/{came.partition}/{came.offset}" == origin:
                letters[record.partition, record.offset] = _place(record), letter
        return tuple(
            Refusal(place, letter, tuple(marks.get(where, ())))
            for where, (place, letter) in letters.items()
        )

    async def _all(self, topic: str, needles: Iterable[bytes], step: Step) -> list[ConsumerRecord]:
        stretch = self._stretches.get(topic)
        if stretch is None:
            return []
        return [record async for record in self._holding(stretch, needles, step)]

    async def _holding(
        self, stretch: Stretch, needles: Iterable[bytes], step: Step
    ) -> AsyncGenerator[ConsumerRecord, None]:
        """The records that hold any of these bytes."""
        async with aclosing(records_of(self._kafka, stretch, step)) as records:
            async for record in records:
                if record.value is not None and any(each in record.value for each in needles):
                    yield record


async def search_of(kafka: Kafka, verdict_id: str) -> Search:
    """A search over the topics as they are now. Raises `KafkaError`, and
    `UnknownTopicOrPartitionError` where there is no verdict topic."""
    stretches = {topics.VERDICTS: await stretch_of(kafka, topics.VERDICTS)}
    for topic in (topics.REVIEW, topics.EVIDENCE, topics.DEAD_LETTERS, topics.DECISIONS):
        try:
            stretches[topic] = await stretch_of(kafka, topic)
        except UnknownTopicOrPartitionError:
            continue
    return Search(kafka, verdict_id, stretches)


def _place(record: ConsumerRecord) -> Place:
    return Place(record.topic, record.partition, record.offset, instant(record.timestamp))


def _headers(record: ConsumerRecord) -> dict[str, str]:
    """What was particular to this time: cache, timings, origin."""
    return {
        name: (data or b"").decode(errors="replace")
        for name, data in record.headers
        if name.startswith("qw-")
    }


def _verdict(record: ConsumerRecord) -> Found | None:
    verdict = _read(record, Verdict)
    return None if verdict is None else Found(_place(record), verdict, _headers(record))


def _read(record: ConsumerRecord, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(record.value or b"", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _is_of(said: Verdict, own: Verdict) -> bool:
    if said.verdict_id == own.verdict_id:
        return True
    same = (said.tenant, said.event_id) == (own.tenant, own.event_id)
    return same and said.task in (own.task, None)


def _decides(said: Decision, own: Verdict) -> bool:
    return (
        said.decision_id == own.decision
        or said.verdict_id == own.verdict_id
        or (said.tenant, said.event_id, said.task, said.edit)
        == (own.tenant, own.event_id, own.task, own.edit)
    )
