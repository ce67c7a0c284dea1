"""The broker stands still, its topics grow, the clock jumps, a backlog comes: nothing is lost, and
what is new is judged at once."""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

import fleet
from chaos import faults
from chaos.jumping import JUMP_S, Jumper
from fleet import Tap
from moderators import PARTITIONS, Fleetlet, Guard, holds
from qwarden.contracts import headers, topics
from qwarden.stack.child import Child
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka
from qwarden.verify.report import Finding
from storm.storm import Storm, make_topics

RECOVERY_S = 15.0
"""After a broker goes on: over a session timeout (6 s), for the group may have to find together
anew, and the producer's and consumers' own retries."""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleetlet]:
    home = Home(tmp_path_factory.mktemp("faults-kafka"))
    with faults.fleetlet(home, Kafka(home)) as made:
        yield made


@pytest.mark.parametrize(
    "still_s",
    [8.0, pytest.param(60.0, marks=[pytest.mark.storm, pytest.mark.timeout(600)])],
)
async def test_a_broker_that_pauses_loses_records_in_flight_or_ends_the_moderators(
    own: Fleetlet, group: str, still_s: float
) -> None:
    guard = Guard()
    guard.seconds_a_row = 0.01
    async with (
        Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap,
        own.moderating(group, guard) as one,
        own.moderating(group, guard) as two,
    ):
        both = (one, two)
        await holds(
            lambda: all(each._interactive._window.partitions for each in both), "both have joined"
        )
        origins = await own.publish(4000, "before", seed=group)
        await holds(
            lambda: all(each._interactive._window.in_flight > 50 for each in both),
            "records are in flight",
        )
        before = await faults.committed(own, group)
        with faults.still(own.kafka):
            in_flight = sum(each._interactive._window.in_flight for each in both)
            assert in_flight, "it stood still when all was done"
            end = time.monotonic() + still_s
            while time.monotonic() < end:
                assert await faults.is_alive(one) and await faults.is_alive(two)
                await asyncio.sleep(0.5)
        began = time.monotonic()
        origins += await own.publish(200, "after", seed=group)
        found = await fleet.outcomes(tap, origins)
        took_s = time.monotonic() - began
        print(
            f"\nstill for {still_s:.0f} s with {in_flight} records in flight: all is done "
            f"{took_s:.1f} s later, {found.account.repeats()} repeats"
        )
        assert took_s < RECOVERY_S
        assert not found.dead
        assert found.contradictions == []
        assert await faults.is_ready(one) and await faults.is_ready(two)
    verdicts = (await faults.written(own, topics.VERDICTS)).by_origin()
    assert not faults.repeated_below(verdicts, before), "what was committed has come again"
    assert max(verdicts[origin] for origin in origins) <= 2


async def test_new_content_waits_behind_a_backlog_that_is_being_relayed(
    own: Fleetlet, group: str
) -> None:
    old = await own.publish(5000, "old", age_s=3600, seed=group)
    guard = Guard()
    guard.seconds_a_row = 0.0005
    async with Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap, own.moderating(group, guard):
        new: list[str] = []
        judged_before = 0
        for round_ in range(5):
            sent = await own.publish(20, f"new-{round_}", seed=group)
            found = await fleet.outcomes(tap, sent)
            judged_before += len(found.verdicts.keys() & set(old))
            old = [origin for origin in old if origin not in found.verdicts]
            new += sent
        assert judged_before < 4000, "the new ones waited for most of the old"
        found = await fleet.outcomes(tap, old)
    assert not found.dead
    verdicts = (await faults.written(own, topics.VERDICTS)).by_origin()
    relayed = (await faults.written(own, topics.BACKLOG)).by_origin()
    assert {verdicts[origin] for origin in (*old, *new)} == {1}
    assert {relayed[origin] for origin in old} == {1}
    assert not any(relayed[origin] for origin in new)


@pytest.fixture
def storm(tmp_path: Path) -> Iterator[Storm]:
    """A broker for one moderator that is a process, with everything on it its own."""
    home = Home(tmp_path)
    with Kafka(home) as kafka:
        yield Storm(kafka, home, 5, 1, "faults")


def as_fleetlet(storm: Storm) -> Fleetlet:
    return Fleetlet(storm.kafka, storm.home, storm.home.root)


