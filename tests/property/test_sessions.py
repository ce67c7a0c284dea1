"""Sessions against a plain model of a log that is read, committed, and read again: what becomes of
a session is what its records say, however often the reader dies."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from qwarden.contracts.chunk import Chunk
from qwarden.guard.conversation import Task
from qwarden.streamer.sessions import Cause, Fate, Key, Open, Over, Sessions, Start, Taken

GAP_MS, AGE_MS = 30, 400


@dataclass(frozen=True)
class Record:
    offset: int
    timestamp: int
    chunk: Chunk
    tick: int | None = None
    """How far the clock went at the topic's end, before this record came."""
    key: bytes | None = None
    torn: str = ""
    """How it was refused, so that nothing of the chunk came through but: its `place` (session and
    seq), its `session`, or its record's `key`; empty where it was not."""

    @property
    def says(self) -> tuple[Key | None, int | None, bytes | None, int]:
        """What a refused one says of itself."""
        name = None if self.torn == "key" else (self.chunk.tenant, self.chunk.session)
        return name, self.chunk.seq if self.torn == "place" else None, self.key, self.offset


Verdict = tuple[Key, Cause, str]


@dataclass
class Reader:
    """A streamer without a guard: acknowledgements come when they want."""

    log: list[Record]
    rng: random.Random
    dies: bool
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    applied: dict[Key, list[int]] = field(default_factory=dict)
    late: set[Key] = field(default_factory=set)
    age_ms: int = AGE_MS
    committed: int = 0
    start: Start | None = None
    deaths: int = 0

    def run(self) -> None:
        while not self._live():
            self.deaths += 1

    def _live(self) -> bool:
        """One assignment. Whether it came to the end of everything."""
        self.sessions: Sessions[Record] = Sessions(
            gap_ms=GAP_MS, max_age_ms=self.age_ms, remembered=1000, most_bytes=10_000
        )
        self.undone: dict[int, Record] = {}
        self.owed: list[Over[Record]] = []
        self.met: dict[Key, Open[Record]] = {}
        self.applied = {}
        self.last: dict[Key, list[Record]] = {}
        until = len(self.log) if not self.dies else self.rng.randint(0, len(self.log))
        if self.start is not None:
            self.sessions.reads_again, self.sessions.now = True, self.start.at
            for record in self.log[self.start.offset : self.committed]:
                self._advance(record.timestamp)
                self._read(record)
            self.sessions.reads_again = False
        position = self.committed
        for record in self.log[self.committed :]:
            if self.dies and record.offset >= until and self.deaths < 6:
                return False
            if record.tick is not None:
                self._advance(record.tick)
            self._advance(record.timestamp)
            self.undone[record.offset] = record
            position = record.offset + 1
            self._read(record)
            self._acknowledge(some=True)
            if self.rng.random() < 0.5:
                self._commit(position)
        self._advance(10**9)
        self._acknowledge(some=False)
        assert not self.undone, "a chunk is never done"
        self._commit(position)
        assert self.start == Start(position, self.sessions.now), "a session is never settled"
        return True

    def _advance(self, now: int) -> None:
        for over in self.sessions.advance(now):
            self._over(over)

    def _over(self, over: Over[Record], *refused: Record) -> None:
        if over.settled:
            for each in over.passed:
                self.undone.pop(each.offset, None)
            return
        self.last.setdefault(over.session.key, []).extend((*over.passed, *refused))
        self.owed.append(over)

    def _read(self, record: Record) -> None:
        if not record.torn:
            self._took(self.sessions.take(record), record)
            return
        if self.sessions.reads_again and record.torn == "place":
            self.sessions.refuse_again(record)
        ended = self.sessions.refuse(*record.says)
        for over in ended:
            self._over(over, record)
        if not ended:
            self.undone.pop(record.offset, None)

    def _took(self, taken: Taken[Record], record: Record) -> None:
        if taken.fate is Fate.LATE:
            self.late.add((record.chunk.tenant, record.chunk.session))
        if taken.fate in (Fate.LATE, Fate.DUPLICATE):
            self.undone.pop(record.offset, None)
        session = taken.session
        if session is not None:
            self.met[session.key] = session
            for applied in taken.applied:
                self.applied.setdefault(session.key, []).append(applied.placed.chunk.seq)
        if taken.over is not None:
            self._over(taken.over, *(() if taken.refused is None else taken.refused[:1]))

    def _acknowledge(self, *, some: bool) -> None:
        """In the order of `seq` in each session, since that is part of what done means."""
        for record in sorted(self.undone.values(), key=lambda each: each.chunk.seq):
            key = (record.chunk.tenant, record.chunk.session)
            session = self.met.get(key)
            waits = record in self.last.get(key, ()) or (
                session is not None and record.chunk.seq in session.held
            )
            before = any(
                (each.chunk.tenant, each.chunk.session) == key and each.chunk.seq < record.chunk.seq
                for each in self.undone.values()
                if not each.torn
            )
            if not waits and not before and (not some or self.rng.random() < 0.5):
                del self.undone[record.offset]
        while self.owed and (not some or self.rng.random() < 0.5):
            session = self.owed.pop(0).session
            assert session.cause is not None
            session.is_told = True
            said = repr([session.transcript.value(task) for task in session.transcript.tasks])
            # Whether what came late came before that, the records do not say.
            cause = Cause.AGE if session.cause is Cause.UNREAD else session.cause
            self.verdicts[session.key, cause, said] += 1
            if some and self.rng.random() < 0.2:
                self.owed.append(Over(session, ()))  # published, and not acknowledged yet
            else:
                self.sessions.settle(session)
                for each in self.last.pop(session.key, ()):
                    self.undone.pop(each.offset, None)

    def _commit(self, position: int) -> None:
        self.committed = min(self.undone, default=position)
        self.start = self.sessions.start(self.committed)


