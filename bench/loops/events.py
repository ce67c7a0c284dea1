"""The events of the benchmark, their tenant, and the verdicts that were made of them beforehand."""

from __future__ import annotations

import asyncio
import json
import pickle
import secrets
from collections.abc import Iterable
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from qwarden.contracts import headers, topics
from qwarden.contracts.headers import Header

TRACED = 1000
"""One event in so many belongs to a sampled trace."""

Ready = dict[tuple[int, int], tuple[bytes, list[tuple[str, bytes]]]]
"""(partition, offset) of an event to its verdict's value and headers."""

_POLICY = """\
name: bench
extends: default
rules:
  - name: unsafe
    when: {safety: Unsafe}
    then: review
    ground: terms
    clause: bench
    queue: general
    harm: 5
    sla: 1d
    meanwhile: hide
    on_breach: raise
"""
_TENANT = """\
name: bench
policies: [bench]
fresh_horizon_s: 86400  # every run reads the same events; in ten minutes they would be stale
"""


def key(number: int) -> bytes:
    return b"bench/bench-%09d" % number


def number_of(record_key: bytes) -> int:
    return int(record_key[-9:])


def event(number: int) -> bytes:
    """An event of about 320 bytes, each with a text of its own."""
    return json.dumps(
        {
            "event_id": f"bench-{number:09d}",
            "tenant": "bench",
            "messages": [
                {
                    "role": "user",
                    "content": f"What should I pack for walk number {number} along the north shore "
                    "of the lake, if it may rain in the afternoon and we are two people?",
                }
            ],
            "language": "en",
            "created_at": "2026-01-01T00:00:00Z",
            "metadata": {"app": "walks", "room": number % 97},
        }
    ).encode()


def trace_of(number: int) -> list[Header]:
    """The headers of an event: a sampled trace for one in `TRACED`."""
    if number % TRACED:
        return []
    context = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
    return [(headers.TRACEPARENT, context.encode())]


def write_policies(folder: Path) -> Path:
    """The folder for QWARDEN_POLICY__PATH: all that is not Safe is escalated."""
    for name, text in (("policies", _POLICY), ("tenants", _TENANT)):
        (folder / name).mkdir(parents=True)
        (folder / name / "bench.yaml").write_text(text)
    return folder


async def publish(bootstrap: str, count: int) -> None:
    """Publishes events 0 to `count`."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, linger_ms=20, max_batch_size=262_144)
    await producer.start()
    try:
        sent = [
            await producer.send(
                topics.CONTENT, value=event(number), key=key(number), headers=trace_of(number)
            )
            for number in range(count)
        ]
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


async def read_verdicts(bootstrap: str, count: int) -> Ready:
    """The verdicts of the events, which a run before has published."""
    consumer = AIOKafkaConsumer(
        topics.VERDICTS, bootstrap_servers=bootstrap, auto_offset_reset="earliest", group_id=None
    )
    await consumer.start()
    found: Ready = {}
    try:
        while len(found) < count:
            for records in (await consumer.getmany(timeout_ms=500)).values():
                for record in records:
                    origin = headers.header(record.headers, headers.ORIGIN)
                    where = headers.parsed_origin(origin)
                    assert where is not None
                    found[where[1:]] = (record.value, list(record.headers))
    finally:
        await consumer.stop()
    return found


def keep_verdicts(found: Ready, file: Path) -> None:
    file.write_bytes(pickle.dumps(found))


def kept_verdicts(file: Path) -> Ready:
    found: Ready = pickle.loads(file.read_bytes())
    return found


async def ends(bootstrap: str, names: Iterable[str]) -> dict[str, int]:
    """How many records each topic has had."""
    consumer = AIOKafkaConsumer(*names, bootstrap_servers=bootstrap, group_id=None)
    await consumer.start()
    try:
        found = dict.fromkeys(names, 0)
        for partition, end in (await consumer.end_offsets(list(consumer.assignment()))).items():
            found[partition.topic] += end
        return found
    finally:
        await consumer.stop()
