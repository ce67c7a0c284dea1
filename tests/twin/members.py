"""One consumer of the group on the twin: `Delivery` between aiokafka's own clients, as a process
that can be ended in order, killed, or cut off.

`delivery_of`, `Member._live` and `Member._leave` are all that knows how a service uses the driver.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord
from aiokafka.errors import ConsumerStoppedError, KafkaError

from qwarden.delivery.consumer import Delivery, Handler
from qwarden.delivery.keeper import Keeper
from qwarden.delivery.owed import Finish, Owed
from qwarden.delivery.publisher import Publisher
from qwarden.delivery.room import Room
from qwarden.delivery.underway import Records
from twin.broker import HOST, PORT
from twin.network import Process

ADDRESS = f"{HOST}:{PORT}"
SESSION_MS = 6_000
MAX_POLL_INTERVAL_MS = 20_000
REQUEST_TIMEOUT_MS = 8_000
COMMIT_INTERVAL_S = 0.2
REVOKE_S = 5.0
"""Under the session timeout, which is aiokafka's `rebalance_timeout_ms` too."""
DRAIN_S = 10.0
POLL_TIMEOUT_MS = 1_000
MAX_BATCH_BYTES = 700
"""Some three messages, so that a producer that cannot send soon has no room for more."""


Wrap = Callable[[Handler, Callable[[], Delivery]], Handler]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a member is made of; a planted bug is another class."""

    delivery: type[Delivery] = Delivery
    producer: type[AIOKafkaProducer] = AIOKafkaProducer
    consumer: type[AIOKafkaConsumer] = AIOKafkaConsumer
    handler: Wrap = lambda handler, delivery: handler
    """Stands around the handler; it may ask for the delivery that calls it."""
    room: Callable[[], Room] = lambda: Room(records=20, most_bytes=400, uncommitted=40)
    """So little that batches wait for it all the time."""


SOUND = Parts()


def delivery_of(
    parts: Parts,
    topic: str,
    handler: Handler,
    *,
    refuse: Callable[[ConsumerRecord, str], Owed],
    on_failure: Callable[[], None],
    keeper: Keeper | None = None,
) -> Delivery:
    made = parts.delivery(
        topic,
        parts.handler(handler, lambda: made),
        refuse,
        room=parts.room(),
        commit_interval_s=COMMIT_INTERVAL_S,
        commit_records=10,
        revoke_s=REVOKE_S,
        look_s=30.0,
        on_failure=on_failure,
        keeper=keeper,
    )
    return made


@dataclass(eq=False, slots=True)
class Judging:
    """A batch that a handler has in hand."""

    member: Member
    records: Records
    finish: Finish
    over: asyncio.Future[None]
    left: set[int]

    def end(self, index: int, owed: Owed) -> None:
        """One record's outcome."""
        self.left.discard(index)
        with self.member.process:
            self.finish(index, owed)
        if not self.left and not self.over.done():
            self.over.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self.over.done():
            self.over.set_exception(error)


