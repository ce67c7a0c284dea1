"""`qwarden dlq` on a real broker: what a person's command may lose, double, or send otherwise."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from commands import Said, Shell
from qwarden import kafka as kafka_tools
from qwarden.contracts import topics
from qwarden.contracts.control import Halt, loss_key
from qwarden.contracts.refusal import ErrorClass, Refused
from qwarden.control.kafka import KafkaControl
from qwarden.outcomes.owing import owed_by_refusal
from qwarden.outcomes.source import Source
from qwarden.settings import Kafka as KafkaSettings
from qwarden.stack.kafka import Kafka

T = TypeVar("T")
Headers = tuple[tuple[str, bytes | None], ...]

PARTITIONS = 3
MAX_BYTES = 900_000


@dataclass(frozen=True)
class Sent:
    """A record of a producer's, and the letter that it became."""

    source: Source
    letter: str


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


@pytest.fixture(scope="module")
def broker(own_kafka: Kafka) -> KafkaSettings:
    """The topics have their real names."""
    settings = KafkaSettings(bootstrap_servers=own_kafka.bootstrap)
    run(
        kafka_tools.create_topics(
            settings,
            partitions=PARTITIONS,
            replication_factor=1,
            min_insync_replicas=1,
            max_event_bytes=MAX_BYTES,
        )
    )
    return settings


@pytest.fixture
def small_backlog(broker: KafkaSettings) -> Iterator[None]:
    """The backlog of a fleet from before: without room for an origin beside the largest record."""

    async def takes(most: int) -> None:
        async with kafka_tools.admin(broker) as admin:
            configs = {"max.message.bytes": str(most)}
            await admin.alter_configs(
                [ConfigResource(ConfigResourceType.TOPIC, topics.BACKLOG, configs)]
            )

    run(takes(MAX_BYTES + topics.CONTENT_OVERHEAD_BYTES))
    yield
    run(takes(MAX_BYTES + 2 * topics.CONTENT_OVERHEAD_BYTES))


