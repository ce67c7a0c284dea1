"""What aiokafka's consumer (0.14) knows and its own methods do not say: the one place of delivery
that reaches into it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError
from aiokafka.structs import OffsetAndMetadata

from qwarden.delivery.window import Partition


def has_connection(consumer: AIOKafkaConsumer) -> bool:
    """Whether there is one to any broker."""
    return any(each.connected() for each in consumer._client._conns.values())


def position_of(consumer: AIOKafkaConsumer, partition: TopicPartition) -> int | None:
    """Where the next fetch of an assigned partition goes on; None where that is not known yet.
    Without an await: the consumer's own question waits, and by then a rebalance may have moved
    it."""
    state = _state_of(consumer, partition)
    return state.position if state.has_valid_position else None


def nothing_behind_since(consumer: AIOKafkaConsumer, partition: TopicPartition) -> int | None:
    """When a broker last said that nothing stands behind an assigned partition's position (ms since
    1970); None where something does, or may."""
    state = _state_of(consumer, partition)
    if not state.has_valid_position or state.highwater is None or state.paused:
        return None
    said: int | None = state.timestamp
    return said if state.position >= state.highwater else None


async def committed_of(
    consumer: AIOKafkaConsumer, partitions: Iterable[TopicPartition]
) -> Mapping[TopicPartition, OffsetAndMetadata]:
    """What the group has committed, with the metadata that aiokafka's own `committed` leaves out;
    without the partitions of which it never has. Raises `KafkaError`."""
    found: Mapping[
        TopicPartition, OffsetAndMetadata
    ] = await consumer._coordinator.fetch_committed_offsets(list(partitions))
    return found


async def commit(consumer: AIOKafkaConsumer, offsets: Mapping[Partition, tuple[int, str]]) -> None:
    """Commits offsets with their metadata: one try, in the generation of now. Raises `KafkaError`.

    aiokafka's own goes on with the generation of then, and with none once the member is out of the
    group, which an empty group takes: an old watermark then stands over a newer one (the twin of
    the tests, seed 161).
    """
    coordinator = consumer._coordinator
    await coordinator.ensure_coordinator_known()
    async with coordinator._commit_lock:
        if coordinator.generation < 0:
            raise CommitFailedError("this consumer is not in its group")
        await coordinator._do_commit_offsets(
            None,
            {TopicPartition(*where): OffsetAndMetadata(*at) for where, at in offsets.items()},
        )


def _state_of(consumer: AIOKafkaConsumer, partition: TopicPartition) -> Any:
    return consumer._subscription.subscription.assignment.state_value(partition)
