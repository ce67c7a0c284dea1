"""The streamer between a delivery that acknowledges when the test says so and guards of words."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from qwarden import bootstrap
from qwarden import settings as settings_module
from qwarden.contracts import topics
from qwarden.delivery.owed import Decide, Owed, decided
from qwarden.delivery.window import Partition
from qwarden.guard.answer import Answer, Failure, Unanswered
from qwarden.inference.memory_stream import MemoryStream
from qwarden.policy.tenants import Tenants, read_tenants
from qwarden.streamer.streamer import Streamer
from streamers import Gen, chunk, exchange

WHERE = Partition(topics.CHUNKS, 0)
BAD = "take this unsafe unsafe thing and go"
NOW = int(time.time() * 1000)


@dataclass(frozen=True)
class Record:
    offset: int
    value: bytes
    timestamp: int = NOW
    topic: str = topics.CHUNKS
    partition: int = 0
    key: bytes | None = b"k"
    headers: tuple[Any, ...] = ()


@dataclass
class Publication:
    epoch: int
    owed: Owed
    settled: Callable[[bool], None]
    of: Sequence[int]

    @property
    def topics(self) -> list[str]:
        return [message.topic for message in self.owed]

    def body(self, topic: str) -> dict[str, Any]:
        (message,) = [each for each in self.owed if each.topic == topic]
        said: dict[str, Any] = json.loads(message.value)
        return said


@dataclass
class Held:
    """Takes what is published, and acknowledges nothing by itself."""

    published: list[Publication] = field(default_factory=list)
    read_to: int | None = None
    is_full: bool = False

    def publish(
        self,
        where: Partition,
        epoch: int,
        owed: Owed,
        settled: Callable[[bool], None],
        refused: Callable[[str], Owed],
        *,
        of: Sequence[int] = (),
    ) -> None:
        self.published.append(Publication(epoch, owed, settled, of))

    def read_up_to(self, where: Partition) -> int | None:
        return self.read_to


@dataclass
class Bench:
    streamer: Streamer
    delivery: Held
    stream: MemoryStream
    gen: Gen
    done: dict[int, Owed] = field(default_factory=dict)
    handling: list[asyncio.Task[None]] = field(default_factory=list)

    def assign(self, epoch: int = 1, committed: int | None = 0, metadata: str = "") -> int | None:
        return self.streamer.assigned(WHERE, epoch, committed, metadata)

    def begin(self, epoch: int = 1, committed: int | None = 0, metadata: str = "") -> None:
        self.assign(epoch, committed, metadata)
        self.streamer.begins(WHERE)

    async def give(self, *records: Record) -> None:
        """Delivers records, and lets everything come to where it waits."""

        def finish(index: int, owed: Owed | Decide, /) -> None:
            self.done[records[index].offset] = decided(owed)

        self.handling.append(asyncio.create_task(self.streamer.handle(records, finish)))
        await self.settle()

    async def settle(self) -> None:
        for _ in range(60):
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        for _ in range(60):
            await asyncio.sleep(0)

    async def acknowledge(self) -> None:
        published, self.delivery.published = self.delivery.published, []
        for each in published:
            each.settled(True)
        await self.settle()

    @property
    def said(self) -> list[str]:
        return [topic for each in self.delivery.published for topic in each.topics]


@asynccontextmanager
async def bench(gen: Gen | None = None, /, **more: str) -> AsyncIterator[Bench]:
    settings = settings_module.load({"QWARDEN_CONTENT_KEY": "ab" * 32, **more})
    stream, gen, held = MemoryStream(), gen or Gen(), Held()

    async def look() -> frozenset[str]:
        return frozenset({"here"})

    client = bootstrap.stream_client_of(settings, lambda _: stream, look)
    async with bootstrap.streamer(settings, client, gen) as (streamer, _, _):
        streamer.delivery = held  # type: ignore[assignment]
        made = Bench(streamer, held, stream, gen)
        try:
            yield made
        finally:
            await streamer.close()
            for task in made.handling:
                task.cancel()


def records(chunks: list[dict[str, object]], first: int = 0, at: int = NOW) -> list[Record]:
    return [Record(first + n, json.dumps(each).encode(), at) for n, each in enumerate(chunks)]


async def test_a_chunk_is_done_before_its_signal_is_acknowledged() -> None:
    async with bench() as b:
        b.begin()
        await b.give(*records(exchange("s", BAD, ends=False)[:1]))
        await b.acknowledge()  # the prompt's verdict
        await b.give(*records(exchange("s", BAD, ends=False)[1:4], first=1))
        (signal,) = b.delivery.published
        assert signal.topics == [topics.SIGNALS]
        assert 3 not in b.done
        await b.acknowledge()
        assert b.done.keys() == {0, 1, 2, 3}


async def test_chunks_of_a_session_are_done_in_another_order_than_they_are_in() -> None:
    async with bench() as b:
        b.begin()
        await b.give(*records(exchange("s", BAD, ends=False)[:1]))
        await b.give(*records(exchange("s", BAD, ends=False)[1:2], first=1))
        assert not b.done, "the second chunk is done before the first, which owes a verdict"
        await b.acknowledge()
        assert b.done.keys() == {0, 1}


async def test_a_session_is_closed_in_the_metadata_before_its_verdict_is_acknowledged() -> None:
    async with bench() as b:
        b.begin()
        await b.give(*records(exchange("s", "take flour and water"), first=5))
        prompt, verdict = b.delivery.published
        b.delivery.published = [prompt]
        await b.acknowledge()
        assert b.done.keys() == {5, 6, 7}
        assert verdict.topics[0] == topics.VERDICTS and verdict.of == []
        assert json.loads(b.streamer.metadata(WHERE, 8)) == {"v": 1, "from": 5, "at": NOW}
        b.delivery.published = [verdict]
        await b.acknowledge()
        assert json.loads(b.streamer.metadata(WHERE, 8))["from"] == 8


async def test_what_was_void_in_one_epoch_is_forgotten_in_the_next() -> None:
    async with bench() as b:
        b.begin(epoch=1, committed=0)
        sent = records(exchange("s", BAD, ends=False)[:4])
        await b.give(sent[0])
        await b.acknowledge()
        b.streamer.committed(WHERE, 1, '{"v":1,"from":0}')
        await b.give(*sent[1:])
        (signal,) = b.delivery.published
        signal.settled(False)  # let go before it went
        b.streamer.revoked(WHERE)
        await b.settle()
        assert all(task.done() for task in b.handling), "a revoke leaves a handler waiting"
        b.delivery.published.clear()
        b.done.clear()

        assert b.assign(epoch=2, committed=1, metadata='{"v":1,"from":0}') is None
        b.streamer.begins(WHERE)
        (again,) = b.delivery.published
        assert (again.epoch, again.owed) == (2, signal.owed)
        await b.give(*sent[1:])
        assert not b.done, "what waits for the signal is done"
        assert len(b.delivery.published) == 1, "what is delivered again is judged again"
        await b.acknowledge()
        assert b.done.keys() == {1, 2, 3}


async def test_what_another_has_committed_is_taken_from_memory() -> None:
    async with bench() as b:
        b.begin(epoch=1, committed=0)
        await b.give(*records(exchange("s", BAD, ends=False)[:2]))
        await b.acknowledge()
        b.streamer.committed(WHERE, 2, '{"v":1,"from":0}')
        b.streamer.revoked(WHERE)
        assert b.assign(epoch=2, committed=2, metadata='{"v":1,"from":1}') == 1


REFUSED_LAST = {
    "policy": json.dumps(chunk("s", 3, "assistant", "unsafe", policy="nope")).encode(),
    "role": json.dumps(chunk("s", 3, "narrator", "unsafe")).encode(),
    "seq": json.dumps(chunk("s", 3, "assistant", "unsafe") | {"seq": "x"}).encode(),
    "negative": json.dumps(chunk("s", -1, "assistant", "unsafe")).encode(),
    "nul": json.dumps(chunk("s\0", 3, "assistant", "unsafe")).encode(),
    "size": json.dumps(chunk("s", 3, "assistant", "unsafe " * 300_000)).encode(),
    "unread": b'{"tenant": "demo", "session": "s", "seq": 3, "text": "unsafe',
}


@pytest.mark.parametrize("why", REFUSED_LAST)
@pytest.mark.parametrize("again", [False, True])
async def test_a_session_whose_last_chunk_is_refused_is_allowed_for_what_came_before(
    why: str, again: bool
) -> None:
    async with bench() as b:
        sent = records(exchange("s", "take flour and water", ends=False)[:3])
        sent.append(Record(3, REFUSED_LAST[why]))
        if again:
            b.assign(committed=4, metadata='{"v":1,"from":0}')
            b.streamer.read_again(WHERE, sent)
            b.streamer.begins(WHERE)
            await b.settle()
        else:
            b.begin()
            await b.give(*sent)
            assert b.delivery.published[0].topics[0] == topics.VERDICTS  # the prompt's
            b.delivery.published.pop(0).settled(True)
            await b.settle()
            assert b.done.keys() == {0, 1, 2}, "a refused chunk is done before its signal went"
        (over,) = b.delivery.published
        verdict = over.body(topics.VERDICTS)
        assert (verdict["basis"], verdict["cause"], verdict["action"]) == (
            "degraded",
            "incomplete",
            "review",
        )
        assert (topics.SIGNALS in over.topics) != again
        await b.acknowledge()
        assert again or [message.topic for message in b.done[3]] == [topics.DEAD_LETTERS]


@pytest.mark.parametrize("why", REFUSED_LAST)
@pytest.mark.parametrize("again", [False, True])
async def test_a_session_whose_first_chunk_seen_is_refused_is_allowed_for_the_rest(
    why: str, again: bool
) -> None:
    async with bench(QWARDEN_STREAMER__MAX_AGE_S="40") as b:
        early = NOW - 60_000
        sent = [
            Record(0, REFUSED_LAST[why], early),
            *records(exchange("s", "take flour and water", ends=False)[:3], first=1, at=early),
        ]
        b.begin()
        await b.give(sent[0])
        assert [message.topic for message in b.done[0]] == [topics.DEAD_LETTERS]
        if again:
            metadata = b.streamer.metadata(WHERE, 1)
            assert b.assign(epoch=2, committed=1, metadata=metadata) == 0
            b.streamer.read_again(WHERE, sent[:1])
            b.streamer.begins(WHERE)
        await b.give(*sent[1:])
        await b.acknowledge()
        assert b.done.keys() == {0, 1, 2, 3}
        await b.give(Record(4, json.dumps(chunk("later", 0, "user", "x")).encode(), key=b"l"))
        (over,) = b.delivery.published
        assert over.body(topics.SIGNALS)["kind"] == "incomplete"
        verdict = over.body(topics.VERDICTS)
        assert (verdict["task"], verdict["basis"], verdict["cause"], verdict["action"]) == (
            "response",
            "degraded",
            "incomplete",
            "review",
        )


NOTHING_TO_JUDGE = {
    "history": [
        chunk("s", 0, "user", "an old question", history=True, end="turn"),
        chunk("s", 1, "assistant", "an old answer", history=True, end="session"),
    ],
    "system": [chunk("s", 0, "system", "be kind", end="session")],
    "empty": [chunk("s", 0, "user", "", end="session")],
}


@pytest.mark.parametrize("what", NOTHING_TO_JUDGE)
async def test_a_session_in_which_nothing_is_judged_ends_in_silence(what: str) -> None:
    async with bench() as b:
        b.begin()
        await b.give(*records(NOTHING_TO_JUDGE[what]))
        (over,) = b.delivery.published
        assert over.topics == [topics.DEAD_LETTERS]
        letter = over.body(topics.DEAD_LETTERS)
        assert (letter["error_class"], letter["event_id"]) == ("conversation", "s")
        assert "no text" in letter["reason"]
        assert json.loads(b.streamer.metadata(WHERE, 9))["from"] < 9
        await b.acknowledge()
        assert json.loads(b.streamer.metadata(WHERE, 9))["from"] == 9


async def test_signals_of_two_tenants_have_one_id() -> None:
    async with bench() as b:
        b.begin()
        for n, (tenant, session) in enumerate((("a/b", "c"), ("a", "b/c"))):
            chunks = [{**each, "tenant": tenant} for each in exchange(session, BAD)]
            sent = records(chunks, first=10 * n)
            await b.give(*(replace(each, key=None) for each in sent))
        signals = [
            message
            for each in b.delivery.published
            for message in each.owed
            if message.topic == topics.SIGNALS
        ]
        assert [message.key for message in signals] == [b"a%2Fb/c", b"a/b/c"]
        assert [dict(message.headers)["ce_id"] for message in signals] == [
            b"a%2Fb/c/response/flag",
            b"a/b/c/response/flag",
        ]


async def test_a_first_chunk_that_is_corrected_is_refused_for_good() -> None:
    async with bench() as b:
        b.begin()
        good = records(exchange("s", "take flour and water"), first=1)
        bad = json.dumps(chunk("s", 0, "user", "how?", policy="nope")).encode()
        await b.give(Record(0, bad), *good)
        prompt, response = b.delivery.published
        await b.acknowledge()
        assert prompt.body(topics.VERDICTS)["basis"] == "guard"
        assert response.body(topics.VERDICTS)["basis"] == "guard"
        assert b.done[0][0].topic == topics.DEAD_LETTERS
        assert json.loads(b.streamer.metadata(WHERE, 9))["from"] == 9


async def test_a_record_of_two_sessions_is_done_with_the_first_of_them() -> None:
    async with bench() as b:
        b.begin()
        await b.give(*records([chunk("s", 0, "user", "x"), chunk("t", 0, "user", "y")]))
        await b.acknowledge()
        await b.give(Record(2, b"{broken"))
        one, other = b.delivery.published
        one.settled(True)
        assert 2 not in b.done
        other.settled(True)
        assert b.done[2][0].topic == topics.DEAD_LETTERS


async def test_a_session_that_is_read_again_signals_again() -> None:
    async with bench() as b:
        sent = records(exchange("s", BAD))
        assert b.assign(committed=5, metadata='{"v":1,"from":0}') == 0
        b.streamer.read_again(WHERE, sent)
        assert not b.said
        b.streamer.begins(WHERE)
        await b.settle()
        (verdict,) = b.delivery.published
        assert topics.SIGNALS not in verdict.topics
        assert verdict.body(topics.VERDICTS)["task"] == "response"
        assert verdict.body(topics.VERDICTS)["safety"] == "Unsafe"


@pytest.mark.long
async def test_a_gap_that_is_read_again_signals_again_and_a_new_one_does_not() -> None:
    async with bench(QWARDEN_STREAMER__GAP_S="10") as b:
        chunks = exchange("s", BAD)
        early = NOW - 60_000
        with_hole = [
            *records(chunks[:2], at=early), *records(chunks[3:], first=2, at=early),
            *records([chunk("other", 0, "user", "x")], first=4, at=early + 20_000),
        ]  # fmt: skip
        b.assign(committed=5, metadata='{"v":1,"from":0}')
        b.streamer.read_again(WHERE, with_hole)
        b.streamer.begins(WHERE)
        await b.settle()
        (verdict,) = b.delivery.published
        assert verdict.topics == [topics.VERDICTS, topics.REVIEW, topics.EVIDENCE]
        assert verdict.body(topics.VERDICTS)["cause"] == "incomplete"
        b.delivery.published.clear()

        later = exchange("t", BAD)
        await b.give(*records([later[0]], first=5), *records(later[3:], first=6))
        await b.acknowledge()
        await b.give(*records([chunk("u", 0, "user", "x")], first=9, at=NOW))
        b.delivery.read_to = NOW + 20_000
        b.streamer.start()
        await asyncio.sleep(0.6)
        await b.settle()
        (gap,) = [each for each in b.delivery.published if topics.SIGNALS in each.topics]
        assert gap.body(topics.SIGNALS)["kind"] == "incomplete"


async def test_a_headless_chunk_is_done_before_the_verdict_of_its_session() -> None:
    async with bench(QWARDEN_STREAMER__GAP_S="1") as b:
        b.begin()
        early = NOW - 60_000
        await b.give(*records([chunk("s", 3, "assistant", "late")], at=early))
        await b.give(*records([chunk("t", 0, "user", "x")], first=1, at=early + 5_000))
        (verdict,) = b.delivery.published
        assert verdict.body(topics.VERDICTS)["cause"] == "incomplete"
        assert 0 not in b.done
        await b.acknowledge()
        assert 0 in b.done


@pytest.mark.long
async def test_room_that_is_full_of_waiting_chunks_stands_still_for_ever() -> None:
    async with bench(QWARDEN_STREAMER__GAP_S="1") as b:
        b.begin()
        await b.give(*records([chunk("s", 3, "assistant", "waits")]))
        b.delivery.is_full = True
        b.streamer.start()
        await asyncio.sleep(2.2)
        await b.settle()
        assert topics.VERDICTS in b.said


async def test_a_dead_letter_is_lost_in_a_revoke() -> None:
    async with bench() as b:
        b.begin(committed=0)
        sent = records([chunk("s", 0, "user", "x", end="turn"), chunk("s", 1, "user", "y")])
        await b.give(sent[0])
        b.streamer.committed(WHERE, 0, "")
        await b.give(sent[1])
        b.streamer.revoked(WHERE)  # the prompt's verdict, before the letter, is not acknowledged
        await b.settle()
        assert b.done[1] == ()
        for each in b.delivery.published:
            each.settled(True)
        b.assign(epoch=2, committed=0)
        b.streamer.begins(WHERE)
        await b.give(*sent)
        owed: Owed = b.done[1]
        assert [message.topic for message in owed] == [topics.DEAD_LETTERS]


def tenants_with(policy: str = "", *, strict: bool = False) -> Tenants:
    """A tenant that may use `mine`, which says this; without it `default` alone."""
    mine = {"mine": f"name: mine\nextends: default\n{policy}"} if policy else {}
    listed = "[default, mine]" if policy else "[default]"
    return read_tenants(mine, {"demo": f"name: demo\npolicies: {listed}\n"}, strict=strict)


def judged(b: Bench) -> dict[str, tuple[str, str | None, str]]:
    """By task: basis, cause and action of what was published since it was last acknowledged."""
    said = {}
    for message in (message for each in b.delivery.published for message in each.owed):
        if message.topic == topics.VERDICTS:
            verdict = json.loads(message.value)
            said[verdict["task"]] = verdict["basis"], verdict["cause"], verdict["action"]
    return said


def kinds(b: Bench) -> list[tuple[str, str]]:
    owed = [message for each in b.delivery.published for message in each.owed]
    signals = [json.loads(each.value) for each in owed if each.topic == topics.SIGNALS]
    return [(signal["task"], signal["kind"]) for signal in signals]


async def grow_old(b: Bench) -> None:
    b.delivery.read_to = NOW + 3_601_000
    b.streamer.start()
    await asyncio.sleep(0.6)
    await b.settle()


INCOMPLETE = ("degraded", "incomplete", "review")
ALLOWED = ("guard", None, "allow")


@pytest.mark.long
@pytest.mark.parametrize("why", ["policy", "bytes", "tenant"])
@pytest.mark.parametrize("known", [1, 3])
async def test_a_session_whose_first_chunk_is_not_admitted_any_more_vanishes_in_a_restart(
    why: str, known: int
) -> None:
    tenant = "stranger" if why == "tenant" else "demo"
    question = "q" * (2000 if why == "bytes" else 2)
    chunks = exchange("s", "take flour and water", ends=False, question=question)
    chunks[0] |= {"policy": "mine"} if why == "policy" else {}
    sent = records([{**each, "tenant": tenant} for each in chunks])[:known]
    async with bench() as b:
        b.streamer.enforce(tenants_with("final_look: never\n"))
        b.begin()
        await b.give(*sent)
        await b.acknowledge()
        metadata = b.streamer.metadata(WHERE, known)
    limits = {"QWARDEN_STREAMER__MAX_EVENT_BYTES": "1000"} if why == "bytes" else {}
    async with bench(**limits) as b:
        b.streamer.enforce(tenants_with(strict=why == "tenant"))
        assert b.assign(committed=known, metadata=metadata) == 0
        b.streamer.read_again(WHERE, sent)
        b.streamer.begins(WHERE)
        await grow_old(b)
        said = judged(b)
        assert said["prompt"] == INCOMPLETE
        assert known == 1 or said["response"] == INCOMPLETE
        await b.acknowledge()
        assert json.loads(b.streamer.metadata(WHERE, known))["from"] == known


async def test_a_first_chunk_that_was_sent_again_well_is_lost_in_a_restart() -> None:
    bad = json.dumps(chunk("s", 0, "user", "how?", policy="nope")).encode()
    sent = [Record(0, bad), *records(exchange("s", "take flour and water"), first=1)]
    async with bench() as b:
        assert b.assign(committed=4, metadata='{"v":1,"from":0}') == 0
        b.streamer.read_again(WHERE, sent)
        b.streamer.begins(WHERE)
        await b.settle()
        assert judged(b) == {"response": ALLOWED}


@pytest.mark.long
async def test_what_comes_late_before_the_verdict_of_an_old_session_is_out_is_allowed() -> None:
    async with bench() as b:
        b.begin()
        there = asyncio.Event()

        async def wait(_: object) -> None:
            await there.wait()

        b.stream.before = wait  # the guard is away for longer than a session gets old
        sent = records(exchange("s", "take flour and water"))
        await b.give(*sent[:2])
        await grow_old(b)
        assert not b.said, "age concludes a session whose chunks wait for the guard"
        await b.give(sent[2])
        there.set()
        await b.settle()
        assert judged(b) == {"prompt": ALLOWED, "response": INCOMPLETE}


@pytest.mark.long
async def test_what_comes_late_while_the_whole_is_looked_at_is_allowed() -> None:
    async with bench() as b:
        b.streamer.enforce(tenants_with("final_look: always\n"))
        b.begin()
        await b.give(*records([chunk("s", 0, "user", "how?", end="turn", policy="mine")]))
        await b.give(*records([chunk("s", 1, "assistant", "take flour ")], first=1))
        await b.acknowledge()
        b.gen.free.clear()
        await grow_old(b)
        await b.give(*records([chunk("s", 2, "assistant", "unsafe unsafe thing")], first=2))
        b.gen.free.set()
        await b.settle()
        assert judged(b) == {"response": INCOMPLETE}


async def test_two_chunks_with_one_seq_that_say_different_things_are_one() -> None:
    async with bench() as b:
        b.begin()
        sent = exchange("s", "take flour and water", ends=False)
        await b.give(*records(sent))
        await b.give(*records([sent[1]], first=3))
        await b.acknowledge()
        assert b.done.keys() == {0, 1, 2, 3}, "the same chunk twice is no harm"
        other = chunk("s", 1, "assistant", "unsafe unsafe ")
        await b.give(*records([other, chunk("s", 3, "assistant", "x", end="session")], first=4))
        assert judged(b) == {"response": INCOMPLETE}
        await b.acknowledge()
        (letter,) = b.done[4]
        assert "says something else" in json.loads(letter.value)["reason"]


async def test_text_behind_the_end_that_came_before_it_is_allowed() -> None:
    async with bench() as b:
        b.begin()
        sent = exchange("s", "take flour and water")
        beyond = chunk("s", 3, "assistant", "unsafe unsafe thing")
        await b.give(*records([*sent[:2], beyond, sent[2]]))
        assert judged(b)["response"] == INCOMPLETE
        await b.acknowledge()
        assert b.done.keys() == {0, 1, 2, 3}


async def test_a_refused_record_ends_a_session_that_it_does_not_name() -> None:
    async with bench() as b:
        b.begin()
        cut = "a" * 256
        for n, name in enumerate(("s", cut)):
            question = chunk(name, 0, "user", "how?", end="turn")
            await b.give(replace(records([question], first=n)[0], key=name.encode()))
        await b.acknowledge()
        for n, name in enumerate(("s\0", f"{cut}b")):
            bad = json.dumps(chunk(name, 5, "assistant", "x")).encode()
            await b.give(Record(2 + n, bad, key=b"another"))
        assert not b.said
        assert b.done.keys() == {0, 1, 2, 3}


async def test_a_record_without_a_key_is_of_those_whose_key_is_empty() -> None:
    async with bench() as b:
        b.begin()
        await b.give(replace(records([chunk("s", 0, "user", "x")])[0], key=b""))
        await b.give(Record(1, b"{broken", key=None))
        assert not b.said
        await b.give(Record(2, b"{broken", key=b""))
        assert judged(b) == {"prompt": INCOMPLETE}


THOUGHT = [
    chunk("s", 0, "user", "how?", end="turn"),
    chunk("s", 1, "assistant", "they want bread", segment="thinking", end="turn"),
]


@pytest.mark.long
@pytest.mark.parametrize("answer", [[], [chunk("s", 2, "assistant", "take flour ")]])
async def test_a_thought_that_was_judged_whole_is_degraded_for_a_gap_in_the_answer(
    answer: list[dict[str, object]],
) -> None:
    async with bench() as b:
        b.begin()
        for n, each in enumerate([*THOUGHT, *answer, chunk("s", 4, "assistant", "x")]):
            await b.give(*records([each], first=n))
            await b.acknowledge()
        b.delivery.published.clear()
        await grow_old(b)
        assert judged(b) == {"response": INCOMPLETE, "thinking": ALLOWED}
        assert kinds(b) == [("response", "incomplete")]


async def test_a_thought_that_was_judged_whole_is_looked_at_for_an_answer_that_is_too_long() -> (
    None
):
    async with bench() as b:
        b.stream._context = 8
        b.begin()
        long = chunk("s", 2, "assistant", "take flour and water and much bad", end="session")
        for n, each in enumerate([*THOUGHT, long]):
            await b.give(*records([each], first=n))
        assert kinds(b) == [("response", "closed")]
        assert judged(b)["thinking"] == ALLOWED
        assert judged(b)["response"][2] == "block"
        assert b.gen.asked == ["take flour and water and much bad"]


async def test_nobody_is_told_that_the_history_has_filled_the_context() -> None:
    async with bench() as b:
        b.stream._context = 4
        b.begin()
        old = chunk("s", 0, "user", "a question of very many words", history=True, end="turn")
        await b.give(*records([old]))
        assert kinds(b) == [("prompt", "closed")]


class Silent(Gen):
    """Has an answer to the question alone."""

    def _say(self, row: bytes) -> Answer:
        answer = super()._say(row)
        if self.asked[-1] == "how?":
            return answer
        return Unanswered(Failure.TOO_LONG, "no room", "gen@1")


@pytest.mark.parametrize(
    ("answer", "looks", "said"),
    [
        ("take flour", "always", ("degraded", "too_long", "review")),
        ("take unsafe", "doubt", ("degraded", "too_long", "review")),
        ("take flour", "doubt", ALLOWED),
        ("unsafe unsafe", "always", ("guard", None, "block")),
    ],
)
async def test_a_look_that_has_no_answer_leaves_the_verdict_to_the_other_guard(
    answer: str, looks: str, said: tuple[str, str | None, str]
) -> None:
    async with bench(Silent()) as b:
        b.streamer.enforce(tenants_with(f"final_look: {looks}\n"))
        b.begin()
        await b.give(*records(exchange("s", answer, question="how?", policy="mine")))
        assert judged(b)["response"] == said


async def test_a_commit_by_a_clock_that_was_fast_stops_the_partitions_time() -> None:
    async with bench() as b:
        told = json.dumps({"v": 1, "from": 5, "at": NOW + 10**11})
        b.begin(committed=5, metadata=told)
        said = json.loads(b.streamer.metadata(WHERE, 5))
        assert said["from"] == 5
        assert said["at"] <= time.time() * 1000, "the next one believes it too"
