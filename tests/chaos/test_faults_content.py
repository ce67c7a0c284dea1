"""What is published does harm: broken records, very large ones, and deletions and edits that
overtake their event. Nothing else is delayed or lost, and what stands at the end is right."""

from __future__ import annotations

import asyncio
import json
import math
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

import fleet
from chaos import faults
from chaos.faults import Pair, ToldGuard
from fleet import Tap
from moderators import Fleetlet
from qwarden.contracts import topics
from qwarden.contracts.dead_letter import KEPT_BYTES, DeadLetter
from qwarden.contracts.escalation import Escalation, Kind
from qwarden.contracts.verdict import Basis, Verdict
from qwarden.dead_letters import acting
from qwarden.dead_letters.letters import Place
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka
from storm.storm import Member, Storm, make_topics
from unit.builders import CONTROVERSIAL, SAFE, verdict, withdrawal

Event = tuple[str, str]
"""Tenant and event_id."""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleetlet]:
    home = Home(tmp_path_factory.mktemp("faults-content"))
    with faults.fleetlet(home, Kafka(home)) as made:
        yield made


def event(event_id: str, text: str, **fields: object) -> Pair:
    body = {"event_id": event_id, "tenant": "demo", "text": text, **fields}
    return event_id.encode(), json.dumps(body).encode()


# Broken records.


def broken(n: int) -> bytes | None:
    """A record that no contract knows, of one kind or another."""
    kinds: tuple[bytes | None, ...] = (
        b"{broken",
        None,
        b"\xff\xfe\x00",
        b"[]",
        b'{"event_id": "e", "text": "whose is this?"}',
        b'{"event_id": "e", "tenant": "demo", "messages": [{"role": "wizard", "content": "x"}]}',
        b"[" * 10_000,
    )
    return kinds[n % len(kinds)]


