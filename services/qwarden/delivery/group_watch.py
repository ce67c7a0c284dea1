"""Asks a broker how the service's groups stand, again and again, and tells it as metrics.

`group_lag` reckons; here it is only asked, read and told. While a broker does not answer the series
are missing: a figure of before would say that all is as it was, and their absence is an alert.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, for_code

from qwarden import telemetry
from qwarden.delivery.group_lag import Log, Standing, retention_of
from qwarden.kafka import client_arguments, committed_in, leaders_of, stop
from qwarden.settings import Kafka

_log = logging.getLogger(__name__)

_READ_S = 5.0
"""How long the oldest records may take to be read, under the 15 s of telemetry.group_look_s; what
is not read by then has its partition's standing still for its age, and is tried again at the next
look."""
_POLL_MS = 200
"""Only a bound: a poll returns when a record comes. Behind the last one there may be none, and the
position alone says so."""
_CLOSE_S = 2.0
"""How long a client's closing is waited for, whose broker may be away; under the 3 s that a service
has for its clients when it ends."""

_Clients = tuple[AIOKafkaAdminClient, AIOKafkaConsumer]


class GroupWatch:
    """How the groups of a process stand. `groups`: the group by its topic. `every_s`: how long
    between two looks, and how long a broker may take to answer about a group. `away`: why no broker
    could be reached at the last look, or None."""

    def __init__(self, kafka: Kafka, groups: Mapping[str, str], *, every_s: float) -> None:
        self.away: str | None = None
        self._kafka = kafka
        self._groups = groups
        self._every_s = every_s
        self._standings = {topic: Standing() for topic in groups}
        self._admin: AIOKafkaAdminClient | None = None
        self._consumer: AIOKafkaConsumer | None = None
        self._failing: set[str] = set()
        self._closing: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Looks until it is cancelled; then nothing of it is told any more."""
        try:
            while True:
                await self.look()
                await asyncio.sleep(self._every_s)
        finally:
            for topic in self._groups:
                self._forget(topic)

    async def close(self) -> None:
        """Lets go of the connections."""
        admin, self._admin = self._admin, None
        consumer, self._consumer = self._consumer, None
        for each in (
            None if consumer is None else stop(consumer),
            None if admin is None else admin.close(),
        ):
            if each is not None:
                closing = asyncio.create_task(_closed(each))
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
        if self._closing:
            # One that takes longer goes on by itself: cut short, it would leave connections open.
            await asyncio.wait(set(self._closing), timeout=_CLOSE_S)

    async def look(self) -> None:
        """Asks once about each group, of all at once, and tells what is known now."""
        try:
            async with asyncio.timeout(self._every_s):
                clients = await self._clients()
        except Exception as error:  # whatever it is, content is judged without these figures
            self.away = repr(error)
            for topic in self._groups:
                self._failed(topic, error)
        else:
            self.away = None
            asked = await asyncio.gather(*(self._ask(clients, topic) for topic in self._groups))
            wanted = {each: at for one in asked if one for each, at in one.items()}
            is_read = not wanted or await self._read(clients[1], wanted)
            for topic, one in zip(self._groups, asked, strict=True):
                if one is not None:
                    self._tell(topic)
            if is_read and not self._failing:
                return
        await self.close()  # a client that has failed may not come back by itself

    async def _ask(self, clients: _Clients, topic: str) -> dict[TopicPartition, int] | None:
        """Takes how one group stands; where a record is to be read, None where nobody says it."""
        try:
            async with asyncio.timeout(self._every_s):
                return await self._look_at(clients, topic)
        except Exception as error:
            self._failed(topic, error)
            return None

    def _failed(self, topic: str, error: Exception) -> None:
        group = self._groups[topic]
        self._forget(topic)
        telemetry.GROUP_LOOKS.labels(group, "failed").inc()
        if topic not in self._failing:
            is_away = isinstance(error, KafkaError | OSError)
            _log.warning(
                "how the group %s stands on %s cannot be asked: %s",
                group,
                topic,
                repr(error) if is_away else type(error).__name__,
            )
        self._failing.add(topic)

    def _forget(self, topic: str) -> None:
        with contextlib.suppress(KeyError):
            telemetry.TOPIC_RETENTION_SECONDS.remove(topic)
        for gauge in (
            telemetry.GROUP_LAG_RECORDS,
            telemetry.GROUP_LAG_SECONDS,
            telemetry.GROUP_STUCK_SECONDS,
        ):
            with contextlib.suppress(KeyError):
                gauge.remove(self._groups[topic], topic)

    async def _look_at(self, clients: _Clients, topic: str) -> dict[TopicPartition, int]:
        admin, consumer = clients
        leaders = await leaders_of(admin, topic)
        # In this order: what is committed in between would lie behind an end of before.
        committed = await committed_in(admin, self._groups[topic], list(leaders))
        led = [each for each, leader in leaders.items() if leader >= 0]
        begins = await consumer.beginning_offsets(led)
        ends = await consumer.end_offsets(led)
        retention_s = await _retention_s(admin, topic)
        logs: dict[int, Log | None] = dict.fromkeys(each.partition for each in leaders)
        for each in led:
            logs[each.partition] = Log(begins[each], ends[each], committed.get(each))
        wanted = self._standings[topic].look(logs, time.monotonic())
        telemetry.TOPIC_RETENTION_SECONDS.labels(topic).set(retention_s)
        return {TopicPartition(topic, partition): at for partition, at in wanted.items()}

    def _tell(self, topic: str) -> None:
        group = self._groups[topic]
        said = self._standings[topic].figures(time.monotonic(), time.time() * 1000)
        telemetry.GROUP_LAG_RECORDS.labels(group, topic).set(said.records)
        telemetry.GROUP_LAG_SECONDS.labels(group, topic).set(said.seconds)
        telemetry.GROUP_STUCK_SECONDS.labels(group, topic).set(said.stuck_seconds)
        telemetry.GROUP_LOOKS.labels(group, "done").inc()
        if topic in self._failing:
            self._failing.discard(topic)
            _log.warning("the group %s can be asked about again", group)

    async def _clients(self) -> _Clients:
        if self._admin is None:
            self._admin = AIOKafkaAdminClient(**client_arguments(self._kafka))
            await self._admin.start()
        if self._consumer is None:
            self._consumer = AIOKafkaConsumer(
                **client_arguments(self._kafka),
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="none",
                # A broker gives the first batch whole, however large: one record is enough.
                max_partition_fetch_bytes=1,
                fetch_max_wait_ms=100,
            )
            await self._consumer.start()
        return self._admin, self._consumer

    async def _read(self, consumer: AIOKafkaConsumer, wanted: Mapping[TopicPartition, int]) -> bool:
        """Reads the first record behind each of these offsets, for its timestamp alone; whether the
        client is of use still."""
        left = set(wanted)
        try:
            async with asyncio.timeout(_READ_S):
                ends = await consumer.end_offsets(list(wanted))
                consumer.assign(list(wanted))
                for each, at in wanted.items():
                    consumer.seek(each, at)
                while left:
                    polled = await consumer.getmany(*left, timeout_ms=_POLL_MS)
                    for each, records in polled.items():
                        self._standings[each.topic].read(each.partition, records[0].timestamp)
                        left.discard(each)
                        consumer.pause(each)
                    for each in list(left):
                        # The position, not a record: a log may end in markers.
                        if await consumer.position(each) >= ends[each]:
                            self._standings[each.topic].has_none(each.partition, ends[each])
                            left.discard(each)
                            consumer.pause(each)
        except Exception as error:
            # One that aiokafka cannot read ends its fetches, and says no more.
            _log.info("the oldest records of %d partitions cannot be read: %r", len(left), error)
            return False
        return True


async def _closed(closing: Awaitable[None]) -> None:
    with contextlib.suppress(Exception):
        await closing


async def _retention_s(admin: AIOKafkaAdminClient, topic: str) -> float:
    wanted = [ConfigResource(ConfigResourceType.TOPIC, topic)]
    for response in await admin.describe_configs(wanted):
        for code, reason, _, name, entries in response.resources:
            if code:
                raise for_code(code)(f"the broker does not describe {name}: {reason}")
            return retention_of(dict(entry[:2] for entry in entries))
    raise KafkaError(f"the broker says nothing of the topic {topic}")
