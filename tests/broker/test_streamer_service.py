"""The streamer on a real broker: what it knows of running sessions outlives it."""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import OffsetAndMetadata

import fleet
from fleet import Tap
from qwarden import telemetry
from qwarden.contracts import topics
from qwarden.dead_letters.resuming import accept_loss
from qwarden.guard.stream import Append, Appended, Status
from qwarden.inference.memory_stream import MemoryStream
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka
from qwarden.stack.service import Service
from streamers import OUT, PARTITIONS, Failing, Gen, Streaming, Streams, Told, chunk, exchange

SAFE = "take flour and water and salt and wait"
BAD = "take this unsafe unsafe thing and go"


@pytest.fixture
async def own(kafka: Kafka, parts_home: Home, tmp_path: Path) -> Streams:
    made = Streams(kafka, parts_home, tmp_path / "policies", f"s-{uuid.uuid4().hex[:8]}")
    await made.make_topics()
    await made.at_the_end()
    return made


@pytest.fixture
async def tap(own: Streams) -> AsyncIterator[Tap]:
    async with Tap(own.kafka.bootstrap, *OUT) as opened:
        yield opened


def name() -> str:
    return uuid.uuid4().hex[:12]


def rereads() -> float:
    value: float = telemetry.REREAD.labels(topics.CHUNKS)._value.get()
    return value


async def test_a_session_gets_its_verdicts_when_its_turns_end_and_a_flag_when_it_comes(
    own: Streams, tap: Tap
) -> None:
    bad, safe = name(), name()
    # Without a sample of what is allowed: one prompt of a hundred would be kept beside the answer.
    async with own.streaming(MemoryStream(), QWARDEN_STREAMER__EVIDENCE_SAMPLE="0"):
        await own.publish(exchange(bad, BAD))
        await own.publish(exchange(safe, SAFE, language="en"))
        told = await own.told(tap, {bad: 2, safe: 2})
        await own.the_rest(tap, told)
    assert told.of(bad, "prompt").action == "allow"
    verdict = told.of(bad, "response")
    assert (verdict.safety, verdict.action, verdict.categories) == ("Unsafe", "block", ["Violent"])
    assert verdict.basis == "guard" and verdict.guard is not None
    (signal,) = told.signals[bad]
    assert (signal.kind, signal.task, signal.safety) == ("flag", "response", "Unsafe")
    # `take this `, `unsafe unsafe `, `thing and `: the second `unsafe` is whole in chunk 2.
    assert (signal.seq, signal.token, signal.char) == (2, 3, len("take this unsafe"))
    assert signal.action == "block"
    assert [v.task for v in told.verdicts[safe]] == ["prompt", "response"]
    assert told.of(safe, "response").language == "en"
    assert told.signals[safe] == []
    (kept,) = told.evidence[bad]
    assert [(m.role, m.content) for m in kept.content.messages] == [
        ("user", "how do I bake bread "), ("assistant", BAD),
    ]  # fmt: skip


async def test_a_prompt_waits_for_the_answer_to_be_judged(own: Streams, tap: Tap) -> None:
    session = name()
    async with own.streaming(MemoryStream()):
        await own.publish([chunk(session, 0, "user", "make it unsafe", end="turn")])
        told = await own.told(tap, {session: 1})
        assert told.of(session, "prompt").action == "block"
        await own.publish(exchange(session, SAFE)[1:])
        await own.told(tap, {session: 1})


