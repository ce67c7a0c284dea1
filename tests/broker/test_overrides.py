"""Overrides on a real broker: what a fleet under load may still do after a person has decided, and
what a review service that dies may hold up."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

import fleet
from commands import Shell
from fleet import Tap
from moderators import PARTITIONS, Fleetlet, Guard, holds, policies_in
from qwarden.contracts import topics
from qwarden.contracts.control import Override, freeze_key, override_key, written
from qwarden.contracts.keys import ContentKey
from qwarden.contracts.verdict import Verdict, decode_verdict, encode
from qwarden.control.kafka import KafkaControl
from qwarden.guard.answer import Answer
from qwarden.guard.conversation import Conversation, Task, Turn
from qwarden.settings import Kafka as KafkaSettings
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka
from unit.builders import UNSAFE, assessment, decision

KNOWN_S = 10.0
"""Within this everybody does what was decided, or stops what is automatic."""
RATE_A_SECOND = 100
DECIDED, OTHER = "Words that a person has read.", "Words that nobody has read."
DECISION = "5b0f6c3d9a4e4b7c8d1e2f3a4b5c6d7e"

DYING = """
import asyncio, sys
from aiokafka import AIOKafkaProducer

async def main(bootstrap, key, value):
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id="dying")
    await producer.start()
    await producer.begin_transaction()
    await producer.send_and_wait("moderation.control", key=key, value=value, partition=0)
    print("sent", flush=True)
    await asyncio.Event().wait()

asyncio.run(main(sys.argv[1], *(each.encode() for each in sys.argv[2:])))
"""
"""Begins a transaction on the control topic, and ends it never."""


class Unsafe(Guard):
    """Finds everything unsafe."""

    def _say(self, row: bytes) -> Answer:
        return assessment(UNSAFE, ("Violent", 0.9))


@pytest.fixture(scope="module")
def own(own_kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Fleetlet:
    home = Home(tmp_path_factory.mktemp("overrides"))
    files = {
        f"tenants/{name}.yaml": f"name: {name}\npolicies: [default]\nrelay: false\n"
        for name in ("forum", "other")
    }
    made = Fleetlet(own_kafka, home, policies_in(home.root, files))
    asyncio.run(made.make_topics())
    return made


@pytest.fixture
def shell(own: Fleetlet, tmp_path: Path) -> Shell:
    return Shell(tmp_path, {"QWARDEN_KAFKA__BOOTSTRAP_SERVERS": own.kafka.bootstrap})


def hash_of(own: Fleetlet, text: str) -> str:
    """As verdicts on this prompt have it."""
    keys: ContentKey = own.settings("none").keys()
    return keys.content_hash(Conversation(Task.PROMPT, (Turn("user", text),)).to_json()).hex()


def override(own: Fleetlet, action: str, text: str = DECIDED) -> Override:
    at = datetime.now(UTC)
    restricts = action != "allow"
    return Override(
        tenant="forum", content_hash=hash_of(own, text), action=action, categories=[],
        ground="terms" if restricts else None, clause="tone" if restricts else None,
        decision_id=DECISION, until=at + timedelta(days=30), at=at, by="r-7",
    )  # fmt: skip


@asynccontextmanager
async def control_of(kafka: KafkaSettings) -> AsyncIterator[KafkaControl]:
    control = KafkaControl(kafka)
    await control.start()
    try:
        yield control
    finally:
        await control.close()


@dataclass
class Load:
    """Of both tenants and texts, over all partitions, until the test has seen enough."""

    own: Fleetlet
    origins: list[str] = field(default_factory=list)

    async def run(self) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self.own.kafka.bootstrap, linger_ms=2)
        await producer.start()
        try:
            for number in range(10**6):
                event = {
                    "event_id": f"{id(self)}-{number}",
                    "tenant": ("forum", "other")[number % 2],
                    "text": (DECIDED, OTHER)[number // 2 % 2],
                }
                sent = await producer.send(
                    topics.CONTENT,
                    json.dumps(event).encode(),
                    partition=number // 4 % PARTITIONS,
                )
                done = await sent
                self.origins.append(f"{topics.CONTENT}/{done.partition}/{done.offset}")
                await asyncio.sleep(1 / RATE_A_SECOND)
        finally:
            await producer.stop()


@asynccontextmanager
async def two_moderators(own: Fleetlet, group: str) -> AsyncIterator[tuple[Tap, Load]]:
    """Each with half of the partitions, under load."""
    await own.at_the_end(group)
    async with (
        Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap,
        own.moderating(group, Unsafe()) as one,
        own.moderating(group, Unsafe()) as other,
    ):
        load = Load(own)
        sending = asyncio.create_task(load.run())
        try:
            await holds(
                lambda: all(
                    len(each._interactive._window.partitions) == 2 for each in (one, other)
                ),
                "each has two partitions",
            )
            yield tap, load
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)


def said_of(tap: Tap, text_hash: str, tenant: str = "forum") -> list[tuple[Verdict, float, str]]:
    """The tenant's verdicts on this content, when each was written, and its input partition."""
    return [
        (verdict, record.timestamp / 1000, fleet.origin_of(record).split("/")[1])
        for record in tap.records[topics.VERDICTS]
        if (verdict := decode_verdict(record.value)).tenant == tenant
        and verdict.content_hash == text_hash
    ]


