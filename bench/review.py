"""How long 50 people wait for their next item while 100,000 are open and evidence comes in.

`python bench/review.py` starts a PostgreSQL of its own and takes in 100,000 escalations over eight
queues, nine languages and twenty tenants, as the service does. Then, all at once:
- 50 people of mixed languages and tenants, in two processes, claim and claim again, each every half
  second, 60 times as often as people do; some have a language that nobody writes in;
- evidence comes in at 1,000 records a second, in transactions of 500;
- a lead looks at pages of the queue and at the overview, and the audit log is sealed.
At last the 50 claim without a pause until nothing is left: each item was claimed once. A claim is a
whole transaction, from the wait for a connection to the commit.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from sqlalchemy import func, select, text

from machine import machine
from policy_diff import verdict
from qwarden.contracts.escalation import Content, Escalation, Evidence, Kind
from qwarden.contracts.event import Message
from qwarden.contracts.verdict import Action
from qwarden.review.person import EVERY, Person, Role
from qwarden.review.store import audit, intake, leases, queues, turns
from qwarden.review.store.database import Database, is_outage
from qwarden.review.store.queues import Filter
from qwarden.review.store.schema import items
from qwarden.review.store.turns import Wanted
from qwarden.settings import Review
from qwarden.stack.home import Home
from qwarden.stack.postgres import Postgres
from qwarden.stack.process import descendants

RESULTS = Path(__file__).resolve().parent / "results" / "review.json"
CLAIM_MS, PAGE_MS = 50.0, 300.0
CLAIMERS, PROCESSES = 50, 2
EVIDENCE_A_S, AT_ONCE = 1000, 500
QUEUES = ("general", "near", "private", "wide", "urgent", "minors", "spam", "images")
LANGUAGES = ("en", "de", "fr", "es", "pt", "zh", "ar", "hi", "ja")
TENANTS = [f"tenant-{number}" for number in range(20)]
LIMITS = Review(held_items=1_000_000, lease_s=3600, golden_share=0, sample_share=0)
"""Nobody decides here, so all that is claimed stays held."""


def escalation(at: random.Random, now: float) -> intake.Arrived:
    """One of the last day, with content of its own."""
    said = msgspec.structs.replace(
        verdict(at),
        action=Action.REVIEW,
        meanwhile="hide",
        tenant=at.choice(TENANTS),
        language=at.choices(LANGUAGES, [60, 10, 8, 8, 5, 3, 3, 2, 1])[0],
    )
    asked = Escalation(
        kind=Kind.REVIEW,
        verdict=said,
        content=content(at),
        queue=at.choices(QUEUES, [50, 15, 10, 10, 1, 4, 5, 5])[0],
        harm=at.randint(1, 10),
        sla_s=at.choice((3600, 4 * 3600, 86_400)),
        meanwhile="hide",
        on_breach="raise",
    )
    return intake.Arrived(asked, now - at.uniform(0, 86_400))


def evidence(at: random.Random, now: float) -> intake.Arrived:
    said = msgspec.structs.replace(verdict(at), tenant=at.choice(TENANTS), action=Action.BLOCK)
    return intake.Arrived(Evidence(verdict=said, content=content(at)), now, 0.01)


def content(at: random.Random) -> Content:
    words = " ".join(f"word{at.randrange(5000)}" for _ in range(at.randint(5, 120)))
    return Content(messages=[Message(role="user", content=words)])


def person(number: int) -> Person:
    """A third have every tenant and language, a third two languages, a third four tenants too; one
    in ten has only a language in which nothing is open."""
    at = random.Random(number)
    languages = [EVERY] if number % 3 == 0 else at.sample(LANGUAGES, 2)
    if number % 10 == 9:
        languages = ["sw"]
    return Person(
        user_id=f"{number:032x}",
        name=f"reviewer {number}",
        pseudonym=f"reviewer-{number}",
        roles=frozenset([Role.REVIEWER]),
        tenants=frozenset([EVERY] if number % 3 != 2 else at.sample(TENANTS, 4)),
        languages=frozenset(languages),
    )


LEAD = Person(
    "lead", "lead", "lead", frozenset([Role.LEAD]), frozenset([EVERY]), frozenset([EVERY])
)


def figures(took_s: Sequence[float]) -> dict[str, float]:
    if len(took_s) < 2:
        return {"count": len(took_s)}
    cuts = statistics.quantiles(took_s, n=100, method="inclusive")
    named = {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "most": max(took_s)}
    return {"count": len(took_s), **{f"{k}_ms": round(v * 1000, 2) for k, v in named.items()}}


def server_cpu_s(server: Postgres) -> float:
    """What the server's processes have computed so far, those that have ended too."""
    assert server.child.pid is not None
    ticks = 0
    living = [each.pid for each in descendants(server.child.pid)]
    for pid in (server.child.pid, *living):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15] if pid == server.child.pid else fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