def chunks_of(rng: random.Random, session: str) -> list[Chunk]:
    """An exchange in chunks, now and then one that has no place."""
    chunks: list[Chunk] = []

    def say(role: str, text: str, **more: str | bool) -> None:
        words = text.split(" ")
        while words:
            n = rng.randint(1, 3)
            piece, words = " ".join(words[:n]) + " ", words[n:]
            end = more.get("end") if not words else None
            fields = {**more, "end": end, "role": role, "text": piece}
            chunks.append(
                Chunk(session=session, tenant="t", seq=len(chunks), **fields)  # type: ignore[arg-type]
            )

    if rng.random() < 0.2:
        say("user", "an earlier question", history=True, end="turn")
        say("assistant", "an earlier answer", history=True, end="turn")
    say("user", "how do I bake bread", end="turn")
    if rng.random() < 0.3:
        say("assistant", "they want bread", segment="thinking")
    if rng.random() < 0.1:
        say("user", "one thing more")  # refused
    end = "session" if rng.random() < 0.7 else ""
    say("assistant", "take flour and water and salt", **({"end": end} if end else {}))
    return chunks


HOW = ("place", "session", "key")


def log_of(seed: int, sessions: int, *, disorder: float, torn: float = 0) -> list[Record]:
    """Sessions beside each other; chunks lost, doubled and out of order as often as `disorder`, and
    refused as often as `torn`, some of them sent again."""
    rng = random.Random(seed)
    running = [chunks_of(rng, f"s{number}") for number in range(sessions)]
    sent: list[tuple[Chunk, str]] = []
    while any(running):
        chunks = rng.choice([each for each in running if each])
        chunk = chunks.pop(0)
        if rng.random() < disorder / 3:
            continue
        if rng.random() < torn:
            sent.insert(max(0, len(sent) - rng.randint(0, 6)), (chunk, rng.choice(HOW)))
            if rng.random() < 0.7:
                continue
        sent.append((chunk, ""))
        if rng.random() < disorder:
            sent.insert(max(0, len(sent) - rng.randint(0, 6)), sent[-1])
        if rng.random() < disorder:
            other = rng.randrange(len(sent))
            other = max(other, len(sent) - 6)
            sent[-1], sent[other] = sent[other], sent[-1]
    # Some producers' clocks are slow. Then what was over at the topic's end, by the time of day,
    # may be in time when it is read again: their records say that no time had passed.
    clocks = rng.choice(((0,), (0, 0, 20, 1000)))
    slow = {f"s{number}": rng.choice(clocks) for number in range(sessions)}
    at = 1000
    log = []
    for offset, (chunk, how) in enumerate(sent):
        tick = None
        if rng.random() < 0.1:
            at += rng.randint(0, 60)
            tick = at if len(clocks) == 1 else None
        at += rng.randint(0, 4)
        key = chunk.session.encode()
        log.append(Record(offset, at - slow[chunk.session], chunk, tick, key, how))
    return log


