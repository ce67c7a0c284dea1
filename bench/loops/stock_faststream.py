"""The peer: stock FastStream with a handler that publishes each event's verdict and acknowledges.

As its documentation has it, in its fastest form that does the ceiling's work: batches, one
`publish` a verdict without waiting, one `ack` a batch. (`publish_batch` puts all into one
partition, under one set of headers, and overflows at the size of one batch of the producer.)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from faststream import AckPolicy
from faststream.kafka import KafkaBroker
from faststream.kafka.annotations import KafkaMessage

Ready = Mapping[tuple[int, int], tuple[bytes, Sequence[tuple[str, bytes]]]]


async def run(
    bootstrap: str,
    *,
    source: str,
    target: str,
    group: str,
    ready: Ready,
    done: Callable[[], Awaitable[None]],
) -> None:
    """Serves until `done`. The broker's arguments are those of the ceiling."""
    broker = KafkaBroker(
        bootstrap,
        enable_idempotence=True,
        acks="all",
        linger_ms=5,
        max_batch_size=65536,
        logger=logging.getLogger(__name__),
        log_level=logging.DEBUG,
    )
    verdicts = {
        where: (value, {name: data.decode() for name, data in headers})
        for where, (value, headers) in ready.items()
    }

    @broker.subscriber(
        source,
        batch=True,
        group_id=group,
        ack_policy=AckPolicy.MANUAL,
        auto_offset_reset="earliest",
        max_records=2000,
        batch_timeout_ms=20,
        fetch_max_wait_ms=50,
        max_partition_fetch_bytes=1_100_000,
    )
    async def answer(events: list[Any], message: KafkaMessage) -> None:
        sent = []
        for record in message.raw_message:
            value, headers = verdicts[record.partition, record.offset]
            sent.append(
                await broker.publish(
                    value, target, key=record.key, headers=headers, no_confirm=True
                )
            )
        await asyncio.gather(*sent)
        await message.ack()

    await broker.start()
    try:
        await done()
    finally:
        await broker.stop()
