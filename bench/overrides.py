"""How long a service needs to read what people have decided, before it takes its first record.

`python bench/overrides.py` fills `moderation.control` of a broker of its own with 1,000,000
overrides of ten tenants, then starts its table in processes of their own: a moderator's, which
keeps them, and that of a streamer or of a person's command, which passes them over. Seconds until
the last record is read, how much more memory is resident then, and what a lookup takes; what stands
is compared with what was written.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uvloop

from machine import machine
from qwarden import settings as settings_module
from qwarden.contracts import topics
from qwarden.contracts.control import Override, written
from qwarden.contracts.decision import ACTIONS
from qwarden.contracts.keys import ContentKey
from qwarden.control.kafka import KafkaControl
from qwarden.guard.taxonomy import CATEGORIES
from qwarden.kafka import create_topics, open_producer
from qwarden.settings import Settings
from qwarden.stack.home import Home
from qwarden.stack.kafka import FULL_SPEED, Kafka

RESULTS = Path(__file__).resolve().parent / "results" / "overrides.json"
MOST_S = 60.0
"""1,000,000 overrides, until a moderator is ready."""
LOOKUPS = 100_000
KEY = "ab" * 32
AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def settings_of(bootstrap: str) -> Settings:
    return settings_module.load(
        {"QWARDEN_CONTENT_KEY": KEY, "QWARDEN_KAFKA__BOOTSTRAP_SERVERS": bootstrap}
    )


def overrides(count: int) -> Iterator[Override]:
    """Each of other content, with the ids that a review service gives."""
    keys = ContentKey(bytes.fromhex(KEY))
    for number in range(count):
        action = ACTIONS[number % len(ACTIONS)]
        restricts = action != "allow"
        yield Override(
            tenant=f"tenant-{number % 10}",
            content_hash=keys.content_hash(str(number).encode()).hex(),
            action=action,
            categories=[CATEGORIES[number % len(CATEGORIES)]] if restricts else [],
            ground="terms" if restricts else None,
            clause=f"§ {number % 40}" if restricts else None,
            decision_id=keys.content_hash(f"decision {number}".encode()).hex(),
            until=AT + timedelta(days=30, seconds=number),
            at=AT + timedelta(seconds=number),
            by=f"r-{number % 25:06x}",
        )


async def fill(settings: Settings, count: int) -> int:
    """Writes them; how many bytes their keys and values have."""
    await create_topics(
        settings.kafka,
        partitions=1,
        replication_factor=1,
        min_insync_replicas=1,
        max_event_bytes=settings.moderator.max_event_bytes,
    )
    producer = await open_producer(settings.kafka, [1024 * 1024])
    size = 0
    sent = []
    for each in overrides(count):
        message = written(each)
        assert message.value is not None
        size += len(message.key) + len(message.value)
        sent.append(
            await producer.send(
                topics.CONTROL, message.value, message.key, partition=0, headers=message.headers
            )
        )
        if len(sent) == 10_000:
            await asyncio.gather(*sent)
            sent.clear()
    await asyncio.gather(*sent)
    await producer.stop()
    return size


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def start(bootstrap: str, count: int, *, keeps: bool) -> dict[str, Any]:
    """One service's table, read to the end."""
    control = KafkaControl(settings_of(bootstrap).kafka, keeps_overrides=keeps)
    before, began = resident_mib(), time.perf_counter()
    await control.start()
    result: dict[str, Any] = {
        "seconds": round(time.perf_counter() - began, 2),
        "mib": round(resident_mib() - before, 1),
    }
    if keeps:
        differ = 0
        for each in overrides(count):
            found = control.override_of(each.tenant, each.content_hash)
            said = (each.action, each.ground, each.clause, each.decision_id)
            if found is None or said != (
                found.action, found.ground, found.clause, found.decision_id,
            ):  # fmt: skip
                differ += 1
        asked = [each.content_hash for each in overrides(min(count, LOOKUPS))]
        result |= {
            "differ": differ,
            "us_a_hit": lookup_us(control, asked, lambda at: f"tenant-{at % 10}"),
            "us_a_miss": lookup_us(control, asked, lambda at: "somebody"),
        }
    await control.close()
    return result


def lookup_us(control: KafkaControl, asked: list[str], tenant: Any) -> float:
    names = [(tenant(at), each) for at, each in enumerate(asked)]
    began = time.process_time()
    for each in names:
        control.override_of(*each)
    return round((time.process_time() - began) / len(names) * 1e6, 3)


def started(bootstrap: str, count: int, *, keeps: bool) -> dict[str, Any]:
    """The same in a process of its own."""
    words = [sys.executable, __file__, "--start", bootstrap, "--count", str(count)]
    done = subprocess.run(
        [*words, *(["--keeps"] if keeps else [])], check=True, stdout=subprocess.PIPE, timeout=600
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {"seconds": statistics.median(each["seconds"] for each in runs), "runs": runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--start", metavar="BOOTSTRAP", help="only start a table there")
    parser.add_argument("--keeps", action="store_true", help="with --start: it keeps overrides")
    asked = parser.parse_args()
    if asked.start is not None:
        print(json.dumps(uvloop.run(start(asked.start, asked.count, keeps=asked.keeps))))
        return
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        kafka = stack.enter_context(Kafka(Home(Path(folder)), options=FULL_SPEED))
        began = time.perf_counter()
        size = uvloop.run(fill(settings_of(kafka.bootstrap), asked.count))
        result: dict[str, Any] = {
            "what": "reading what people have decided, before a service takes its first record",
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "overrides": asked.count,
            "bytes_an_override": round(size / asked.count, 1),
            "filled_in_s": round(time.perf_counter() - began, 1),
            "load_before": round(os.getloadavg()[0], 2),
        }
        kept, passed = [], []
        for _ in range(asked.rounds):
            kept.append(started(kafka.bootstrap, asked.count, keeps=True))
            passed.append(started(kafka.bootstrap, asked.count, keeps=False))
    result |= {
        "load_after": round(os.getloadavg()[0], 2),
        "moderator": summary(kept),
        "who_keeps_none": summary(passed),
    }
    most = max(each["seconds"] for each in kept)
    result["bars"] = {
        "a moderator's start, the slowest, s": {
            "most": MOST_S, "measured": most, "met": most <= MOST_S,
        },
        "overrides that differ": {
            "most": 0, "measured": (differ := sum(each["differ"] for each in kept)),
            "met": differ == 0,
        },
    }  # fmt: skip
    asked.out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    for name in ("bytes_an_override", "filled_in_s", "moderator", "who_keeps_none"):
        print(f"{name}: {result[name]}")
    sys.exit(0 if all(bar["met"] for bar in result["bars"].values()) else 1)


if __name__ == "__main__":
    main()
