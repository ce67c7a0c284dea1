"""The publisher alone on a real broker: batches that are refused, at the worst moments."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import fleet
from qwarden.delivery.owed import Message, Owed
from qwarden.delivery.publisher import Publisher
from qwarden.kafka import open_producer
from qwarden.settings import Kafka as KafkaSettings
from qwarden.stack.kafka import Kafka


@dataclass
class Post:
    """Two topics of a test's own, and what was settled."""

    kafka: Kafka
    out: str = field(default_factory=lambda: f"out-{uuid.uuid4().hex[:6]}")
    dead: str = field(default_factory=lambda: f"dead-{uuid.uuid4().hex[:6]}")
    settled: list[int] = field(default_factory=list)
    failure: BaseException | None = None

    @asynccontextmanager
    async def publishing(self, *, known: int) -> AsyncIterator[Publisher]:
        """`known`: what the publisher takes for both topics' limits."""
        settings = KafkaSettings(bootstrap_servers=self.kafka.bootstrap, request_timeout_ms=5000)
        publisher = Publisher(
            partial(open_producer, settings, [1_000_000]),
            limits={self.out: known, self.dead: known},
            close_s=2,
            on_failure=self.failed,
        )
        publisher.start()
        try:
            yield publisher
        finally:
            await publisher.close()

    def failed(self, error: BaseException) -> None:
        self.failure = error

    async def all_settled(self, count: int) -> None:
        async def settled() -> bool:
            return len(self.settled) == count or self.failure is not None

        await fleet.until(settled, "everything is settled")
        assert self.failure is None


@dataclass
class Letter:
    """An outcome of so many bytes; what is refused of it is `small` bytes to the dead letters.
    `decides`: called when it is decided."""

    post: Post
    number: int
    owed: Owed
    small: int = 10
    decides: Callable[[], None] = lambda: None

    def goes(self) -> bool:
        self.decides()
        return True

    def settle(self) -> None:
        self.post.settled.append(self.number)

    def refused(self, reason: str) -> Owed:
        return (Message(self.post.dead, b"k", b"d" * self.small, []),)


async def ends(post: Post) -> tuple[int, int]:
    """How many records stand on both topics."""
    found = [await fleet.ends_of(post.kafka.bootstrap, topic) for topic in (post.out, post.dead)]
    return sum(found[0].values()), sum(found[1].values())


async def test_a_refused_batch_leaves_the_next_message_waiting_for_its_room(kafka: Kafka) -> None:
    """Each message fills a batch, so that the second waits in `send` until the first is gone."""
    post = Post(kafka)
    await fleet.make_topic(kafka.bootstrap, post.out, 1, max_message_bytes="50000")
    await fleet.make_topic(kafka.bootstrap, post.dead, 1)
    async with post.publishing(known=1_000_000) as publisher:
        publisher.publish(
            [
                Letter(post, n, (Message(post.out, b"k", b"x" * (40_000 if n else 60_000), []),))
                for n in range(10)
            ]
        )
        await post.all_settled(10)
    assert sorted(post.settled) == list(range(10))
    assert await ends(post) == (9, 1)


async def test_a_dead_letter_that_is_too_large_ends_the_process_though_a_part_of_it_would_fit(
    kafka: Kafka,
) -> None:
    post = Post(kafka)
    for topic in (post.out, post.dead):
        await fleet.make_topic(kafka.bootstrap, topic, 1, max_message_bytes="20000")
    async with post.publishing(known=20_000) as publisher:
        large = Letter(post, 0, (Message(post.dead, b"k", b"x" * 60_000, []),), small=9000)
        fits = Letter(post, 1, (Message(post.out, b"k", b"x" * 9000, []),))
        publisher.publish([large, fits])
        await post.all_settled(2)
    assert await ends(post) == (1, 1)


async def test_a_dead_letter_that_fits_nowhere_is_lost(kafka: Kafka) -> None:
    post = Post(kafka)
    for topic in (post.out, post.dead):
        await fleet.make_topic(kafka.bootstrap, topic, 1, max_message_bytes="20000")
    async with post.publishing(known=20_000) as publisher:
        publisher.publish(
            [Letter(post, 0, (Message(post.out, b"k", b"x" * 60_000, []),), small=30_000)]
        )

        async def failed() -> bool:
            return post.failure is not None

        await fleet.until(failed, "it says that it cannot go on")
        assert post.dead in str(post.failure)
        assert not post.settled


async def test_what_waits_for_a_broker_that_is_away_cannot_be_seen(kafka: Kafka) -> None:
    post = Post(kafka)
    await fleet.make_topic(kafka.bootstrap, post.out, 1)
    await fleet.make_topic(kafka.bootstrap, post.dead, 1)
    async with post.publishing(known=1_000_000) as publisher:
        publisher.publish([Letter(post, 0, (Message(post.out, b"k", b"x", []),))])
        await post.all_settled(1)
        assert publisher.waits_s == 0
        await asyncio.to_thread(kafka.kill)
        try:
            publisher.publish([Letter(post, 1, (Message(post.out, b"k", b"x", []),))])

            async def waits() -> bool:
                return publisher.waits_s > 1

            await fleet.until(waits, "it says how long it waits")
        finally:
            await asyncio.to_thread(kafka.start)
        await post.all_settled(2)
    assert await ends(post) == (2, 0)


async def test_the_first_of_many_outcomes_leaves_when_the_last_is_decided(kafka: Kafka) -> None:
    """Nobody else gets a turn either: polls, probes, and the broker's own answers."""
    post = Post(kafka)
    await fleet.make_topic(kafka.bootstrap, post.out, 1)
    await fleet.make_topic(kafka.bootstrap, post.dead, 1)
    turned, seen = asyncio.Event(), list[bool]()
    owed = (Message(post.out, b"k", b"x", []),)

    def has_a_turn_soon() -> None:
        asyncio.get_running_loop().call_soon(turned.set)

    async with post.publishing(known=1_000_000) as publisher:
        publisher.publish([Letter(post, 0, owed)])
        await post.all_settled(1)  # the topic's leader is known, so that `send` waits for nothing
        first = Letter(post, 1, owed, decides=has_a_turn_soon)
        last = Letter(post, 999, owed, decides=lambda: seen.append(turned.is_set()))
        publisher.publish([first, *[Letter(post, n, owed) for n in range(2, 999)], last])
        await post.all_settled(1000)
    assert seen == [True]
    assert post.settled == list(range(1000))
