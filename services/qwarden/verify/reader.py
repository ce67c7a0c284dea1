"""Reads the topics into the account: it seeks, polls, and stops at the end.

Committed offsets are asked for first, then where the inputs end, then where the outputs end: what
lies below a committed offset was answered before that, so nothing is read too early to see it.

Everything is read uncommitted. The moderator publishes without transactions, so nothing that is
there can be taken back; and an open transaction of somebody else on one of these topics would hide
all that stands behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaTimeoutError, UnknownTopicOrPartitionError

from qwarden.contracts import headers, topics
from qwarden.contracts.dead_letter import is_mark
from qwarden.contracts.escalation import Escalation, Evidence
from qwarden.contracts.event import decode_event
from qwarden.contracts.headers import event_attributes
from qwarden.contracts.judged import conversations_of
from qwarden.contracts.refusal import Refused
from qwarden.contracts.verdict import decode_verdict
from qwarden.delivery.window import Partition
from qwarden.kafka import admin, client_arguments, committed_in, leaders_of, stop
from qwarden.outcomes.source import Source
from qwarden.settings import Kafka
from qwarden.verify.account import Account, Bounds, Place, place_of
from qwarden.verify.report import Report
from qwarden.verify.theirs import Theirs

OUTPUTS = (topics.VERDICTS, topics.REVIEW, topics.EVIDENCE, topics.DEAD_LETTERS)

POLL_RECORDS = 5000
"""Polls of 500 read half as fast as those of 2,000; beyond 5,000 nothing is gained."""
FETCH_BYTES = 16 * 1024 * 1024
"""Of one answer of a broker: what waits in memory beside the account."""
SKEW = timedelta(hours=1)
"""Where a time says from when on, the backlog and the outcomes are read from this much earlier: an
event's time is its producer's own, and that clock may be fast."""

_escalations = msgspec.json.Decoder(Escalation)
_evidence = msgspec.json.Decoder(Evidence)

Records = Sequence[ConsumerRecord]


@dataclass(frozen=True, slots=True)
class Scope:
    """What is verified. `to_end`: all of it, instead of what lies below the committed offsets.
    `since`: from which time on; None is the beginning. `max_event_bytes`: the fleet's own limit."""

    to_end: bool
    since: datetime | None
    max_event_bytes: int


@asynccontextmanager
async def opened(kafka: Kafka, scope: Scope, theirs: Theirs | None = None) -> AsyncIterator[Reader]:
    """A reader that knows how much there is; `theirs`: of the topics that have a file. Raises
    `KafkaError`; for a topic that is not there `UnknownTopicOrPartitionError`, and `ValueError`
    where only a file names it."""
    fresh = {topics.CONTENT, *(theirs.topics if theirs else ())}
    groups = {topic: kafka.group_of(topic) for topic in (*sorted(fresh), topics.BACKLOG)}
    committed = await _committed(kafka, groups)
    earlier = None if scope.since is None else scope.since - SKEW
    inputs = {**dict.fromkeys(fresh, scope.since), topics.BACKLOG: earlier}
    async with (
        _positioned(kafka, inputs) as incoming,
        _positioned(kafka, dict.fromkeys(OUTPUTS, earlier)) as outgoing,
    ):
        ends = {Partition(*each): end for each, end in incoming.ends.items()}
        bounds = ends if scope.to_end else {p: at for p, at in committed.items() if p in ends}
        yield Reader(scope, groups, bounds, incoming, outgoing, theirs=theirs)


