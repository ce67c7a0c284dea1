"""The control table over `moderation.control`: one partition, read uncommitted, followed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from itertools import chain

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from qwarden import telemetry
from qwarden.contracts import topics
from qwarden.contracts.control import Key, Record, Written, withdrawn, written
from qwarden.control.port import ControlUnusable
from qwarden.control.table import Table
from qwarden.control.view import View
from qwarden.kafka import (
    acknowledged,
    client_arguments,
    close_producer,
    open_producer,
    partitions_of,
    start,
    stop,
)
from qwarden.settings import Kafka

_log = logging.getLogger(__name__)

_RETRY_S = 1.0
"""How often a broker that is away is asked again: control is known within seconds."""
_POLL_MS = 1000
"""Only a bound: a poll returns when a record comes."""
_METADATA_MS = 5000
"""How often it is asked whether the topic is there: one that was made again is seen by this alone
(aiokafka's default, five minutes, is no "within seconds")."""
_CLOSE_S = 5.0
"""How long a producer may take to close in order, and as long again by force; under the service's
drain_s. What it held is written again by a new one, or was told to nobody as written."""
_READ_S = 10.0
"""How late what is acknowledged may be read: the reader's polls return when a record comes, so that
it is read in milliseconds, or not until the reader has a broker again."""
_MAX_RECORD_BYTES = 1024 * 1024
"""Of a record that is written, which a policy's body is at most: a broker takes no larger one by
default."""


class KafkaControl(View):
    """One service's table. `wait`: whether a broker that is away is waited for, as a service does;
    a person's command is told instead, with `KafkaError`. `keeps_overrides`: else there are none
    for whom it asks, and a million of them cost neither memory nor most of the time."""

    def __init__(
        self,
        kafka: Kafka,
        *,
        topic: str = topics.CONTROL,
        wait: bool = True,
        keeps_overrides: bool = True,
    ) -> None:
        super().__init__(Table(keeps_overrides=keeps_overrides))
        self._kafka = kafka
        self._partition = TopicPartition(topic, 0)
        self._wait = wait
        self._keeps_overrides = keeps_overrides
        self._polled = asyncio.Event()
        self._consumer: AIOKafkaConsumer | None = None
        self._following: asyncio.Task[None] | None = None
        self._producer: AIOKafkaProducer | None = None
        self._writing = asyncio.Lock()

    async def start(self) -> None:
        waits = False
        while True:
            try:
                await self._read_to_the_end()
                break
            except KafkaError as error:
                if not self._wait:
                    raise
                if not waits:
                    _log.warning("waiting for %s: %r", self._partition.topic, error)
                waits = True
                await asyncio.sleep(_RETRY_S)
        self._following = asyncio.create_task(self._follow(), name="control")

    async def write(self, record: Record, *, unless: Callable[[], bool] = lambda: False) -> None:
        offset = await self._publish(written(record), unless)
        if offset is not None:
            await self._until_read(offset)

    async def withdraw(self, key: Key) -> None:
        offset = await self._publish(withdrawn(key), lambda: False)
        assert offset is not None
        await self._until_read(offset)

    async def close(self) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        await self._close_consumer()
        await self._close_producer()

    # Reading.

    async def _read_to_the_end(self) -> None:
        """Puts a table that holds all of the topic in place of the present one, and a consumer that
        stands behind it."""
        at = self._partition
        partitions = len(await partitions_of(self._kafka, at.topic))
        if partitions != 1:
            raise ControlUnusable(
                f"{at.topic} has {partitions} partitions and must have one, so that everybody "
                "reads one order; delete it, and make it with: qwarden topics create"
            )
        consumer = AIOKafkaConsumer(
            at.topic,
            **client_arguments(self._kafka),
            group_id=None,
            metadata_max_age_ms=_METADATA_MS,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_uncommitted",
        )
        try:
            await start(consumer, self._kafka)
            begin = (await consumer.beginning_offsets([at]))[at]
            end = (await consumer.end_offsets([at]))[at]
            consumer.seek(at, begin)
            table = Table(keeps_overrides=self._keeps_overrides)
            # The position, not the last record's offset: the topic may end in a marker.
            while await consumer.position(at) < end:
                _apply(table, await _polled(consumer))
        except BaseException:
            await stop(consumer)
            raise
        self._consumer = consumer
        before, self._table = self._table, table
        telemetry.OVERRIDES.set(table.overrides)
        if before.in_force != table.in_force:
            self._tell()

    async def _follow(self) -> None:
        """Never ends by itself: a service that no halt reaches would be one too many."""
        while True:
            try:
                if self._consumer is None:
                    await self._read_to_the_end()
                while True:
                    if _apply(self._table, await _polled(self._consumer)):
                        self._tell()
                    telemetry.OVERRIDES.set(self._table.overrides)
                    self._polled.set()
            except Exception as error:
                # A partition without a position too: the topic was made again, and is another one.
                _log.warning("reading %s anew after %r", self._partition.topic, error)
                await self._close_consumer()
                await asyncio.sleep(_RETRY_S)

    async def _close_consumer(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with contextlib.suppress(KafkaError):
                await stop(consumer)

    def _tell(self) -> None:
        telemetry.HALTS.set(len(self._table.halts))
        super()._tell()

    # Writing.

    async def _publish(self, message: Written, unless: Callable[[], bool]) -> int | None:
        """Writes until it is acknowledged: a record that is written twice says the same. Its
        offset, or None where there was no need to write it any more."""
        async with self._writing:
            while not unless():
                try:
                    if self._producer is None:
                        self._producer = await open_producer(self._kafka, [_MAX_RECORD_BYTES])
                    sent = await self._producer.send(
                        self._partition.topic,
                        key=message.key,
                        value=message.value,
                        headers=message.headers,
                        partition=self._partition.partition,
                    )
                    offset: int = (await acknowledged(self._kafka, sent)).offset
                    return offset
                except KafkaError as error:
                    await self._close_producer()
                    if not self._wait:
                        raise
                    _log.warning("writing to %s again after %r", self._partition.topic, error)
                    await asyncio.sleep(_RETRY_S)
        return None

    async def _until_read(self, offset: int) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_READ_S):
                while self._table.end <= offset:
                    self._polled.clear()
                    await self._polled.wait()

    async def _close_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await close_producer(producer, _CLOSE_S)


@contextlib.asynccontextmanager
async def commanding(kafka: Kafka) -> AsyncIterator[KafkaControl]:
    """The table of a person's command, which is told where a broker is away. Raises `KafkaError`
    and `ControlUnusable`."""
    control = KafkaControl(kafka, wait=False, keeps_overrides=False)
    try:
        await control.start()
        yield control
    finally:
        await control.close()


async def _polled(consumer: AIOKafkaConsumer) -> list[ConsumerRecord]:
    polled = await consumer.getmany(timeout_ms=_POLL_MS)
    return list(chain.from_iterable(polled.values()))


def _apply(table: Table, records: Iterable[ConsumerRecord]) -> bool:
    """Whether what is in force has changed."""
    changed = False
    for record in records:
        changed |= table.apply(record.key, record.value, record.offset)
    return changed
