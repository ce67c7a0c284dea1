"""How we connect to Kafka, and the topics that the fleet needs."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, suppress
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    GroupLoadInProgressError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    TopicAlreadyExistsError,
    for_code,
)
from faststream.security import (
    BaseSecurity,
    SASLOAuthBearer,
    SASLPlaintext,
    SASLScram256,
    SASLScram512,
)

from qwarden import tls
from qwarden.aiokafka_insides import end_sending, metadata_of
from qwarden.contracts import topics
from qwarden.contracts.names import name_of
from qwarden.kafka_refusals import Refused, why_refused
from qwarden.kafka_tokens import Tokens
from qwarden.settings import Kafka

T = TypeVar("T")

_BATCH_BYTES = 65_536
"""Of a producer's batches; larger ones gain nothing here."""
_POLL_MS = 500
"""How often a reader looks whether it is at the end. Only a bound: a poll returns when a record
comes."""
_KNOWN_LOOKS, _KNOWN_LOOK_S = 200, 0.05
"""How often, in ten seconds, a broker is asked for topics that were just made: it hears of them
from the controller a moment later, and says until then that there are none."""
_NO_LIMIT = 2**31 - 1
"""Of a record's bytes: the broker says what is too large, and who may write to a topic may not be
one who may ask for its limits."""
_WAITED_REQUESTS = 2
"""How many requests' time a person waits for an acknowledgement: a producer that is idempotent
tries for ever, and one request may be lost with the broker that led its partition."""
_CLOSES_S = 5.0
"""How long a producer of a command may close: what it sent has its acknowledgement by then, or is
not waited for any more."""


def client_arguments(kafka: Kafka) -> dict[str, Any]:
    """The arguments with which any aiokafka client of ours connects. Raises `SettingsError`."""
    arguments: dict[str, Any] = {
        "bootstrap_servers": kafka.bootstrap_servers,
        "security_protocol": kafka.security_protocol,
        "request_timeout_ms": kafka.request_timeout_ms,
    }
    if kafka.is_encrypted:
        arguments["ssl_context"] = tls.context_of(kafka.certificates)
    if kafka.has_sasl:
        arguments["sasl_mechanism"] = kafka.sasl_mechanism
        if kafka.sasl_mechanism == "OAUTHBEARER":
            arguments["sasl_oauth_token_provider"] = tokens(kafka)
        else:
            arguments["sasl_plain_username"] = kafka.sasl_username
            arguments["sasl_plain_password"] = _password(kafka)
    return arguments


@lru_cache(maxsize=16)
def tokens(kafka: Kafka) -> Tokens | None:
    """What gives tokens to all clients that connect so: one, so that they share each token."""
    return Tokens(kafka) if kafka.has_sasl and kafka.sasl_mechanism == "OAUTHBEARER" else None


def security(kafka: Kafka) -> BaseSecurity | None:
    """The same for FastStream, which has classes of its own for it; it takes `tokens` beside it."""
    context = tls.context_of(kafka.certificates) if kafka.is_encrypted else None
    if kafka.has_sasl:
        if kafka.sasl_mechanism == "OAUTHBEARER":
            return SASLOAuthBearer(ssl_context=context, use_ssl=context is not None)
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
        await start(client, kafka)
        yield client
    finally:
        await client.close()


async def start(client: Any, kafka: Kafka) -> None:
    """Starts any client of aiokafka's. Raises `KafkaError`, which says why where a broker does not
    let us in: aiokafka logs that, and raises only that it could not connect."""
    if kafka.has_sasl and kafka.sasl_mechanism == "OAUTHBEARER":
        await _prove(kafka)  # aiokafka 0.14 does not see that its token is refused
    try:
        await client.start()
    except KafkaConnectionError:
        await _prove(kafka)
        raise


async def _prove(kafka: Kafka) -> None:
    reason = await why_refused(kafka.bootstrap_servers, client_arguments(kafka), kafka)
    if reason is not None:
        raise Refused(reason)