async def lanes_are_done(storm: Storm, within_s: float, child: Child | None = None) -> None:
    """Until both groups have committed all that there is on their topics, while `child` lives."""
    groups = storm.settings().kafka.groups

    async def done() -> bool:
        assert child is None or child.alive, child.tail(3)
        for topic, group in groups.items():
            ends = await fleet.ends_of(storm.kafka.bootstrap, topic)
            storm.group = group
            at = await storm.committed()
            if any(at.get(tuple(where), 0) < end for where, end in ends.items()):
                return False
        return True

    name = storm.group
    try:
        await fleet.until(done, "both lanes are done", within_s)
    finally:
        storm.group = name


async def test_a_clock_that_jumps_loses_or_relays_for_ever(storm: Storm) -> None:
    await make_topics(storm, 8)
    one = Jumper(storm.home, "jumper", storm.environ())
    negative: list[str] = []

    async def scraped() -> None:
        async with httpx.AsyncClient() as client:
            page = await client.get(f"http://127.0.0.1:{one.port}/metrics", timeout=5)
        negative.extend(line for line in page.text.splitlines() if re.search(r" -[\d.]", line))

    async def relayed() -> int:
        return sum((await fleet.ends_of(storm.kafka.bootstrap, topics.BACKLOG)).values())

    await one.start()
    try:
        await one.ready()
        process = one.process
        publishing = asyncio.create_task(storm.publish(1200, 6, keys=100))
        for hours in (1, -1, -1, 1):  # an hour fast, right, an hour slow, right
            await asyncio.sleep(1.5)
            await scraped()
            await asyncio.to_thread(one.jump, hours)
        await publishing
        await lanes_are_done(storm, 60)
        in_jumps = await relayed()
        assert 0 < in_jumps < 1200, "the clock did not jump, or all was relayed"
        storm.group = "faults-later"
        await storm.publish(100, 0.5, keys=100)
        storm.group = "faults"
        await lanes_are_done(storm, 60)
        await scraped()
        assert await relayed() == in_jumps, "it relays on, and the clock is right again"
        assert one.process == process
    finally:
        await asyncio.to_thread(one.child.stop, 40)
    assert not negative
    report = await storm.verified()
    assert report.is_good and report.judged == 1300
    assert not report.found[Finding.DUPLICATED] and not report.found[Finding.REVISED]
    verdicts = (await faults.written(as_fleetlet(storm), topics.VERDICTS)).records
    ahead_s = max(each.timestamp for each in verdicts) / 1000 - time.time()
    assert ahead_s > JUMP_S / 2, "the clock did not jump"


async def test_a_fast_clock_ends_the_moderator_or_dead_letters_good_records(storm: Storm) -> None:
    """A broker refuses what is stamped more than an hour ahead, which is no record's fault."""
    storm.more = {"QWARDEN_MODERATOR__DRAIN_S": "2", "QWARDEN_MODERATOR__REVOKE_S": "2"}
    await make_topics(storm, 8)
    one = Jumper(storm.home, "jumper", storm.environ())
    await one.start()
    try:
        await one.ready()
        process = one.process
        await asyncio.to_thread(one.jump, 2)
        await storm.publish(200, 2, keys=100)

        async def refused() -> bool:
            return b"InvalidTimestampError" in one.child.log.read_bytes()

        await fleet.until(refused, "the broker has refused something", 10)
        await asyncio.to_thread(one.jump, -2)
        await lanes_are_done(storm, 60, one.child)
        assert one.process == process and one.child.alive
    finally:
        await asyncio.to_thread(one.child.stop, 40)
    report = await storm.verified()
    assert report.is_good and report.judged == 200
    dead = await fleet.ends_of(storm.kafka.bootstrap, topics.DEAD_LETTERS)
    assert not sum(dead.values())