@pytest.fixture
def tenant() -> str:
    """Each test's letters are told apart by their tenant."""
    return f"t-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def shell(broker: KafkaSettings, tmp_path: Path) -> Shell:
    return Shell(tmp_path, {"QWARDEN_KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap_servers})


Dlq = Callable[..., Said]


@pytest.fixture
def dlq(shell: Shell) -> Dlq:
    """Runs `qwarden dlq …`."""
    return partial(shell, "dlq")


async def publish(
    broker: KafkaSettings, topic: str, key: bytes | None, value: bytes | None, headers: Headers
) -> ConsumerRecord:
    producer = AIOKafkaProducer(
        bootstrap_servers=broker.bootstrap_servers, max_request_size=2_000_000
    )
    await producer.start()
    try:
        return await producer.send_and_wait(topic, key=key, value=value, headers=list(headers))
    finally:
        await producer.stop()


def refuse(
    broker: KafkaSettings,
    tenant: str,
    value: bytes | None = b"{",
    *,
    key: bytes | None = b"k",
    headers: Headers = (),
    error_class: ErrorClass = ErrorClass.NOT_JSON,
    max_bytes: int = MAX_BYTES,
) -> Sent:
    """A record on content.events, and its letter as the moderator writes it."""
    at = run(publish(broker, topics.CONTENT, key, value, headers))
    source = Source(
        at.topic, at.partition, at.offset, at.timestamp, key, value, headers  # type: ignore[arg-type]
    )  # fmt: skip
    refused = Refused(error_class, "it is broken; mend it", event_id="e", tenant=tenant)
    (owed,) = owed_by_refusal(source, refused, consumer="g@h", max_bytes=max_bytes, volatile=[])
    letter = run(publish(broker, owed.topic, owed.key, owed.value, tuple(owed.headers)))
    return Sent(source, f"{letter.partition}/{letter.offset}")


async def read(broker: KafkaSettings, topic: str) -> list[ConsumerRecord]:
    async with kafka_tools.reading(broker, topic, from_beginning=True, follow=False) as records:
        return [record async for record in records]


def replays_of(broker: KafkaSettings, letters: Sequence[str]) -> dict[str, list[ConsumerRecord]]:
    """What stands on the backlog, by the letter that it names."""
    found: dict[str, list[ConsumerRecord]] = {letter: [] for letter in letters}
    for record in run(read(broker, topics.BACKLOG)):
        named = dict(record.headers)["qw-replay"].decode().removeprefix(f"{topics.DEAD_LETTERS}/")
        if named in found:
            found[named].append(record)
    return found


ODD: list[tuple[bytes | None, bytes | None, Headers]] = [
    (b"k", b"{", (("ce_id", b"e"), ("traceparent", b"00-1-2-01"))),
    (b"\xff\x00", b"\xfe broken", (("h", None), ("h", b"\x80"), ("", b""))),
    (b"k", None, ()),
    (None, b"{", ()),
    (b"", b"", (("a", b""),)),
    ("ключ".encode(), '{"text": "Grüße \u2028"}'.encode(), (("b", "ü".encode()),)),
    (b"\\xff", b"\\ud800", (("x", b"\\x80"),)),
]


def test_a_replay_is_not_what_the_producer_sent(
    broker: KafkaSettings, dlq: Dlq, tenant: str
) -> None:
    sent = [refuse(broker, tenant, value, key=key, headers=more) for key, value, more in ODD]
    said = dlq("replay", "--tenant", tenant)
    assert (said.code, said.err.strip()) == (0, f"{len(ODD)} letters replayed, 0 left")
    found = replays_of(broker, [each.letter for each in sent])
    for each in sent:
        source = each.source
        (record,) = found[each.letter]
        assert (record.key, record.value) == (source.key, source.value)
        assert record.headers == (
            *source.headers,
            ("qw-origin", f"{source.topic}/{source.partition}/{source.offset}".encode()),
            ("qw-replay", f"moderation.dead-letters/{each.letter}".encode()),
        )


def test_a_replayed_letter_stays_open_or_is_sent_twice(
    broker: KafkaSettings, dlq: Dlq, tenant: str
) -> None:
    sent = [refuse(broker, tenant) for _ in range(3)]
    first, *others = [each.letter for each in sent]
    said = dlq("replay", first, "--json")
    assert said.code == 0
    (line,) = said.lines
    (replayed,) = replays_of(broker, [first])[first]
    assert (line["letter"], line["replayed"]) == (first, True)
    assert line["sent_to"] == {
        "topic": topics.BACKLOG, "partition": replayed.partition, "offset": replayed.offset,
        "timestamp": replayed.timestamp,
    }  # fmt: skip
    listed = dlq("ls", "--tenant", tenant, "--json")
    assert sorted(each["letter"] for each in listed.lines) == sorted(others)

    again = dlq("replay", first)
    assert again.code == 1
    assert f"the letter {first} was replayed by " in again.err
    assert dlq("replay", "--tenant", tenant).code == 0
    assert [len(each) for each in replays_of(broker, [first, *others]).values()] == [1, 1, 1]
    assert "No dead letter is open" in dlq("ls", "--tenant", tenant).err


def test_a_truncated_letter_is_sent_cut(broker: KafkaSettings, dlq: Dlq, tenant: str) -> None:
    value = b"x" * 50_000
    sent = refuse(broker, tenant, value, headers=(("h", b"\xff" * 20_000),), max_bytes=1000)
    assert dlq("ls", "--tenant", tenant, "--json").lines[0]["truncated"]
    assert dlq("replay", "--tenant", tenant).code == 0
    (record,) = replays_of(broker, [sent.letter])[sent.letter]
    assert (record.key, record.value) == (b"k", value)
    assert record.headers[:1] == (("h", b"\xff" * 20_000),)


def test_a_truncated_letter_whose_origin_is_gone_is_sent_cut_or_lost(
    broker: KafkaSettings, dlq: Dlq, tenant: str
) -> None:
    whole = refuse(broker, tenant, b"{}")
    cut = refuse(broker, tenant, b"x" * 5000, max_bytes=1000)
    refuse(broker, f"{tenant}-other", b"x" * 5000)  # the same content, behind it
    at = TopicPartition(cut.source.topic, cut.source.partition)

    async def delete() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
        await admin.start()
        try:
            await admin.delete_records({at: RecordsToDelete(before_offset=cut.source.offset + 1)})
        finally:
            await admin.close()

    run(delete())
    said = dlq("replay", "--tenant", tenant)
    assert said.code == 1
    where = f"{at.topic}/{at.partition}/{cut.source.offset}"
    assert f"{cut.letter} is left: the letter does not hold all of its record" in said.err
    assert f"{where} is not there any more" in said.err
    assert "1 letters replayed, 1 left" in said.err
    found = replays_of(broker, [whole.letter, cut.letter])
    assert [len(each) for each in found.values()] == [1, 0]
    assert [each["letter"] for each in dlq("ls", "--tenant", tenant, "--json").lines] == [
        cut.letter
    ]


@pytest.mark.usefixtures("small_backlog")
def test_a_record_that_the_backlog_does_not_take_ends_the_replay(
    broker: KafkaSettings, dlq: Dlq, tenant: str
) -> None:
    """With what is added it is larger than its own topic took it."""
    large = refuse(broker, tenant, b"x" * (MAX_BYTES + 64 * 1024 - 80), key=None)
    small = refuse(broker, tenant)
    said = dlq("replay", "--tenant", tenant)
    assert said.code == 1
    assert f"{large.letter} is left: the record has" in said.err
    assert "max.message.bytes" in said.err
    assert [len(each) for each in replays_of(broker, [large.letter, small.letter]).values()] == [
        0, 1,
    ]  # fmt: skip


def test_a_dropped_letter_stays_open_or_is_sent(
    broker: KafkaSettings, dlq: Dlq, tenant: str
) -> None:
    crashed = refuse(broker, tenant, error_class=ErrorClass.CRASHED)
    other = refuse(broker, tenant)
    said = dlq("drop", "--tenant", tenant, "--error-class", "crashed")
    assert (said.code, said.err.strip()) == (0, "1 letters dropped, 0 left")
    listed = dlq("ls", "--tenant", tenant, "--json").lines
    assert [each["letter"] for each in listed] == [other.letter]
    assert replays_of(broker, [crashed.letter])[crashed.letter] == []
    assert "was dropped by" in dlq("replay", crashed.letter).err


@pytest.mark.parametrize("command", ["replay", "drop"])
def test_a_dry_run_changes_something(
    broker: KafkaSettings, dlq: Dlq, tenant: str, command: str
) -> None:
    sent = refuse(broker, tenant)
    before = len(run(read(broker, topics.DEAD_LETTERS)))
    said = dlq(command, sent.letter, "--dry-run")
    assert said.code == 0
    assert sent.letter in said.out
    assert f"1 letters would be {'replayed' if command == 'replay' else 'dropped'}" in said.err
    assert len(run(read(broker, topics.DEAD_LETTERS))) == before
    assert replays_of(broker, [sent.letter])[sent.letter] == []


@pytest.mark.usefixtures("small_backlog")
def test_a_dry_run_promises_what_the_run_leaves(
    broker: KafkaSettings, dlq: Dlq, tenant: str
) -> None:
    refuse(broker, tenant, b"x" * (MAX_BYTES + 64 * 1024 - 80), key=None)
    said = dlq("replay", "--tenant", tenant, "--dry-run")
    assert (said.code, "0 letters would be replayed, 1 left" in said.err) == (1, True)


def test_a_killed_replay_loses_or_repeats_more_than_it_had_not_marked(
    broker: KafkaSettings, shell: Shell, dlq: Dlq, tenant: str
) -> None:
    letters = [refuse(broker, tenant).letter for _ in range(30)]
    words = ["replay", "--tenant", tenant, "--rate", "20", "--json"]
    with shell.begun("dlq", *words) as process:
        assert process.stdout is not None
        told = [json.loads(process.stdout.readline()) for _ in range(7)]
        process.kill()
        told += [json.loads(line) for line in process.stdout if line.endswith("}\n")]
    left = {each["letter"] for each in dlq("ls", "--tenant", tenant, "--json").lines}
    assert left, "the run was over before it was killed"
    assert not left & {each["letter"] for each in told}, "told as done, and still open"
    said = dlq("replay", "--tenant", tenant, "--rate", "1000")
    assert (said.code, said.err.strip()) == (0, f"{len(left)} letters replayed, 0 left")
    counts = [len(each) for each in replays_of(broker, letters).values()]
    assert min(counts) == 1
    assert sum(counts) - len(letters) <= 2, "a tenth of a second's letters"


def test_a_replay_is_faster_than_was_asked(broker: KafkaSettings, dlq: Dlq, tenant: str) -> None:
    letters = [refuse(broker, tenant).letter for _ in range(12)]
    started = time.monotonic()
    assert dlq("replay", *letters, "--rate", "10").code == 0
    assert time.monotonic() - started > 1.0
    times = sorted(r.timestamp for each in replays_of(broker, letters).values() for r in each)
    assert times[-1] - times[0] >= 1000


def test_a_list_shows_content_or_other_letters_than_were_asked_for(
    broker: KafkaSettings, dlq: Dlq, tenant: str
) -> None:
    secret = refuse(broker, tenant, b'{"text": "secret words"')
    refuse(broker, f"{tenant}-other")
    said = dlq("ls", "--tenant", tenant)
    assert said.code == 0
    assert secret.letter in said.out
    assert f"{tenant}/e" in said.out
    assert "it is broken; mend it" in said.out
    assert len(said.out.splitlines()) == 1
    assert said.err.strip() == "1 open: 1 not_json"
    (listed,) = dlq("ls", "--tenant", tenant, "--json").lines
    assert listed["origin"]["offset"] == secret.source.offset
    assert "secret" not in said.out + json.dumps(listed)
    assert dlq("ls", "--tenant", tenant, "--since", "1h", "--json").lines == [listed]
    assert not dlq("ls", "--tenant", tenant, "--until", "1h").out


def test_a_letter_is_shown_without_its_content_or_its_mark(
    broker: KafkaSettings, dlq: Dlq, tenant: str
) -> None:
    sent = refuse(broker, tenant, b'{"text": "\x1b[2J words"')
    said = dlq("show", sent.letter)
    assert said.code == 0
    for words in (sent.letter, "not_json", "it is broken; mend it", "\\u001b[2J words", "g@h"):
        assert words in said.out
    assert "\x1b" not in said.out
    assert dlq("drop", sent.letter).code == 0
    assert f"the letter {sent.letter} was dropped by " in dlq("show", sent.letter).out
    (line,) = dlq("show", sent.letter, "--json").lines
    assert line["mark"]["what"] == "dropped"
    assert line["dead_letter"]["content"]["value"] == '{"text": "\x1b[2J words"'


def test_a_mark_is_shown_as_a_letter(broker: KafkaSettings, dlq: Dlq, tenant: str) -> None:
    sent = refuse(broker, tenant)
    dlq("drop", sent.letter)
    partition, offset = sent.letter.split("/")
    assert dlq("show", f"{partition}/{int(offset) + 1}").code == 1


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["replay"], 2, "which letters? Name them, filter them, or say --all"),
        (["drop"], 2, "which letters? Name them, filter them, or say --all"),
        (["drop", "17"], 2, "'17' names no letter"),
        (["ls", "--since", "soon"], 2, "'soon' is no time"),
        (["ls", "--error-class", "odd"], 2, "there is no error class 'odd'; known: too_large,"),
        (["show", "0/999999"], 1, "there is no dead letter 0/999999"),
        (
            ["show", "99/0"],
            2,
            "moderation.dead-letters has no partition 99; it has those from 0 to",
        ),
        (["replay", "99/0"], 1, "there is no open letter 99/0"),
        (["accept-loss", "content.events"], 2, "names no partition; name it as TOPIC/PARTITION"),
        (["accept-loss", "content.events/99"], 2, "content.events has no partition 99"),
        (["accept-loss", "content.nothing/0"], 3, "`qwarden topics create` makes the topics"),
        (["accept-loss", "content.events/0"], 1, "nothing of content.events/0 is lost"),
    ],
)
def test_a_wrong_use_is_not_told_its_fix(
    dlq: Dlq, words: list[str], code: int, sentence: str
) -> None:
    said = dlq(*words)
    assert (said.code, sentence in said.err) == (code, True), said.err
    assert len(said.err.strip().splitlines()) <= 2