async def create_topics(
    kafka: Kafka,
    *,
    partitions: int,
    replication_factor: int,
    min_insync_replicas: int,
    max_event_bytes: int,
    retention_hours: int = topics.RETENTION_HOURS,
    kept_hours: int = topics.KEPT_HOURS,
) -> list[str]:
    """Makes the topics that are missing and returns their names. Others are left as they are.

    Raises `KafkaError` with the broker's reason for a topic that it refuses.
    """
    wanted = [
        NewTopic(
            name,
            num_partitions=topics.partitions_of(name, partitions),
            replication_factor=replication_factor,
            topic_configs=topics.configs_of(
                name,
                min_insync_replicas=min_insync_replicas,
                max_event_bytes=max_event_bytes,
                retention_hours=retention_hours,
                kept_hours=kept_hours,
            ),
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
                reason = f"{error.__name__} {rest[:1]}"
                raise KafkaError(f"the broker refuses the topic {name}: {reason}")
        for _ in range(_KNOWN_LOOKS):
            if set(made) <= set(await client.list_topics()):
                break
            await asyncio.sleep(_KNOWN_LOOK_S)
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


async def committed_in(
    client: AIOKafkaAdminClient, group: str, partitions: Sequence[TopicPartition]
) -> dict[TopicPartition, int]:
    """What a group has committed of these partitions, without those of which it never has. Raises
    `KafkaError`, also while its coordinator does not know: aiokafka 0.14 reads that answer, which
    names no partition, as one that has none committed."""
    if not partitions:
        return {}
    said = await client.list_consumer_group_offsets(group, partitions=list(partitions))
    if not said.keys() >= set(partitions):
        raise GroupLoadInProgressError(
            f"the broker does not know yet what the group {group} has committed; ask again"
        )
    return {each: said[each].offset for each in partitions if said[each].offset >= 0}


async def leaders_of(client: AIOKafkaAdminClient, topic: str) -> dict[TopicPartition, int]:
    """The broker that leads each partition of a topic; below 0 where none does. Raises
    `KafkaError`: `UnknownTopicOrPartitionError` where the topic is not there."""
    found = await metadata_of(client, topic)
    if found["error_code"]:
        raise for_code(found["error_code"])(f"there is no topic {topic}")
    return {
        TopicPartition(topic, each["partition"]): each["leader"] for each in found["partitions"]
    }


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
        await start(producer, kafka)
    except BaseException:
        await producer.stop()
        raise
    return producer


async def close_producer(producer: AIOKafkaProducer, within_s: float) -> None:
    """Closes a producer: in order, so that what is still underway may be acknowledged; by force
    where that takes longer, so that nothing of it is sent when its broker comes back."""
    try:
        async with asyncio.timeout(within_s):
            await producer.stop()
    except (TimeoutError, KafkaError):
        end_sending(producer)
        with suppress(TimeoutError, KafkaError):
            async with asyncio.timeout(within_s):
                await producer.client.close()


@asynccontextmanager
async def producing(kafka: Kafka, limits: Collection[int]) -> AsyncIterator[AIOKafkaProducer]:
    """A producer of a command, as `open_producer` makes it, that is closed at the end."""
    producer = await open_producer(kafka, limits)
    try:
        yield producer
    finally:
        await close_producer(producer, _CLOSES_S)


async def acknowledged(kafka: Kafka, sent: Awaitable[T]) -> T:
    """Where a record stands that was sent. Raises `KafkaError`, `KafkaTimeoutError` where no broker
    says it: an idempotent producer asks for ever, and a person does not wait so long."""
    within_s = _WAITED_REQUESTS * kafka.request_timeout_ms / 1000
    try:
        async with asyncio.timeout(within_s):
            return await sent
    except TimeoutError:
        raise KafkaTimeoutError(f"no acknowledgement came for {within_s:g} s") from None


def _password(kafka: Kafka) -> str:
    return kafka.sasl_password.get_secret_value() if kafka.sasl_password else ""


async def publish(
    kafka: Kafka, topic: str, values: Iterable[bytes], sent: Callable[[int, int], object]
) -> int:
    """Publishes values, keyed by tenant and event_id or session, and returns how many.

    `sent(partition, offset)` is told of each acknowledgement, in order. Raises `KafkaError`, which
    says how many came where no more come, and `UnknownTopicOrPartitionError` for a topic that is
    not there.
    """
    await partitions_of(kafka, topic)
    count = 0
    async with producing(kafka, [_NO_LIMIT]) as producer:
        try:
            acknowledgements = [
                await producer.send(topic, value=value, key=_key(value)) for value in values
            ]
            for acknowledgement in acknowledgements:
                metadata = await acknowledged(kafka, acknowledgement)
                sent(metadata.partition, metadata.offset)
                count += 1
        except KafkaTimeoutError as error:
            why = error.args[0] if error.args else "what was sent waits and there is no more room"
            raise KafkaTimeoutError(
                f"{why}; {count} records are known to be published and of the others any "
                "may be: publish all again, a verdict is made once"
            ) from error
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
    partitions = await assigned(kafka, topic, starts)
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
            consumer.assign(partitions)
        await start(consumer, kafka)
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
    once: a client of aiokafka's that is told its name waits for it as long as for any answer, and
    has a broker with auto.create.topics.enable make it."""
    async with admin(kafka) as client:
        return {each.partition for each in await leaders_of(client, topic)}


async def assigned(
    kafka: Kafka, topic: str, partitions: Iterable[int] | None = None
) -> list[TopicPartition]:
    """These partitions of a topic, or all of them, for a consumer to be assigned. Raises as
    `partitions_of` does, and `ValueError` for one that is not there."""
    known = await partitions_of(kafka, topic)
    if partitions is None:
        partitions = sorted(known)
    wanted = [TopicPartition(topic, each) for each in partitions]
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
        polled = await consumer.getmany(timeout_ms=_POLL_MS)
        for records in polled.values():
            for record in records:
                yield record
        for partition in list(unread):
            # The position, not the last record's offset: a topic may end in a marker.
            if await consumer.position(partition) >= ends[partition]:
                unread.discard(partition)