async def everywhere(tap: Tap, text_hash: str, does: tuple[str, str], since: float) -> float:
    """Waits until each partition's last verdict on this content of the tenant has this basis and
    action. How long after `since` the last one was written that has not."""

    async def all_do() -> bool:
        await tap.read()
        last = {where: verdict for verdict, at, where in said_of(tap, text_hash) if at > since}
        return len(last) == PARTITIONS and all(
            (each.basis, each.action) == does for each in last.values()
        )

    await fleet.until(all_do, f"{does} everywhere", 60)
    # Whoever has come to it does not go back: all had a second more to do so.
    till = time.time() + 1
    await fleet.until(lambda: _is_past(tap, text_hash, till), "a second more", 60)
    others = [
        at for verdict, at, _ in said_of(tap, text_hash) if (verdict.basis, verdict.action) != does
    ]
    return max([0.0, *(at - since for at in others)])


async def _is_past(tap: Tap, text_hash: str, till: float) -> bool:
    await tap.read()
    return len({where for _, at, where in said_of(tap, text_hash) if at > till}) == PARTITIONS


async def test_a_fleet_does_what_a_person_has_decided_against(own: Fleetlet, group: str) -> None:
    """Two moderators under load, from the guard's word to a person's, another one's, and back."""
    ours = hash_of(own, DECIDED)
    kafka = own.settings(group).kafka
    async with two_moderators(own, group) as (tap, load), control_of(kafka) as control:
        await everywhere(tap, ours, ("guard", "block"), 0)
        for action in ("allow", "disclaim"):
            begun = time.time()
            await control.write(override(own, action))
            took = await everywhere(tap, ours, ("human", action), begun)
            print(f"a decision to {action} reached two moderators in {took:.3f} s")
            assert took < KNOWN_S
        begun = time.time()
        await control.withdraw(override_key("forum", ours))
        took = await everywhere(tap, ours, ("guard", "block"), begun)
        print(f"its end reached two moderators in {took:.3f} s")
        assert took < KNOWN_S
        human = [each for each, _, _ in said_of(tap, ours) if each.basis == "human"]
        assert {each.decision for each in human} == {DECISION}
        assert {each.safety for each in human} == {"Unsafe"}, "the guard was asked all the same"
        others = [*said_of(tap, ours, "other"), *said_of(tap, hash_of(own, OTHER))]
        assert {(each.basis.value, each.decision) for each, _, _ in others} == {("guard", None)}
        found = await fleet.outcomes(tap, load.origins)
        assert not found.contradictions
        assert not found.dead


