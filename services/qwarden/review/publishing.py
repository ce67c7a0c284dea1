"""What sends the outbox to Kafka: in the order of its numbers, by one process at a time, at least
once.

A duty in the database says whose turn it is, and Kafka's fixed transactional id says it again where
it matters: whoever opens the producer ends the one before, so that a process that was stopped
between reading and sending cannot send when it wakes. Rows are read under a producer that is open
already, and sent by that one alone. Those that were read and not acknowledged are sent again, in
order, by whoever comes next; records with one `decision_id` are equal.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from aiokafka import AIOKafkaProducer
from aiokafka.errors import IllegalOperation, ProducerFenced
from sqlalchemy.ext.asyncio import AsyncConnection

from qwarden import settings
from qwarden.kafka import client_arguments, close_producer
from qwarden.review.store import duties, outbox
from qwarden.review.store.database import Database
from qwarden.review.store.outbox import Waiting

_log = logging.getLogger(__name__)

TRANSACTIONAL_ID = "qwarden-review-outbox"
"""The same in every process, so that the broker lets the last one in alone."""
TRANSACTION_MS = 10_000
"""How long a transaction of a process that died stays open where nobody takes over: so long readers
of committed records see nothing new of its partitions. One of ours took 0.2 s with 500 records on a
busy machine of two cores."""
_DUTY_S = 15.0
"""How long the others wait for a process that died on duty; over TRANSACTION_MS, so that who is
slow is not cut off."""
_ROWS = 500
"""In one transaction: the 2,000 of a thousand items with overrides took 0.5 to 0.8 s."""
_SEND_S = 30.0
"""A broker that takes longer is away: what was sent is sent again."""


class Publishing:
    """One process's publisher. `holder`: its name on duty, 32 digits. `open_producer`: makes one
    that has started. `published`: how many records were acknowledged so far."""

    def __init__(
        self,
        database: Database,
        kafka: settings.Kafka,
        limits: settings.Review,
        holder: str,
        *,
        clock: Callable[[], float] = time.time,
        open_producer: Callable[[settings.Kafka], Awaitable[AIOKafkaProducer]] | None = None,
    ) -> None:
        self.published = 0
        self._database = database
        self._kafka = kafka
        self._close_s = limits.publisher_close_s
        self._holder = holder
        self._clock = clock
        self._open = open_producer or transactional_producer
        self._producer: AIOKafkaProducer | None = None

    async def round(self) -> None:
        """Publishes all that is due, where this process is on duty or nobody is.

        Raises `KafkaError`, `TimeoutError` and the database's errors; the next round goes on.
        """
        while await self._is_due():
            if not await self._publish_some():
                return

    async def close(self) -> None:
        """Ends at once: what is not acknowledged is sent by whoever comes next."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await close_producer(producer, self._close_s)

    async def _is_due(self) -> bool:
        async with self._database.reading() as tx:
            return await outbox.is_due(tx, self._clock())

    async def _publish_some(self) -> bool:
        """Whether there may be more for this process."""
        async with self._database.writing() as tx:
            has_duty = await self._hold(tx)
        if not has_duty:
            await self.close()
            return False
        try:
            async with asyncio.timeout(_SEND_S):
                if self._producer is None:
                    self._producer = await self._open(self._kafka)
            # Only now: who took over meanwhile has ended this producer, or this one has ended
            # theirs, and what they left is read here.
            async with self._database.writing() as tx:
                waiting = (
                    await outbox.take(tx, self._clock(), _ROWS) if await self._hold(tx) else []
                )
            async with asyncio.timeout(_SEND_S):
                await _send(self._producer, waiting)
        except ProducerFenced:
            _log.warning("another process publishes the outbox now")
            await self.close()
            return False
        except BaseException:
            # What was sent may be committed or not: only a new producer knows which ones end.
            await self.close()
            raise
        async with self._database.writing() as tx:
            await outbox.done(tx, waiting)
        self.published += len(waiting)
        return bool(waiting)

    async def _hold(self, tx: AsyncConnection) -> bool:
        return await duties.hold(tx, "publish", self._holder, self._clock(), _DUTY_S)


async def transactional_producer(kafka: settings.Kafka) -> AIOKafkaProducer:
    """A producer that has started, and has ended every other one of our transactional id.

    Raises `KafkaError` where the broker is away, or refuses the id.
    """
    producer = AIOKafkaProducer(
        **client_arguments(kafka),
        client_id="qwarden-review-outbox",
        transactional_id=TRANSACTIONAL_ID,
        transaction_timeout_ms=TRANSACTION_MS,
        linger_ms=5,
    )
    try:
        await producer.start()
    except BaseException:
        await producer.stop()
        raise
    return producer


async def _send(producer: AIOKafkaProducer, waiting: Sequence[Waiting]) -> None:
    """One transaction. Every acknowledgement is awaited before it is committed: a commit alone
    would leave out what the broker has refused."""
    if not waiting:
        return
    await producer.begin_transaction()
    sent = []
    ended: list[BaseException] = []
    try:
        for message in (each.message for each in waiting):
            sent.append(
                await producer.send(
                    message.topic, key=message.key, value=message.value, headers=message.headers
                )
            )
    except IllegalOperation as error:  # the transaction is over; what was sent before says why
        ended.append(error)
    answers = await asyncio.gather(*sent, return_exceptions=True)
    failed = [each for each in answers if isinstance(each, BaseException)] + ended
    if failed:
        raise failed[0]
    await producer.commit_transaction()
