"""What the broker says of itself, of the topics and of the consumer groups."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    AuthenticationFailedError,
    GroupAuthorizationFailedError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnsupportedSaslMechanismError,
    for_code,
)

from qwarden import kafka as kafka_tools
from qwarden import tls
from qwarden.contracts import topics
from qwarden.contracts.headers import MODERATOR, header
from qwarden.control.kafka import commanding
from qwarden.control.port import ControlUnusable
from qwarden.delivery.group_lag import retention_of
from qwarden.doctor import clocks, groups, in_force, keys
from qwarden.doctor import topics as topic_rules
from qwarden.doctor.finding import Findings
from qwarden.doctor.groups import GroupFacts, Standing
from qwarden.doctor.reach import reach
from qwarden.doctor.topics import Needs, TopicFacts
from qwarden.policy.tenants import Tenants
from qwarden.settings import Kafka, Settings

_REQUEST_MS = 10_000
"""A person waits for the answer, and a broker that is well gives it in milliseconds."""
_OLDEST_S = 4.0
"""How long the oldest records that wait are looked for; the ages of those that come are told."""
_NEWEST = 10
"""Records of a topic's end that are looked at."""
_REFUSED = (AuthenticationFailedError, SaslAuthenticationFailed, UnsupportedSaslMechanismError)


def hurried(kafka: Kafka) -> Kafka:
    """The same broker, for who does not wait for one that is away."""
    return kafka.model_copy(update={"request_timeout_ms": _REQUEST_MS})


@dataclass(frozen=True, slots=True)
class Lane:
    """Who reads what: a service, its topic, its consumer group."""

    service: str
    topic: str
    group: str


def lanes_of(settings: Settings, mapped: Iterable[str]) -> list[Lane]:
    """All that the fleet reads. `mapped`: the topics that have a file."""
    own = [topics.CONTENT, topics.BACKLOG, *(each for each in mapped if each not in topics.ALL)]
    review = settings.review.group_id
    return [
        *(Lane("moderator", topic, settings.kafka.group_of(topic)) for topic in own),
        Lane("streamer", topics.CHUNKS, settings.streamer.group_id),
        Lane("review service", topics.REVIEW, review),
        Lane("review service", topics.EVIDENCE, f"{review}-evidence"),
    ]


async def look_at_broker(found: Findings, settings: Settings) -> None:
    """Whether it is there and lets us in."""
    kafka = hurried(settings.kafka)
    where = kafka.bootstrap_servers
    try:
        async with kafka_tools.admin(kafka) as client:
            cluster = await client.describe_cluster()
            users = await _transactions(client)
    except _REFUSED as error:
        found.away(
            where,
            f"it does not let {_who(kafka)} in ({error}); set QWARDEN_KAFKA__SASL_MECHANISM, its "
            "user and its password to what the broker knows",
        )
        return
    except (KafkaError, OSError) as error:
        await _unreached(found, kafka, error)
        return
    brokers = cluster["brokers"]
    many = f"{len(brokers)} brokers" if len(brokers) > 1 else "one broker"
    found.good(where, f"{many}, over {kafka.security_protocol}{_as_whom(kafka)}")
    if users is not None:
        found.wrong("transactions", users)


async def _transactions(client: AIOKafkaAdminClient) -> str | None:
    """Why the review service cannot publish, where it may not use its transactional id."""
    from qwarden.review.publishing import TRANSACTIONAL_ID

    try:
        await client.find_coordinator(TRANSACTIONAL_ID, 1)
    except KafkaError as error:
        if "Authorization" not in type(error).__name__:
            return None  # its topic is made by the first who asks
        return (
            f"this user may not use the transactional id {TRANSACTIONAL_ID}, so that no decision "
            "is published; allow Describe and Write on it for the review service"
        )
    return None


async def _unreached(found: Findings, kafka: Kafka, error: Exception) -> None:
    """Says of each server how far one gets."""
    context = tls.context_of(kafka.certificates) if kafka.is_encrypted else None
    for address in filter(None, map(str.strip, kafka.bootstrap_servers.split(","))):
        reached = await reach(address, context)
        if reached.trouble is not None:
            found.away(
                address, f"{reached.trouble}; is QWARDEN_KAFKA__BOOTSTRAP_SERVERS right, and up?"
            )
        else:
            found.away(
                address,
                f"it takes connections and answers nothing over {kafka.security_protocol} ({error})"
                "; set QWARDEN_KAFKA__SECURITY_PROTOCOL to that of this listener",
            )