async def timed(took: list[float], work: Callable[[], Awaitable[Any]]) -> Any:
    began = time.perf_counter()
    done = await work()
    took.append(time.perf_counter() - began)
    return done


# The roles: each is a process, and prints what it found.


async def fill(url: str, count: int) -> dict[str, Any]:
    database, at, now = Database.open(url, 2), random.Random(1), time.time()
    began, opened = time.perf_counter(), 0
    making = 0.0
    while opened < count:
        before = time.perf_counter()
        records = [escalation(at, now) for _ in range(min(AT_ONCE, count - opened))]
        making += time.perf_counter() - before
        async with database.writing() as tx:
            opened += (await intake.take(tx, records, now, LIMITS)).opened
    await database.close()
    return {"items": opened, "a_s": round(opened / (time.perf_counter() - began - making))}


async def feed(url: str, seconds: float) -> dict[str, Any]:
    """Evidence at the rate that is wanted, or at what can be had."""
    database, at, now = Database.open(url, 2), random.Random(2), time.time()
    batches = [
        [evidence(at, now) for _ in range(AT_ONCE)]
        for _ in range(int(EVIDENCE_A_S * seconds / AT_ONCE))
    ]
    took: list[float] = []
    kept = 0
    print("ready", flush=True)
    sys.stdin.readline()
    began, computed = time.monotonic(), time.process_time()
    for number, batch in enumerate(batches):
        await asyncio.sleep(began + number * AT_ONCE / EVIDENCE_A_S - time.monotonic())
        if time.monotonic() - began > seconds:
            break

        async def take(batch: list[intake.Arrived] = batch) -> int:
            async with database.writing() as tx:
                return (await intake.take(tx, batch, time.time(), LIMITS)).kept

        kept += await timed(took, take)
    lasted = max(seconds, time.monotonic() - began)
    await database.close()
    return {
        "records": kept,
        "a_s": round(kept / lasted),
        "transaction": figures(took),
        "cpu_s": round(time.process_time() - computed, 2),
    }


async def claim(url: str, share: int, seconds: float, pause_s: float) -> dict[str, Any]:
    """A share of the claimers: for some seconds, or with none until nothing is left for them."""
    database = Database.open(url, Review().connections)
    took: list[float] = []
    nothing: list[float] = []
    claimed: list[str] = []
    again: list[str] = []
    print("ready", flush=True)
    sys.stdin.readline()
    began, computed = time.monotonic(), time.process_time()

    async def work(who: Person, at: random.Random) -> None:
        while not seconds or time.monotonic() - began < seconds:
            await asyncio.sleep(at.uniform(0, 2 * pause_s))
            before = time.perf_counter()
            try:
                async with database.writing() as tx:
                    lease = await leases.claim(tx, who, Wanted(), time.time(), LIMITS)
            except Exception as error:
                if not is_outage(error):
                    raise
                again.append(type(error).__name__)
                continue
            (nothing if lease is None else took).append(time.perf_counter() - before)
            if lease is not None:
                claimed.append(lease.item_id)
            elif not seconds:
                break

    people = range(share, CLAIMERS, PROCESSES)
    await asyncio.gather(*(work(person(each), random.Random(each)) for each in people))
    await database.close()
    computed = time.process_time() - computed
    return {
        "claimed": claimed, "took": took, "nothing": nothing, "again": again, "cpu_s": computed,
    }  # fmt: skip


