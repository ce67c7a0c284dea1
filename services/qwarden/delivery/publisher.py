"""Publishes what records owe: one idempotent producer at a time, in the order of arrival.

- A future is awaited for as long as it takes, and nothing is sent again because of a timeout: an
  idempotent producer never expires a batch, and repeats it itself without doubling it.
- On an error that is not local everything stops: aiokafka never gives a refused batch's sequence
  numbers back, so that every later batch of its partition would be refused too (0.14, from its
  source). The producer is closed, another one opened, and what has no acknowledgement is sent again
  one by one, in order, before anything new.
- Only what is refused alone, for what it is, is poison. Every other error is an outage.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import Protocol

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    UnknownTopicOrPartitionError,
)

from qwarden.aiokafka_insides import InvalidRecordError, end_with_a_refusal
from qwarden.delivery.owed import Message, Owed, size_of
from qwarden.kafka import close_producer
from qwarden.tracing import OFF, Trace

_log = logging.getLogger(__name__)

_POISON = (MessageSizeTooLargeError, InvalidRecordError)
"""Not INVALID_TIMESTAMP: the time is this process's own, and a clock that is wrong is no record's
fault (Kafka 4 refuses what is stamped more than an hour ahead)."""
_LOCAL = (KafkaTimeoutError, UnknownTopicOrPartitionError)
"""The message is in no batch: there was no room for it, or its topic has no leader now."""

_CHUNK = 100
"""Outcomes that are decided and sent before the event loop gets a turn, some 10 ms of it, and whose
acknowledgements are awaited together. Measured: of 4,000 at once the first is acknowledged in a
third of the time that it takes without such turns, at the same CPU (0.5 s with chunks of 100 or
500, or one of all)."""
_RETRY_S = 0.2
_MOST_RETRY_S = 5.0
"""How often a broker that refuses or is away is asked again: half as often each time, and still
within seconds of when it is back."""
_LATE_S = 10.0
"""How long an acknowledgement may take before its absence is an outage: a broker that is there
takes milliseconds, or seconds while a partition changes its leader; one that is away, for ever."""
_AROUND_BYTES = 64 * 1024
"""Above all keys and headers that we write, a record's own of at most 32 KiB among them: a value so
much below its topic's limit fits, and its message needs no adding up."""

Open = Callable[[], Awaitable[AIOKafkaProducer]]


class Outcome(Protocol):
    """What one record owes, on its way out."""

    owed: Owed

    def goes(self) -> bool:
        """Whether it may be sent; asked right before it is, and noted."""
        ...

    def settle(self) -> None:
        """All of it is acknowledged, or none of it may be sent. Called once."""
        ...

    def refused(self, reason: str) -> Owed:
        """What is owed instead of a message that no broker takes: its record's dead letter."""
        ...


class _Chunk:
    """Outcomes that were sent together, with a future for each of their messages, in order; fewer
    where sending stopped between."""

    __slots__ = ("at", "futures", "outcomes", "settling")

    def __init__(self, outcomes: list[Outcome]) -> None:
        self.at = time.monotonic()
        self.outcomes = outcomes
        self.futures: list[asyncio.Future[object]] = []
        self.settling: asyncio.Task[None] | None = None

    def messages(self) -> Iterator[Message]:
        for outcome in self.outcomes:
            yield from outcome.owed

    def acknowledged(self) -> Iterator[bool]:
        """Whether each message is, as far as they were sent."""
        return iter(
            [
                future.done() and not future.cancelled() and future.exception() is None
                for future in self.futures
            ]
        )


