"""Asks a broker how the service's groups stand, again and again, and tells it as metrics.

`group_lag` reckons; here it is only asked, read and told. While a broker does not answer the series
are missing: a figure of before would say that all is as it was, and their absence is an alert.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, for_code

from qwarden import telemetry
from qwarden.delivery.group_lag import Log, Standing, retention_of
from qwarden.kafka import client_arguments, stop
from qwarden.settings import Kafka

_log = logging.getLogger(__name__)

_READ_S = 5.0
"""How long the oldest records may take to be read; what is not read by then has its partition's
standing still for its age, and is tried again at the next look."""
_CLOSE_S = 2.0
"""Of the clients, whose broker may be away."""


class GroupWatch:
    """How the groups of a process stand. `groups`: the group by its topic. `every_s`: how long
    between two looks, and how long one may take."""

    def __init__(self, kafka: Kafka, groups: Mapping[str, str], *, every_s: float) -> None:
        self._kafka = kafka
        self._groups = groups
        self._every_s = every_s
        self._standings = {topic: Standing() for topic in groups}
        self._admin: AIOKafkaAdminClient | None = None
        self._consumer: AIOKafkaConsumer | None = None
        self._failing = False

    async def run(self) -> None:
        """Looks until it is cancelled; then nothing of it is told any more."""
        try:
            while True:
                await self.look()
                await asyncio.sleep(self._every_s)
        finally:
            for topic, group in self._groups.items():
                self._forget(topic, group)

    async def close(self) -> None:
        """Lets go of the connections."""
        admin, self._admin = self._admin, None
        consumer, self._consumer = self._consumer, None
        with contextlib.suppress(KafkaError, OSError, TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                if consumer is not None:
                    await stop(consumer)
                if admin is not None:
                    await admin.close()

    async def look(self) -> None:
        """Asks once for each group, and tells what is known now."""
        until = asyncio.get_running_loop().time() + self._every_s
        failed = False
        for topic, group in self._groups.items():
            try:
                async with asyncio.timeout_at(until):
                    await self._look_at(topic, group)
            except Exception as error:  # whatever it is, content is judged without these figures
                failed = True
                self._forget(topic, group)
                telemetry.GROUP_LOOKS.labels(group, "failed").inc()
                if not self._failing:
                    is_away = isinstance(error, KafkaError | OSError)
                    _log.warning(
                        "how the group %s stands on %s cannot be asked: %s",
                        group,
                        topic,
                        repr(error) if is_away else type(error).__name__,
                    )
                self._failing = True
            else:
                telemetry.GROUP_LOOKS.labels(group, "done").inc()
        if failed:
            await self.close()  # a client that has failed may not come back by itself
        elif self._failing:
            self._failing = False
            _log.warning("the groups can be asked about again")

    def _forget(self, topic: str, group: str) -> None:
        with contextlib.suppress(KeyError):
            telemetry.TOPIC_RETENTION_SECONDS.remove(topic)
        for gauge in (
            telemetry.GROUP_LAG_RECORDS,
            telemetry.GROUP_LAG_SECONDS,
            telemetry.GROUP_STUCK_SECONDS,
        ):
            with contextlib.suppress(KeyError):
                gauge.remove(group, topic)

    async def _look_at(self, topic: str, group: str) -> None:
        admin, consumer = await self._clients()
        partitions = await _partitions(admin, topic)
        # In this order: what is committed in between would lie behind an end of before.
        committed = await admin.list_consumer_group_offsets(group, partitions=partitions)
        begins = await consumer.beginning_offsets(partitions)
        ends = await consumer.end_offsets(partitions)
        logs = {}
        for each in partitions:
            at = committed[each].offset if each in committed else -1
            logs[each.partition] = Log(begins[each], ends[each], at if at >= 0 else None)
        standing = self._standings[topic]
        wanted = standing.look(logs, time.monotonic())
        if wanted:
            await self._read(
                consumer, {TopicPartition(topic, one): at for one, at in wanted.items()}, standing
            )
        retention_s = await _retention_s(admin, topic)
        said = standing.figures(time.monotonic(), time.time() * 1000)
        telemetry.GROUP_LAG_RECORDS.labels(group, topic).set(said.records)
        telemetry.GROUP_LAG_SECONDS.labels(group, topic).set(said.seconds)
        telemetry.GROUP_STUCK_SECONDS.labels(group, topic).set(said.stuck_seconds)
        telemetry.TOPIC_RETENTION_SECONDS.labels(topic).set(retention_s)

    async def _clients(self) -> tuple[AIOKafkaAdminClient, AIOKafkaConsumer]:
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

    async def _read(
        self,
        consumer: AIOKafkaConsumer,
        wanted: Mapping[TopicPartition, int],
        standing: Standing,
    ) -> None:
        """Reads the first record behind each of these offsets, for its timestamp alone."""
        ends = await consumer.end_offsets(list(wanted))
        consumer.assign(list(wanted))
        for each, at in wanted.items():
            consumer.seek(each, at)
        left = set(wanted)
        try:
            async with asyncio.timeout(_READ_S):
                while left:
                    polled = await consumer.getmany(*left, timeout_ms=200)
                    for each, records in polled.items():
                        standing.read(each.partition, records[0].timestamp)
                        left.discard(each)
                        consumer.pause(each)
                    for each in list(left):
                        # The position, not a record: a log may end in markers.
                        if await consumer.position(each) >= ends[each]:
                            standing.has_none(each.partition, ends[each])
                            left.discard(each)
                            consumer.pause(each)
        except (TimeoutError, KafkaError) as error:
            # One that aiokafka cannot read ends its fetches, and says no more.
            _log.info("the oldest records of %d partitions cannot be read: %r", len(left), error)
            self._consumer = None
            await stop(consumer)


async def _partitions(admin: AIOKafkaAdminClient, topic: str) -> list[TopicPartition]:
    (found,) = await admin.describe_topics([topic])
    if found["error_code"]:
        raise for_code(found["error_code"])(f"there is no topic {topic}")
    return [TopicPartition(topic, each["partition"]) for each in found["partitions"]]


async def _retention_s(admin: AIOKafkaAdminClient, topic: str) -> float:
    wanted = [ConfigResource(ConfigResourceType.TOPIC, topic)]
    for response in await admin.describe_configs(wanted):
        for code, reason, _, name, entries in response.resources:
            if code:
                raise for_code(code)(f"the broker does not describe {name}: {reason}")
            return retention_of(dict(entry[:2] for entry in entries))
    raise KafkaError(f"the broker says nothing of the topic {topic}")