class Reader:
    """The topics of one verification, each from its start to the end that it had when opened."""

    def __init__(
        self,
        scope: Scope,
        groups: Mapping[str, str],
        bounds: Bounds,
        incoming: _Topics,
        outgoing: _Topics,
        *,
        theirs: Theirs | None,
    ) -> None:
        self._scope = scope
        self._theirs = theirs
        self._groups = groups
        self._bounds = bounds
        self._incoming = incoming
        self._outgoing = outgoing
        self._account = Account()
        self._unreadable: dict[str, int] = {}

    @property
    def total(self) -> int:
        """Offsets to read: the records, and the holes between them."""
        return self._incoming.total + self._outgoing.total

    async def report(self, step: Callable[[int], object], examples: int) -> Report:
        """Reads all of it. `step` is told of offsets as they are read. Raises `KafkaError`, and
        `RegistryAway` where a schema cannot be learned."""
        async for records in self._incoming.polls(step):
            missing = await self._learn(records)
            for record in records:
                self._take_input(record, missing)
        async for records in self._outgoing.polls(step):
            for record in records:
                self._take_output(record)
        found = self._account.judge(self._bounds, examples)
        return replace(found, notes=tuple(self._notes()))

    async def _learn(self, records: Records) -> frozenset[int]:
        """The schemas of these records; those that nobody holds."""
        if self._theirs is None:
            return frozenset()
        return await self._theirs.learn(map(Source.of, records))

    def _take_input(self, record: ConsumerRecord, missing: Collection[int]) -> None:
        place = Place(record.topic, record.partition, record.offset)
        origin = replay = None
        if record.topic == topics.BACKLOG:
            # Elsewhere a producer could write these headers.
            origin = headers.header(record.headers, headers.ORIGIN)
            replay = headers.header(record.headers, headers.REPLAY)
            first = place_of(origin or "")
            if first is None:
                origin = replay = None
            if self._is_too_old(record, first):
                return
        self._account.record(
            place,
            key=record.key,
            tasks=self._tasks_of(Source.of(record), missing),
            origin=origin,
            replay_of=replay,
        )

    def _tasks_of(self, source: Source, missing: Collection[int]) -> tuple[str, ...]:
        """Read by the topic where the record first stood, wherever it stands now."""
        if self._theirs is not None and source.topic in self._theirs.topics:
            return self._theirs.tasks_of(source, missing)
        return tasks_of(
            source.value,
            max_bytes=self._scope.max_event_bytes,
            attributes=event_attributes(source.headers),
        )

    def _is_too_old(self, record: ConsumerRecord, first: Place | None) -> bool:
        """Whether a record of the backlog was read only for its event's sake, and that is older."""
        since = self._scope.since
        if since is None or record.timestamp >= since.timestamp() * 1000:
            return False
        return first is None or first.offset < self._incoming.starts.get(
            TopicPartition(first.topic, first.partition), 0
        )

    def _take_output(self, record: ConsumerRecord) -> None:
        if record.topic == topics.DEAD_LETTERS and is_mark(record.headers):
            return
        origin = headers.header(record.headers, headers.ORIGIN) or ""
        if origin.startswith(f"{topics.CHUNKS}/"):
            return  # of a session: what is owed for one is no question of one record
        value = record.value or b""
        try:
            if record.topic == topics.VERDICTS:
                at = (record.partition, record.offset)
                self._account.verdict(origin, decode_verdict(value), at)
            elif record.topic == topics.REVIEW:
                self._account.escalation(origin, _escalations.decode(value).verdict)
            elif record.topic == topics.EVIDENCE:
                self._account.evidence(origin, _evidence.decode(value).verdict)
            else:
                self._account.dead_letter(origin)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._unreadable[record.topic] = self._unreadable.get(record.topic, 0) + 1

    def _notes(self) -> list[str]:
        notes = [
            f"{count:,} records of {topic} are none of its contract, and count as not there"
            for topic, count in sorted(self._unreadable.items())
        ]
        if not self._scope.to_end:
            judged = {partition.topic for partition in self._bounds}
            empty = {name for name in self._groups if not self._incoming.holds(name)}
            notes += [
                f"the group {group} has committed nothing on {topic}: nothing of it is judged"
                for topic, group in self._groups.items()
                if topic not in judged | empty
            ]
        if self._scope.since is None:
            notes += [
                f"{each.topic}/{each.partition} begins at offset {begin:,}: what stood before it "
                "counts as missing; --since names a time that the topic still has"
                for each, begin in sorted(self._outgoing.starts.items())
                if begin
            ]
        return notes