@dataclass(eq=False)
class Member:
    """A process with one `Delivery`. It polls as often as `permits` allows."""

    number: int
    topic: str
    out: Sequence[str]
    group: str
    rng: random.Random
    parts: Parts
    refuse: Callable[[ConsumerRecord, str], Owed]
    on_batch: Callable[[Judging], None] = lambda _: None
    on_revoked: Callable[[Member], None] = lambda _: None
    keeper: Keeper | None = None
    process: Process = field(default_factory=Process)
    permits: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    judging: list[Judging] = field(default_factory=list)
    delivery: Delivery = field(init=False)
    failed: bool = False
    planted: bool = False
    """Whether a test made its handler fail."""
    leaving: asyncio.Task[None] | None = None
    free: bool = False
    """Whether it polls without permits."""

    def __post_init__(self) -> None:
        self._clients: list[AIOKafkaConsumer | AIOKafkaProducer] = []
        self._publisher: Publisher | None = None
        self._consumer: AIOKafkaConsumer | None = None
        with self.process:
            self.delivery = delivery_of(
                self.parts,
                self.topic,
                self._handle,
                refuse=self.refuse,
                on_failure=self._on_failure,
                keeper=self.keeper,
            )
            self._living = asyncio.create_task(self._live(), name=f"member {self.number}")

    @property
    def is_over(self) -> bool:
        return self.process.dead or (self.leaving is not None and self.leaving.done())

    @property
    def fault(self) -> BaseException | None:
        """An error that ended what calls the delivery."""
        for task in (self._living, self.leaving):
            if task is not None and task.done() and not task.cancelled() and task.exception():
                return task.exception()
        return None

    @property
    def pending(self) -> list[tuple[Judging, int]]:
        """Records whose outcome the handler has not said yet."""
        self.judging = [batch for batch in self.judging if not batch.over.done()]
        return [(batch, index) for batch in self.judging for index in sorted(batch.left)]

    def kill(self) -> None:
        self.process.kill(self.rng)
        for client in self._clients:
            client._closed = True  # a process that is gone warns of nothing

    def leave(self) -> None:
        """As SIGTERM."""
        with self.process:
            self.leaving = asyncio.create_task(self._leave(), name=f"member {self.number} leaves")

    def poll_freely(self) -> None:
        self.free = True
        self.permits.release()

    async def _live(self) -> None:
        self._publisher = Publisher(
            self._open_producer,
            limits=dict.fromkeys(self.out, 100_000),
            close_s=2.0,
            on_failure=lambda _: self._on_failure(),
        )
        self._publisher.start()
        self.delivery.start(self._publisher)
        consumer = await self._connect()
        while True:
            if not self.free:
                await self.permits.acquire()
            try:
                records = await self.delivery.poll(
                    consumer, timeout_ms=POLL_TIMEOUT_MS, max_records=self.rng.randint(1, 12)
                )
                if records:
                    # The frame parses, and runs its middlewares.
                    await asyncio.sleep(self.rng.choice((0, 0, 0.001, 0.02)))
                    await self.delivery.take()
            except ConsumerStoppedError:
                return
            except KafkaError:
                await asyncio.sleep(1)

    async def _connect(self) -> AIOKafkaConsumer:
        """A consumer in the group; tries as long as there is no broker."""
        while True:
            consumer = self.parts.consumer(
                bootstrap_servers=ADDRESS,
                group_id=self.group,
                auto_offset_reset="none",
                enable_auto_commit=False,
                session_timeout_ms=SESSION_MS,
                heartbeat_interval_ms=1_000,
                max_poll_interval_ms=MAX_POLL_INTERVAL_MS,
                request_timeout_ms=REQUEST_TIMEOUT_MS,
            )
            self._clients.append(consumer)
            self._consumer = consumer
            consumer.subscribe([self.topic], listener=self.delivery)
            try:
                await consumer.start()
            except KafkaError:
                with contextlib.suppress(KafkaError):
                    await consumer.stop()
                await asyncio.sleep(0.5)
            else:
                return consumer

    async def _open_producer(self) -> AIOKafkaProducer:
        producer = self.parts.producer(
            bootstrap_servers=ADDRESS,
            enable_idempotence=True,
            acks="all",
            linger_ms=self.rng.choice((0, 5)),
            max_batch_size=MAX_BATCH_BYTES,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
        )
        self._clients.append(producer)
        try:
            await producer.start()
        except BaseException:
            await producer.stop()
            raise
        return producer

    async def _leave(self) -> None:
        await self.delivery.drain(DRAIN_S)
        self._living.cancel()
        await asyncio.wait([self._living])
        if self._consumer is not None:
            with contextlib.suppress(KafkaError):
                await self._consumer.stop()
        if self._publisher is not None:
            await self._publisher.close()

    async def _handle(self, records: Records, finish: Finish) -> None:
        loop = asyncio.get_running_loop()
        batch = Judging(self, records, finish, loop.create_future(), set(range(len(records))))
        self.judging.append(batch)
        self.on_batch(batch)
        await batch.over

    def _on_failure(self) -> None:
        self.failed = True
