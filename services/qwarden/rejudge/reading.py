"""What the topics hold of the verdicts that a person means. Raises `KafkaError`.

The verdict topic is read twice: once for the verdicts of the selection, from its time on, and once
whole for what stands beside them, which is known only then. So memory grows with the selection, not
with the topic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
from aiokafka import ConsumerRecord
from aiokafka.errors import UnknownTopicOrPartitionError

from qwarden.contracts import headers, topics
from qwarden.contracts.decision import By, decode_decision
from qwarden.contracts.verdict import decode_verdict
from qwarden.policy.records import Recorded
from qwarden.rejudge.planning import Beside, Row, Selection, sorted_out
from qwarden.settings import Kafka
from qwarden.stretch import Stretch, records_of, stretch_of


class _Owner(msgspec.Struct, frozen=True, gc=False):
    """Whose verdict it is."""

    tenant: str
    event_id: str


_recorded = msgspec.json.Decoder(Recorded)
_owner = msgspec.json.Decoder(_Owner)


@dataclass(frozen=True, slots=True)
class Found:
    """What the topics say of a selection. `ends`: of the verdict topic, behind what was looked at.
    `stood`: the verdicts that stood there. `rows`: those of them that stand now, and that no person
    has decided on. `left`: how many did not stand there, and `since`: how many of `stood` are
    left alone all the same, each by why. `doubtful`: decisions that cannot be
    read, so that nobody knows what they are on."""

    ends: Mapping[int, int]
    stood: list[Row]
    rows: list[Row]
    left: Counter[str]
    since: Counter[str]
    doubtful: int


async def found(kafka: Kafka, selection: Selection, *, ends: Mapping[int, int] | None) -> Found:
    """Looks for the verdicts of a selection, of those before `ends`, or before the present end."""
    whole = await stretch_of(kafka, topics.VERDICTS)
    ends = ends or {partition: end for partition, (_, end) in whole.offsets.items()}
    since = await stretch_of(kafka, topics.VERDICTS, selection.since)
    wanted = Stretch(
        topics.VERDICTS,
        {
            partition: (min(start, ends.get(partition, 0)), ends.get(partition, 0))
            for partition, (start, _) in since.offsets.items()
        },
    )
    rows = await _selected(kafka, wanted, selection)
    if not rows:
        return Found(ends, [], [], Counter(), Counter(), 0)
    beside = await _beside(kafka, whole, rows)
    stood, left = sorted_out(rows, beside.below(ends))
    decided, doubtful = await _decided(kafka, stood)
    stand, left_since = sorted_out(stood, beside, decided)
    return Found(ends, stood, stand, left, left_since, doubtful)


async def _selected(kafka: Kafka, stretch: Stretch, selection: Selection) -> list[Row]:
    """Each verdict once, however often a crash has published it."""
    rows: dict[str, Row] = {}
    version = selection.version.encode()
    async with aclosing(records_of(kafka, stretch, unseen)) as records:
        async for record in records:
            if record.value is None or version not in record.value:
                continue
            try:
                recorded = _recorded.decode(record.value)
                at = datetime.fromtimestamp(record.timestamp / 1000, UTC)
                if not selection.takes(recorded, at) or recorded.verdict_id in rows:
                    continue
                rows[recorded.verdict_id] = _row(record, recorded)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue  # it is no verdict that the selection could name
    return list(rows.values())


def _row(record: ConsumerRecord, recorded: Recorded) -> Row:
    origin = headers.parsed_origin(headers.header(record.headers, headers.ORIGIN))
    verdict = decode_verdict(record.value)
    return Row(verdict, recorded, record.offset, record.key, origin)


async def _beside(kafka: Kafka, stretch: Stretch, rows: Iterable[Row]) -> Beside:
    found = Beside({row.event: [] for row in rows}, set())
    async with aclosing(records_of(kafka, stretch, unseen)) as records:
        async for record in records:
            try:
                owner = _owner.decode(record.value or b"")
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
            event = owner.tenant, owner.event_id
            if event not in found.verdicts:
                continue
            try:
                verdict = decode_verdict(record.value)
            except msgspec.DecodeError:
                found.unreadable.add(event)
            else:
                found.verdicts[event].append((record.partition, record.offset, verdict))
    return found


async def _decided(kafka: Kafka, rows: Iterable[Row]) -> tuple[set[str], int]:
    """The ids of the verdicts that a person has decided on, and how many decisions cannot be
    read."""
    try:
        stretch = await stretch_of(kafka, topics.DECISIONS)
    except UnknownTopicOrPartitionError:
        return set(), 0
    by_event: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        by_event.setdefault(row.event, []).append(row)
    decided: set[str] = set()
    doubtful = 0
    async with aclosing(records_of(kafka, stretch, unseen)) as records:
        async for record in records:
            try:
                said = decode_decision(record.value or b"")
            except (msgspec.DecodeError, UnicodeDecodeError):
                doubtful += 1
                continue
            if said.by is not By.PERSON:
                continue
            for row in by_event.get((said.tenant, said.event_id), ()):
                own = row.verdict
                if said.task == own.task and said.edit >= own.edit:
                    decided.add(own.verdict_id)
    return decided, doubtful


def unseen(count: int) -> None:
    """Nobody watches how far the reading has come: it takes seconds, and the undo itself longer."""
