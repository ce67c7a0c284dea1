"""`qwarden verify` on a real broker: topics in order, then with one planted fault of each kind."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

import fleet
from commands import Said, Shell
from qwarden import kafka as kafka_tools
from qwarden import settings as settings_module
from qwarden.contracts import headers, topics
from qwarden.contracts.dead_letter import Mark
from qwarden.contracts.headers import Header
from qwarden.contracts.refusal import Refused
from qwarden.contracts.verdict import Verdict, encode
from qwarden.delivery.owed import Message, Owed
from qwarden.moderator import verdicts
from qwarden.moderator.case import Case
from qwarden.outcomes.owing import owed_by_refusal, owed_by_relay, owed_by_verdict
from qwarden.outcomes.source import Source
from qwarden.policy.tenants import Tenants
from qwarden.policy.topics import read_topics
from qwarden.settings import Settings
from qwarden.stack.kafka import Kafka
from qwarden.verify.reader import Scope, opened
from qwarden.verify.report import Report
from unit.builders import (
    CONTROVERSIAL,
    KEY,
    SAFE,
    THOUGHT,
    admission,
    assessment,
    event,
)

GROUP = "verified"
CHAT = """\
name: chat
tenant: demo
mapping:
  event_id: id
  messages: "turns[].{role: who, content: said, reasoning: thought}"
"""
DOOR = replace(admission(), topics=dict(read_topics({"chat": CHAT}, Tenants({}, strict=False))))
SECRET = "nobody else may read this"


@pytest.fixture(scope="module")
def own(own_kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The settings for the broker."""
    return {
        "QWARDEN_STACK__HOME": str(tmp_path_factory.mktemp("verify")),
        "QWARDEN_KAFKA__BOOTSTRAP_SERVERS": own_kafka.bootstrap,
        "QWARDEN_KAFKA__GROUP_ID": GROUP,
    }


def settings_of(own: dict[str, str]) -> Settings:
    return settings_module.load({"QWARDEN_CONTENT_KEY": "00" * 32, **own})


@dataclass
class Line:
    """A fleet by hand: what it reads and what it publishes, one at a time and in order."""

    bootstrap: str
    producer: AIOKafkaProducer

    async def take(
        self,
        value: bytes | None,
        *more: Header,
        key: bytes = b"k",
        at: datetime | None = None,
        topic: str = topics.CONTENT,
    ) -> Source:
        """Publishes one record for the fleet, to the first partition."""
        time = None if at is None else int(at.timestamp() * 1000)
        sent = await self.producer.send_and_wait(
            topic, value, key=key, partition=0, timestamp_ms=time, headers=list(more)
        )
        return Source(sent.topic, sent.partition, sent.offset, sent.timestamp, key, value, ())

    async def give(self, *owed: Message) -> None:
        for each in owed:
            await self.producer.send_and_wait(
                each.topic, each.value, key=each.key, headers=list(each.headers)
            )

    async def relay(self, source: Source, *more: Header) -> int:
        (message,) = owed_by_relay(source)
        sent = await self.producer.send_and_wait(
            message.topic,
            message.value,
            key=message.key,
            headers=[*message.headers, *more],
            partition=0,
        )
        offset: int = sent.offset
        return offset

    async def commit(self, group: str, topic: str, offset: int) -> None:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap, group_id=group, enable_auto_commit=False
        )
        await consumer.start()
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        await consumer.commit({partition: offset})
        await consumer.stop()

    async def commit_all(self) -> None:
        for group, topic in ((GROUP, topics.CONTENT), (f"{GROUP}-backlog", topics.BACKLOG)):
            ends = await fleet.ends_of(self.bootstrap, topic)
            await self.commit(group, topic, ends[TopicPartition(topic, 0)])


@asynccontextmanager
async def a_line(own: dict[str, str]) -> AsyncIterator[Line]:
    bootstrap = own["QWARDEN_KAFKA__BOOTSTRAP_SERVERS"]
    await kafka_tools.create_topics(
        settings_of(own).kafka,
        partitions=2,
        replication_factor=1,
        min_insync_replicas=1,
        max_event_bytes=100_000,
    )
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer:
        yield Line(bootstrap, producer)


def case(source: Source) -> Case:
    return DOOR.admit(source)


def judged(source: Source, *logits: Any) -> tuple[Verdict, ...]:
    answers = [assessment(each) for each in logits or (SAFE,)]
    return verdicts.judged(case(source), answers, KEY.id)


def owed(source: Source, said: tuple[Verdict, ...], sample_rate: float = 0.0) -> Owed:
    return tuple(
        message
        for verdict in said
        for message in owed_by_verdict(
            source,
            verdict,
            case(source).content,
            policy=case(source).policy,
            sample_rate=sample_rate,
            volatile=[],
        )
    )