class Publisher:
    """Sends outcomes and settles them. For all the lanes of one process.

    `limits`: `max.message.bytes` by topic, as the broker has them; what would not fit is refused
    before it is sent. `close_s`: how long a producer that failed may take to close.
    """

    def __init__(
        self,
        open_producer: Open,
        *,
        limits: Mapping[str, int],
        close_s: float,
        on_failure: Callable[[BaseException], None],
        trace: Trace = OFF,
    ) -> None:
        self._trace = trace
        self._open = open_producer
        self._limits = limits
        self._close_s = close_s
        self._on_failure = on_failure
        self._outbox: deque[Outcome] = deque()
        self._due = asyncio.Event()
        """Set when there is something to send, or to mend."""
        self._unsettled: dict[_Chunk, None] = {}
        """In the order in which they were sent."""
        self._broken: KafkaError | None = None
        self._producer: AIOKafkaProducer | None = None
        self._running: asyncio.Task[None] | None = None

    @property
    def outage(self) -> str | None:
        """Why nothing is published now, or None where all is well."""
        if self._broken is not None:
            return repr(self._broken)
        return f"no acknowledgement for {self.waits_s:.0f} s" if self.waits_s > _LATE_S else None

    @property
    def waits_s(self) -> float:
        """How long the oldest of what was sent has waited for its acknowledgements, in seconds."""
        oldest = next(iter(self._unsettled), None)
        return 0.0 if oldest is None else time.monotonic() - oldest.at

    def start(self) -> None:
        self._running = asyncio.create_task(self._run(), name="publish")
        self._running.add_done_callback(self._ended)

    async def close(self) -> None:
        """Ends at once; what is not acknowledged stays so."""
        tasks = [chunk.settling for chunk in self._unsettled if chunk.settling is not None]
        if self._running is not None:
            tasks.append(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for chunk in self._unsettled:
            for future in chunk.futures:
                future.cancel()  # nobody asks any more how it ended
        await self._close_producer()

    def publish(self, outcomes: list[Outcome]) -> None:
        """Takes outcomes; they go in this order."""
        self._outbox.extend(outcomes)
        self._due.set()

    async def _run(self) -> None:
        self._producer = await self._opened()
        self._broken = None
        while True:
            await self._due.wait()
            self._due.clear()
            while self._broken is not None or self._outbox:
                if self._broken is not None:
                    await self._mend()
                else:
                    await self._send_chunk()
                    # `send` gives nobody a turn while there is room: without one here nothing
                    # leaves before all is decided, and nothing is polled or answered either.
                    await asyncio.sleep(0)

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._on_failure(error)

    # As long as all is well.

    async def _send_chunk(self) -> None:
        outcomes = [self._outbox.popleft() for _ in range(min(_CHUNK, len(self._outbox)))]
        chunk = _Chunk([])
        for outcome in outcomes:
            if outcome.goes():
                self._make_fit(outcome)
                chunk.outcomes.append(outcome)
            else:
                outcome.settle()
        self._unsettled[chunk] = None
        assert self._producer is not None
        send = self._producer.send
        for message in chunk.messages():
            if self._broken is not None:
                return
            try:
                future = await send(
                    message.topic, message.value, message.key, headers=message.headers
                )
            except KafkaError as error:
                future = await self._sent_later(message, error)
                if future is None:
                    return
            chunk.futures.append(future)
        chunk.settling = asyncio.create_task(self._settle(chunk), name="publish-settle")

    async def _sent_later(
        self, message: Message, error: KafkaError
    ) -> asyncio.Future[object] | None:
        """Hands a message to the producer that it did not take, as soon as it has room and a
        leader. None where publication is broken."""
        assert self._producer is not None
        if isinstance(error, _LOCAL):
            _log.warning("cannot publish to %s, waiting: %r", message.topic, error)
        while isinstance(error, _LOCAL):
            await asyncio.sleep(_RETRY_S)
            if self._broken is not None:
                return None
            try:
                future: asyncio.Future[object] = await self._producer.send(
                    message.topic, message.value, message.key, headers=message.headers
                )
                return future
            except KafkaError as again:
                error = again
        self._broke(error)
        return None

    async def _settle(self, chunk: _Chunk) -> None:
        """In order, one after another: most are done when their turn comes, which is 0.05 µs, and
        in `gather` 0.5. A failure behind one that waits is told by its batch (`_ended_by`)."""
        try:
            for future in chunk.futures:
                await future
        except KafkaError as error:
            self._broke(error)
            return
        except Exception as error:
            self._on_failure(error)
            return
        self._settled(chunk)

    def _settled(self, chunk: _Chunk) -> None:
        del self._unsettled[chunk]
        if self._trace.is_on:
            for outcome in chunk.outcomes:
                if outcome.owed:
                    owed = outcome.owed
                    self._trace.published(owed[0].headers, len(owed), chunk.at)
        for outcome in chunk.outcomes:
            outcome.settle()

    def _broke(self, error: KafkaError) -> None:
        if self._broken is None:
            self._broken = error
        self._due.set()

    def _make_fit(self, outcome: Outcome) -> None:
        message = self._misfit(outcome.owed)
        if message is None:
            return
        limit = self._limits[message.topic]
        self._refuse(
            outcome,
            f"what would be published to {message.topic} has {size_of(message)} bytes, and the "
            f"topic's max.message.bytes is {limit}; raise it, or publish shorter texts",
        )
        if self._misfit(outcome.owed) is not None:
            raise RuntimeError(
                f"a dead letter of {size_of(outcome.owed[0])} bytes does not fit either; raise "
                f"the max.message.bytes of {outcome.owed[0].topic}"
            )

    def _misfit(self, owed: Owed) -> Message | None:
        """The first message that its topic would not take."""
        for message in owed:
            limit = self._limits[message.topic]
            if len(message.value) + _AROUND_BYTES > limit and size_of(message) > limit:
                return message
        return None

    def _refuse(self, outcome: Outcome, reason: str) -> None:
        _log.error("refused for good: %s", reason)
        outcome.owed = outcome.refused(reason)

    # When it is not.

    async def _mend(self) -> None:
        """Sends again, alone and in order, what has no acknowledgement; everything new waits."""
        _log.warning("publication failed and begins anew: %r", self._broken)
        await self._reopen()
        unsettled = [(chunk, chunk.acknowledged()) for chunk in self._unsettled]
        for chunk, _ in unsettled:
            if chunk.settling is not None:
                chunk.settling.cancel()
        for chunk, acknowledged in unsettled:
            for outcome in chunk.outcomes:
                await self._send_again(outcome, [next(acknowledged, False) for _ in outcome.owed])
            self._settled(chunk)
        self._broken = None
        _log.warning("publication goes on")

    async def _send_again(
        self, outcome: Outcome, acknowledged: list[bool], *, is_letter: bool = False
    ) -> None:
        if not outcome.goes():
            return
        for message, is_there in zip(outcome.owed, acknowledged, strict=True):
            if is_there:
                continue
            refusal = await self._send_alone(message)
            if refusal is not None:
                if is_letter:
                    raise RuntimeError(f"{message.topic} refuses a dead letter: {refusal!r}")
                self._refuse(outcome, f"{message.topic} refuses a record: {refusal!r}")
                instead = [False] * len(outcome.owed)
                await self._send_again(outcome, instead, is_letter=True)
                return

    async def _send_alone(self, message: Message) -> KafkaError | None:
        """Returns once it is acknowledged, or with the error that refuses it for what it is."""
        retry_s = _RETRY_S
        while True:
            assert self._producer is not None
            try:
                await self._producer.send_and_wait(
                    message.topic, message.value, message.key, headers=message.headers
                )
                return None
            except _LOCAL:
                pass
            except KafkaError as error:
                self._broken = error
                await self._reopen()
                if isinstance(error, _POISON):
                    return error
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, _MOST_RETRY_S)

    async def _reopen(self) -> None:
        await self._close_producer()
        self._producer = await self._opened()

    async def _opened(self) -> AIOKafkaProducer:
        retry_s = _RETRY_S
        while True:
            try:
                producer = await self._open()
                return end_with_a_refusal(producer, partial(self._ended_by, producer))
            except KafkaError as error:
                self._broken = error
                _log.warning("cannot open a producer, waiting: %r", error)
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, _MOST_RETRY_S)

    def _ended_by(self, producer: AIOKafkaProducer, error: BaseException) -> None:
        """A batch was refused for good, of this producer."""
        if producer is self._producer and isinstance(error, KafkaError):
            self._broke(error)

    async def _close_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await close_producer(producer, self._close_s)
