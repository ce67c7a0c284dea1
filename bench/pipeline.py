"""The moderator beside the hand-written loop: events a second, alternating in one run.

`make bench` runs it. Both read the same events from a real Kafka on this machine and write the same
verdicts. The guard is instant and in memory: what is measured is everything around it. Each run of
the moderator is a process of its own with a new group, and so is each run of the ceiling.
"""

from __future__ import annotations

import asyncio
import gc
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import NewTopic
from rich.console import Console
from rich.table import Table

from ceilings import aiokafka_loop
from machine import machine
from qwarden import bootstrap, kafka
from qwarden import settings as settings_module
from qwarden.contracts import headers, topics
from qwarden.guard.answer import Answer, Assessment
from qwarden.moderator.service import ModeratorService
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka

RESULTS = Path(__file__).parent / "results" / "pipeline.json"
CEILING_TOPIC = "bench.ceiling"
PARTITIONS = 8

out = Console(highlight=False)


class InstantGuard:
    """Everything is Safe, at once: the events of the comparison are those that are allowed."""

    _SAFE = Assessment((4.0, -2.0, -3.0), (), None, 40, 0, "instant@0")

    async def revision(self) -> str:
        return self._SAFE.revision

    async def judge(
        self, conversations: Sequence[bytes], *, timeout_s: float | None = None
    ) -> list[Answer]:
        return [self._SAFE] * len(conversations)

    async def close(self) -> None:
        return None


def event(number: int) -> bytes:
    """An event of about 370 bytes, each with a text of its own."""
    return json.dumps(
        {
            "event_id": f"bench-{number:09d}",
            "tenant": "demo",
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


async def publish(address: str, count: int) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=address, linger_ms=20, max_batch_size=262_144)
    await producer.start()
    for number in range(count):
        key = f"demo/bench-{number:09d}".encode()
        await producer.send(topics.CONTENT, value=event(number), key=key)
    await producer.flush()
    await producer.stop()


def tuned() -> None:
    """The garbage collector's settings, the same for both."""
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


async def moderate(environ: dict[str, str], group: str, count: int) -> float:
    """Events a second of one moderator, from its first verdict's poll to the last commit."""
    settings = settings_module.load({**environ, "QWARDEN_KAFKA__GROUP_ID": group})
    async with bootstrap.moderator(settings, InstantGuard()) as (judge, dispatcher):
        began: list[float] = []
        handle = judge.handle

        async def timed(records: Any, finish: Any) -> None:
            began.append(time.perf_counter())
            await handle(records, finish)

        judge.handle = timed  # type: ignore[method-assign]
        service = ModeratorService(settings, judge, dispatcher, bootstrap.control_of(settings))
        running = asyncio.create_task(service.run())
        async with kafka.admin(settings.kafka) as admin:
            committed = 0
            while committed < count:
                await asyncio.sleep(0.05)
                offsets = await admin.list_consumer_group_offsets(group)
                committed = sum(max(0, at.offset) for at in offsets.values())
        ended = time.perf_counter()
        service.stop()
        await running
        return count / (ended - began[0])


async def verdicts(address: str, count: int) -> aiokafka_loop.Ready:
    """The verdicts of an earlier run, by the record that they answer."""
    consumer = AIOKafkaConsumer(
        topics.VERDICTS, bootstrap_servers=address, auto_offset_reset="earliest", group_id=None
    )
    await consumer.start()
    found: dict[tuple[int, int], tuple[bytes, list[tuple[str, bytes]]]] = {}
    while len(found) < count:
        for records in (await consumer.getmany(timeout_ms=500)).values():
            for record in records:
                origin = headers.header(record.headers, headers.ORIGIN) or ""
                _, partition, offset = origin.rsplit("/", 2)
                found[int(partition), int(offset)] = (record.value, list(record.headers))
    await consumer.stop()
    return found


def one(kind: str, environ: dict[str, str], group: str, count: int, pipe: Any) -> None:
    """One measurement, in a process of its own."""
    address = environ["QWARDEN_KAFKA__BOOTSTRAP_SERVERS"]

    async def ceiling() -> float:
        ready = await verdicts(address, count)
        tuned()
        return await aiokafka_loop.run(address, topics.CONTENT, CEILING_TOPIC, group, ready)

    async def moderator() -> float:
        tuned()
        return await moderate(environ, group, count)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        pipe.send(runner.run(ceiling() if kind == "ceiling" else moderator()))


def measured(kind: str, environ: dict[str, str], group: str, count: int) -> float:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=one, args=(kind, environ, group, count, theirs))
    process.start()
    theirs.close()
    try:
        return float(ours.recv())
    except EOFError:
        sys.exit(f"the run of the {kind} failed; its error stands above")
    finally:
        process.join()


