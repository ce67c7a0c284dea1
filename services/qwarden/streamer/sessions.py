"""Which chunks of which sessions go on, wait, or are passed over, and when a session is over. Pure.

One `Sessions` stands for one partition in one epoch, and is given its records in the order of their
offsets: first those that are read again, `[start, committed)`, then those that are delivered.

Invariants, each held by `tests/property/test_sessions.py`:
- A session's chunks are applied once each, in the order of `seq`, whatever order they come in.
- Nothing but the records says what becomes of a session, their timestamps included: read again
  from `start`, and from its time, it is applied, and ends, as it was before. (But a chunk that
  comes for the first time when its session is over is known for late only as long as that is
  remembered, and whether it came before the verdict of an old session was out is not told.)
- A chunk is done only when those before it in its session are: one that waits for another is not
  until that has come or the session is settled. So a session that is read again and whose chunk 0
  does not come, then or soon, was settled before.
- Every session ends: by its end, or when it is too old, or when a chunk of it stays away or is
  refused.
- A session of which a chunk was refused, and not sent again well, is never complete, whichever of
  its chunks came first. Nor is one of which two chunks with one `seq` say different things, or of
  which text came that nobody reads: behind its end, or late when it was too old.
- A session that had begun does not vanish where its chunk 0 is refused when it is read again.
"""

from __future__ import annotations

import enum
import heapq
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, NamedTuple, Protocol, TypeVar

from qwarden.contracts.chunk import Chunk
from qwarden.guard.conversation import Task
from qwarden.guard.stream import Part, Segment
from qwarden.streamer.transcript import Transcript

Key = tuple[str, str]
"""Tenant and session."""

_CONTRADICTS = (
    "a chunk of this seq was taken that says something else; number each chunk of a session once, "
    "and repeat it as it was"
)
_MOST_TWICE = 1000
"""Sessions whose beginning is not where it should be, that are known: producers send few so."""


class Cause(enum.StrEnum):
    """Why a session is over. Bounded: it is a metric's label."""

    END = "end"
    """Its last chunk said so."""
    AGE = "age"
    """It was too old: what was there is judged."""
    GAP = "gap"
    """A chunk did not come in time, while those behind it did."""
    REFUSED = "refused"
    """A chunk of it was refused."""
    UNREAD = "unread"
    """Text of it came that nobody reads: behind its end, or when it was too old."""
    LOST = "lost"
    """The topic does not have its beginning any more, or it is refused now."""
    NO_ANSWER = "no_answer"
    """The stream guard failed on it alone, several times."""

    @property
    def is_complete(self) -> bool:
        """Whether all that was sent was read, so that a verdict can be given."""
        return self in (Cause.END, Cause.AGE)


class Fate(enum.StrEnum):
    """What becomes of a chunk. Bounded: it is a metric's label."""

    APPLIED = "applied"
    WAITS = "gap"
    """It waits for one before it."""
    DUPLICATE = "duplicate"
    LATE = "late"
    """Its session is over."""
    REFUSED = "refused"
    SKIPPED = "skipped"
    """Read again, of a session that was settled before."""


class Placed(Protocol):
    """A chunk where it stands. `key`: of its record."""

    @property
    def chunk(self) -> Chunk: ...
    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...


P = TypeVar("P", bound=Placed)


class Start(NamedTuple):
    """From where a partition must be read again, and its time (ms) when that was read first: with
    it, all that comes from there on is as old as it was."""

    offset: int
    at: int


@dataclass(eq=False, slots=True)
class Open(Generic[P]):
    """A session that is not settled: open, or over and something of it is still owed.

    `first`: its chunk with the lowest offset. `expected`: the `seq` that comes next.
    """

    key: Key
    first: P
    since: int
    """The partition's time (ms) when that came."""
    start: Start
    """From where it must be read again: there, or where a chunk of it was refused before."""
    transcript: Transcript
    last: int = -1
    """The highest offset of its chunks, those that came late or twice too; of `zero`: of those with
    `seq` 0."""
    zero: int = -1
    expected: int = 0
    held: dict[int, P] = field(default_factory=dict)
    """Chunks that wait for one before them, by `seq`; `held_since`: when they came (ms)."""
    held_since: dict[int, int] = field(default_factory=dict)
    beginning: P | None = None
    """Its chunk 0, which says its policy and language."""
    said: dict[int, int] = field(default_factory=dict)
    """Of each `seq` that was taken a hash of what its chunk says."""
    tasks_sent: set[Task] = field(default_factory=set)
    """What its chunks are texts of, those included that are not applied."""
    read_again: bool = False
    """Whether its first chunk was read again, and not delivered."""
    is_headless: bool = False
    """Whether its chunk 0 was read again, and is refused now."""
    is_torn: bool = False
    """Whether a chunk was refused before it began: its end alone would show that this was sent
    again well."""
    cause: Cause | None = None
    """Why it is over, or None while it is open."""
    is_told: bool = False
    """Whether its last verdicts are on their way."""

    def met(self, placed: P) -> None:
        """A chunk of it stands there, whatever becomes of it."""
        chunk = placed.chunk
        self.stands(chunk.seq, placed.offset)
        task = Part(chunk.role, "", Segment(chunk.segment), history=chunk.history).task
        if task is not None and chunk.role in ("user", "assistant"):
            self.tasks_sent.add(task)

    def stands(self, seq: int | None, offset: int) -> None:
        """A record of it stands there, be it refused."""
        self.last = max(self.last, offset)
        if seq == 0:
            self.zero = max(self.zero, offset)

    def has(self, seq: int) -> bool:
        """Whether that chunk was taken."""
        return seq in self.said

    @property
    def waits_since(self) -> int | None:
        """When the first chunk came that waits (ms), or None where none does."""
        return min(self.held_since.values(), default=None)