def letter(source: Source) -> Owed:
    with pytest.raises(Refused) as refused:
        case(source)
    return owed_by_refusal(source, refused.value, consumer="c@h", max_bytes=9000, volatile=[])


def mark() -> Message:
    body = Mark(partition=0, offset=0, what="dropped", at=datetime.now(UTC), by="me")
    about = headers.cloud_event("dead-letter-mark", "0/0", by=headers.CLI)
    return Message(topics.DEAD_LETTERS, None, encode(body), about)


Verify = Callable[..., Awaitable[Said]]


@pytest.fixture
def shell(own: dict[str, str], tmp_path: Path) -> Shell:
    return Shell(tmp_path, own)


@pytest.fixture
def verify(shell: Shell) -> Verify:
    """Runs `qwarden verify …`."""
    return partial(shell.run, "verify")


async def verified(
    own: dict[str, str], *, to_end: bool = False, since: datetime | None = None
) -> Report:
    settings = settings_of(own)
    async with opened(settings.kafka, Scope(to_end, since, 100_000)) as reader:
        read: list[int] = []
        report = await reader.report(read.append, examples=5)
        assert sum(read) == reader.total
    return report


def findings(report: Report) -> dict[str, int]:
    return {finding.value: count for finding, count in report.found.items() if count}


async def a_sound_day(line: Line) -> None:
    """Every kind of outcome that a fleet has, each whole."""
    allowed = await line.take(event(event_id="allowed"))
    await line.give(*owed(allowed, judged(allowed), sample_rate=1.0))
    review = await line.take(event(event_id="review", text=SECRET))
    await line.give(*owed(review, judged(review, CONTROVERSIAL)))
    edited = await line.take(event(event_id="edited", edit=2))
    await line.give(*owed(edited, judged(edited)))
    thought = await line.take(event(event_id="thought", text=..., messages=THOUGHT))
    await line.give(*owed(thought, judged(thought, SAFE, CONTROVERSIAL)))
    gone = await line.take(event(event_id="gone", deleted=True))
    await line.give(*owed(gone, verdicts.withdrawn(case(gone), KEY.id)))
    broken = await line.take(b"{")
    await line.give(*letter(broken), mark())
    # A producer's own repeat: the same id, for another record.
    for _ in range(2):
        repeated = await line.take(event(event_id="repeated"))
        await line.give(*owed(repeated, judged(repeated)))
    # Believed, it would be the first record once more.
    forged = await line.take(event(event_id="forged"), (headers.ORIGIN, b"content.events/0/0"))
    await line.give(*owed(forged, judged(forged)))
    relayed = await line.take(event(event_id="relayed"), key=b"r")
    later = await line.take(event(event_id="later"), key=b"r")
    await line.give(*owed(later, judged(later)))
    await line.relay(relayed)
    await line.give(*owed(relayed, judged(relayed)))
    await line.relay(broken, (headers.REPLAY, b"moderation.dead-letters/0/0"))
    await line.give(*letter(broken))


async def test_a_topic_that_is_not_there_is_called_empty(verify: Verify) -> None:
    said = await verify()
    assert said.code == 3
    assert "there is no topic" in said.err
    assert "qwarden topics create" in said.err


async def test_what_a_fleet_lost_is_not_found(own: dict[str, str], verify: Verify) -> None:
    async with a_line(own) as line:
        found = await verified(own)
        assert (found.judged, found.notes) == (0, ()), "topics without a record"

        await a_sound_day(line)
        found = await verified(own)
        assert (found.judged, findings(found)) == (0, {})
        assert [note for note in found.notes if "has committed nothing" in note]
        assert sum(row.ahead for row in found.rows) == 11
        found = await verified(own, to_end=True)
        assert (found.judged, findings(found), found.unmatched, found.notes) == (11, {}, 0, ())
        await line.commit_all()
        found = await verified(own)
        assert (found.judged, findings(found)) == (11, {})

        # What a crash leaves behind.
        twice = await line.take(event(event_id="twice"))
        await line.give(*owed(twice, judged(twice)), *owed(twice, judged(twice)))
        revised = await line.take(event(event_id="revised"))
        other = (msgspec.structs.replace(judged(revised)[0], verdict_id="f" * 32),)
        await line.give(*owed(revised, judged(revised)), *owed(revised, other))
        await line.commit_all()
        said = await verify("--json")
        report = said.line
        assert (said.code, report["ok"], report["judged"]) == (0, True, 13)
        assert {name: count for name, count in report["found"].items() if count} == {
            "duplicated": 1,
            "revised": 1,
        }

        planted = await plant(line)
        await line.take(event(event_id="waits"), key=b"w")
        said = await verify("--json")
        report = said.line
        assert said.code == 1
        assert report["found"] == {
            "no_verdict": 2, "no_escalation": 1, "no_evidence": 1, "disordered": 1, "different": 1,
            "duplicated": 1, "revised": 1,
        }  # fmt: skip
        assert planted == {
            (each["finding"], each["origin"])
            for each in report["examples"]
            if each["finding"] not in ("duplicated", "revised")
        }
        assert SECRET not in said.out + said.err
        found = await verified(own, to_end=True)
        assert findings(found)["no_verdict"] == 3, "and the one that waits"

        said = await verify()
        assert said.code == 1
        assert "no verdict: 2; no escalation: 1; no evidence: 1" in said.out
        for finding, origin in planted:
            assert origin in said.out, finding
        assert SECRET not in said.out + said.err