async def test_thoughts_and_what_the_guard_does_not_see(own: Streams, tap: Tap) -> None:
    session = name()
    chunks = [
        chunk(session, 0, "system", "be kind", policy="blind"),
        chunk(session, 1, "user", "an old question", history=True, end="turn"),
        chunk(session, 2, "assistant", "an old unsafe unsafe answer", history=True, end="turn"),
        chunk(session, 3, "user", "a new question", end="turn"),
        chunk(session, 4, "assistant", "unsafe unsafe thoughts ", segment="thinking"),
        chunk(session, 5, "assistant", "let me look "),
        chunk(session, 6, "tool", "unsafe unsafe unsafe"),
        chunk(session, 7, "assistant", "here unsafe unsafe it is", end="session"),
    ]
    async with own.streaming(MemoryStream()):
        await own.publish(chunks)
        told = await own.told(tap, {session: 3})
        await own.the_rest(tap, told)
    assert told.of(session, "thinking").safety == "Unsafe"
    assert told.of(session, "response").safety == "Safe", "its policy wants three in a row"
    assert told.of(session, "prompt").dropped == ["system"]
    assert told.of(session, "response").dropped == ["system", "tool"]
    (kept,) = [each for each in told.evidence[session] if each.verdict.task == "thinking"]
    said = [(m.role, m.content, m.reasoning) for m in kept.content.messages]
    assert said[-2:] == [
        ("assistant", "let me look here unsafe unsafe it is", "unsafe unsafe thoughts "),
        ("tool", "unsafe unsafe unsafe", None),
    ]


async def test_an_answer_that_ends_in_doubt_is_looked_at_as_a_whole(own: Streams, tap: Tap) -> None:
    doubt, blind, worse = name(), name(), name()
    gen = Gen()
    async with own.streaming(MemoryStream(), gen):
        await own.publish(exchange(doubt, "that was unsafe"))
        await own.publish(exchange(blind, "that was unsafe", policy="blind"))
        await own.publish(exchange(worse, "that was bad in all", policy="looks"))
        told = await own.told(tap, {doubt: 2, blind: 2, worse: 2})
    assert told.of(doubt, "response").safety == "Safe", "the look settles the doubt"
    assert told.of(blind, "response").safety == "Unsafe"
    assert told.of(worse, "response").safety == "Unsafe", "the worse of both stands"
    assert "that was unsafe" in gen.asked


async def test_a_full_context_is_judged_as_a_whole(own: Streams, tap: Tap) -> None:
    session = name()
    async with own.streaming(MemoryStream(context=12)):
        await own.publish(exchange(session, "one two three four five six seven eight bad nine ten"))
        told = await own.told(tap, {session: 2})
    (signal,) = told.signals[session]
    assert (signal.kind, signal.cause) == ("closed", "too_long")
    verdict = told.of(session, "response")
    assert (verdict.safety, verdict.basis) == ("Unsafe", "guard")


@pytest.mark.parametrize("order", ["out of order", "twice", "with a hole"])
async def test_chunks_that_come_as_they_should_not(own: Streams, tap: Tap, order: str) -> None:
    session, plain = name(), name()
    chunks = exchange(session, BAD, words=1)
    sent = list(chunks)
    if order == "out of order":
        sent = [chunks[1], chunks[0], *reversed(chunks[2:])]
    elif order == "twice":
        sent = [each for each in chunks for _ in range(2)]
    else:
        sent.remove(chunks[3])
    async with own.streaming(MemoryStream(), QWARDEN_STREAMER__GAP_S="1"):
        await own.publish(sent, partition=0)
        told = await own.told(tap, {session: 2})
        await own.publish([*exchange(plain, SAFE), chunks[3]], partition=0)
        await own.told(tap, {plain: 2}, told)
        await own.the_rest(tap, told)
    verdict = told.of(session, "response")
    if order == "with a hole":
        assert (verdict.basis, verdict.cause, verdict.action) == (
            "degraded",
            "incomplete",
            "review",
        )
        assert told.kinds(session) == ["incomplete"]
        assert told.signals[session][0].seq == 3
        assert told.review[session] == 1
    else:
        assert verdict.safety == "Unsafe"
        assert told.kinds(session) == ["flag"]
    assert told.dead == []


