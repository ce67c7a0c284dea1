"""How we connect to Kafka, and the topics that the fleet needs."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    KafkaError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)
from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512

from qwarden.contracts import topics
from qwarden.contracts.names import name_of
from qwarden.settings import Kafka, SettingsError

_BATCH_BYTES = 65_536
"""Of a producer's batches; larger ones gain nothing here."""


def client_arguments(kafka: Kafka) -> dict[str, Any]:
    """The arguments with which any aiokafka client of ours connects. Raises `SettingsError`."""
    arguments: dict[str, Any] = {
        "bootstrap_servers": kafka.bootstrap_servers,
        "security_protocol": kafka.security_protocol,
        "request_timeout_ms": kafka.request_timeout_ms,
    }
    if kafka.security_protocol.endswith("SSL"):
        arguments["ssl_context"] = _ssl(kafka)
    if kafka.security_protocol.startswith("SASL"):
        arguments |= {
            "sasl_mechanism": kafka.sasl_mechanism,
            "sasl_plain_username": kafka.sasl_username,
            "sasl_plain_password": _password(kafka),
        }
    return arguments


def security(kafka: Kafka) -> BaseSecurity | None:
    """The same for FastStream, which has classes of its own for it."""
    context = _ssl(kafka) if kafka.security_protocol.endswith("SSL") else None
    if kafka.security_protocol.startswith("SASL"):
        kind = {
            "PLAIN": SASLPlaintext,
            "SCRAM-SHA-256": SASLScram256,
            "SCRAM-SHA-512": SASLScram512,
        }[kafka.sasl_mechanism]
        return kind(
            username=kafka.sasl_username or "",
            password=_password(kafka),
            ssl_context=context,
            use_ssl=context is not None,
        )
    return None if context is None else BaseSecurity(ssl_context=context, use_ssl=True)


@asynccontextmanager
async def admin(kafka: Kafka) -> AsyncIterator[AIOKafkaAdminClient]:
    """An admin client that is closed at the end. Raises `KafkaError` where the broker is away."""
    client = AIOKafkaAdminClient(**client_arguments(kafka))
    try:
        await client.start()
        yield client
    finally:
        await client.close()


async def create_topics(
    kafka: Kafka,
    *,
    partitions: int,
    replication_factor: int,
    min_insync_replicas: int,
    max_event_bytes: int,
) -> list[str]:
    """Makes the topics that are missing and returns their names. Others are left as they are.

    Raises `KafkaError` with the broker's reason for a topic that it refuses.
    """
    wanted = [
        NewTopic(
            name,
            num_partitions=1 if name in topics.COMPACTED else partitions,
            replication_factor=replication_factor,
            topic_configs={
                "min.insync.replicas": str(min_insync_replicas),
                "max.message.bytes": str(_max_message_bytes(name, max_event_bytes)),
                "cleanup.policy": "compact" if name in topics.COMPACTED else "delete",
            },
        )
        for name in topics.ALL
    ]
    made = []
    async with admin(kafka) as client:
        response = await client.create_topics(wanted)
    for name, code, *rest in response.topic_errors:
        error = for_code(code)
        if code == 0:
            made.append(name)
        elif error is not TopicAlreadyExistsError:
            raise KafkaError(f"the broker refuses the topic {name}: {error.__name__} {rest[:1]}")
    return made


async def stop(client: AIOKafkaConsumer) -> None:
    """Stops a consumer. aiokafka 0.14 lets the cancellation of its own tasks out where they are
    between two tries, which would end whoever has asked."""
    try:
        await client.stop()
    except asyncio.CancelledError:
        asking = asyncio.current_task()
        if asking is not None and asking.cancelling():
            raise


async def message_limits(kafka: Kafka, names: Iterable[str]) -> dict[str, int]:
    """Each topic's `max.message.bytes`, as the broker has it, without those that are not there.

    Raises `KafkaError`.
    """
    limits = {}
    async with admin(kafka) as client:
        there = set(await client.list_topics()) & set(names)
        wanted = [ConfigResource(ConfigResourceType.TOPIC, name) for name in sorted(there)]
        for response in await client.describe_configs(wanted):
            for code, reason, _, name, entries in response.resources:
                if code:
                    raise for_code(code)(f"the broker does not describe {name}: {reason}")
                limits[name] = int(dict(entry[:2] for entry in entries)["max.message.bytes"])
    return limits


async def open_producer(kafka: Kafka, limits: Collection[int]) -> AIOKafkaProducer:
    """A producer that has started: idempotent, and acknowledged by all in-sync replicas. `limits`:
    what each topic that it writes to takes at most, in bytes.

    Raises `KafkaError` where the broker is away.
    """
    producer = AIOKafkaProducer(
        **client_arguments(kafka),
        client_id="qwarden",
        enable_idempotence=True,
        acks="all",
        linger_ms=5,
        max_batch_size=min(_BATCH_BYTES, *limits),
        max_request_size=max(limits),
    )
    try:
        await producer.start()
    except BaseException:
        await producer.stop()
        raise
    return producer