@pytest.mark.long
@given(
    st.integers(0, 10**9), st.integers(1, 8), st.sampled_from([0.0, 0.05, 0.3]),
    st.sampled_from([0.0, 0.2]),
)  # fmt: skip
@settings(max_examples=examples(400))
def test_a_reader_that_dies_gives_the_verdicts_of_one_that_does_not(
    seed: int, sessions: int, disorder: float, torn: float
) -> None:
    log = log_of(seed, sessions, disorder=disorder, torn=torn)
    whole = Reader(log, random.Random(seed), dies=False)
    whole.run()
    cut = Reader(log, random.Random(seed + 1), dies=True)
    cut.run()

    # One that got a chunk so late that it was forgotten has two verdicts.
    times = Counter(key for key, _, _ in whole.verdicts)
    # What never began and is read again cannot be told from what had begun.
    headless = {(r.chunk.tenant, r.chunk.session) for r in log if r.torn and r.chunk.seq == 0}
    lost = {key for key, cause, _ in cut.verdicts if cause is Cause.LOST}
    assert lost <= headless
    once = {each for each in whole.verdicts if times[each[0]] == 1 and each[0] not in lost}
    assert not once - cut.verdicts.keys(), "a verdict is lost"
    # What comes late for the first time after a death is not known for late.
    strange = {key for key, _, _ in cut.verdicts.keys() - whole.verdicts.keys()}
    assert strange <= whole.late | lost


@pytest.mark.long
@given(st.integers(0, 10**9), st.integers(1, 8), st.sampled_from([0.0, 0.05, 0.3]))
@settings(max_examples=examples(200))
def test_every_session_ends_once_and_is_applied_in_order(
    seed: int, sessions: int, disorder: float
) -> None:
    log = log_of(seed, sessions, disorder=disorder)
    reader = Reader(log, random.Random(seed), dies=False)
    reader.run()
    keys = {(each.chunk.tenant, each.chunk.session) for each in log}
    assert {key for key, _, _ in reader.verdicts} == keys
    if not disorder:
        times = Counter(key for key, _, _ in reader.verdicts)
        assert all(times[key] == 1 for key in keys - reader.late)
    for seqs in reader.applied.values():
        assert seqs == list(range(len(seqs)))


@given(st.integers(0, 10**9), st.integers(1, 8))
@settings(max_examples=examples(100))
def test_chunks_in_order_leave_nothing_incomplete(seed: int, sessions: int) -> None:
    log = log_of(seed, sessions, disorder=0.0)
    reader = Reader([Record(r.offset, 1000, r.chunk) for r in log], random.Random(seed), dies=False)
    reader.run()
    assert {cause for _, cause, _ in reader.verdicts} <= {Cause.END, Cause.AGE, Cause.REFUSED}


@pytest.mark.long
@given(st.integers(0, 10**9), st.integers(1, 4), st.sampled_from([0.0, 0.3]))
@settings(max_examples=examples(300))
def test_a_session_of_which_a_chunk_was_refused_passes_for_complete(
    seed: int, sessions: int, disorder: float
) -> None:
    log = log_of(seed, sessions, disorder=disorder, torn=0.2)
    reader = Reader(log, random.Random(seed), dies=False, age_ms=10**6)
    reader.run()
    well = {(each.chunk.session, each.chunk.seq) for each in log if not each.torn}
    missing = {each.chunk.session for each in log} & {
        each.chunk.session for each in log if (each.chunk.session, each.chunk.seq) not in well
    }
    for (_, session), cause, _ in reader.verdicts:
        assert session not in missing or not cause.is_complete


@given(
    st.sets(st.integers(0, 3), min_size=1), st.sampled_from(HOW), st.booleans(), st.integers(0, 9)
)
def test_what_was_refused_before_a_session_began_and_was_sent_again_well_is_missed(
    bad: set[int], how: str, ends: bool, seed: int
) -> None:
    """Without an end nobody can tell that it was sent again, but for chunk 0."""
    log = [Record(at, 1000, record(at, seq).chunk, None, b"s", how) for at, seq in enumerate(bad)]
    for seq in range(4):
        chunk = record(0, seq, role="user" if seq == 0 else "assistant").chunk
        if ends and seq == 3:
            chunk = msgspec.structs.replace(chunk, end="session")
        log.append(Record(len(log), 1000, chunk, None, b"s"))
    reader = Reader(log, random.Random(seed), dies=False)
    reader.run()
    ((_, cause, _),) = reader.verdicts
    nothing_missing = Cause.AGE if how == "place" and bad == {0} else Cause.REFUSED
    assert cause is (Cause.END if ends else nothing_missing)