async def test_poison_is_a_dead_letter_and_what_it_leaves_ends_its_session(
    own: Streams, tap: Tap
) -> None:
    broken, refused, other = name(), name(), name()
    chunks = exchange(broken, SAFE)
    again = [
        *exchange(refused, SAFE, ends=False),
        chunk(refused, 5, "user", "and one thing more", end="session"),
    ]
    async with own.streaming(MemoryStream(), QWARDEN_STREAMER__GAP_S="1"):
        poison = json.dumps({**chunks[2], "role": "parrot"}).encode()
        await own.publish([chunks[0], chunks[1], b"{broken", poison, *chunks[3:]], partition=1)
        await own.publish(again, partition=1)
        await own.publish(exchange(other, SAFE), partition=1)
        told = await own.told(tap, {broken: 2, refused: 2, other: 2})
        await own.the_rest(tap, told)
    letters = {(letter.error_class, letter.event_id) for letter in told.dead}
    assert letters == {("not_json", ""), ("not_a_chunk", broken), ("conversation", refused)}
    assert any("start a new session" in letter.reason for letter in told.dead)
    for session in (broken, refused):
        assert told.of(session, "response").cause == "incomplete"
        assert told.of(session, "prompt").basis == "guard"
    assert told.of(other, "response").basis == "guard"


async def test_an_abandoned_session_waits_for_ever(own: Streams, tap: Tap) -> None:
    session = name()
    async with own.streaming(
        MemoryStream(), QWARDEN_STREAMER__GAP_S="1", QWARDEN_STREAMER__MAX_AGE_S="3"
    ):
        await own.publish(exchange(session, BAD, ends=False))
        told = await own.told(tap, {session: 2})
        await own.publish([chunk(session, 5, "assistant", "late")])
        await own.the_rest(tap, told)
    verdict = told.of(session, "response")
    assert (verdict.basis, verdict.safety) == ("guard", "Unsafe")


async def test_an_outage_of_the_stream_guard_is_waited_out(own: Streams, tap: Tap) -> None:
    session = name()
    stream = Failing()
    stream.away = True
    async with own.streaming(stream) as one:
        await own.publish(exchange(session, BAD))

        async def asked() -> bool:
            return stream.asked > 3 and one.service._client.outage is not None

        await fleet.until(asked, "the guard was asked in vain")
        assert one.service.not_ready()
        assert not (await own.told(tap, {})).verdicts
        stream.away = False
        told = await own.told(tap, {session: 2})
    assert told.of(session, "response").action == "block"
    assert told.dead == []


class Refusing(MemoryStream):
    """Refuses every append with a word."""

    async def append(
        self, appends: Sequence[Append], *, timeout_s: float | None = None
    ) -> list[Appended]:
        answers = await super().append(
            [each for each in appends if not any("nope" in p.text for p in each.parts)]
        )
        rest = iter(answers)
        return [
            Appended("memory@0", Status.REFUSED, "no such word")
            if any("nope" in part.text for part in each.parts)
            else next(rest)
            for each in appends
        ]


async def test_what_the_guard_refuses_is_one_dead_letter_and_ends_its_session(
    own: Streams, tap: Tap
) -> None:
    session = name()
    async with own.streaming(Refusing()):
        await own.publish(exchange(session, "it is nope what then comes", words=1))
        told = await own.told(tap, {session: 2})
        await own.the_rest(tap, told)
    assert [letter.error_class for letter in told.dead] == ["guard_refused"]
    assert "nope" in told.dead[0].content.value
    assert told.of(session, "response").cause == "incomplete"


async def ready(*ones: Streaming) -> None:
    async def have_all() -> bool:
        return sum(one.partitions for one in ones) == PARTITIONS and all(
            one.partitions and not one.service.delivery._assignment._unplaced for one in ones
        )

    await fleet.until(have_all, "the partitions are shared out")