def main(
    events: Annotated[int, typer.Option(help="Events a run.")] = 100_000,
    rounds: Annotated[int, typer.Option(help="Pairs of runs.")] = 5,
) -> None:
    """Measure the moderator with an instant guard beside the hand-written loop."""
    with tempfile.TemporaryDirectory(prefix="qwarden-bench-") as folder:
        home = Home(Path(folder))
        with out.status("starting Kafka …"), Kafka(home) as broker:
            pairs = _rounds(home, broker, events, rounds)
    _report(pairs, events)


def _rounds(home: Home, broker: Kafka, events: int, rounds: int) -> list[dict[str, float]]:
    environ = {
        "QWARDEN_CONTENT_KEY": home.content_key(),
        "QWARDEN_KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap,
        "QWARDEN_HTTP__PORT": "0",
        "QWARDEN_TELEMETRY__LOG_LEVEL": "error",
    }
    settings = settings_module.load(environ)

    async def prepare() -> None:
        await kafka.create_topics(
            settings.kafka,
            partitions=PARTITIONS,
            replication_factor=1,
            min_insync_replicas=1,
            max_event_bytes=settings.moderator.max_event_bytes,
        )
        async with kafka.admin(settings.kafka) as admin:
            await admin.create_topics([NewTopic(CEILING_TOPIC, PARTITIONS, 1)])
        await publish(broker.bootstrap, events)

    asyncio.run(prepare())
    # The first run makes the verdicts that the ceiling writes, and warms the broker.
    measured("moderator", environ, "warm-up", events)
    pairs = []
    for number in range(rounds):
        pair = {}
        kinds = ("ceiling", "moderator") if number % 2 else ("moderator", "ceiling")
        for kind in kinds:
            pair[kind] = measured(kind, environ, f"{kind}-{number}", events)
        pairs.append(pair)
        out.print(
            f"round {number + 1}: ceiling {pair['ceiling']:,.0f}/s, moderator "
            f"{pair['moderator']:,.0f}/s, ratio {pair['moderator'] / pair['ceiling']:.2f}"
        )
    return pairs


def _report(pairs: list[dict[str, float]], events: int) -> None:
    ratios = [pair["moderator"] / pair["ceiling"] for pair in pairs]
    median = {
        name: round(statistics.median(pair[name] for pair in pairs))
        for name in ("ceiling", "moderator")
    }
    result = {
        "what": "moderator with an instant guard in process, beside bench/ceilings",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "events": events,
        "partitions": PARTITIONS,
        "event_bytes": len(event(0)),
        "rounds": [{name: round(rate) for name, rate in pair.items()} for pair in pairs],
        "median": median,
        "ratio": {
            "median": round(statistics.median(ratios), 3),
            "least": round(min(ratios), 3),
            "most": round(max(ratios), 3),
        },
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    table = Table("", "events a second (median)")
    for name, rate in median.items():
        table.add_row(name, f"{rate:,}")
    table.add_row("ratio", f"{statistics.median(ratios):.2f}")
    out.print(table)
    out.print(f"written to {RESULTS.relative_to(Path.cwd())}")


if __name__ == "__main__":
    typer.run(main)