@pytest.mark.storm
@pytest.mark.timeout(900)
async def test_new_content_waits_behind_200_000_stale_records(storm: Storm) -> None:
    stale, a_second, seconds = 200_000, 50, 40
    await make_topics(storm, 8)
    storm.more = {"QWARDEN_TRITON__ROWS_A_REQUEST": "64", "QWARDEN_TRITON__REQUESTS_IN_FLIGHT": "4"}
    producer = AIOKafkaProducer(bootstrap_servers=storm.kafka.bootstrap, linger_ms=5)
    await producer.start()
    one = Jumper(storm.home, "one", storm.environ(), most_s=0.0)

    async def send(n: int, name: str, age_s: float) -> asyncio.Future[object]:
        event = {"event_id": f"{name}-{n}", "tenant": f"tenant-{n % 7}", "text": f"{name} {n}"}
        at_ms = int((time.time() - age_s) * 1000)
        key = f"{name}-{n}".encode()
        sent: asyncio.Future[object] = await producer.send(
            topics.CONTENT, json.dumps(event).encode(), key, timestamp_ms=at_ms
        )
        return sent

    try:
        await asyncio.gather(*[await send(n, "old", 3600) for n in range(stale)])
        await one.start()
        await one.ready()
        for n in range(a_second * seconds):
            await send(n, "new", 0)
            await asyncio.sleep(1 / a_second)
        await producer.flush()
        await lanes_are_done(storm, 600)
    finally:
        await producer.stop()
        await asyncio.to_thread(one.child.stop, 40)
    made = as_fleetlet(storm)
    relays = [each.timestamp for each in (await faults.written(made, topics.BACKLOG)).records]
    began, ended = min(relays), max(relays)
    sent_at = {
        f"{each.topic}/{each.partition}/{each.offset}": each.timestamp
        for each in (await faults.written(made, topics.CONTENT)).records
        if each.key.startswith(b"new")
    }
    waits: dict[str, list[float]] = {"relayed": [], "judged": []}
    verdicts = (await faults.written(made, topics.VERDICTS)).records
    last = max(each.timestamp for each in verdicts)
    for each in verdicts:
        at = sent_at.get(headers.header(each.headers, headers.ORIGIN) or "")
        if at is not None and at >= began:
            waits["relayed" if at <= ended else "judged"].append(each.timestamp - at)
    rate = len(relays) * 1000 / (ended - began)
    print(
        f"\n{len(relays):,} stale records are relayed in {(ended - began) / 1000:.1f} s "
        f"({rate:,.0f} a second), and all is judged in {(last - began) / 1000:.0f} s"
    )
    for when, found in waits.items():
        p95 = statistics.quantiles(found, n=20)[-1]
        print(
            f"new content while the backlog is {when}: {len(found)} events, p50 "
            f"{statistics.median(found):.0f} ms, p95 {p95:.0f} ms, most {max(found):.0f} ms"
        )
    report = await storm.verified()
    assert report.is_good and report.judged == stale + a_second * seconds
    assert not report.found[Finding.DUPLICATED] and not report.found[Finding.REVISED]
    assert statistics.quantiles(waits["judged"], n=20)[-1] < 2000


async def test_a_partition_that_is_added_is_read_from_its_end(own: Fleetlet, group: str) -> None:
    guard = Guard()
    async with (
        Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap,
        own.moderating(group, guard) as one,
        own.moderating(group, guard) as two,
    ):
        both = (one, two)
        await holds(
            lambda: all(each._interactive._window.partitions for each in both), "both have joined"
        )
        before = await own.publish(200, "before", seed=group)
        await fleet.outcomes(tap, before)
        admin = AIOKafkaAdminClient(bootstrap_servers=own.kafka.bootstrap)
        await admin.start()
        try:
            grown = NewPartitions(total_count=PARTITIONS + 2)
            await admin.create_partitions({topics.CONTENT: grown})
        finally:
            await admin.close()
        pairs = [
            (None, json.dumps({"event_id": f"g{n}", "tenant": "demo", "text": f"n {n}"}).encode())
            for n in range(100)
        ]
        new = []
        for partition in (PARTITIONS, PARTITIONS + 1):
            new += await faults.publish(own.kafka.bootstrap, pairs, partition=partition)
        old = await own.publish(200, "beside", seed=group)
        for each in both:  # what aiokafka does by itself every five minutes
            consumer = each._interactive._consumer
            assert consumer is not None
            await consumer._client.force_metadata_update()
        began = time.monotonic()
        found = await fleet.outcomes(tap, new + old)
        print(f"\nthe new partitions are judged {time.monotonic() - began:.1f} s later")
        assert not found.dead
        owned = [each._interactive._window.partitions for each in both]
        assert sum(map(len, owned)) == PARTITIONS + 2, "not every partition has one owner"
    verdicts = (await faults.written(own, topics.VERDICTS)).by_origin()
    assert {verdicts[origin] for origin in new} == {1}
    assert {verdicts[origin] for origin in (*before, *old)} <= {1, 2}