async def look(database: Database, seconds: float) -> dict[str, Any]:
    """A lead who looks at pages of all, of a queue, a tenant, a language, and at the overview."""
    pages: list[float] = []
    overviews: list[float] = []
    at = random.Random(3)
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        chosen = Filter(
            queue=at.choice((None, *QUEUES)),
            tenant=at.choice((None, None, at.choice(TENANTS))),
            language=at.choice((None, None, at.choice(LANGUAGES))),
        )

        async def page(chosen: Filter = chosen) -> None:
            async with database.reading() as tx:
                first = await queues.page(tx, LEAD, chosen, None, 50)
                if first.next is not None:
                    await queues.page(tx, LEAD, chosen, first.next, 50)

        async def overview() -> None:
            async with database.reading() as tx:
                await queues.overview(tx, LEAD, time.time())

        await timed(pages, page)
        await timed(overviews, overview)
        await asyncio.sleep(1)
    return {"two_pages": figures(pages), "overview": figures(overviews)}


async def seal(database: Database, seconds: float) -> int:
    began, sealed = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        async with database.writing() as tx:
            sealed += await audit.seal(tx, 1000)
        await asyncio.sleep(1)
    return sealed


async def planned(database: Database) -> dict[str, Any]:
    """How PostgreSQL finds the next item, for people of the three kinds, with all items open."""
    plans = {}
    for name, who in (("of all", person(0)), ("of two languages", person(1)),
                      ("of a language without items", person(9))):  # fmt: skip
        async with database.writing() as tx:
            query = turns._next(who, Wanted()).compile(
                dialect=tx.dialect, compile_kwargs={"literal_binds": True}
            )
            explained = await tx.execute(text(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}"))
            plan = explained.scalar_one()
        (top,) = json.loads(plan) if isinstance(plan, str) else plan
        all_nodes = nodes(top["Plan"])
        plans[name] = {
            "rows_sorted": sum(
                inner["Actual Rows"]
                for each in all_nodes
                if each["Node Type"] == "Sort"
                for inner in each["Plans"]
            ),
            "indexes": sorted({each["Index Name"] for each in all_nodes if "Index Name" in each}),
            "buffers": top["Plan"]["Shared Hit Blocks"] + top["Plan"]["Shared Read Blocks"],
            "ms": top["Execution Time"],
        }
    return plans


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(each for inner in plan.get("Plans", []) for each in nodes(inner))]


# The whole.