def _max_message_bytes(topic: str, max_event_bytes: int) -> int:
    """With room for keys, headers, and what is written beside the content."""
    overhead = topics.CONTENT_OVERHEAD_BYTES
    return max_event_bytes + (2 * overhead if topic in topics.CARRY_CONTENT else overhead)


def _ssl(kafka: Kafka) -> ssl.SSLContext:
    if kafka.ca_file is not None and not kafka.ca_file.is_file():
        raise SettingsError(f"QWARDEN_KAFKA__CA_FILE: there is no file {kafka.ca_file}")
    return ssl.create_default_context(cafile=str(kafka.ca_file) if kafka.ca_file else None)


def _password(kafka: Kafka) -> str:
    return kafka.sasl_password.get_secret_value() if kafka.sasl_password else ""


async def publish(
    kafka: Kafka, topic: str, values: Iterable[bytes], sent: Callable[[int, int], object]
) -> int:
    """Publishes values, keyed by tenant and event_id or session, and returns how many.

    `sent(partition, offset)` is told of each acknowledgement, in order. Raises `KafkaError`.
    """
    producer = AIOKafkaProducer(
        **client_arguments(kafka), enable_idempotence=True, acks="all", linger_ms=5,
        max_request_size=2 * topics.MAX_EVENT_BYTES,
    )  # fmt: skip
    count = 0
    try:
        await producer.start()
        acknowledgements = [
            await producer.send(topic, value=value, key=_key(value)) for value in values
        ]
        for acknowledgement in acknowledgements:
            metadata = await acknowledgement
            sent(metadata.partition, metadata.offset)
            count += 1
    finally:
        await producer.stop()
    return count


def _key(value: bytes) -> bytes | None:
    try:
        fields = msgspec.json.decode(value, type=_Keyed)
    except msgspec.DecodeError:
        return None
    own = fields.event_id or fields.session
    return name_of(fields.tenant, own).encode() if own else None


class _Keyed(msgspec.Struct):
    """What an event or a chunk is keyed by."""

    tenant: str
    event_id: str = ""
    session: str = ""


@asynccontextmanager
async def reading(
    kafka: Kafka,
    topic: str,
    *,
    from_beginning: bool,
    follow: bool,
    starts: Mapping[int, int] | None = None,
) -> AsyncIterator[AsyncIterator[ConsumerRecord]]:
    """The records of a topic, without a group, positioned once the context is entered.

    They end at the topic's present end unless `follow`. `starts`: only these partitions, each from
    this offset on where it begins before it. Raises `KafkaError`, `UnknownTopicOrPartitionError`
    for a topic that is not there, and `ValueError` for such a partition.
    """
    consumer = AIOKafkaConsumer(
        *((topic,) if starts is None else ()),
        **client_arguments(kafka),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=100,
    )
    try:
        if starts is not None:
            consumer.assign(await assigned(kafka, topic, starts))
        await consumer.start()
        if topic not in await consumer.topics():
            raise UnknownTopicOrPartitionError(f"there is no topic {topic}")
        partitions = sorted(consumer.assignment())
        begins = await consumer.beginning_offsets(partitions)
        ends = await consumer.end_offsets(partitions)
        at = begins if from_beginning else ends
        if starts is not None:
            at = {p: max(begins[p], starts[p.partition]) for p in partitions}
        for partition in partitions:
            consumer.seek(partition, at[partition])
        unread = {p for p in partitions if at[p] < ends[p]}
        yield _records(consumer, ends, unread, follow)
    finally:
        await stop(consumer)


async def partitions_of(kafka: Kafka, topic: str) -> set[int]:
    """The partitions of a topic. Raises `UnknownTopicOrPartitionError` where it is not there, at
    once: a consumer that subscribes to it waits for it as long as for any answer."""
    async with admin(kafka) as client:
        (found,) = await client.describe_topics([topic])
    if found["error_code"]:
        raise UnknownTopicOrPartitionError(f"there is no topic {topic}")
    return {each["partition"] for each in found["partitions"]}


async def assigned(kafka: Kafka, topic: str, partitions: Iterable[int]) -> list[TopicPartition]:
    """These partitions of a topic, for a consumer to be assigned. Raises as `partitions_of` does,
    and `ValueError` for one that is not there."""
    known = await partitions_of(kafka, topic)
    wanted = [TopicPartition(topic, partition) for partition in partitions]
    for each in wanted:
        if each.partition not in known:
            raise ValueError(
                f"{topic} has no partition {each.partition}; it has those from 0 to {max(known)}"
            )
    return wanted


async def _records(
    consumer: AIOKafkaConsumer,
    ends: Mapping[TopicPartition, int],
    unread: set[TopicPartition],
    follow: bool,
) -> AsyncIterator[ConsumerRecord]:
    while follow or unread:
        polled = await consumer.getmany(timeout_ms=500)
        for records in polled.values():
            for record in records:
                yield record
        for partition in list(unread):
            # The position, not the last record's offset: a topic may end in a marker.
            if await consumer.position(partition) >= ends[partition]:
                unread.discard(partition)