async def test_a_kill_between_the_last_signal_and_the_verdict_loses_the_verdict(
    own: Streams, tap: Tap
) -> None:
    """Its chunks are done and committed, and only the metadata names it."""
    session, other, later = name(), name(), name()
    gen = Gen()
    first = await own.start(MemoryStream(), gen)
    await own.publish(exchange(other, SAFE), partition=2)
    (begins, *_) = await own.publish(
        exchange(session, BAD, ends=False, policy="looks"), partition=2
    )
    told = await own.told(tap, {session: 1, other: 2})
    gen.free.clear()
    end = chunk(session, 5, "assistant", "odd", end="session")
    (last, *_) = await own.publish([end, *exchange(later, SAFE)], partition=2)
    await own.the(tap, told, lambda: len(told.verdicts[later]) == 2, "the later one's verdicts")

    async def is_committed() -> bool:
        return (await own.committed())[2][0] == last + 6

    await fleet.until(is_committed, "the chunks are committed")
    _, beside = (await own.committed())[2]
    said = json.loads(beside)
    assert (said["v"], said["from"]) == (1, begins)
    assert told.kinds(session) == ["flag"] and len(told.verdicts[session]) == 1
    await first.kill()

    async with own.streaming(MemoryStream(), Gen()):
        more = await own.told(tap, {session: 1})
        await own.the_rest(tap, more)
    assert more.of(session, "response").safety == "Unsafe"
    assert more.kinds(session) == [], "what is read again is signalled again"
    # It was settled, and stands among what is read again: the same verdict once more.
    assert {v.verdict_id for v in more.verdicts[later]} == {told.of(later, "response").verdict_id}
    assert not more.verdicts[other]


async def test_sessions_that_go_on_across_a_kill_end_as_if_nothing_had_been(
    own: Streams, tap: Tap
) -> None:
    rng = random.Random(5)
    names = [name() for _ in range(60)]
    flagged = set(names[::3])
    chunks = {each: exchange(each, BAD if each in flagged else SAFE, words=1) for each in names}
    cut = {each: rng.randint(0, len(chunks[each])) for each in names}
    before = [part for each in names for part in chunks[each][: cut[each]]]
    after = [part for each in names for part in chunks[each][cut[each] :]]
    rng.shuffle(names)
    first = await own.start(MemoryStream())
    await own.publish(before)
    done = {each: 2 for each in names if cut[each] == len(chunks[each])}
    told = await own.told(tap, done)

    async def is_committed() -> bool:
        await first.service.delivery.commit()
        return not first.service.delivery._window.in_flight

    await fleet.until(is_committed, "all that was sent is committed")
    await first.kill()
    again = rereads()
    async with own.streaming(MemoryStream()):
        await own.publish(after)
        more = await own.told(tap, {each: 1 for each in names if each not in done})
        await own.the_rest(tap, more)
    assert rereads() > again
    for each in names:
        verdicts = {v.verdict_id: v for v in (*told.verdicts[each], *more.verdicts[each])}
        assert sorted(str(v.task) for v in verdicts.values()) == ["prompt", "response"]
        assert all(v.basis == "guard" for v in verdicts.values())
        flags = {(s.seq, s.token, s.char) for s in (*told.signals[each], *more.signals[each])}
        assert flags == ({(4, 3, len("take this unsafe"))} if each in flagged else set())


async def test_a_partition_that_comes_back_is_known_still(own: Streams, tap: Tap) -> None:
    """A has all, then B some of them, then A all again."""
    names = [name() for _ in range(20)]
    chunks = {each: exchange(each, BAD) for each in names}
    stream = MemoryStream()
    async with own.streaming(stream) as a:
        await own.publish([part for each in names for part in chunks[each][:3]])
        told = await own.told(tap, dict.fromkeys(names, 1))

        async def all_is_committed() -> bool:
            await a.service.delivery.commit()
            return not a.service.delivery._window.in_flight

        await fleet.until(all_is_committed, "all is committed")
        b = await own.start(stream)
        await ready(a, b)
        again = rereads()
        await b.stop()
        await ready(a)
        assert rereads() == again, "what A knew was read again"
        await own.publish([part for each in names for part in chunks[each][3:]])
        more = await own.told(tap, dict.fromkeys(names, 1))
        await own.the_rest(tap, more)
    for each in names:
        ids = {v.verdict_id for v in (*told.verdicts[each], *more.verdicts[each])}
        assert len(ids) == 2
        assert [*told.kinds(each), *more.kinds(each)] == ["flag"]


