"""The broker: topics, groups and producers, and the answers to aiokafka's requests.

It keeps what it acknowledged, whatever fault is set on it. Its own faults are `refuse`,
`refuse_commits` and `hold`; the others are the network's.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import (
    KafkaError,
    MessageSizeTooLargeError,
    NoError,
    OffsetOutOfRangeError,
    OutOfOrderSequenceNumber,
    UnknownTopicOrPartitionError,
)

from twin.group import Group
from twin.log import Headers, Log, OutOfSequence, Record, batch_of, marker, records_of, state_of

HOST, PORT, NODE = "twin", 9092, 0

PRODUCE, FETCH, LIST_OFFSETS, METADATA = 0, 1, 2, 3
COMMIT, FETCH_COMMITTED, FIND_COORDINATOR = 8, 9, 10
JOIN, HEARTBEAT, LEAVE, SYNC = 11, 12, 13, 14
INIT_PRODUCER, ADD_PARTITIONS, END_TRANSACTION = 22, 24, 26
VERSIONS = {
    PRODUCE: 7,
    FETCH: 11,
    LIST_OFFSETS: 3,
    METADATA: 5,
    COMMIT: 3,
    FETCH_COMMITTED: 3,
    FIND_COORDINATOR: 1,
    JOIN: 5,
    HEARTBEAT: 1,
    LEAVE: 1,
    SYNC: 3,
    INIT_PRODUCER: 0,
    ADD_PARTITIONS: 0,
    END_TRANSACTION: 0,
}
"""API to its version: the newest that aiokafka and Kafka 4.1 both have."""

_EARLIEST, _LATEST = -2, -1
_OK = NoError.errno


@dataclass(slots=True)
class Topic:
    """A topic's partitions, and the largest batch that it takes."""

    partitions: list[Log]
    max_message_bytes: int


@dataclass(slots=True)
class _Refusal:
    """`of`: a topic or a group."""

    of: str
    error: type[KafkaError]
    times: int


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit that the broker took."""

    group: str
    member: str
    generation: int
    offsets: Sequence[tuple[TopicPartition, int]]


@dataclass(frozen=True, slots=True)
class Append:
    """Records that the broker appended; `producer` is the producer's id, -1 for none."""

    partition: TopicPartition
    producer: int
    records: Sequence[Record]


@dataclass(eq=False, slots=True)
class _WaitingFetch:
    answer: asyncio.Future[Any]
    request: Any
    timer: asyncio.TimerHandle