@pytest.mark.parametrize(
    "words", [["ls"], ["show", "0/0"], ["replay", "--all"], ["resume"], ["accept-loss", "a/0"]]
)
def test_a_broker_that_is_away_is_waited_for(shell: Shell, words: list[str]) -> None:
    said = shell.under(QWARDEN_KAFKA__BOOTSTRAP_SERVERS="127.0.0.1:1")("dlq", *words)
    assert said.code == 3
    assert "QWARDEN_KAFKA__BOOTSTRAP_SERVERS" in said.err


# Halts and losses.


async def in_force(broker: KafkaSettings) -> KafkaControl:
    """The table as it stands now."""
    control = KafkaControl(broker, wait=False)
    await control.start()
    await control.close()
    return control


def test_a_halt_is_withdrawn_unseen_or_not_at_all(broker: KafkaSettings, dlq: Dlq) -> None:
    halt = Halt(reason="five contents crashed the guard", at=datetime.now(UTC), by="g@h")

    async def write() -> None:
        control = KafkaControl(broker, wait=False)
        await control.start()
        await control.write(halt)
        await control.close()

    run(write())
    seen = dlq("resume", "--dry-run")
    assert (seen.code, "g@h: five contents crashed the guard" in seen.out) == (0, True)
    assert run(in_force(broker)).halts()
    said = dlq("resume", "--json")
    assert (said.code, [line["reason"] for line in said.lines]) == (0, [halt.reason])
    assert not run(in_force(broker)).halts()
    again = dlq("resume")
    assert (again.code, again.err.strip()) == (0, "No halt is in force.")