async def test_a_broken_record_in_every_batch_delays_or_takes_others_with_it(
    own: Fleetlet, group: str
) -> None:
    async with (
        Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap,
        own.moderating(group, ToldGuard(), QWARDEN_MODERATOR__POLL_RECORDS="10") as one,
    ):
        await fleet.outcomes(tap, await own.publish(50, f"{group}-warm"))
        took_s = []
        for mixed in (False, True):
            pairs = [
                (f"k{n % 100}".encode(), broken(n // 10))
                if mixed and n % 10 == 7
                else event(f"{group}-{mixed}-{n}", f"number {n}, {mixed}")
                for n in range(2000)
            ]
            began = time.monotonic()
            origins = await faults.publish(own.kafka.bootstrap, pairs)
            found = await fleet.outcomes(tap, origins)
            took_s.append(time.monotonic() - began)
        assert await faults.is_ready(one)
    print(f"\n2,000 records: {took_s[0]:.2f} s, {took_s[1]:.2f} s with 200 broken ones")
    bad = set(origins[7::10])
    assert set(found.dead) == bad
    assert set(found.verdicts) == set(origins) - bad
    letters = (await faults.written(own, topics.DEAD_LETTERS)).by_origin()
    verdicts = (await faults.written(own, topics.VERDICTS)).by_origin()
    assert {letters[origin] for origin in bad} == {1}
    assert {verdicts[origin] for origin in origins if origin not in bad} == {1}
    assert took_s[1] < 3 * took_s[0] + 1


# Very large records.


def sized(event_id: str, size: int) -> Pair:
    """An event whose value has so many bytes."""
    _, empty = event(event_id, "")
    assert empty is not None
    return event(event_id, ("many words " * (size // 11 + 1))[: size - len(empty)])


async def test_a_very_large_record_stops_what_stands_around_it(own: Fleetlet, group: str) -> None:
    limit = own.settings(group).moderator.max_event_bytes
    admin = AIOKafkaAdminClient(bootstrap_servers=own.kafka.bootstrap)
    await admin.start()
    try:  # Somebody has given the topic more room than the fleet was told of.
        larger = {"max.message.bytes": "2000000"}
        await admin.alter_configs(
            [ConfigResource(ConfigResourceType.TOPIC, topics.CONTENT, configs=larger)]
        )
    finally:
        await admin.close()
    sizes = [limit - 20_000, limit - 1, limit, limit + 1, limit + 50_000, 1_048_576]
    pairs: list[Pair] = []
    for n, size in enumerate(sizes * 3):
        pairs += [sized(f"{group}-{n}", size), event(f"{group}-small-{n}", f"small {n}")]
    guard = ToldGuard()
    guard.says = lambda text: CONTROVERSIAL if text.startswith("many") else SAFE
    async with Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap, own.moderating(group, guard) as one:
        origins = await faults.publish(own.kafka.bootstrap, pairs)
        began = time.monotonic()
        found = await fleet.outcomes(tap, origins)
        print(f"\n{len(sizes) * 3} records of about 1 MB: {time.monotonic() - began:.1f} s")
        assert await faults.is_ready(one)
    large = dict(zip(origins[::2], sizes * 3, strict=True))
    too_large = {origin for origin, size in large.items() if size > limit}
    assert set(found.dead) == too_large and set(found.dead.values()) == {"too_large"}
    assert set(found.verdicts) == set(origins) - too_large
    assert found.account.repeats() == 0
    whole = set(large) - too_large
    assert whole <= found.review and whole <= found.evidence, "judged, and not to be seen whole"
    for record in (await faults.written(own, topics.DEAD_LETTERS)).records:
        if fleet.origin_of(record) in too_large:
            letter = msgspec.json.decode(record.value, type=DeadLetter)
            assert letter.content.truncated
            assert letter.content.bytes == large[fleet.origin_of(record)]
            assert len(letter.content.value) == KEPT_BYTES
            assert letter.content.value.startswith('{"event_id"')


# Deletions and edits that overtake their event.

_BASES = ("withdrawn", "human", "guard", "quota", "expired", "degraded")


def _rank(verdict: Verdict) -> tuple[int, int]:
    serial = verdict.policy.serial if verdict.policy is not None else 0
    return -_BASES.index(verdict.basis.value), serial


def standing(verdicts: Iterable[Verdict]) -> dict[Event, dict[str | None, Verdict]]:
    """What a consumer that follows the contract holds at the end, by event and task. `verdicts`: as
    they stand on the topic.

    One verdict per (tenant, event_id, task). A withdrawal is final for the whole event; a higher
    edit replaces all before it; within one edit the order is that of the bases, else the higher
    serial; of equals the later on the topic.
    """
    held: dict[Event, dict[str | None, Verdict]] = {}
    for new in verdicts:
        tasks = held.setdefault((new.tenant, new.event_id), {})
        edit = max((each.edit for each in tasks.values()), default=new.edit)
        if None in tasks:
            continue
        if new.basis is Basis.WITHDRAWN or new.edit > edit:
            tasks.clear()
        elif new.edit < edit:
            continue
        old = tasks.get(new.task)
        if old is None or _rank(new) >= _rank(old):
            tasks[new.task] = new
    return held


def still_open(items: Sequence[Escalation]) -> set[tuple[Event, int]]:
    """The items of `moderation.review` that wait for a person at the end, with their edit: a
    withdrawal closes all of its event's, an edit all below it, in whatever order they come."""
    reach: dict[Event, float] = {}
    for item in items:
        said = item.verdict
        whose = (said.tenant, said.event_id)
        to = math.inf if said.basis is Basis.WITHDRAWN else said.edit
        reach[whose] = max(reach.get(whose, 0), to)
    return {
        (whose, item.verdict.edit)
        for item in items
        if item.kind is Kind.REVIEW
        and item.verdict.edit >= reach[whose := (item.verdict.tenant, item.verdict.event_id)]
    }


class Overtaken:
    """Events of which half are deleted and half are edited; their first text calls for a review,
    the edited one does not."""

    def __init__(self, name: str, count: int) -> None:
        self.ids = [f"{name}-{n}" for n in range(count)]

    def first(self) -> list[Pair]:
        return [event(each, f"old {each}") for each in self.ids]

    def after(self) -> list[Pair]:
        gone = [event(each, "", deleted=True) for each in self.ids[::2]]
        return gone + [event(each, f"new {each}", edit=1) for each in self.ids[1::2]]

    async def check(self, own: Fleetlet) -> int:
        """That the deletion or the edit stands. How many of the old verdicts came after it."""
        written = (await faults.written(own, topics.VERDICTS)).verdicts()
        verdicts = [each for each in written if each.event_id in self.ids]
        held = standing(verdicts)
        late = 0
        for each in self.ids[::2]:
            (stands,) = held["demo", each].values()
            assert (stands.basis, stands.safety, stands.action) == (Basis.WITHDRAWN, None, None)
        for each in self.ids[1::2]:
            (stands,) = held["demo", each].values()
            assert (stands.edit, stands.basis) == (1, Basis.GUARD)
        for each in self.ids:
            (*_, last) = (said for said in verdicts if said.event_id == each)
            late += last.edit == 0 and last.basis is not Basis.WITHDRAWN
        items = [
            msgspec.json.decode(record.value, type=Escalation)
            for record in (await faults.written(own, topics.REVIEW)).records
        ]
        told = {each.verdict.event_id for each in items if each.kind is Kind.CLOSE}
        # An edit that calls for a review itself closes what stood before it, and is open.
        told |= {each.verdict.event_id for each in items if each.verdict.edit == 1}
        assert set(self.ids) <= told, "nothing tells the reviewers"
        open_ = {event_id for (_, event_id), edit in still_open(items) if edit == 0}
        assert not open_ & set(self.ids)
        return late


def overtaking_guard() -> ToldGuard:
    guard = ToldGuard()
    guard.says = lambda text: CONTROVERSIAL if text.startswith("old") else SAFE
    return guard


ONE_ROW = {"QWARDEN_TRITON__ROWS_A_REQUEST": "1", "QWARDEN_TRITON__REQUESTS_IN_FLIGHT": "64"}


def test_the_consumers_rule_takes_the_last_that_comes() -> None:
    old, new = verdict("a"), verdict("b", edit=1)
    gone = withdrawal("c")
    key = (old.tenant, old.event_id)
    assert standing([new, old])[key] == {old.task: new}
    assert standing([gone, old, new])[key] == {None: gone}
    assert standing([old, new, gone])[key] == {None: gone}
    degraded = verdict("d", basis=Basis.DEGRADED)
    assert standing([old, degraded])[key] == {old.task: old}
    again = verdict("e")
    assert standing([old, again])[key] == {old.task: again}


async def test_a_relayed_event_comes_back_over_its_deletion_or_edit(
    own: Fleetlet, group: str
) -> None:
    guard = overtaking_guard()
    guard.keeps_back = lambda text: text.startswith("old")
    events = Overtaken(group, 20)
    async with (
        Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap,
        own.moderating(group, guard, **ONE_ROW),
    ):
        hour_ago = int((time.time() - 3600) * 1000)
        first = await faults.publish(own.kafka.bootstrap, events.first(), at_ms=hour_ago)
        after = await faults.publish(own.kafka.bootstrap, events.after())
        found = await fleet.outcomes(tap, after)
        assert not found.verdicts.keys() & set(first)
        guard.lets_go.set()
        await fleet.outcomes(tap, first)
    relayed = (await faults.written(own, topics.BACKLOG)).by_origin()
    assert {relayed[origin] for origin in first} == {1}
    assert await events.check(own) == 20, "nothing was overtaken"


async def test_a_replayed_event_comes_back_over_its_deletion_or_edit(
    own: Fleetlet, group: str
) -> None:
    guard = overtaking_guard()
    guard.crashes = lambda text: text.startswith("old")
    events = Overtaken(group, 4)
    async with (
        Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap,
        own.moderating(group, guard, **ONE_ROW) as one,
    ):
        first = await faults.publish(own.kafka.bootstrap, events.first())
        after = await faults.publish(own.kafka.bootstrap, events.after())
        found = await fleet.outcomes(tap, first + after)
        assert set(found.dead) == set(first) and one._interactive.held is None
        guard.crashes = lambda text: False
        letters = [
            Place(record.partition, record.offset)
            for record in (await faults.written(own, topics.DEAD_LETTERS)).records
            if fleet.origin_of(record) in first
        ]
        sent = [
            done
            async for done in acting.replay(
                own.settings(group).kafka, letters, by="test", rate=100, dry_run=False
            )
        ]
        assert len(sent) == 4 and not any(done.left for done in sent)

        async def judged() -> bool:
            verdicts = (await faults.written(own, topics.VERDICTS)).by_origin()
            return all(verdicts[origin] for origin in first)

        await fleet.until(judged, "the replayed ones are judged", 30)
    assert await events.check(own) == 4, "nothing was overtaken"


async def test_a_stopped_moderator_comes_back_over_a_deletion_or_an_edit(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with Kafka(home) as kafka:
        storm = Storm(kafka, home, 3, 2, "overtaken")
        # Each row alone, so that each is answered when it likes.
        storm.more = {"QWARDEN_TRITON__ROWS_A_REQUEST": "1"}
        await make_topics(storm, 4)
        one, two = storm.made()
        made = Fleetlet(kafka, home, tmp_path)
        events = Overtaken("overtaken", 60)
        async with Tap(kafka.bootstrap, *fleet.OUTPUTS) as tap:
            try:
                await one.start()
                await one.ready()
                first = await faults.publish(kafka.bootstrap, events.first())

                async def half() -> bool:
                    return await one.in_flight() > 20

                await fleet.until(half, "it has them in flight", 10)
                one.child.signal(signal.SIGSTOP)
                await two.start()
                await two.ready()
                after = await faults.publish(kafka.bootstrap, events.after())
                found = await fleet.outcomes(tap, first + after)
                one.child.signal(signal.SIGCONT)
                await one.ready()
                last = await faults.publish(kafka.bootstrap, [event("last", "the last one")])
                await fleet.outcomes(tap, last)
                assert not found.dead
            finally:
                one.child.signal(signal.SIGCONT)
                await asyncio.gather(*(_stopped(each) for each in (one, two)))
        late = await events.check(made)
        repeats = (await faults.written(made, topics.VERDICTS)).by_origin()
        twice = sum(repeats[origin] > 1 for origin in first)
        print(f"\n{twice} of 60 came twice, {late} of them after their deletion or edit")
        assert late, "nothing was overtaken"
        assert max(repeats.values()) <= 2
        report = await storm.verified()
        assert report.is_good and report.judged == 121


async def _stopped(member: Member) -> None:
    await asyncio.to_thread(member.child.stop, 40)