def _who(kafka: Kafka) -> str:
    return str(kafka.sasl_username or kafka.oauth_client_id or "us")


def _as_whom(kafka: Kafka) -> str:
    return f" as {_who(kafka)}" if kafka.has_sasl else ""


# Topics.


async def look_at_topics(found: Findings, settings: Settings, mapped: Sequence[str]) -> None:
    """`mapped`: the topics that have a file."""
    needs = Needs(settings.moderator.max_event_bytes, settings.streamer.max_age_s)
    wanted = [*topics.ALL, *(each for each in mapped if each not in topics.ALL)]
    async with kafka_tools.admin(hurried(settings.kafka)) as client:
        facts = await _facts(client, wanted)
    topic_rules.missing(found, [name for name in wanted if name not in facts])
    for name in wanted:
        if name in facts:
            topic_rules.judge(found, facts[name], needs)
    found.join()


async def _facts(client: AIOKafkaAdminClient, wanted: Sequence[str]) -> dict[str, TopicFacts]:
    # Those of all: a question by name has some brokers make the topic.
    there = {each["topic"]: each for each in await client.describe_topics()}
    names = [name for name in wanted if name in there and not there[name]["error_code"]]
    configs = await _configs(client, names)
    facts = {}
    for name in names:
        partitions = there[name]["partitions"]
        facts[name] = TopicFacts(
            name,
            len(partitions),
            min(len(each["replicas"]) for each in partitions),
            min(len(each["isr"]) for each in partitions),
            tuple(sorted(each["partition"] for each in partitions if each["leader"] < 0)),
            configs.get(name),
        )
    return facts


async def _configs(
    client: AIOKafkaAdminClient, names: Sequence[str]
) -> dict[str, Mapping[str, str]]:
    """Of the topics whose configuration this user may read."""
    found: dict[str, Mapping[str, str]] = {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    for response in await client.describe_configs(resources) if resources else ():
        for code, _reason, _kind, name, entries in response.resources:
            if code == 0:
                found[name] = {entry[0]: entry[1] for entry in entries if entry[1] is not None}
    return found


# Groups.


async def look_at_groups(found: Findings, settings: Settings, mapped: Sequence[str]) -> None:
    """`mapped`: the topics that have a file."""
    kafka = hurried(settings.kafka)
    lanes = lanes_of(settings, mapped)
    async with kafka_tools.admin(kafka) as client, _asking(kafka) as consumer:
        facts = await _facts(client, [lane.topic for lane in lanes])
        for lane in lanes:
            if lane.topic not in facts:
                continue  # which the check of topics says
            partitions = [
                TopicPartition(lane.topic, each) for each in range(facts[lane.topic].partitions)
            ]
            try:
                state, members = await _group(client, lane.group)
                committed = await kafka_tools.committed_in(client, lane.group, partitions)
            except (GroupAuthorizationFailedError, TopicAuthorizationFailedError):
                groups.forbidden(found, lane.group, "see")
                continue
            standing = await _standing(consumer, partitions, committed)
            groups.judge(
                found,
                GroupFacts(lane.service, lane.group, lane.topic, state, members, standing),
                now=time.time(),
                retention_s=retention_of(facts[lane.topic].configs or {}),
            )


async def _group(client: AIOKafkaAdminClient, group: str) -> tuple[str, int]:
    """Its state in the broker's word, and how many members it has."""
    for response in await client.describe_consumer_groups([group]):
        for code, _name, state, _kind, _protocol, members, *_ in response.groups:
            if code:
                raise for_code(code)(f"the broker does not describe the group {group}")
            return str(state), len(members)
    return "Dead", 0


async def _standing(
    consumer: AIOKafkaConsumer,
    partitions: list[TopicPartition],
    committed: Mapping[TopicPartition, int],
) -> tuple[Standing, ...]:
    consumer.assign(partitions)
    begins = await consumer.beginning_offsets(partitions)
    ends = await consumer.end_offsets(partitions)
    standing = {
        each: Standing(each.partition, committed.get(each), begins[each], ends[each])
        for each in partitions
    }
    since = await _since(
        consumer,
        {
            each: max(at.begin, at.begin if at.committed is None else at.committed)
            for each, at in standing.items()
            if at.waiting
        },
    )
    return tuple(
        Standing(at.partition, at.committed, at.begin, at.end, since.get(each))
        for each, at in standing.items()
    )


async def _since(
    consumer: AIOKafkaConsumer, starts: Mapping[TopicPartition, int]
) -> dict[TopicPartition, float]:
    """The Kafka timestamps of the first records from these offsets on, of those that come in
    time."""
    found: dict[TopicPartition, float] = {}
    for each, at in starts.items():
        consumer.seek(each, at)
    with suppress(TimeoutError):
        async with asyncio.timeout(_OLDEST_S):
            while missing := starts.keys() - found.keys():
                polled = await consumer.getmany(*missing, timeout_ms=500, max_records=100)
                for each, records in polled.items():
                    found.setdefault(each, records[0].timestamp / 1000)
    return found


@asynccontextmanager
async def _asking(kafka: Kafka) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        **kafka_tools.client_arguments(kafka),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=100,
        max_partition_fetch_bytes=topics.MAX_EVENT_BYTES,
    )
    try:
        await consumer.start()
        yield consumer
    finally:
        await kafka_tools.stop(consumer)


