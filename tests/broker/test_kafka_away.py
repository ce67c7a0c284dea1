"""Whether an operator sees that a service has no Kafka: on a broker of this file's own, which is
killed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import pytest
from aiokafka.errors import KafkaError
from prometheus_client import REGISTRY

import fleet
from moderators import Fleetlet, Guard, policies_in
from qwarden import kafka, settings
from qwarden.contracts import topics
from qwarden.guard.answer import Answer
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleetlet]:
    """Nothing runs yet, and there are no topics."""
    home = Home(tmp_path_factory.mktemp("away"))
    broker = Kafka(home)
    try:
        yield Fleetlet(broker, home, policies_in(home.root))
    finally:
        broker.stop()


async def test_a_file_is_not_published_for_ever_to_a_broker_that_is_gone(own: Fleetlet) -> None:
    await asyncio.to_thread(own.kafka.start)
    await own.make_topics()
    acknowledged = 0

    def sent(_partition: int, _offset: int) -> None:
        nonlocal acknowledged
        acknowledged += 1
        own.kafka.kill()

    # Far more than one request holds, so that some are unanswered once the first is answered.
    event = b'{"event_id": "%d", "tenant": "demo", "text": "' + b"long " * 20_000 + b'"}'
    hasty = settings.Kafka(bootstrap_servers=own.kafka.bootstrap, request_timeout_ms=2000)
    with pytest.raises(KafkaError, match=r"for 4 s; \d+ records are known to be") as failed:
        async with asyncio.timeout(60):
            await kafka.publish(hasty, topics.CONTENT, (event % n for n in range(100)), sent)
    assert f"; {acknowledged} records" in str(failed.value)


class Slow(Guard):
    """A guard that answers when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.lets_go = asyncio.Event()

    async def judge(self, rows: Sequence[bytes], *, timeout_s: float | None = None) -> list[Answer]:
        self.asked.set()
        await self.lets_go.wait()
        return await super().judge(rows, timeout_s=timeout_s)


def told() -> tuple[float | None, float | None, float | None]:
    """As metrics: whether it is ready, whether it can publish, whether it waits for Kafka."""
    return (
        REGISTRY.get_sample_value("qwarden_ready"),
        REGISTRY.get_sample_value("qwarden_publish_up"),
        REGISTRY.get_sample_value("qwarden_breaker_open", {"dependency": "kafka"}),
    )


async def until(*expected: float) -> None:
    async def is_told() -> bool:
        return told() == expected

    await fleet.until(is_told, f"{expected} is told", 90)


async def test_a_moderator_that_starts_without_kafka_pages_nobody(own: Fleetlet) -> None:
    often = {"QWARDEN_TELEMETRY__GROUP_LOOK_S": "2"}
    async with own.moderating("away", Guard(), **often) as one:
        await until(0, 0, 1)
        reasons = "\n".join(one.not_ready())
        assert f"Kafka at {own.kafka.bootstrap} is away" in reasons
        await asyncio.to_thread(own.kafka.start)
        await until(0, 0, 0)
        reasons = "\n".join(one.not_ready())
        assert "qwarden topics create" in reasons
        await own.make_topics()
        await until(1, 1, 0)
        # It has nothing to send, and no acknowledgement to miss.
        await asyncio.to_thread(own.kafka.kill)
        try:
            await until(0, 0, 1)
        finally:
            await asyncio.to_thread(own.kafka.start)
        await until(1, 1, 0)


async def test_verdicts_that_no_broker_acknowledges_page_nobody(own: Fleetlet) -> None:
    await asyncio.to_thread(own.kafka.start)
    await own.make_topics()
    guard = Slow()
    # Seldom, so that it is not the look at the groups that tells.
    seldom = {"QWARDEN_TELEMETRY__GROUP_LOOK_S": "3600"}
    async with (
        fleet.Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap,
        own.moderating("away", guard, **seldom) as one,
    ):
        await until(1, 1, 0)
        published = await own.publish(4, "waits")
        await guard.asked.wait()
        await asyncio.to_thread(own.kafka.kill)
        guard.lets_go.set()
        try:
            await until(0, 0, 1)
            reasons = "\n".join(one.not_ready())
            assert "no acknowledgement for" in reasons
        finally:
            await asyncio.to_thread(own.kafka.start)
        await until(1, 1, 0)
        found = await fleet.outcomes(tap, published)
        assert found.account.repeats() == 0
