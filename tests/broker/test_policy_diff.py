"""`qwarden policy diff` and `qwarden explain` on a real broker."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from commands import Shell
from qwarden import kafka as kafka_tools
from qwarden import settings as settings_module
from qwarden.contracts import headers, topics
from qwarden.contracts.escalation import Content, Escalation, Evidence, Kind, is_evidence
from qwarden.contracts.event import Message
from qwarden.contracts.refusal import Refused
from qwarden.contracts.verdict import Verdict, encode
from qwarden.offline.policy_diff.following import Shadow, follow
from qwarden.offline.policy_diff.topic import compare
from qwarden.outcomes.owing import owed_by_refusal
from qwarden.outcomes.source import Source
from qwarden.policy.diff import Comparison
from qwarden.policy.diff_report import Report
from qwarden.policy.sources import BUILT_IN
from qwarden.settings import Settings
from qwarden.stack.kafka import Kafka
from qwarden.stretch import stretch_of
from unit.builders import admission, verdict, withdrawal

SECRET = "nobody else may read this"
DEFAULT, STRICT = BUILT_IN["default"], BUILT_IN["strict"]
RATE = 0.25


@pytest.fixture(scope="module")
def own(own_kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The settings for the broker."""
    return {
        "QWARDEN_STACK__HOME": str(tmp_path_factory.mktemp("diff")),
        "QWARDEN_KAFKA__BOOTSTRAP_SERVERS": own_kafka.bootstrap,
    }


def settings_of(own: dict[str, str]) -> Settings:
    return settings_module.load({"QWARDEN_CONTENT_KEY": "00" * 32, **own})


@asynccontextmanager
async def a_fleet(own: dict[str, str]) -> AsyncIterator[AIOKafkaProducer]:
    await kafka_tools.create_topics(
        settings_of(own).kafka,
        partitions=2,
        replication_factor=1,
        min_insync_replicas=1,
        max_event_bytes=100_000,
    )
    bootstrap = own["QWARDEN_KAFKA__BOOTSTRAP_SERVERS"]
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer:
        yield producer


def judged(number: int, *, tenant: str = "demo") -> Verdict:
    """Of ten, seven are Safe, two Controversial and one Unsafe."""
    safety, action, rule = [
        *[("Safe", "allow", "otherwise")] * 7,
        *[("Controversial", "review", "controversial")] * 2,
        ("Unsafe", "block", "unsafe"),
    ][number % 10]
    scores = dict.fromkeys(("safe", "controversial", "unsafe"), 0.0) | {safety.lower(): 1.0}
    policy = {"name": DEFAULT.name, "version": DEFAULT.version, "serial": 0, "rule": rule}
    identity = hashlib.blake2b(f"{tenant} {number}".encode(), digest_size=16).hexdigest()
    body = {"event_id": f"e{number}", "safety": safety, "scores": scores, "action": action,
            "policy": policy, "tenant": tenant}  # fmt: skip
    return verdict(identity, **body)


async def give(producer: AIOKafkaProducer, said: Verdict, *, at: datetime | None = None) -> None:
    """A verdict, and its evidence where it is kept."""
    key = f"{said.tenant}/{said.event_id}".encode()
    time = None if at is None else int(at.timestamp() * 1000)
    origin = headers.origin("content.events", 0, 7)
    sent = [
        await producer.send(
            topics.VERDICTS, encode(said), key=key, headers=[origin], timestamp_ms=time
        )
    ]
    if is_evidence(said, RATE):
        content = Content(messages=[Message(role="user", content=SECRET)])
        sent.append(
            await producer.send(
                topics.EVIDENCE,
                encode(Evidence(verdict=said, content=content)),
                key=key,
                headers=[(headers.SAMPLE_RATE, str(RATE).encode())],
                timestamp_ms=time,
            )
        )
    await asyncio.gather(*sent)


async def report_of(own: dict[str, str], topic: str, since: datetime | None = None) -> Report:
    kafka = settings_of(own).kafka
    comparison, read = Comparison(DEFAULT, STRICT), list[int]()
    stretch = await stretch_of(kafka, topic, since)
    hours = await compare(kafka, stretch, comparison, step=read.append)
    assert sum(read) == stretch.total
    return comparison.report(hours=hours)


@pytest.fixture
def shell(own: dict[str, str], tmp_path: Path) -> Shell:
    return Shell(tmp_path, own)


async def test_the_sample_says_something_else_than_the_full_topic(own: dict[str, str]) -> None:
    day = datetime.now(UTC) - timedelta(days=1)
    async with a_fleet(own) as producer:
        await give(producer, withdrawal("f" * 32), at=day)
        await give(producer, judged(0), at=day)
        for number in range(500):
            await give(producer, judged(number), at=day + timedelta(seconds=36 * number))

    truth, estimate = await report_of(own, topics.VERDICTS), await report_of(own, topics.EVIDENCE)
    assert (truth.records.total, truth.repeated, truth.left) == (500, 1, {"withdrawn": 1})
    assert truth.changed.total == 100
    assert truth.hours == pytest.approx(4.99)
    assert truth.reviews.old_an_hour == pytest.approx(100 / 4.99)
    assert truth.reviews.new_an_hour == 0
    assert estimate.records.rows < 350
    assert estimate.records.low <= 500 <= estimate.records.high
    assert estimate.changed.low <= 100 <= estimate.changed.high
    flow = next(each for each in estimate.actions if (each.old, each.new) == ("review", "block"))
    assert (flow.records.total, flow.records.is_exact) == (100, True)

    half = await report_of(own, topics.VERDICTS, since=day + timedelta(seconds=36 * 250))
    assert half.records.total == 250
    nothing = await report_of(own, topics.VERDICTS, since=datetime.now(UTC))
    assert (nothing.records.total, nothing.hours) == (0, None)