# What stands on topics.


async def look_at_control(found: Findings, settings: Settings, tenants: Tenants) -> None:
    """`tenants`: as the files here give them."""
    kafka = hurried(settings.kafka)
    try:
        # A consumer of one that is missing would have some brokers make it, as no control topic is.
        await kafka_tools.partitions_of(kafka, topics.CONTROL)
        async with commanding(kafka) as control:
            in_force.judge(
                found, tenants, control.policies(), control.halts(), control.accepted_losses()
            )
    except ControlUnusable as error:
        found.wrong(topics.CONTROL, str(error))
    except KafkaError as error:
        found.wrong(topics.CONTROL, f"it cannot be read ({error!r}), and no service starts without")


async def look_at_key(found: Findings, settings: Settings) -> None:
    """Whether evidence was hashed with the content key here."""
    own = settings.keys()
    newest = await _newest(hurried(settings.kafka), topics.EVIDENCE)
    newest.sort(key=lambda record: record.timestamp, reverse=True)
    told = (
        keys.hashes_alike(record.value, own)
        for record in newest
        if header(record.headers, MODERATOR[0]) == MODERATOR[1].decode()
    )
    keys.judge(found, [each for each in told if each is not None][:_NEWEST], own)


async def look_at_timestamps(found: Findings, settings: Settings) -> None:
    """Whether records come from the future."""
    kafka = hurried(settings.kafka)
    for topic in (topics.CONTENT, topics.CHUNKS, topics.VERDICTS):
        with suppress(KafkaError):  # which the check of topics says
            records = await _newest(kafka, topic)
            at = max((record.timestamp / 1000 for record in records), default=None)
            clocks.judge_records(found, topic, at, now=time.time())


async def _newest(kafka: Kafka, topic: str) -> list[ConsumerRecord]:
    """The last records of each partition, as many as come in time."""
    async with _asking(kafka) as consumer:
        partitions = await kafka_tools.assigned(
            kafka, topic, await kafka_tools.partitions_of(kafka, topic)
        )
        consumer.assign(partitions)
        begins = await consumer.beginning_offsets(partitions)
        ends = await consumer.end_offsets(partitions)
        unread = {each for each in partitions if begins[each] < ends[each]}
        for each in unread:
            consumer.seek(each, max(begins[each], ends[each] - _NEWEST))
        records: list[ConsumerRecord] = []
        with suppress(TimeoutError):
            async with asyncio.timeout(_OLDEST_S):
                while unread:
                    for polled in (await consumer.getmany(*unread, timeout_ms=500)).values():
                        records += polled
                    for each in list(unread):
                        if await consumer.position(each) >= ends[each]:
                            unread.discard(each)
        return records