@dataclass(eq=False)
class Broker:
    """One broker of one node. `on_append` and `on_commit` hear what it took, when it took it."""

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    on_append: Callable[[Append], None] = lambda _: None
    on_commit: Callable[[Commit], None] = lambda _: None
    topics: dict[str, Topic] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    _producers: itertools.count[int] = field(default_factory=lambda: itertools.count(1000))
    _transactions: dict[str, set[TopicPartition]] = field(default_factory=dict)
    _fetches: list[_WaitingFetch] = field(default_factory=list)
    _refusals: list[_Refusal] = field(default_factory=list)
    _refused_commits: list[_Refusal] = field(default_factory=list)
    _held: Counter[str] = field(default_factory=Counter)

    # What an administrator does.

    def make_topic(self, name: str, partitions: int, max_message_bytes: int = 1_048_588) -> None:
        self.topics[name] = Topic([Log() for _ in range(partitions)], max_message_bytes)

    def grow(self, name: str, partitions: int) -> None:
        has = self.topics[name].partitions
        has.extend(Log() for _ in range(partitions - len(has)))

    def append(
        self,
        partition: TopicPartition,
        records: Iterable[tuple[bytes | None, bytes | None, Headers]],
    ) -> int:
        """Appends (key, value, headers) without a producer; returns the first offset."""
        offset = self.log(partition).append(batch_of(records, self._now_ms()))
        assert offset is not None
        self._appended(partition)
        return offset

    def leave_hole(self, partition: TopicPartition) -> None:
        """An offset without a record, as the end of a transaction leaves it."""
        self.log(partition).append(marker(0, 0, commit=True, timestamp=self._now_ms()))
        self._appended(partition)

    def log(self, partition: TopicPartition) -> Log:
        log: Log = self.topics[partition.topic].partitions[partition.partition]
        return log

    def group(self, name: str) -> Group:
        return self.groups.setdefault(name, Group(name, self.loop))

    def partitions(self, topic: str) -> list[TopicPartition]:
        return [TopicPartition(topic, n) for n in range(len(self.topics[topic].partitions))]

    # Faults of producing.

    def refuse(self, topic: str, error: type[KafkaError], times: int = 1) -> None:
        """The next batches to this topic are answered with this error, and not appended."""
        self._refusals.append(_Refusal(topic, error, times))

    def refuse_commits(self, group: str, error: type[KafkaError], times: int = 1) -> None:
        """The next commits of this group are answered with this error, and not taken."""
        self._refused_commits.append(_Refusal(group, error, times))

    def heal(self) -> None:
        """Ends every refusal and hold."""
        self._refusals.clear()
        self._refused_commits.clear()
        self._held.clear()

    def hold(self, topic: str) -> Callable[[], None]:
        """Produce requests with this topic are neither appended nor answered, until what it
        returns is called and their producers send again."""
        self._held[topic] += 1
        return partial(self._held.subtract, [topic])

    # Requests.

    def answer(self, request: Any) -> Any:
        """The response, or a future of it, or None where there will never be one."""
        return _ANSWERS[request.API_KEY](self, request, partial(_reply, request))

    def _metadata(self, request: Any, reply: Callable[..., Any]) -> Any:
        names = self.topics if request.topics is None else request.topics
        described: list[Any] = []
        for name in names:
            topic = self.topics.get(name)
            partitions = range(len(topic.partitions) if topic else 0)
            described.append(
                (
                    _OK if topic else UnknownTopicOrPartitionError.errno,
                    name,
                    False,
                    [(_OK, n, NODE, [NODE], [NODE], []) for n in partitions],
                )
            )
        return reply(0, [(NODE, HOST, PORT, None)], "twin", NODE, described)

    def _find_coordinator(self, request: Any, reply: Callable[..., Any]) -> Any:
        return reply(0, _OK, None, NODE, HOST, PORT)

    def _list_offsets(self, request: Any, reply: Callable[..., Any]) -> Any:
        found = []
        for topic, partitions in request.topics:
            of_topic: list[Any] = []
            for partition, timestamp in partitions:
                log = self._log_or_none(topic, partition)
                if log is None:
                    of_topic.append((partition, UnknownTopicOrPartitionError.errno, -1, -1))
                else:
                    assert timestamp in {_EARLIEST, _LATEST}, "the twin knows the two ends only"
                    offset = log.start if timestamp == _EARLIEST else log.end
                    of_topic.append((partition, _OK, -1, offset))
            found.append((topic, of_topic))
        return reply(0, found)

    # Fetching.

    def _fetch(self, request: Any, reply: Callable[..., Any]) -> Any:
        found, something = self._read(request)
        if something or not request.max_wait_time:
            return reply(0, _OK, 0, found)
        answer = self.loop.create_future()
        waiting = _WaitingFetch(answer, request, None)  # type: ignore[arg-type]
        waiting.timer = self.loop.call_later(request.max_wait_time / 1000, self._end_fetch, waiting)
        self._fetches.append(waiting)
        return answer

    def _read(self, request: Any) -> tuple[list[Any], bool]:
        """What the logs have, by topic and partition in order, and whether it is anything."""
        found, something = [], False
        for topic, partitions in sorted(request.topics):
            of_topic: list[Any] = []
            for partition, _, offset, _, most_bytes in sorted(partitions):
                log = self._log_or_none(topic, partition)
                code, batches = _OK, b""
                if log is None:
                    code = UnknownTopicOrPartitionError.errno
                elif not log.start <= offset <= log.end:
                    code = OffsetOutOfRangeError.errno
                else:
                    batches = log.read(offset, most_bytes)
                something = something or bool(batches or code)
                start, end = (log.start, log.end) if log and not code else (-1, -1)
                of_topic.append((partition, code, end, end, start, [], -1, batches))
            found.append((topic, of_topic))
        return found, something

    def _appended(self, partition: TopicPartition) -> None:
        for waiting in list(self._fetches):
            for topic, partitions in waiting.request.topics:
                if topic == partition.topic and any(
                    each[0] == partition.partition for each in partitions
                ):
                    self._end_fetch(waiting)

    def _end_fetch(self, waiting: _WaitingFetch) -> None:
        if waiting in self._fetches:
            self._fetches.remove(waiting)
            waiting.timer.cancel()
            if not waiting.answer.done():
                found, _ = self._read(waiting.request)
                waiting.answer.set_result(_reply(waiting.request, 0, _OK, 0, found))

    # Producing.

    def _produce(self, request: Any, reply: Callable[..., Any]) -> Any:
        if any(self._held[topic] > 0 for topic, _ in request.topics):
            return None
        found = []
        for topic, partitions in request.topics:
            of_topic: list[Any] = []
            for partition, batch in partitions:
                code, offset = self._take(TopicPartition(topic, partition), bytes(batch))
                of_topic.append((partition, code, offset, -1, 0))
            found.append((topic, of_topic))
        return reply(found, 0)

    def _take(self, partition: TopicPartition, batch: bytes) -> tuple[int, int]:
        log = self._log_or_none(*partition)
        if log is None:
            return UnknownTopicOrPartitionError.errno, -1
        refused = _refused(self._refusals, partition.topic)
        if refused is not None:
            return refused, -1
        if len(batch) > self.topics[partition.topic].max_message_bytes:
            return MessageSizeTooLargeError.errno, -1
        try:
            offset = log.append(batch)
        except OutOfSequence:
            return OutOfOrderSequenceNumber.errno, -1
        if offset is None:
            return _OK, log.offset_of(batch)
        records = [each._replace(offset=offset + n) for n, each in enumerate(records_of(batch))]
        self.on_append(Append(partition, state_of(batch).producer_id, records))
        self._appended(partition)
        return _OK, offset

    def _init_producer(self, request: Any, reply: Callable[..., Any]) -> Any:
        if request.transactional_id is not None:
            self._transactions[request.transactional_id] = set()
        return reply(0, _OK, next(self._producers), 0)

    def _add_partitions(self, request: Any, reply: Callable[..., Any]) -> Any:
        self._transactions[request.transactional_id] |= {
            TopicPartition(topic, n) for topic, partitions in request.topics for n in partitions
        }
        return reply(0, [(topic, [(n, _OK) for n in numbers]) for topic, numbers in request.topics])

    def _end_transaction(self, request: Any, reply: Callable[..., Any]) -> Any:
        for partition in sorted(self._transactions[request.transactional_id]):
            self.log(partition).append(
                marker(
                    request.producer_id,
                    request.producer_epoch,
                    commit=request.transaction_result,
                    timestamp=self._now_ms(),
                )
            )
            self._appended(partition)
        self._transactions[request.transactional_id] = set()
        return reply(0, _OK)

    # Groups.

    def _join(self, request: Any, reply: Callable[..., Any]) -> Any:
        return self.group(request.group).join(request, partial(reply, 0))

    def _sync(self, request: Any, reply: Callable[..., Any]) -> Any:
        return self.group(request.group).sync(request, partial(reply, 0))

    def _heartbeat(self, request: Any, reply: Callable[..., Any]) -> Any:
        group = self.group(request.group)
        return reply(0, group.heartbeat(request.member_id, request.generation_id))

    def _leave(self, request: Any, reply: Callable[..., Any]) -> Any:
        return reply(0, self.group(request.group).leave(request.member_id))

    def _commit(self, request: Any, reply: Callable[..., Any]) -> Any:
        offsets = [
            (TopicPartition(topic, partition), offset)
            for topic, partitions in request.topics
            for partition, offset, _ in partitions
        ]
        metadata = [each[2] for _, partitions in request.topics for each in partitions]
        member, generation = request.consumer_id, request.consumer_group_generation_id
        code = _refused(self._refused_commits, request.consumer_group)
        if code is None:
            code = self.group(request.consumer_group).commit(member, generation, offsets, metadata)
        if code == _OK:
            self.on_commit(Commit(request.consumer_group, member, generation, offsets))
        return reply(
            0,
            [
                (topic, [(each[0], code) for each in partitions])
                for topic, partitions in request.topics
            ],
        )

    def _fetch_committed(self, request: Any, reply: Callable[..., Any]) -> Any:
        group = self.group(request.consumer_group)
        return reply(
            0,
            [
                (
                    topic,
                    [
                        (n, group.committed.get(at, -1), group.metadata.get(at, ""), _OK)
                        for n in partitions
                        if (at := TopicPartition(topic, n))
                    ],
                )
                for topic, partitions in request.topics
            ],
            _OK,
        )

    def _log_or_none(self, topic: str, partition: int) -> Log | None:
        known = self.topics.get(topic)
        return known.partitions[partition] if known and partition < len(known.partitions) else None

    def _now_ms(self) -> int:
        return int(self.loop.time() * 1000)


def _refused(refusals: list[_Refusal], of: str) -> int | None:
    """The code of the first refusal of this topic or group, which counts as used."""
    for refusal in refusals:
        if refusal.of == of and refusal.times:
            refusal.times -= 1
            code: int = refusal.error.errno
            return code
    return None


def _reply(request: Any, *fields: Any) -> Any:
    return request.RESPONSE_TYPE(*fields)


_ANSWERS: dict[int, Callable[[Broker, Any, Callable[..., Any]], Any]] = {
    PRODUCE: Broker._produce,
    FETCH: Broker._fetch,
    LIST_OFFSETS: Broker._list_offsets,
    METADATA: Broker._metadata,
    COMMIT: Broker._commit,
    FETCH_COMMITTED: Broker._fetch_committed,
    FIND_COORDINATOR: Broker._find_coordinator,
    JOIN: Broker._join,
    HEARTBEAT: Broker._heartbeat,
    LEAVE: Broker._leave,
    SYNC: Broker._sync,
    INIT_PRODUCER: Broker._init_producer,
    ADD_PARTITIONS: Broker._add_partitions,
    END_TRANSACTION: Broker._end_transaction,
}
