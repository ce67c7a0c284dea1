"""Drives real moderators through kills, restarts and outages, and judges what they left."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from aiokafka import AIOKafkaProducer

import fleet
from qwarden import kafka as kafka_tools
from qwarden import settings as settings_module
from qwarden.contracts import headers, topics
from qwarden.contracts.verdict import decode_verdict
from qwarden.stack.child import Child
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka
from qwarden.stack.ports import free_ports
from qwarden.stack.probe import answers_200
from qwarden.verify.reader import Scope, opened
from qwarden.verify.report import Finding, Report
from storm.blame import Published, Struck, blame
from storm.member import BY
from storm.weather import Strike

SESSION_S = 6.0
Say = Callable[[str], None]


@dataclass
class Member:
    """One moderator's process, started again after each end."""

    home: Home
    name: str
    environ: dict[str, str]
    port: int = field(default_factory=lambda: free_ports(1)[0])

    def __post_init__(self) -> None:
        own = {
            "QWARDEN_HTTP__HOST": "127.0.0.1",
            "QWARDEN_HTTP__PORT": str(self.port),
            "STORM_NAME": self.name,
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        command = [sys.executable, "-m", "storm.member"]
        self.child = Child(self.home, self.name, command, env={**self.environ, **own})

    @property
    def process(self) -> str:
        """As its outcomes name it."""
        return f"{self.name}/{self.child.pid}"

    async def start(self) -> None:
        await asyncio.to_thread(self.child.start)

    async def ready(self, within_s: float = 90) -> None:
        async def asked() -> bool:
            with suppress(OSError):
                return await asyncio.to_thread(answers_200, self.port, "/readyz")
            return False

        await fleet.until(asked, f"{self.name} is ready", within_s)

    async def in_flight(self) -> int:
        async with httpx.AsyncClient() as client:
            try:
                page = await client.get(f"http://127.0.0.1:{self.port}/metrics", timeout=2)
            except httpx.TransportError:
                return 0
        return sum(
            int(float(line.rpartition(" ")[2]))
            for line in page.text.splitlines()
            if line.startswith("qwarden_in_flight_records{")
        )


@dataclass
class Storm:
    """A broker with its topics, members, and a producer that goes on while they are hit."""

    kafka: Kafka
    home: Home
    seed: int
    members: int
    group: str
    more: dict[str, str] = field(default_factory=dict)
    guard: str | None = None
    """None for the storm's own; else the address of a Triton."""

    def environ(self) -> dict[str, str]:
        guard = {"STORM_SEED": str(self.seed)}
        if self.guard is not None:
            guard = {"STORM_SEED": "", "QWARDEN_TRITON__URL": self.guard}
        return {
            **guard,
            "QWARDEN_CONTENT_KEY": self.home.content_key(),
            "QWARDEN_KAFKA__BOOTSTRAP_SERVERS": self.kafka.bootstrap,
            "QWARDEN_KAFKA__GROUP_ID": self.group,
            "QWARDEN_KAFKA__SESSION_TIMEOUT_MS": str(int(SESSION_S * 1000)),
            "QWARDEN_MODERATOR__REVOKE_S": "5",
            # A row a request, and many of them: the storm's guard answers each when it likes.
            "QWARDEN_TRITON__ROWS_A_REQUEST": "2" if self.guard is None else "64",
            "QWARDEN_TRITON__REQUESTS_IN_FLIGHT": "64" if self.guard is None else "4",
            **self.more,
        }

    def settings(self) -> settings_module.Settings:
        environ = {name: value for name, value in self.environ().items() if name[:7] == "QWARDEN"}
        return settings_module.load(environ)

    def made(self) -> list[Member]:
        return [
            Member(self.home, f"storm-{self.group}-{n}", self.environ())
            for n in range(self.members)
        ]

    @asynccontextmanager
    async def serving(
        self, events: int, over_s: float
    ) -> AsyncIterator[tuple[list[Member], asyncio.Task[None]]]:
        """Members that are ready, and events that are being published; the members end in order."""
        members = self.made()
        try:
            await asyncio.gather(*(member.start() for member in members))
            await asyncio.gather(*(member.ready() for member in members))
            publishing = self.publish(events, over_s, keys=events // 20)
            yield members, asyncio.create_task(publishing)
        finally:
            await asyncio.gather(*(asyncio.to_thread(m.child.stop, 40) for m in members))

    async def publish(self, count: int, over_s: float, keys: int) -> None:
        """`count` events at an even pace; keys are those of `keys` conversations."""
        dice = random.Random(self.seed)
        producer = AIOKafkaProducer(
            bootstrap_servers=self.kafka.bootstrap, enable_idempotence=True, linger_ms=5
        )
        await producer.start()
        began = time.monotonic()
        pending = []
        try:
            for n in range(count):
                value = {
                    "event_id": f"{self.group}-{n}",
                    "tenant": f"tenant-{n % 7}",
                    "text": f"What do I need for walk {n}, {dice.random()}?",
                }
                key = f"{self.group}-{dice.randrange(keys)}".encode()
                pending.append(await producer.send(topics.CONTENT, json.dumps(value).encode(), key))
                ahead = over_s * n / count - (time.monotonic() - began)
                if ahead > 0.01:
                    await asyncio.sleep(ahead)
            await asyncio.gather(*pending)
        finally:
            await producer.stop()

    async def strike(self, strike: Strike, member: Member) -> Struck:
        """Hits a member that is at work, and returns when it is back."""
        in_flight = 0
        # In a rebalance, after the strike before, nobody has partitions for a session timeout.
        deadline = time.monotonic() + 3 * SESSION_S
        while time.monotonic() < deadline:
            in_flight = await member.in_flight()
            if in_flight:
                break
            await asyncio.sleep(0.2)
        victim = member.process
        if strike.hit == "kill":
            await asyncio.to_thread(member.child.kill)
        else:
            member.child.signal(signal.SIGSTOP)
        committed = await self.committed()
        if strike.hit == "kill":
            await member.start()
        else:
            await asyncio.sleep(strike.freeze_s)
            member.child.signal(signal.SIGCONT)
        # Until a heartbeat tells it otherwise, who was frozen goes on.
        until_ms = (time.time() + SESSION_S) * 1000
        await member.ready()
        return Struck(victim, committed, in_flight, until_ms)

    async def committed(self) -> dict[tuple[str, int], int]:
        async with kafka_tools.admin(self.settings().kafka) as admin:
            offsets = await admin.list_consumer_group_offsets(self.group)
        return {(where.topic, where.partition): at.offset for where, at in offsets.items()}

    async def done(self, count: int, within_s: float) -> None:
        """Until the group has committed so many events."""

        async def asked() -> bool:
            ends = await fleet.ends_of(self.kafka.bootstrap, topics.CONTENT)
            committed = await self.committed()
            return all(committed.get(tuple(where), 0) >= end for where, end in ends.items())

        await fleet.until(asked, f"all of {count} events are done", within_s)

    async def published(self) -> list[Published]:
        found = []
        settings = self.settings().kafka
        async with kafka_tools.reading(
            settings, topics.VERDICTS, from_beginning=True, follow=False
        ) as records:
            async for record in records:
                by = headers.header(record.headers, BY) or ""
                topic, partition, offset = fleet.origin_of(record).rsplit("/", 2)
                task = decode_verdict(record.value).task or ""
                where = topic, int(partition), int(offset)
                found.append(Published(*where, task, by, record.timestamp))
        return found

    async def verified(self) -> Report:
        settings = self.settings()
        scope = Scope(to_end=True, since=None, max_event_bytes=settings.moderator.max_event_bytes)
        async with opened(settings.kafka, scope) as reader:
            return await reader.report(lambda _: None, 5)


@dataclass
class Outcome:
    """What a storm left, and what of it must not be."""

    report: Report
    published: int
    repeats: int
    faults: list[str]


def _judged(report: Report, expected: int) -> list[str]:
    """What is wrong whatever happened: something missing, disordered, or with two values."""
    wrong = []
    if not report.is_good or report.unmatched:
        wrong.append(f"verify finds {report.found}, unmatched {report.unmatched}")
    if report.judged != expected:
        wrong.append(f"{report.judged} of {expected} events are judged")
    return wrong


async def _without_repeats(storm: Storm, events: int, after: str) -> Outcome:
    """What a storm left in which no moderator died: nothing may stand twice."""
    published = await storm.published()
    report = await storm.verified()
    faults = _judged(report, events)
    repeats = report.found[Finding.DUPLICATED] + report.found[Finding.REVISED]
    if repeats:
        faults.append(f"{repeats} events are published twice after {after}")
    return Outcome(report, len(published), repeats, faults)


async def kills(
    storm: Storm, strikes: list[Strike], *, events: int, over_s: float, say: Say
) -> Outcome:
    """Members are killed and frozen while events come."""
    async with storm.serving(events, over_s) as (members, publishing):
        began = time.monotonic()
        busy: list[asyncio.Task[Struck] | None] = [None] * len(members)
        made: list[asyncio.Task[Struck]] = []

        async def hit(number: int, strike: Strike) -> Struck:
            struck = await storm.strike(strike, members[strike.member])
            say(
                f"{time.monotonic() - began:7.1f} s  {number + 1}/{len(strikes)} {strike.hit} of "
                f"{struck.by}, {struck.in_flight} records in flight; it is back"
            )
            return struck

        for number, strike in enumerate(strikes):
            await asyncio.sleep(max(0.0, began + strike.at_s - time.monotonic()))
            before = busy[strike.member]
            if before is not None:
                await before
            busy[strike.member] = asyncio.create_task(hit(number, strike))
            made.append(busy[strike.member])  # type: ignore[arg-type]
        struck = list(await asyncio.gather(*made))
        await publishing
        say(f"{time.monotonic() - began:7.1f} s  all events are published")
        await storm.done(events, within_s=300)
    published = await storm.published()
    blamed = blame(published, struck)
    report = await storm.verified()
    faults = _judged(report, events)
    for strike_, due, above in blamed.by_strike:
        say(f"  {strike_.by}: {due} repeats of {above} verdicts above the committed offsets")
    if blamed.unexplained:
        faults.append(f"{len(blamed.unexplained)} repeats are nobody's: {blamed.unexplained[:5]}")
    idle = sum(not each.in_flight for each in struck)
    if idle > len(struck) // 16:
        faults.append(f"{idle} of {len(struck)} victims had no records in flight: too few events")
    return Outcome(report, len(published), blamed.repeats, faults)


async def restarts(storm: Storm, *, events: int, over_s: float, rounds: int, say: Say) -> Outcome:
    """Members are restarted in order, one after the other, while events come: nothing repeats."""
    async with storm.serving(events, over_s) as (members, publishing):
        for turn in range(rounds):
            for member in members:
                in_flight = await member.in_flight()
                began = time.monotonic()
                await asyncio.to_thread(member.child.stop, 40)
                ended = time.monotonic() - began
                await member.start()
                await member.ready()
                say(
                    f"  round {turn + 1}: {member.name} ended within {ended:.1f} s, {in_flight} "
                    "records in flight before; it is back"
                )
        await publishing
        await storm.done(events, within_s=300)
    return await _without_repeats(storm, events, "restarts in order")


async def without_guard(
    storm: Storm,
    kill_guard: Callable[[], None],
    *,
    events: int,
    over_s: float,
    times: int,
    say: Say,
) -> Outcome:
    """The guard is killed while events come: nobody sees more than a delay."""
    async with storm.serving(events, over_s) as (members, publishing):
        for number in range(times):
            await asyncio.sleep(over_s / (times + 1))
            began = time.monotonic()
            await asyncio.to_thread(kill_guard)
            await asyncio.gather(*(member.ready() for member in members))
            say(
                f"  guard killed, {number + 1} of {times}: back in {time.monotonic() - began:.1f} s"
            )
        await publishing
        await storm.done(events, within_s=600)
    found = await _without_repeats(storm, events, "an outage of the guard")
    dead = await fleet.ends_of(storm.kafka.bootstrap, topics.DEAD_LETTERS)
    if sum(dead.values()):
        found.faults.append(f"{sum(dead.values())} dead letters in an outage of the guard")
    return found


async def make_topics(storm: Storm, partitions: int) -> None:
    await kafka_tools.create_topics(
        storm.settings().kafka,
        partitions=partitions,
        replication_factor=1,
        min_insync_replicas=1,
        max_event_bytes=storm.settings().moderator.max_event_bytes,
    )