async def test_what_another_has_moved_on_is_not_taken_from_memory(own: Streams, tap: Tap) -> None:
    """A has it, then B, which goes on, then A again."""
    names = [name() for _ in range(20)]
    chunks = {each: exchange(each, BAD, words=1) for each in names}
    stream = MemoryStream()
    async with own.streaming(stream) as a:
        await own.publish([part for each in names for part in chunks[each][:2]])
        told = await own.told(tap, dict.fromkeys(names, 1))
        b = await own.start(stream)
        await ready(a, b)
        await own.publish([part for each in names for part in chunks[each][2:5]])

        async def all_flagged() -> bool:
            await tap.read()
            told.take(tap)
            return all(told.kinds(each) for each in names)

        await fleet.until(all_flagged, "every session is flagged")
        await b.stop()
        await ready(a)
        await own.publish([part for each in names for part in chunks[each][5:]])
        more = await own.told(tap, dict.fromkeys(names, 1))
        await own.the_rest(tap, more)
    for each in names:
        assert more.of(each, "response").safety == "Unsafe"
        assert more.of(each, "response").basis == "guard"


async def test_a_beginning_that_retention_took_ends_its_session_in_silence(
    own: Streams, tap: Tap, caplog: pytest.LogCaptureFixture
) -> None:
    lost, kept = name(), name()
    first = await own.start(MemoryStream())
    offsets = await own.publish(exchange(lost, SAFE, ends=False), partition=3)
    await own.publish(exchange(kept, SAFE, ends=False), partition=3)
    await own.told(tap, {lost: 1, kept: 1})

    async def is_committed() -> bool:
        return (await own.committed())[3][0] > offsets[-1] + 4

    await fleet.until(is_committed, "the chunks are committed")
    await first.kill()
    admin = AIOKafkaAdminClient(bootstrap_servers=own.kafka.bootstrap)
    await admin.start()
    where = TopicPartition(topics.CHUNKS, 3)
    await admin.delete_records({where: RecordsToDelete(offsets[1])})
    await admin.close()
    async with own.streaming(MemoryStream(), QWARDEN_STREAMER__GAP_S="2"):
        await own.publish([chunk(kept, 5, "assistant", "x", end="session")], partition=3)
        told = await own.told(tap, {lost: 1, kept: 1})
        await own.the_rest(tap, told)
    verdict = told.of(lost, "response")
    assert (verdict.basis, verdict.cause) == ("degraded", "incomplete")
    assert told.of(kept, "response").basis == "guard"
    assert "its retention took what open sessions began with" in caplog.text


async def test_a_thousand_live_sessions_and_a_kill_in_their_middle(own: Streams, tap: Tap) -> None:
    names = [name() for _ in range(1000)]
    chunks = {each: exchange(each, BAD if n % 4 else SAFE) for n, each in enumerate(names)}
    first = await own.start(MemoryStream())
    await own.publish([part for each in names for part in chunks[each][:3]])
    told = await own.told(tap, dict.fromkeys(names, 1))

    async def is_committed() -> bool:
        known = (await own.committed()).values()
        return all(json.loads(beside or "{}").get("from", at) < at for at, beside in known)

    await fleet.until(is_committed, "the metadata names them")
    rest = [part for n in (3, 4) for each in names for part in chunks[each][n : n + 1]]
    await own.publish(rest[:600])
    await first.kill()
    await own.publish(rest[600:])
    replays = telemetry.STREAM_REPLAYS._value.get()
    async with own.streaming(MemoryStream()):
        more = await own.told(tap, dict.fromkeys(names, 1), within_s=120)
        await own.the_rest(tap, more)
    assert telemetry.STREAM_REPLAYS._value.get() - replays >= 900
    for n, each in enumerate(names):
        verdicts = {v.verdict_id: v for v in (*told.verdicts[each], *more.verdicts[each])}
        assert sorted(str(v.task) for v in verdicts.values()) == ["prompt", "response"]
        (response,) = [v for v in verdicts.values() if v.task == "response"]
        assert (response.basis, response.safety) == ("guard", "Unsafe" if n % 4 else "Safe")
        assert not told.signals[each] or told.kinds(each) == ["flag"]