def sessions() -> Sessions[Record]:
    return Sessions(gap_ms=GAP_MS, max_age_ms=AGE_MS, remembered=2, most_bytes=1000)


def record(offset: int, seq: int, at: int = 0, session: str = "s", **more: str) -> Record:
    fields = {"role": "user", "text": f"{seq} "} | more
    chunk = Chunk(tenant="t", session=session, seq=seq, **fields)  # type: ignore[arg-type]
    return Record(offset, at, chunk)


def _offset(known: Sessions[Record]) -> int | None:
    start = known.start(99)
    return None if start.offset == 99 else start.offset


def reading_again(*records: Record, lost: bool = False) -> Sessions[Record]:
    again = sessions()
    again.reads_again, again.lost = True, lost
    for each in records:
        again.advance(each.timestamp)
        again.take(each)
    again.reads_again = False
    return again


def test_a_session_that_began_out_of_order_is_taken_for_one_that_was_over() -> None:
    open_ = sessions()
    assert open_.take(record(10, 1)).fate is Fate.WAITS
    taken = open_.take(record(12, 0))
    assert [each.placed.offset for each in taken.applied] == [12, 10]
    assert _offset(open_) == 10
    # Chunk 0 stands above the watermark, which another session holds.
    for again in (
        reading_again(record(10, 1), record(12, 0)), reading_again(record(10, 1)),
    ):  # fmt: skip
        again.take(record(12, 0))
        assert _offset(again) == 10
        assert again.take(record(13, 2)).fate is Fate.APPLIED


def test_what_was_over_before_the_start_of_reading_again_comes_once_more() -> None:
    again = reading_again(record(10, 7))
    (over,) = again.advance(GAP_MS)
    assert over.settled
    assert _offset(again) is None
    assert again.take(record(13, 8, at=GAP_MS)).fate is Fate.LATE


def test_a_session_that_lost_its_beginning_ends_in_silence() -> None:
    again = reading_again(record(10, 7), lost=True)
    (over,) = again.advance(GAP_MS)
    assert over.session.cause is Cause.LOST and not over.settled
    assert _offset(again) == 10, "it is settled only when its verdict is acknowledged"
    again.settle(over.session)
    assert _offset(again) is None


def test_a_refused_chunk_lets_what_comes_after_it_pass_as_if_nothing_were_missing() -> None:
    open_ = sessions()
    open_.take(record(0, 0, end="turn"))
    open_.take(record(1, 1, role="assistant"))
    held = open_.take(record(2, 3, role="assistant"))
    assert held.fate is Fate.WAITS
    taken = open_.take(record(3, 2))
    assert taken.refused is not None and "start a new session" in taken.refused[1]
    assert taken.over is not None and [each.offset for each in taken.over.passed] == [2]
    assert taken.over.session.cause is Cause.REFUSED
    assert taken.over.session.transcript.tasks == (Task.PROMPT, Task.RESPONSE)


def test_no_room_to_read_on_waits_for_ever_for_a_chunk() -> None:
    open_ = sessions()
    open_.take(record(0, 1, session="a"))
    open_.advance(5)
    open_.take(record(1, 1, session="b"))
    over = open_.give_up_longest_gap()
    assert over is not None and over.session.key == ("t", "a")
    assert [each.offset for each in over.passed] == [0]


def test_a_producer_whose_clock_is_slow_has_old_sessions_from_the_start() -> None:
    open_ = sessions()
    open_.advance(10 * AGE_MS)
    open_.take(record(0, 0, at=1))
    assert open_.advance(11 * AGE_MS - 1) == []
    start = open_.start(1)
    assert start.at == 10 * AGE_MS


def test_a_chunk_that_nobody_could_read_and_that_ends_its_session_is_not_missed() -> None:
    open_ = sessions()
    open_.take(Record(0, 0, record(0, 0).chunk, key=b"k"))
    open_.take(Record(1, 0, record(1, 0, session="other").chunk, key=b"l"))
    (over,) = open_.refuse(None, None, b"k", 2)
    assert over.session.key == ("t", "s") and over.session.cause is Cause.REFUSED
    assert open_.refuse(None, None, None, 3) == []