def started(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, *(str(word) for word in words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


async def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, _ = await asyncio.to_thread(process.communicate)
    assert process.returncode == 0
    found: dict[str, Any] = json.loads(out)
    return found


def ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


async def measured(server: Postgres, count: int, seconds: float) -> dict[str, Any]:
    url = server.url
    database = Database.open(url, 4)
    await database.migrate()
    result: dict[str, Any] = {"taken_in": await ended(started("--fill", url, "--items", count))}
    print(result, flush=True)
    async with database.writing() as tx:
        await tx.execute(text("ANALYZE"))  # as the server does by itself within a minute
    result["plans"] = await planned(database)

    busy = [started("--claim", url, "--share", n, "--seconds", seconds, "--pause", 0.5)
            for n in range(PROCESSES)]  # fmt: skip
    feeder = started("--feed", url, "--seconds", seconds)
    for process in (*busy, feeder):
        ready(process)
    before_s = server_cpu_s(server)
    for process in (*busy, feeder):
        go(process)
    fed, looked, sealed, *claims = await asyncio.gather(
        ended(feeder), look(database, seconds), seal(database, seconds), *map(ended, busy)
    )
    took = [each for one in claims for each in one["took"]]
    result["while evidence comes in"] = {
        "claims": figures(took),
        "claims_a_s": round(len(took) / seconds, 1),
        "claims_without_an_item": figures([each for one in claims for each in one["nothing"]]),
        "tried_again": sum(len(one["again"]) for one in claims),
        "evidence": fed,
        "queue": looked,
        "sealed": sealed,
        "cpu_s": {
            "server": round(server_cpu_s(server) - before_s, 2),
            "claimers": round(sum(one["cpu_s"] for one in claims), 2),
            "of seconds": seconds,
        },
    }
    print(json.dumps(result, indent=2), flush=True)

    rush = [started("--claim", url, "--share", n) for n in range(PROCESSES)]
    for process in rush:
        ready(process)
    began = time.monotonic()
    for process in rush:
        go(process)
    rushed = await asyncio.gather(*map(ended, rush))
    lasted = time.monotonic() - began
    took = [each for one in rushed for each in one["took"]]
    claimed = [each for one in (*claims, *rushed) for each in one["claimed"]]
    async with database.reading() as tx:
        fences = (await tx.execute(select(func.sum(items.c.fence)))).scalar_one()
    result["all at once, without a pause"] = {
        "claims": figures(took),
        "claims_a_s": round(len(took) / lasted, 1),
        "tried_again": sum(len(one["again"]) for one in rushed),
    }
    result["claimed"] = {
        "claims": len(claimed),
        "items": len(set(claimed)),
        "fences": int(fences),
        "twice": len(claimed) - len(set(claimed)),
        "never": result["taken_in"]["items"] - len(set(claimed)),
    }
    await database.close()
    return result


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=100_000, help="that are open at first")
    parser.add_argument(
        "--seconds", type=float, default=0, help="of the mixed load; 60 where none are said"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="the file of the results")
    parser.add_argument("--fill", help=argparse.SUPPRESS)
    parser.add_argument("--feed", help=argparse.SUPPRESS)
    parser.add_argument("--claim", help=argparse.SUPPRESS)
    parser.add_argument("--share", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--pause", type=float, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    role = None
    if given.fill:
        role = fill(given.fill, given.items)
    elif given.feed:
        role = feed(given.feed, given.seconds)
    elif given.claim:
        role = claim(given.claim, given.share, given.seconds, given.pause)
    if role is not None:
        print(json.dumps(uvloop.run(role)))
        return 0

    result: dict[str, Any] = {
        "what": "claims of 50 people and a lead's pages, with evidence coming in, on PostgreSQL",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "load_before": round(os.getloadavg()[0], 2),
    }
    with tempfile.TemporaryDirectory() as folder, Postgres(Home(Path(folder))) as server:
        result |= uvloop.run(measured(server, given.items, given.seconds or 60.0))
    busy = result["while evidence comes in"]
    bars = {
        "a claim's p95, ms": (CLAIM_MS, busy["claims"]["p95_ms"]),
        "a claim's p95 where nothing is to be had, ms": (
            CLAIM_MS,
            busy["claims_without_an_item"]["p95_ms"],
        ),
        "a queue page's p95, two of them, ms": (PAGE_MS, busy["queue"]["two_pages"]["p95_ms"]),
        "the overview's p95, ms": (PAGE_MS, busy["queue"]["overview"]["p95_ms"]),
        "items claimed twice": (0, result["claimed"]["twice"]),
        "items never claimed": (0, result["claimed"]["never"]),
    }
    result["bars"] = {
        name: {"most": most, "measured": found, "met": found <= most}
        for name, (most, found) in bars.items()
    }
    print(json.dumps(result, indent=2))
    given.out.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if all(bar["met"] for bar in result["bars"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