@pytest.mark.parametrize("seed", [11])
async def test_members_that_come_go_and_die_under_load_lose_and_change_nothing(
    own: Streams, tap: Tap, seed: int
) -> None:
    rng = random.Random(seed)
    names = [name() for _ in range(150)]
    flagged = set(names[::2])
    waiting = {each: exchange(each, BAD if each in flagged else SAFE, words=1) for each in names}
    stream = MemoryStream()
    members = [await own.start(stream)]
    told = Told()
    while waiting:
        some = rng.sample(sorted(waiting), min(len(waiting), 40))
        sent = []
        for each in some:
            sent += [
                waiting[each].pop(0) for _ in range(min(len(waiting[each]), rng.randint(1, 2)))
            ]
            if not waiting[each]:
                del waiting[each]
        for at in range(1, len(sent)):
            if rng.random() < 0.2:
                sent[at - 1], sent[at] = sent[at], sent[at - 1]
        await own.publish(sent)
        await tap.read()
        told.take(tap)
        chance = rng.random()
        if chance < 0.25 and len(members) < 3:
            members.append(await own.start(stream))
        elif chance < 0.45 and len(members) > 1:
            await members.pop(rng.randrange(len(members))).stop()
        elif chance < 0.6:
            await members.pop(rng.randrange(len(members))).kill()
            members.append(await own.start(stream))
        elif chance < 0.7:
            stream.forget()
    told = await own.told(tap, dict.fromkeys(names, 2), told, within_s=120)
    await own.the_rest(tap, told)
    for member in members:
        await member.stop()
    for each in names:
        assert sorted({str(v.task) for v in told.verdicts[each]}) == ["prompt", "response"]
        assert told.of(each, "prompt").basis == "guard"
        response = told.of(each, "response")
        assert (response.basis, response.safety) == (
            "guard", "Unsafe" if each in flagged else "Safe",
        )  # fmt: skip
        flags = {(s.kind, s.seq, s.token, s.char) for s in told.signals[each]}
        assert len(flags) == (1 if each in flagged else 0), flags
    assert told.dead == []


async def test_what_stands_in_a_topic_that_was_made_again_passes_for_done(
    own: Streams, tap: Tap
) -> None:
    """Its offsets begin anew: the commit is beyond its end, the metadata names what is there."""
    session = name()
    where = TopicPartition(topics.CHUNKS, 1)
    begins, *_ = await own.publish(exchange(session, SAFE), partition=1)
    end = (await fleet.ends_of(own.kafka.bootstrap, topics.CHUNKS))[where]
    setter = AIOKafkaConsumer(
        bootstrap_servers=own.kafka.bootstrap, group_id=own.group, enable_auto_commit=False
    )
    await setter.start()
    setter.assign([where])
    beside = json.dumps({"v": 1, "from": begins})
    await setter.commit({where: OffsetAndMetadata(end + 50, beside)})
    await setter.stop()

    async with own.streaming(MemoryStream()) as one:
        await fleet.until(lambda: _is(bool(one.service.delivery.lost)), "the partition is stopped")
        assert one.service.not_ready()
        assert not (await own.told(tap, {})).verdicts[session]
        await accept_loss(
            own.settings().kafka,
            where,
            own.group,
            lost_from=None,
            at=datetime.now(UTC),
            by="the test",
            dry_run=False,
        )
        told = await own.told(tap, {session: 2})
    assert told.of(session, "response").basis == "guard"


async def _is(held: bool) -> bool:
    return held


async def test_the_command_serves_and_ends_in_order(own: Streams, parts_home: Home) -> None:
    settings = {
        "QWARDEN_CONTENT_KEY": parts_home.content_key(),
        "QWARDEN_KAFKA__BOOTSTRAP_SERVERS": own.kafka.bootstrap,
        "QWARDEN_STREAMER__GROUP_ID": own.group,
    }
    service = Service(parts_home, "streamer", settings)
    await asyncio.to_thread(service.start)
    try:
        assert fleet.answers(service, "/healthz")
        assert fleet.metric(service.http, "qwarden_sessions_open") == 0
    finally:
        await asyncio.to_thread(service.stop)
    assert service.child.wait(0) == 0
