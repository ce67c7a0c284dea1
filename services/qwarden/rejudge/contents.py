"""The content of verdicts: from `moderation.evidence`, else from the record that each answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import timedelta

import msgspec
from aiokafka import ConsumerRecord
from aiokafka.errors import UnknownTopicOrPartitionError

from qwarden.contracts import topics
from qwarden.contracts.escalation import Content, Evidence
from qwarden.contracts.event import Event
from qwarden.contracts.refusal import Refused
from qwarden.contracts.verdict import Verdict, encode
from qwarden.moderator.case import Admission, Case
from qwarden.outcomes.source import Source
from qwarden.policy.policy import Policy
from qwarden.policy.tenants import Tenant, Tenants
from qwarden.registry.schemas import Schemas
from qwarden.rejudge.planning import Row, Selection
from qwarden.rejudge.reading import unseen
from qwarden.settings import Kafka
from qwarden.stretch import Stretch, records_of, stretch_of

GONE = "its content is neither in the evidence nor where it came from"
ANOTHER = "where it came from another record stands"
UNREADABLE = "the record that it answers cannot be read any more"
OF_A_SESSION = "it is of a running session, and not all of that is kept"

_SKEW = timedelta(hours=1)
"""Evidence is written beside its verdict, each when a broker takes it: so much earlier at most."""
_REGISTRY_S = 30.0
"""How long a schema registry may take to answer: a person waits for it."""


class _Named(msgspec.Struct, frozen=True, gc=False):
    verdict_id: str


class _Kept(msgspec.Struct, frozen=True, gc=False):
    """Evidence, as far as it says whose it is."""

    verdict: _Named


_kept = msgspec.json.Decoder(_Kept)
_evidence = msgspec.json.Decoder(Evidence)


@dataclass(frozen=True, slots=True)
class Door:
    """Reads the records of producers again, as they were read at first. `schemas`: of the topics
    whose values are in the Confluent wire format."""

    admission: Admission
    schemas: Schemas | None

    def letting_in(self, policies: Mapping[str, Policy], was: str) -> Door:
        """The same, with these policies by tenant, under the name of the one that acted too."""
        tenants = {
            name: Tenant(name, {was: policy, policy.name: policy}, policy, name)
            for name, policy in policies.items()
        }
        return replace(
            self, admission=replace(self.admission, tenants=Tenants(tenants, strict=False))
        )

    async def content(self, row: Row, record: ConsumerRecord) -> Content | str:
        """The content of the record that a verdict answers, or why there is none."""
        source = Source.of(record)
        missing: frozenset[int] = frozenset()
        identity = self.admission.unknown_schema(source)
        try:
            if identity is not None and self.schemas is not None:
                missing = await self.schemas.learn_within({identity}, _REGISTRY_S)
            case = self.admission.admit(source, missing=missing)
        except Refused:
            return UNREADABLE
        event, own = case.event, row.verdict
        if (event.tenant, event.event_id, event.edit) != (own.tenant, own.event_id, own.edit):
            return ANOTHER
        return case.content()

    def case(self, verdict: Verdict, content: Content) -> Case:
        """What the guard is asked of content, as of an event that comes now. Raises `Refused`."""
        event = Event(
            event_id=verdict.event_id,
            tenant=verdict.tenant,
            messages=content.messages,
            # One that was detected is detected again.
            language=verdict.language if verdict.language_confidence is None else None,
            edit=verdict.edit,
            metadata=content.metadata,
        )
        return self.admission.admit(Source("", 0, 0, 0, None, encode(event), ()))


async def contents(
    kafka: Kafka, selection: Selection, rows: Iterable[Row], door: Door
) -> AsyncGenerator[tuple[Row, Content | str], None]:
    """Each row with its content, or why it has none, in the order in which they are found. Only
    what the caller takes is in memory. Raises `KafkaError` and `RegistryAway`."""
    left = {row.verdict.verdict_id: row for row in rows}
    if not left:
        return
    stretch = await stretch_of(kafka, topics.EVIDENCE, selection.since - _SKEW)
    async with aclosing(records_of(kafka, stretch, unseen)) as records:
        async for record in records:
            kept = _content_of(record.value or b"", left)
            if kept is not None:
                row = left.pop(kept.verdict.verdict_id)
                yield row, kept.content
                if not left:
                    return
    async for each in _from_origins(kafka, left.values(), door):
        yield each


def _content_of(value: bytes, wanted: Mapping[str, Row]) -> Evidence | None:
    try:
        return _evidence.decode(value) if _kept.decode(value).verdict.verdict_id in wanted else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


async def _from_origins(
    kafka: Kafka, rows: Iterable[Row], door: Door
) -> AsyncGenerator[tuple[Row, Content | str], None]:
    by_topic: dict[str, dict[tuple[int, int], list[Row]]] = {}
    for row in rows:
        if row.origin is None:
            yield row, GONE
            continue
        topic, partition, offset = row.origin
        if topic == topics.CHUNKS:
            yield row, OF_A_SESSION
            continue
        by_topic.setdefault(topic, {}).setdefault((partition, offset), []).append(row)
    for topic, wanted in by_topic.items():
        async with aclosing(_left_of(kafka, _around(topic, wanted))) as records:
            async for record in records:
                for row in wanted.pop((record.partition, record.offset), ()):
                    yield row, await door.content(row, record)
                if not wanted:
                    break
        for gone in wanted.values():
            for row in gone:
                yield row, GONE


async def _left_of(kafka: Kafka, stretch: Stretch) -> AsyncGenerator[ConsumerRecord, None]:
    """The records of a stretch; none where its topic or a partition is not there any more."""
    async with aclosing(records_of(kafka, stretch, unseen)) as records:
        try:
            record = await anext(records, None)
        except (UnknownTopicOrPartitionError, ValueError):
            return
        while record is not None:
            yield record
            record = await anext(records, None)


def _around(topic: str, places: Iterable[tuple[int, int]]) -> Stretch:
    offsets: dict[int, tuple[int, int]] = {}
    for partition, offset in places:
        start, end = offsets.get(partition, (offset, offset))
        offsets[partition] = min(start, offset), max(end, offset + 1)
    return Stretch(topic, offsets)