async def test_the_shadow_misses_what_comes_or_hides_it_from_metrics(own: dict[str, str]) -> None:
    kafka = settings_of(own).kafka
    shadow = Shadow(DEFAULT, STRICT, examples=1)
    port = shadow.serve("127.0.0.1", 0)
    reports: list[Report] = []
    began, seen = asyncio.Event(), asyncio.Event()
    wanted = sys.maxsize

    def turn() -> None:
        reports.append(shadow.turn(seconds_a_decision=45, show=False))
        if shadow.since.records:
            began.set()
        if sum(each.records.rows for each in reports) >= wanted:
            seen.set()

    async with a_fleet(own) as producer, asyncio.timeout(60):
        following = asyncio.create_task(follow(kafka, shadow, every_s=0.2, turn=turn))
        number = 1000
        # It begins at the topic's end, and nobody says when it stands there.
        while not began.is_set():
            await give(producer, judged(number))
            number += 1
        wanted = shadow.since.records + 20
        for more in range(20):
            await give(producer, judged(9000 + more))
        await seen.wait()
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
    assert sum(each.changed.rows for each in reports) == shadow.since.changed
    url = f"http://127.0.0.1:{port}/metrics"
    text = (await asyncio.to_thread(lambda: urllib.request.urlopen(url).read())).decode()
    line = (
        f'qwarden_policy_shadow_verdicts_total{{new="block",old="review",policy="strict",'
        f'version="{STRICT.version}"}} {float(shadow.since.changed)}'
    )
    assert line in text


async def test_a_verdict_is_explained_without_what_belongs_to_it(
    own: dict[str, str], shell: Shell
) -> None:
    said = judged(3007, tenant="told")
    key = f"told/{said.event_id}".encode()
    content = Content(messages=[Message(role="user", content=SECRET)])
    escalation = Escalation(
        kind=Kind.REVIEW, verdict=said, content=content, queue="general", harm=3, sla_s=86400,
        meanwhile="hide", on_breach="raise",
    )  # fmt: skip
    broken = Source("content.events", 0, 7, 0, None, b"{", ())
    with pytest.raises(Refused) as refused:
        admission().admit(broken)
    (letter,) = owed_by_refusal(broken, refused.value, consumer="c@h", max_bytes=9000, volatile=[])
    async with a_fleet(own) as producer:
        for _ in range(2):
            await give(producer, said)
        await give(producer, judged(3007, tenant="another"))
        later = verdict("c" * 32, tenant="told", event_id=said.event_id, edit=1)
        await give(producer, later)
        await producer.send_and_wait(topics.REVIEW, encode(escalation), key=key)
        await producer.send_and_wait(letter.topic, letter.value, headers=list(letter.headers))

    explained = await shell.run("explain", said.verdict_id)
    assert explained.code == 0
    for words in (
        f"told/{said.event_id}", "review: basis guard", "2 times", "consumers keep cccccccc",
        "controversial", "█", "rule controversial", "from what is built in", "queue general",
        "within 86400 s", "of a later edit", "dead letter", "sample rate 0.25",
    ):  # fmt: skip
        assert words in explained.out, words
    assert SECRET not in explained.out
    found = (await shell.run("explain", said.verdict_id, "--json", "--show")).line
    assert found["verdict"]["verdict_id"] == said.verdict_id
    assert (found["copies"], found["stands"]) == (2, "c" * 32)
    assert [each["verdict"]["verdict_id"] for each in found["others"]] == ["c" * 32]
    assert found["rule"]["said"]["queue"] == "general"
    assert found["content"]["messages"][0]["content"] == SECRET
    assert len(found["dead_letters"]) == 1

    nothing = await shell.run("explain", "0" * 32)
    assert (nothing.code, "no verdict" in nothing.err) == (1, True)
    assert (await shell.run("explain", "3007")).code == 2


async def test_the_command_reads_a_topic_and_names_what_was_never_activated(
    own: dict[str, str], shell: Shell
) -> None:
    async with a_fleet(own) as producer:
        await give(producer, judged(1))
    diff = partial(shell.run, "policy", "diff")
    said = await diff("default", "strict", "--json", "--events", topics.EVIDENCE)
    assert said.code == 0, said.err
    assert said.line["new"]["version"] == STRICT.version
    said = await diff("forum@000000000000", "strict")
    assert (said.code, "was never activated" in said.err) == (2, True)
    said = await diff("forum", "strict")
    assert (said.code, "no policy 'forum' is in force" in said.err) == (2, True)


async def test_a_shadow_that_is_stopped_keeps_its_last_report(
    own: dict[str, str], shell: Shell
) -> None:
    async with a_fleet(own):
        pass
    words = ("policy", "diff", "default", "strict", "--follow", "--every", "1", "--json")
    with shell.begun(*words) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        said, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert json.loads(said)["new"]["version"] == STRICT.version
    assert "Traceback" not in told