@dataclass(frozen=True, slots=True)
class Applied(Generic[P]):
    """A chunk that was applied, what the guard is sent for it, and whether a user's turn that is
    judged has ended with it."""

    placed: P
    parts: tuple[Part, ...]
    ends_prompt: bool


@dataclass(frozen=True, slots=True)
class Over(Generic[P]):
    """A session that is over, and the chunks that waited in vain. `settled`: it was settled before,
    and owes nothing."""

    session: Open[P]
    passed: tuple[P, ...]
    settled: bool = False


@dataclass(frozen=True, slots=True)
class Taken(Generic[P]):
    """What a chunk has brought about. `applied`: it and those that waited for it, in order.
    `refused`: one that can never be applied, with a sentence. `over`: the session is, with it."""

    fate: Fate
    session: Open[P] | None = None
    applied: tuple[Applied[P], ...] = ()
    refused: tuple[P, str] | None = None
    over: Over[P] | None = None


class Sessions(Generic[P]):
    """The sessions of one partition.

    Its time is that of its newest record, or of its known end: a producer whose clock is slow has
    no older sessions than others. `gap_ms`: how long a chunk waits for one before it. `max_age_ms`:
    how old a session gets, from when its first chunk came. `remembered`: how many that are over are
    known, for as long, so that chunks that come late begin none of them anew. `most_bytes`: of one
    session's texts.
    """

    def __init__(self, *, gap_ms: int, max_age_ms: int, remembered: int, most_bytes: int) -> None:
        self._gap_ms = gap_ms
        self._max_age_ms = max_age_ms
        self._remembered = remembered
        self._most_bytes = most_bytes
        self._open: dict[Key, Open[P]] = {}
        self._by_record: dict[bytes, dict[Key, None]] = {}
        """The same by the key of the record that each was opened by."""
        self._torn: OrderedDict[Key | bytes, Start] = OrderedDict()
        """Where a chunk was last refused whose session had not begun: by its name, or by the key
        of its record where it does not say it. As many as such sessions: to forget one before it is
        too old would let it pass for complete."""
        self._settled: OrderedDict[Key, tuple[int, Start]] = OrderedDict()
        """Those that are over and owe nothing, with the time when each was (ms), and its start."""
        self._leaving: list[tuple[int, Start]] = []
        """A heap of the last offset and the start of those that are settled, and may be above the
        watermark still."""
        self._begin_twice: deque[tuple[int, Start]] = deque(maxlen=_MOST_TWICE)
        """Of those that are settled and whose first chunk is not chunk 0, or that have it more than
        once: the offset of the last chunk 0, and the start."""
        self._due: list[tuple[int, int, Open[P]]] = []
        """A heap of (time, a number, session): when one may be too old, or wait too long."""
        self._numbered = 0
        self.reads_again = False
        """Whether what is taken was committed before."""
        self.lost = False
        """Whether what should have been read again is not there any more."""
        self.now = 0
        """The partition's time (ms), as `advance` was told."""

    def __len__(self) -> int:
        """How many are open."""
        return sum(session.cause is None for session in self._open.values())

    def start(self, watermark: int) -> Start:
        """From where the partition must be read again to know what is known here, by one who goes
        on at this watermark: the watermark itself where there is nothing below it, since its time
        is to be known all the same. The watermark never goes back.

        That is the first offset of the oldest session that is not settled, or of which a chunk will
        be delivered again, or of which one was refused before it began. Nor does it stand between
        the first chunk of one that is settled and a chunk 0 of it, with which it would seem to
        begin.
        """
        while self._leaving and self._leaving[0][0] < watermark:
            heapq.heappop(self._leaving)
        starts = [each.start for each in self._open.values()]
        starts += [start for _, start in self._leaving]
        starts += islice(self._torn.values(), 1)
        found = min(starts, default=Start(watermark, self.now))
        for zero, start in sorted(self._begin_twice, reverse=True):
            if zero >= found.offset:
                found = min(found, start)
        return found if found.offset < watermark else Start(watermark, found.at)

    @property
    def waiting(self) -> int:
        """How many chunks wait for one before them."""
        return sum(len(session.held) for session in self._open.values())

    def advance(self, now: int) -> list[Over[P]]:
        """The partition's time is this (ms): ends the sessions that are too old or wait too long.
        To be called before each record, with its timestamp; it never goes back."""
        self.now = max(self.now, now)
        over = []
        while self._due and self._due[0][0] <= self.now:
            _, _, session = heapq.heappop(self._due)
            if session.cause is not None or self._open.get(session.key) is not session:
                continue
            if self._is_overdue(session):
                over.append(self._give_up(session))
            elif session.since + self._max_age_ms <= self.now:
                over.append(self._grow_old(session))
        while self._settled:
            key, (at, _) = next(iter(self._settled.items()))
            if at + self._max_age_ms > self.now and len(self._settled) <= self._remembered:
                break
            del self._settled[key]
        while self._torn:
            name, start = next(iter(self._torn.items()))
            if start.at + self._max_age_ms > self.now:
                break
            del self._torn[name]
        return over

    def give_up_longest_gap(self) -> Over[P] | None:
        """Ends the session whose chunks have waited longest: for when there is no room to read on
        for the one that they wait for."""
        waiting = [(since, s) for s in self._open.values() if (since := s.waits_since) is not None]
        if not waiting:
            return None
        return self._give_up(min(waiting, key=lambda each: each[0])[1])

    def take(self, placed: P) -> Taken[P]:
        """One record's chunk, at the time that `advance` was told."""
        chunk = placed.chunk
        key = (chunk.tenant, chunk.session)
        session = self._open.get(key)
        if session is not None:
            session.met(placed)
        elif key in self._settled:
            _, start = self._settled[key]
            self._leave(start, placed.offset, placed.offset if chunk.seq == 0 else start.offset)
        if key in self._settled or (session is not None and session.cause is not None):
            if session is not None:
                self._comes_late(session, chunk)
            return Taken(Fate.LATE, session)
        if session is None:
            session = self._opened(key, placed)
        elif session.is_headless and not session.said:
            # Where its chunk 0 was refused the first time too, this is what had begun it.
            session.since = self.now
            self._look_at(self.now + self._max_age_ms, session)
        said = _said_by(chunk)
        if session.said.setdefault(chunk.seq, said) != said:
            over = self._end(session, Cause.REFUSED)
            return Taken(Fate.REFUSED, session, refused=(placed, _CONTRADICTS), over=over)
        if chunk.seq < session.expected or chunk.seq in session.held:
            return Taken(Fate.DUPLICATE, session)
        session.held[chunk.seq] = placed
        session.held_since[chunk.seq] = self.now
        if chunk.seq > session.expected:
            self._look_at(self.now + self._gap_ms, session)
            return Taken(Fate.WAITS, session)
        return self._apply(session)

    def refuse_again(self, placed: P) -> None:
        """A chunk is refused now that is read again; to be called before `refuse`. If its session
        had begun with it, that does not vanish: it is lost, unless its chunk 0 was sent again well.
        (What had not begun, and is known by a dead letter, cannot be told from it, and is lost
        too.)"""
        key = (placed.chunk.tenant, placed.chunk.session)
        session = self._open.get(key)
        if placed.chunk.seq == 0 and key not in self._settled:
            session = session or self._opened(key, placed)
            session.is_headless = True
        if session is not None:
            session.met(placed)

    def refuse(
        self, name: Key | None, seq: int | None, record_key: bytes | None, offset: int
    ) -> list[Over[P]]:
        """A record that is no chunk, at the time that `advance` was told: which sessions are over
        with it. `name`, `seq`: what it says of itself, as far as that can be read; one that does
        not name its session is of those whose records have its key.

        What has begun is over at once: nothing that comes later could show that text is missing.
        What has not is remembered, as old as a session gets; so is what names no session, since it
        may be of one that begins later. But nothing is missing where the same `seq` was taken well,
        and of chunk 0 none needs to be told: without it nothing begins.
        """
        if name is not None and name in self._settled:
            if seq == 0:
                self._leave(self._settled[name][1], offset, offset)
            return []
        whose: Iterable[Key] = () if name is None else (name,)
        if name is None and record_key is not None:
            whose = self._by_record.get(record_key, ())
        known = [session for key in whose if (session := self._open.get(key)) is not None]
        if seq == 0:
            for session in known:
                session.stands(seq, offset)
            return []
        unknown = name if name is not None else record_key
        if unknown is not None and (name is None or not known):
            self._torn[unknown] = Start(offset, self.now)
            self._torn.move_to_end(unknown)
        over = []
        for session in known:
            if session.cause is not None or (seq is not None and session.has(seq)):
                continue
            session.stands(seq, offset)
            if session.beginning is None:
                session.is_torn = True
            else:
                over.append(self._end(session, Cause.REFUSED))
        return over

    def abandon(self, session: Open[P], cause: Cause) -> Over[P]:
        """The guard does not judge this session: it is over, or was, for that reason."""
        return self._end(session, cause)

    def settle(self, session: Open[P]) -> None:
        """All that a session owes is acknowledged."""
        if self._open.get(session.key) is session:
            del self._open[session.key]
            self._forget_record(session)
            self._leave(session.start, session.last, session.zero)
        self._settled[session.key] = self.now, session.start

    def _opened(self, key: Key, placed: P) -> Open[P]:
        """A session of which nothing was taken before."""
        names: list[Key | bytes] = [key] if placed.key is None else [key, placed.key]
        torn = [self._torn[name] for name in names if name in self._torn]
        self._torn.pop(key, None)
        session = Open(
            key,
            placed,
            self.now,
            min([*torn, Start(placed.offset, self.now)]),
            Transcript(self._most_bytes),
            read_again=self.reads_again,
            is_torn=bool(torn),
        )
        session.met(placed)
        self._open[key] = session
        if placed.key is not None:
            self._by_record.setdefault(placed.key, {})[key] = None
        self._look_at(self.now + self._max_age_ms, session)
        return session

    def _forget_record(self, session: Open[P]) -> None:
        if session.first.key is not None:
            others = self._by_record[session.first.key]
            del others[session.key]
            if not others:
                del self._by_record[session.first.key]

    def _leave(self, start: Start, last: int, zero: int) -> None:
        heapq.heappush(self._leaving, (last, start))
        if zero > start.offset:
            self._begin_twice.append((zero, start))

    def _apply(self, session: Open[P]) -> Taken[P]:
        """Applies what waits, from the chunk that was expected on."""
        applied: list[Applied[P]] = []
        refused = None
        while session.cause is None and (placed := session.held.pop(session.expected, None)):
            del session.held_since[session.expected]
            before = session.transcript.is_prompt_over
            session.beginning = session.beginning or placed
            try:
                parts = session.transcript.write(placed.chunk)
            except ValueError as error:
                refused = placed, str(error)
                session.cause = Cause.REFUSED
                break
            if placed.chunk.end == "session":
                parts += session.transcript.finish()
                session.cause = Cause.UNREAD if session.held else Cause.END
            session.expected += 1
            ends_prompt = session.transcript.is_prompt_over and not before
            applied.append(Applied(placed, parts, ends_prompt))
        over = None
        if session.cause is not None:
            over = Over(session, self._released(session))
        elif session.held:
            since = session.waits_since
            assert since is not None
            self._look_at(since + self._gap_ms, session)
        fate = Fate.APPLIED if applied else Fate.REFUSED
        return Taken(fate, session, tuple(applied), refused, over)

    def _is_overdue(self, session: Open[P]) -> bool:
        since = session.waits_since
        return since is not None and since + self._gap_ms <= self.now

    def _grow_old(self, session: Open[P]) -> Over[P]:
        """Ends a session that is too old."""
        if session.held or session.beginning is None:
            return self._give_up(session)
        return self._end(session, Cause.REFUSED if session.is_torn else Cause.AGE)

    def _comes_late(self, session: Open[P], chunk: Chunk) -> None:
        is_new = session.said.get(chunk.seq) != _said_by(chunk)
        if is_new and session.cause is Cause.AGE and not session.is_told:
            session.cause = Cause.UNREAD

    def _give_up(self, session: Open[P]) -> Over[P]:
        """Ends a session of which a chunk stays away."""
        if session.beginning is not None or not session.read_again:
            return self._end(session, Cause.GAP)
        if self.lost or session.is_headless:
            return self._end(session, Cause.LOST)
        self.settle(session)
        return Over(session, self._released(session), settled=True)

    def _end(self, session: Open[P], cause: Cause) -> Over[P]:
        session.cause = cause
        return Over(session, self._released(session))

    def _released(self, session: Open[P]) -> tuple[P, ...]:
        passed = tuple(session.held.values())
        session.held.clear()
        session.held_since.clear()
        return passed

    def _look_at(self, at: int, session: Open[P]) -> None:
        self._numbered += 1
        heapq.heappush(self._due, (at, self._numbered, session))


def _said_by(chunk: Chunk) -> int:
    """Equal for chunks that say the same."""
    return hash((chunk.role, chunk.segment, chunk.history, chunk.text))