def tasks_of(
    value: bytes | None, *, max_bytes: int, attributes: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """The tasks on which an event must get verdicts; none where its outcome is of the whole.
    `attributes`: the record's `ce_*` headers, decoded."""
    try:
        event = decode_event(value, max_bytes=max_bytes, headers=attributes or {})
        conversations, _ = ((), ()) if event.deleted else conversations_of(event)
    except Refused:
        return ()
    return tuple(each.task.value for each in conversations)


class _Topics:
    """Topics under a consumer that has been positioned."""

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        starts: Mapping[TopicPartition, int],
        ends: Mapping[TopicPartition, int],
        idle_s: float,
    ) -> None:
        self._consumer = consumer
        self._idle_s = idle_s
        self.starts = starts
        self.ends = ends

    @property
    def total(self) -> int:
        return sum(end - self.starts[each] for each, end in self.ends.items())

    def holds(self, topic: str) -> bool:
        """Whether there is anything of this topic to read."""
        return any(
            end > self.starts[each] for each, end in self.ends.items() if each.topic == topic
        )

    async def polls(self, step: Callable[[int], object]) -> AsyncIterator[Records]:
        """The records of each poll, partition by partition."""
        at = dict(self.starts)
        heard = asyncio.get_running_loop().time()
        while unread := [each for each, offset in at.items() if offset < self.ends[each]]:
            polled = await self._consumer.getmany(*unread, timeout_ms=500, max_records=POLL_RECORDS)
            for partition, records in polled.items():
                end = self.ends[partition]
                yield [each for each in records if each.offset < end]
            for partition in unread:
                # The position, not the last record's offset: a topic may end in a marker.
                position = min(await self._consumer.position(partition), self.ends[partition])
                if position > at[partition]:
                    heard = asyncio.get_running_loop().time()
                    step(position - at[partition])
                    at[partition] = position
                if position == self.ends[partition]:
                    self._consumer.pause(partition)
            if asyncio.get_running_loop().time() > heard + self._idle_s:
                raise KafkaTimeoutError(f"{unread[0]} gives no records up to its end")


@asynccontextmanager
async def _positioned(kafka: Kafka, times: Mapping[str, datetime | None]) -> AsyncIterator[_Topics]:
    """These topics, each from its time on, or from its beginning."""
    consumer = AIOKafkaConsumer(
        *times,
        **client_arguments(kafka),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_uncommitted",
        fetch_max_bytes=FETCH_BYTES,
        fetch_max_wait_ms=100,
    )
    try:
        await consumer.start()
        partitions = sorted(consumer.assignment())
        ends = await consumer.end_offsets(partitions)
        starts = await _starts(consumer, times, ends)
        for partition, start in starts.items():
            consumer.seek(partition, start)
        # A broker that has restarted is back within some requests' time.
        yield _Topics(consumer, starts, ends, idle_s=3 * kafka.request_timeout_ms / 1000)
    finally:
        await stop(consumer)


async def _starts(
    consumer: AIOKafkaConsumer,
    times: Mapping[str, datetime | None],
    ends: Mapping[TopicPartition, int],
) -> dict[TopicPartition, int]:
    starts: dict[TopicPartition, int] = await consumer.beginning_offsets(list(ends))
    asked = {}
    for partition in starts:
        time = times[partition.topic]
        if time is not None:
            asked[partition] = max(0, int(time.timestamp() * 1000))
    if asked:
        for partition, found in (await consumer.offsets_for_times(asked)).items():
            starts[partition] = ends[partition] if found is None else found.offset
    return {partition: min(start, ends[partition]) for partition, start in starts.items()}


async def _committed(kafka: Kafka, groups: Mapping[str, str]) -> dict[Partition, int]:
    """The committed offsets of each topic's own group. Raises where one of the topics that are to
    be read is not there: a consumer would wait half a minute for it."""
    found: dict[Partition, int] = {}
    async with admin(kafka) as client:
        absent = {*groups, *OUTPUTS} - set(await client.list_topics())
        own = absent & set(topics.ALL)
        if own:
            raise UnknownTopicOrPartitionError(f"there is no topic {min(own)}")
        if absent:
            raise ValueError(
                f"there is no topic {min(absent)}, and topics/{min(absent)}.yaml in "
                "QWARDEN_POLICY__PATH names it; make the topic, or remove the file"
            )
        for topic, group in groups.items():
            partitions = list(await leaders_of(client, topic))
            offsets = await committed_in(client, group, partitions)
            found |= {Partition(*partition): at for partition, at in offsets.items()}
    return found
