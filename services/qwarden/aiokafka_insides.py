"""What aiokafka (0.14) knows and does not say, or does otherwise than we need: the one place that
reaches into its clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import BrokerResponseError, CommitFailedError, kafka_errors
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.structs import OffsetAndMetadata


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


async def commit(
    consumer: AIOKafkaConsumer, offsets: Mapping[TopicPartition, OffsetAndMetadata]
) -> None:
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
        await coordinator._do_commit_offsets(None, dict(offsets))


async def metadata_of(client: AIOKafkaAdminClient, topic: str) -> Mapping[str, Any]:
    """What a broker says of a topic: `error_code`, and `partitions` with a `leader` each.

    aiokafka's own question by name has a broker with auto.create.topics.enable make the topic, and
    the one for all topics parses each partition of a large cluster.
    """
    request = MetadataRequest([topic], allow_auto_topic_creation=False)
    (found,) = (await client._send_request(request)).to_object()["topics"]
    return dict(found)


def end_sending(producer: AIOKafkaProducer) -> None:
    """Nothing more is sent of what the producer holds."""
    if producer._sender.sender_task is not None:
        producer._sender.sender_task.cancel()


def end_with_a_refusal(
    producer: AIOKafkaProducer, told: Callable[[BaseException], None]
) -> AIOKafkaProducer:
    """The producer, which sends nothing more once a batch of its is refused for good; `told` of
    that.

    Of a producer that it does not know in a partition yet the broker takes any sequence number
    (Kafka 4.1, tried): the batch behind a refused first one would be taken before anybody hears of
    the refusal, and what was refused would come to stand behind it.
    """
    accumulator = producer._message_accumulator
    append = accumulator._append_batch

    def ended(batch: asyncio.Future[object]) -> None:
        error = None if batch.cancelled() else batch.exception()
        if error is not None:
            end_sending(producer)
            told(error)

    def watched(*arguments: object) -> object:
        batch = append(*arguments)
        batch.future.add_done_callback(ended)
        return batch

    accumulator._append_batch = watched
    return producer


class InvalidRecordError(BrokerResponseError):  # type: ignore[misc]
    """INVALID_RECORD, which aiokafka does not know and takes for UNKNOWN."""

    errno = 87
    message = "INVALID_RECORD"
    description = "The record fails the broker's validation."


kafka_errors.setdefault(InvalidRecordError.errno, InvalidRecordError)


def _state_of(consumer: AIOKafkaConsumer, partition: TopicPartition) -> Any:
    return consumer._subscription.subscription.assignment.state_value(partition)
