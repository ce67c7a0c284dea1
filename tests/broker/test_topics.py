"""Topics on a real broker: what one loses, or does not take from another."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import MessageSizeTooLargeError

import fleet
from commands import Said, Shell
from fleet import Tap
from moderators import Fleetlet, Guard, policies_in
from qwarden import kafka as kafka_tools
from qwarden.contracts import headers, topics
from qwarden.settings import Kafka as KafkaSettings
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka

LARGEST = 200_000
"""Of an event's value: other than the default, so that it is read from the settings."""


@dataclass
class Made:
    bootstrap: str
    said: Said
    again: Said

    @property
    def settings(self) -> KafkaSettings:
        return KafkaSettings(bootstrap_servers=self.bootstrap)


@pytest.fixture(scope="module")
def made(own_kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A broker with topics made by the command, as the chart's Job runs it, twice."""
    settings = {
        "QWARDEN_KAFKA__BOOTSTRAP_SERVERS": own_kafka.bootstrap,
        "QWARDEN_MODERATOR__MAX_EVENT_BYTES": str(LARGEST),
    }
    shell = Shell(tmp_path_factory.mktemp("topics"), settings)
    how = ("topics", "create", "--partitions", "3", "--kept-hours", "5000", "--retention-hours")
    return Made(own_kafka.bootstrap, shell(*how, "240", "--json"), shell(*how, "9"))


async def test_a_topic_that_the_broker_keeps_otherwise_than_was_asked(made: Made) -> None:
    assert sorted(made.said.line["made"]) == sorted(topics.ALL)
    async with kafka_tools.admin(made.settings) as client:
        described = await client.describe_topics(list(topics.ALL))
        wanted = [ConfigResource(ConfigResourceType.TOPIC, name) for name in topics.ALL]
        found = {
            name: dict(entry[:2] for entry in entries)
            for response in await client.describe_configs(wanted)
            for _, _, _, name, entries in response.resources
        }
    for each in described:
        partitions = topics.partitions_of(each["topic"], 3)
        assert len(each["partitions"]) == partitions, each["topic"]
    for name in topics.ALL:
        expected = topics.configs_of(
            name,
            min_insync_replicas=1,
            max_event_bytes=LARGEST,
            retention_hours=240,
            kept_hours=5000,
        )
        assert {key: found[name][key] for key in expected} == expected, name


def test_a_second_run_that_shortens_what_is_kept(made: Made) -> None:
    """It asked for 9 hours; the test above finds the 240 of the first one."""
    assert made.again.err.startswith("all topics are there already")


async def test_the_largest_record_of_a_topic_that_its_lane_does_not_take(made: Made) -> None:
    """A relay is the record and its origin: whatever content.events took, the backlog takes."""
    producer = AIOKafkaProducer(
        bootstrap_servers=made.bootstrap, max_request_size=4 * LARGEST, max_batch_size=4 * LARGEST
    )
    await producer.start()
    try:
        taken = LARGEST + topics.CONTENT_OVERHEAD_BYTES - 200  # the batch's own header
        sent = await producer.send_and_wait(topics.CONTENT, b"x" * taken, b"key")
        origin = headers.origin(topics.CONTENT, sent.partition, sent.offset)
        with pytest.raises(MessageSizeTooLargeError):
            await producer.send_and_wait(topics.CONTENT, b"x" * (taken + 400), b"key")
        await producer.send_and_wait(topics.BACKLOG, b"x" * taken, b"key", headers=[origin])
    finally:
        await producer.stop()


async def test_a_late_record_that_its_lane_does_not_take_is_a_dead_letter(
    own_kafka: Kafka, tmp_path: Path
) -> None:
    """A backlog that somebody else has made smaller: what fits is relayed, what does not is judged
    in place."""
    await asyncio.to_thread(fleet.clear, own_kafka)
    own = Fleetlet(own_kafka, Home(tmp_path), policies_in(tmp_path))
    bootstrap = own_kafka.bootstrap
    await fleet.make_topic(bootstrap, topics.BACKLOG, 1, max_message_bytes="2000")
    await own.make_topics()
    async with (
        Tap(bootstrap, *fleet.OUTPUTS) as tap,
        Tap(bootstrap, topics.BACKLOG) as lane,
        own.moderating("small-backlog", Guard()),
    ):
        short = await own.publish(5, "short", age_s=7 * 3600)
        long = await own.publish(5, "long", age_s=7 * 3600, seed="x" * 2000)
        found = await fleet.outcomes(tap, short + long)
        assert not found.dead
        await lane.read_to_the_end()
        relayed = {fleet.origin_of(each) for each in lane.records[topics.BACKLOG]}
        assert relayed == set(short)