async def test_a_review_service_that_dies_in_a_transaction_holds_up_a_freeze(
    own: Fleetlet, shell: Shell, group: str
) -> None:
    """Killed with an override on its way, while a person freezes the tenant by the command: within
    seconds nothing automatic blocks any more, and what a person has blocked stays blocked."""
    ours, others = hash_of(own, DECIDED), hash_of(own, OTHER)
    settings = own.settings(group)
    async with two_moderators(own, group) as (tap, load), control_of(settings.kafka) as control:
        await control.write(override(own, "block"))
        await everywhere(tap, ours, ("human", "block"), 0)
        unsent = override(own, "block", "Words of no event.")
        message = written(unsent)
        assert message.value is not None
        dying = await asyncio.create_subprocess_exec(
            sys.executable, "-c", DYING, own.kafka.bootstrap, message.key.decode(),
            message.value.decode(), stdout=subprocess.PIPE,
        )  # fmt: skip
        assert dying.stdout is not None
        assert await dying.stdout.readline() == b"sent\n"
        dying.send_signal(signal.SIGKILL)
        await dying.wait()

        begun = time.time()
        said = await shell.run("policy", "freeze", "forum", "--reason", "it blocks recipes")
        assert said.code == 0, said.err
        key = freeze_key("forum")
        await holds(lambda: key in control.policies().freezes, "the freeze is read")
        record = control.policies().freezes[key].record
        assert record is not None
        took = await everywhere(tap, others, ("guard", "review"), record.at.timestamp())
        print(f"a freeze reached two moderators in {took:.3f} s")
        assert took < KNOWN_S
        assert await is_open(own), "the transaction has ended, and this has shown nothing"
        blocked = [each for each, at, _ in said_of(tap, ours) if at > begun]
        assert {(each.basis.value, each.action) for each in blocked} == {("human", "block")}
        said = await shell.run("policy", "unfreeze", "forum")
        assert said.code == 0, said.err
        await control.withdraw(override_key("forum", ours))
        await everywhere(tap, ours, ("guard", "block"), time.time())
        found = await fleet.outcomes(tap, load.origins)
        assert not found.contradictions
        assert not found.dead


async def test_a_verdict_is_explained_without_the_decision_that_acted(
    own: Fleetlet, shell: Shell, group: str
) -> None:
    """It is on another event: only its id says that it is this one's."""
    acted = decision(DECISION, tenant="forum", event_id="elsewhere", reason="a quote")
    nobodys = decision("f" * 32, tenant="forum", event_id="elsewhere", reason="of another")
    async with (
        Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap,
        control_of(own.settings(group).kafka) as control,
        own.moderating(group, Unsafe()),
    ):
        await control.write(override(own, "allow"))
        event = {"event_id": "here", "tenant": "forum", "text": DECIDED}
        await fleet.publish(
            own.kafka.bootstrap, topics.CONTENT, [(None, json.dumps(event).encode())]
        )
        records = [(None, encode(each)) for each in (acted, nobodys)]
        await fleet.publish(own.kafka.bootstrap, topics.DECISIONS, records)

        async def is_said() -> bool:
            await tap.read()
            return bool(tap.records[topics.VERDICTS])

        await fleet.until(is_said, "the verdict")
        (verdict,) = (decode_verdict(each.value) for each in tap.records[topics.VERDICTS])
        assert (verdict.basis, verdict.action) == ("human", "allow")
        page = await shell.run("explain", verdict.verdict_id)
        assert page.code == 0, page.err
        for words in ("allow: basis human", f"the decision {DECISION} acts", "a quote", "Violent"):
            assert words in page.out, words
        assert "of another" not in page.out
        (found,) = (await shell.run("explain", verdict.verdict_id, "--json")).line["decisions"]
        assert found["said"] == msgspec.to_builtins(acted)
        await control.withdraw(override_key("forum", hash_of(own, DECIDED)))


async def is_open(own: Fleetlet) -> bool:
    """Whether a transaction on the control topic is: its committed records end before its end."""
    at = TopicPartition(topics.CONTROL, 0)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=own.kafka.bootstrap, isolation_level="read_committed"
    )
    await consumer.start()
    try:
        consumer.assign([at])
        await consumer.seek_to_beginning(at)
        await consumer.getmany(timeout_ms=5000)
        stable, end = consumer.last_stable_offset(at), consumer.highwater(at)
        assert stable is not None
        assert end is not None
        return bool(stable < end)
    finally:
        await consumer.stop()
