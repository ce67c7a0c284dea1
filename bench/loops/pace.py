"""Open load: every event has a time at which it is due, whatever became of those before it.

Latency runs from that time to the moment at which a consumer has its verdict, so that a producer
that is held up hides nothing. How late events were sent is told apart: it is this side's own share.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from loops import events
from qwarden.contracts import topics

_LAST_S = 30.0
"""How long the last verdicts are waited for."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Of `events` at `rate` a second; ms from due to the verdict read, and from due to sent.
    `missing`: those without a verdict when the wait was over; they are in no quantile."""

    events: int
    rate: float
    missing: int
    p50: float
    p95: float
    p99: float
    most: float
    sent_late_p50: float
    sent_late_p99: float


async def load(
    bootstrap: str, *, rate: float, warm_s: float, seconds: float, answers: str
) -> Latency:
    """Sends evenly for `warm_s`, which is not counted, and then for `seconds`. `answers`: the topic
    on which each event is awaited; that of the events themselves shows what one hop takes."""
    warm, total = round(rate * warm_s), round(rate * (warm_s + seconds))
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=0)
    consumer = AIOKafkaConsumer(
        answers,
        bootstrap_servers=bootstrap,
        group_id=None,
        fetch_max_wait_ms=50,
        max_partition_fetch_bytes=1_100_000,
    )
    await producer.start()
    await consumer.start()
    await consumer.seek_to_end()
    for partition in consumer.assignment():
        await consumer.position(partition)
    sent, read = [0.0] * total, [0.0] * total
    began = time.perf_counter() + 0.1
    reading = asyncio.create_task(_read(consumer, read))
    try:
        await _send(producer, sent, began, rate)
        await asyncio.wait((reading,), timeout=_LAST_S)
    finally:
        reading.cancel()
        await consumer.stop()
        await producer.stop()
    due = [began + number / rate for number in range(total)]
    latencies = sorted(
        (at - was_due) * 1e3 for at, was_due in zip(read[warm:], due[warm:], strict=True) if at
    )
    late = sorted((at - was_due) * 1e3 for at, was_due in zip(sent[warm:], due[warm:], strict=True))
    return Latency(
        events=total - warm,
        rate=round(rate, 1),
        missing=total - warm - len(latencies),
        p50=_quantile(latencies, 0.5),
        p95=_quantile(latencies, 0.95),
        p99=_quantile(latencies, 0.99),
        most=_quantile(latencies, 1.0),
        sent_late_p50=_quantile(late, 0.5),
        sent_late_p99=_quantile(late, 0.99),
    )


async def _send(producer: AIOKafkaProducer, sent: list[float], began: float, rate: float) -> None:
    for number in range(len(sent)):
        wait = began + number / rate - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        await producer.send(
            topics.CONTENT,
            value=events.event(number),
            key=events.key(number),
            headers=events.trace_of(number),
        )
        sent[number] = time.perf_counter()
    await producer.flush()


async def _read(consumer: AIOKafkaConsumer, read: list[float]) -> None:
    """Ends when every event has its verdict."""
    left = len(read)
    while left:
        polled = await consumer.getmany(timeout_ms=1000)
        now = time.perf_counter()
        for records in polled.values():
            for record in records:
                number = events.number_of(record.key)
                left -= not read[number]
                read[number] = read[number] or now


def _quantile(ordered: Sequence[float], share: float) -> float:
    """The nearest rank; 0 of nothing."""
    if not ordered:
        return 0.0
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2)


async def skip_to_the_end(bootstrap: str, group: str, partitions: int) -> None:
    """Commits the events' end for a group, so that it reads only what comes from now on."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topics.CONTENT, each) for each in range(partitions)])
        await consumer.commit(await consumer.end_offsets(consumer.assignment()))
    finally:
        await consumer.stop()
