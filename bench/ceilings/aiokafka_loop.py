"""The ceiling: what a hand-written aiokafka loop does that reads events and writes their verdicts.

Frozen: the figures of the moderator are ratios to this file. It polls up to 2,000 records, sends
for each the verdict's exact bytes and headers, which were made beforehand, on an idempotent
producer with acks=all and a linger of 5 ms, awaits all acknowledgements and commits the positions.
It validates nothing, judges nothing and keeps no order: no moderator can be faster.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

Ready = Mapping[tuple[int, int], tuple[bytes, Sequence[tuple[str, bytes]]]]
"""(partition, offset) of an event to its verdict's value and headers."""


async def run(bootstrap: str, source: str, target: str, group: str, ready: Ready) -> float:
    """Writes a verdict for every record of `source`; returns events a second, from the first
    poll that gave records to the last commit."""
    consumer = AIOKafkaConsumer(
        source,
        bootstrap_servers=bootstrap,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=50,
        max_partition_fetch_bytes=1_100_000,
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        enable_idempotence=True,
        acks="all",
        linger_ms=5,
        max_batch_size=65536,
    )
    await consumer.start()
    await producer.start()
    began = 0.0
    done = 0
    try:
        while done < len(ready):
            polled = await consumer.getmany(timeout_ms=1000, max_records=2000)
            if not polled:
                continue
            began = began or time.perf_counter()
            sent = []
            for records in polled.values():
                for record in records:
                    value, headers = ready[record.partition, record.offset]
                    sent.append(
                        await producer.send(target, value=value, key=record.key, headers=headers)
                    )
            await asyncio.gather(*sent)
            await consumer.commit({tp: records[-1].offset + 1 for tp, records in polled.items()})
            done += len(sent)
        return done / (time.perf_counter() - began)
    finally:
        await producer.stop()
        await consumer.stop()