async def plant(line: Line) -> set[tuple[str, str]]:
    """One fault of each kind, and for the verdicts one in each lane."""
    planted = set()

    async def fault(finding: str, *, key: bytes, **fields: Any) -> Source:
        source = await line.take(event(event_id=finding, **fields), key=key)
        planted.add((finding, f"{source.topic}/{source.partition}/{source.offset}"))
        return source

    await fault("no_verdict", key=b"1", text=SECRET)
    lost = await fault("no_verdict", key=b"2")
    await line.relay(lost)
    for finding, topic in (("no_escalation", topics.REVIEW), ("no_evidence", topics.EVIDENCE)):
        source = await fault(finding, key=topic.encode())
        whole = owed(source, judged(source, CONTROVERSIAL))
        await line.give(*(message for message in whole if message.topic != topic))
    late = await line.take(event(event_id="late"), key=b"3")
    early = await fault("disordered", key=b"3")
    await line.give(*owed(early, judged(early)), *owed(late, judged(late)))
    source = await fault("different", key=b"4")
    said = judged(source, CONTROVERSIAL)
    verdict, escalation, evidence = owed(source, said)
    changed = (msgspec.structs.replace(said[0], categories=["PII"]),)
    await line.give(verdict, escalation, owed(source, changed)[2])
    assert evidence.topic == topics.EVIDENCE
    await line.commit_all()
    return planted


async def test_what_lies_before_a_time_is_judged_after_it(
    own: dict[str, str], verify: Verify
) -> None:
    async with a_line(own) as line:
        since = datetime.now(UTC)
        await line.take(event(event_id="lost"), at=since - timedelta(days=3))
        fresh = await line.take(event(event_id="fresh"))
        await line.give(*owed(fresh, judged(fresh)))
        found = await verified(own, to_end=True, since=since)
        (row,) = [row for row in found.rows if row.judged]
        assert (row.topic, row.judged, findings(found)) == (topics.CONTENT, 1, {})
        assert findings(await verified(own, to_end=True))["no_verdict"] >= 1
        said = await verify("--since", "2026-03-01T12:00")
        assert (said.code, "has no time zone" in said.err) == (2, True)


async def test_a_record_of_somebody_else_s_topic_is_lost_unseen(
    own: dict[str, str], shell: Shell, tmp_path: Path
) -> None:
    (tmp_path / "topics").mkdir()
    (tmp_path / "topics" / "chat.yaml").write_text(CHAT)
    verify = partial(shell.under(QWARDEN_POLICY__PATH=str(tmp_path)).run, "verify")

    async def of_chat() -> tuple[int, int, int]:
        """Events judged, tasks without a verdict, outcomes whose records were not read."""
        report = (await verify("--json")).line
        rows = [row for row in report["rows"] if row["topic"] == "chat"]
        judged = sum(row["judged"] for row in rows)
        return judged, sum(row["found"]["no_verdict"] for row in rows), report["unmatched"]

    async with a_line(own) as line:
        said = await verify()
        assert said.code == 2
        assert ("topics/chat.yaml" in said.err, "topics create" in said.err) == (True, False)
        await fleet.make_topic(line.bootstrap, "chat", 2)
        turns = [
            {"who": "user", "said": "How do I bake bread?"},
            {"who": "assistant", "said": "Mix flour and water.", "thought": "They want bread."},
        ]
        fresh, late = [
            await line.take(json.dumps({"id": n, "turns": turns}).encode(), topic="chat")
            for n in range(2)
        ]
        await line.give(*owed(fresh, judged(fresh, SAFE, SAFE)))
        await line.relay(late)
        response, thinking = judged(late, SAFE, SAFE)
        await line.give(*owed(late, (response,)))
        assert await of_chat() == (0, 0, 0), "nobody has committed anything of it"
        await line.commit(f"{GROUP}-chat", "chat", 2)
        await line.commit_all()
        assert await of_chat() == (2, 1, 0), (
            "of the one that was relayed half an outcome is missing"
        )
        await line.give(*owed(late, (thinking,)))
        assert await of_chat() == (2, 0, 0)
        assert (await verified(own)).unmatched == 1, "who does not name the topic is told"