@pytest.mark.parametrize("where", ["below the beginning", "beyond the end"])
def test_a_loss_is_accepted_that_is_none_or_another(
    broker: KafkaSettings, dlq: Dlq, where: str
) -> None:
    lost = TopicPartition(topics.CONTENT, 1)
    group = f"g-{uuid.uuid4().hex[:8]}"

    async def lose() -> tuple[int, int]:
        for _ in range(6):
            await publish(broker, topics.CONTENT, None, b"{", ())
        setter = AIOKafkaConsumer(
            bootstrap_servers=broker.bootstrap_servers, group_id=group, enable_auto_commit=False
        )
        admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
        producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap_servers)
        await producer.start()
        await setter.start()
        await admin.start()
        try:
            for _ in range(4):
                await producer.send_and_wait(topics.CONTENT, value=b"{", partition=1)
            setter.assign([lost])
            end = (await setter.end_offsets([lost]))[lost]
            begin = end - 1
            await admin.delete_records({lost: RecordsToDelete(before_offset=begin)})
            committed = begin - 2 if where == "below the beginning" else end + 50
            await setter.commit({lost: committed})
        finally:
            await producer.stop()
            await setter.stop()
            await admin.close()
        return committed, begin

    committed, begin = run(lose())
    words = ["accept-loss", "content.events/1", "--group", group, "--json"]
    expected = {"topic": topics.CONTENT, "partition": 1, "group": group, "committed": committed,
                "resume_at": begin}  # fmt: skip
    dry = dlq(*words, "--dry-run")
    assert (dry.code, dry.lines[0] | expected) == (0, dry.lines[0])
    key = loss_key(topics.CONTENT, 1, group)
    assert key not in run(in_force(broker)).accepted_losses()
    said = dlq(*words)
    assert said.code == 0
    assert f"goes on at {begin}" in said.err
    accepted = run(in_force(broker)).accepted_losses()[key]
    assert (accepted.committed, accepted.resume_at) == (committed, begin)
    assert accepted.by