def test_a_chunk_that_nobody_could_read_is_forgotten_for_sessions_that_begin_later() -> None:
    open_ = sessions()
    open_.take(Record(0, 0, record(0, 0).chunk, key=b"k"))
    assert len(open_.refuse(None, None, b"k", 1)) == 1
    open_.take(Record(2, 0, record(2, 0, session="later").chunk, key=b"k"))
    (over,) = open_.advance(AGE_MS)
    assert over.session.key == ("t", "later") and over.session.cause is Cause.REFUSED


def test_a_second_refusal_is_remembered_for_as_long_as_the_first() -> None:
    open_ = sessions()
    open_.refuse(("t", "s"), 1, b"k", 0)
    open_.advance(AGE_MS - 1)
    open_.refuse(("t", "s"), 2, b"k", 1)
    open_.advance(AGE_MS)
    assert open_.start(9) == Start(1, AGE_MS - 1)
    open_.take(record(9, 0))
    (over,) = open_.advance(2 * AGE_MS)
    assert over.session.cause is Cause.REFUSED


def test_a_late_chunk_makes_a_verdict_incomplete_that_is_out_or_what_came_to_its_end() -> None:
    def late(end: str | None, is_told: bool) -> Cause | None:
        open_ = sessions()
        chunk = msgspec.structs.replace(record(0, 0).chunk, end=end)
        session = open_.take(Record(0, 0, chunk)).session
        open_.advance(AGE_MS)
        assert session is not None
        session.is_told = is_told
        assert open_.take(Record(1, 0, chunk)).fate is Fate.LATE, "the same once more"
        assert session.cause in (Cause.AGE, Cause.END)
        assert open_.take(record(2, 1)).fate is Fate.LATE
        return session.cause

    assert late(None, False) is Cause.UNREAD
    assert late(None, True) is Cause.AGE
    assert late("session", False) is Cause.END


def test_a_chunk_0_that_is_refused_when_it_is_read_again_lets_its_session_begin_anew() -> None:
    open_ = sessions()
    open_.take(record(3, 0))
    open_.refuse(("t", "s"), 0, b"k", 5)
    session = open_.take(record(6, 1, role="assistant", end="session")).session
    assert session is not None
    open_.settle(session)
    # Another one holds the commit behind its first chunk, and the chunk 0 that was refused.
    open_.take(record(4, 0, session="other"))
    assert _offset(open_) == 3


def test_what_was_refused_before_its_session_began_is_not_read_again() -> None:
    open_ = sessions()
    assert open_.refuse(("t", "s"), 1, b"k", 7) == []
    open_.take(record(9, 0))
    assert _offset(open_) == 7
    (over,) = open_.advance(AGE_MS)
    assert over.session.cause is Cause.REFUSED
    open_.settle(over.session)
    assert open_.start(9) == Start(7, 0), "its chunk may be delivered again, alone"
    assert _offset(open_) is None


def test_a_chunk_that_was_refused_is_remembered_for_ever() -> None:
    open_ = sessions()
    open_.refuse(("t", "s"), 1, b"k", 7)
    open_.advance(AGE_MS)
    assert _offset(open_) is None
    open_.take(record(9, 0, at=AGE_MS))
    (over,) = open_.advance(2 * AGE_MS)
    assert over.session.cause is Cause.AGE


def test_a_session_that_the_guard_gave_up_goes_on() -> None:
    open_ = sessions()
    open_.take(record(0, 0))
    session = open_.take(record(1, 2)).session
    assert session is not None
    over = open_.abandon(session, Cause.NO_ANSWER)
    assert session.cause is Cause.NO_ANSWER and not over.settled
    assert [each.offset for each in over.passed] == [1], "what waited waits for ever"
    assert open_.take(record(2, 1)) == Taken(Fate.LATE, session)
    assert len(open_) == 0


def test_a_session_that_is_settled_twice_takes_another_ones_place() -> None:
    open_ = sessions()
    first = open_.take(record(0, 0, end="session")).session
    assert first is not None
    open_.settle(first)
    open_.advance(AGE_MS)
    again = open_.take(record(1, 0, at=AGE_MS)).session
    assert again is not first
    open_.settle(first)
    assert open_.start(9) == Start(1, AGE_MS)
