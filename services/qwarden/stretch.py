"""A part of a topic that is read once: from its beginning, or a time, to the end that it had."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from datetime import datetime

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from qwarden.kafka import assigned, client_arguments, reading, start, stop
from qwarden.settings import Kafka

_RECORDS_A_STEP = 1000
"""How many are read before that is told: a terminal that is drawn for each takes longer than all
the reading."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """By partition from the first offset up to the second."""

    topic: str
    offsets: dict[int, tuple[int, int]]

    @property
    def total(self) -> int:
        """Offsets to read: the records, and the holes between them."""
        return sum(end - start for start, end in self.offsets.values())

    def of(self, partition: int) -> Stretch:
        """Only this partition."""
        return Stretch(self.topic, {partition: self.offsets[partition]})


async def stretch_of(kafka: Kafka, topic: str, since: datetime | None = None) -> Stretch:
    """What a topic holds now, from a time on. Raises `KafkaError`, and
    `UnknownTopicOrPartitionError` for a topic that is not there."""
    partitions = await assigned(kafka, topic)
    consumer = AIOKafkaConsumer(**client_arguments(kafka), group_id=None, enable_auto_commit=False)
    try:
        consumer.assign(partitions)
        await start(consumer, kafka)
        starts: dict[TopicPartition, int] = await consumer.beginning_offsets(partitions)
        ends: dict[TopicPartition, int] = await consumer.end_offsets(partitions)
        if since is not None:
            at = max(0, int(since.timestamp() * 1000))
            found = await consumer.offsets_for_times(dict.fromkeys(partitions, at))
            for partition in partitions:
                first = found.get(partition)
                starts[partition] = ends[partition] if first is None else first.offset
    finally:
        await stop(consumer)
    return Stretch(
        topic, {each.partition: (min(starts[each], ends[each]), ends[each]) for each in partitions}
    )


async def records_of(
    kafka: Kafka, stretch: Stretch, step: Callable[[int], object]
) -> AsyncGenerator[ConsumerRecord, None]:
    """The records of a stretch. `step` is told how many were read. Raises `KafkaError`."""
    starts = {
        partition: start for partition, (start, end) in stretch.offsets.items() if start < end
    }
    if not starts:
        return
    unsaid = 0
    async with reading(
        kafka, stretch.topic, from_beginning=True, follow=False, starts=starts
    ) as records:
        async for record in records:
            if record.offset < stretch.offsets[record.partition][1]:
                yield record
            unsaid += 1
            if unsaid == _RECORDS_A_STEP:
                step(unsaid)
                unsaid = 0
    step(unsaid)
