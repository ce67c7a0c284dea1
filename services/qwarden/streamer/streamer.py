"""The streamer's handler and keeper: chunks in, signals and verdicts out. It waits and acts; what
becomes of a chunk and of a session is decided by `sessions`, what is said of it by `verdicts`.

A session's text goes to the guard one append at a time; what comes meanwhile is the next one. Its
chunks are done, in their order, when what was said of them is acknowledged.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import msgspec
from aiokafka import ConsumerRecord

from qwarden import telemetry
from qwarden.contracts import headers, topics
from qwarden.contracts.dead_letter import KEPT_BYTES
from qwarden.contracts.escalation import Content
from qwarden.contracts.headers import Header
from qwarden.contracts.refusal import ErrorClass, Refused
from qwarden.contracts.signal import Signal
from qwarden.contracts.verdict import encode
from qwarden.delivery.consumer import Delivery, Finish
from qwarden.delivery.owed import Message, Owed
from qwarden.delivery.window import Partition
from qwarden.guard.answer import Answer
from qwarden.guard.conversation import Task, refusal_of
from qwarden.guard.debounce import Latch
from qwarden.guard.row import row_of
from qwarden.guard.stream import Part, Scored
from qwarden.inference.replica import NoAnswer
from qwarden.inference.session import Session
from qwarden.inference.stream_client import AppendRefused, StreamClient
from qwarden.outcomes.lookup import Found, Lookup, Wanted
from qwarden.outcomes.owing import owed_by_verdict
from qwarden.outcomes.publication import Outcomes, Publication
from qwarden.outcomes.source import Record, Source
from qwarden.policy.policy import Policy
from qwarden.policy.tenants import Tenant
from qwarden.streamer import verdicts
from qwarden.streamer.chunks import Done, Door, Placed
from qwarden.streamer.sessions import Applied, Cause, Fate, Key, Open, Over, Sessions, Start, Taken
from qwarden.streamer.verdicts import Judged, Word
from qwarden.telemetry import TenantLabels

_log = logging.getLogger(__name__)

_LOOK_S = 0.5
"""How often it is looked whether sessions are too old where nothing comes."""
_KEPT_S = 60.0
"""How long a partition that was revoked stays known: a rebalance takes seconds."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`gap_s`: how long a chunk waits for one before it; `max_age_s`: how old a session gets; both
    in the partition's time. `remembered`: sessions that are over and known, for each partition."""

    gap_s: float
    max_age_s: float
    remembered: int


@dataclass(eq=False, slots=True)
class _Entry:
    """What is owed together, and what is done when it is acknowledged: records are finished, each
    with what stands beside it, and `then` is called."""

    owed: Owed
    records: Sequence[tuple[Placed, Owed]]
    then: Callable[[], None]
    signals: int = 0
    is_acknowledged: bool = False


@dataclass(eq=False, slots=True)
class _Live:
    """One session's way through the guard."""

    open: Open[Placed]
    tenant: Tenant
    policy: Policy
    session: Session
    latches: dict[Task, Latch] = field(default_factory=dict)
    steps: deque[Applied[Placed]] = field(default_factory=deque)
    """What was applied and is not sent yet."""
    again: list[Part] = field(default_factory=list)
    """What was read again, which is sent first, and of which nothing is said."""
    outbox: deque[_Entry] = field(default_factory=deque)
    """In the order of its chunks; the first one is finished first."""
    headless: tuple[Placed, ...] = ()
    """Chunks that are done only when the session is settled, since its first one never came."""
    task: asyncio.Task[None] | None = None
    prompt_is_out: bool = False
    is_full: bool = False
    """Whether the guard's context is: nothing more is judged token by token."""
    is_abandoned: bool = False
    """Whether the guard does not judge it any further, for another reason."""
    is_quiet: bool = False
    """Whether its end was read again, so that it was signalled before."""
    is_concluded: bool = False

    def latch(self, task: Task) -> Latch:
        latch = self.latches.get(task)
        if latch is None:
            latch = self.latches[task] = Latch(self.policy.rules[task])
        return latch

    def word(self, task: Task) -> Word | None:
        return verdicts.word_of(self.latch(task))


@dataclass(eq=False, slots=True)
class _Held:
    """What is known of one partition. It may outlive an epoch, until another one of it begins."""

    where: Partition
    epoch: int
    sessions: Sessions[Placed]
    lives: dict[Key, _Live] = field(default_factory=dict)
    known: dict[int, Placed] = field(default_factory=dict)
    """Chunks above the commit, by offset: those that may be delivered again."""
    committed: tuple[int | None, str] = (None, "")
    """What is committed, offset and metadata, as far as this process wrote or read it."""
    is_active: bool = False
    """Whether what it says goes out."""
    let_go_at: float = 0.0
    """When it was revoked (s, of a clock that does not jump)."""


class Streamer:
    """Judges running sessions. `delivery` is to be set before anything is handled; `on_failure` is
    told of what it cannot go on from."""

    delivery: Delivery

    def __init__(
        self,
        door: Door,
        client: StreamClient,
        lookup: Lookup,
        publication: Publication,
        *,
        trace: telemetry.Trace,
        tenant_labels: TenantLabels,
        limits: Limits,
    ) -> None:
        self.on_failure: Callable[[BaseException], None] = lambda error: None
        self._door = door
        self._client = client
        self._lookup = lookup
        self._publication = publication
        self._trace = trace
        self._outcomes = Outcomes(publication, trace, tenant_labels, headers.STREAMER)
        self._limits = limits
        self._held: dict[Partition, _Held] = {}
        self._looking: asyncio.Task[None] | None = None
        self._finished = 0

    def start(self) -> None:
        """Begins to look for sessions that are too old."""
        self._looking = asyncio.create_task(self._look_from_time_to_time(), name="sessions-look")
        self._looking.add_done_callback(self._ended)

    async def close(self) -> None:
        """Ends what runs; what is not acknowledged stays so."""
        tasks = [live.task for held in self._held.values() for live in held.lives.values()]
        running = [task for task in (*tasks, self._looking) if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    # What the delivery calls: the handler.

    async def handle(self, records: Sequence[ConsumerRecord], finish: Finish) -> None:
        """Takes records in their order; returns when all of them are finished."""
        with self._trace.batch(records):
            over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            left = len(records)

            def done(index: int, owed: Owed) -> None:
                nonlocal left
                finish(index, owed)
                self._finished += 1
                left -= 1
                if not left and not over.done():
                    over.set_result(None)

            polled = time.monotonic()
            for index, record in enumerate(records):
                held = self._held[Partition(record.topic, record.partition)]
                self._take(held, record, polled, partial(done, index))
            await over

    def unpublishable(self, record: Record, reason: str) -> Owed:
        """The dead letter of a record whose own outcome no broker takes."""
        refused = Refused(ErrorClass.UNPUBLISHABLE, reason)
        return self._outcomes.dead_letter(
            Source.of(record), refused, time.monotonic(), max_bytes=KEPT_BYTES
        )

    # What the delivery calls: the keeper.

    def assigned(
        self, where: Partition, epoch: int, committed: int | None, metadata: str
    ) -> int | None:
        held = self._held.get(where)
        if held is not None and held.committed == (committed, metadata) and committed is not None:
            # Nobody has gone on from there since: all that is known here is known still.
            held.epoch, held.let_go_at = epoch, 0.0
            return None
        if held is not None:
            self._drop(held)
        self._held[where] = _Held(
            where,
            epoch,
            Sessions(
                gap_ms=int(self._limits.gap_s * 1000),
                max_age_ms=int(self._limits.max_age_s * 1000),
                remembered=self._limits.remembered,
                most_bytes=self._publication.max_event_bytes,
            ),
            committed=(committed, metadata),
        )
        sessions = self._held[where].sessions
        start = _start_in(metadata)
        if metadata and start is None:
            _log.error(
                "%s/%s: the commit's metadata %r is not known here, so that open sessions end "
                "incomplete; was it written by a newer streamer?",
                *where,
                metadata[:200],
            )
        if start is None:
            return None
        sessions.reads_again, sessions.now = True, start.at
        return start.offset

    def lost(self, where: Partition) -> None:
        if not self._held[where].sessions.lost:
            _log.error(
                "%s/%s: its retention took what open sessions began with; they end incomplete. "
                "Keep it longer than streamer.max_age_s and the longest outage",
                *where,
            )
        self._held[where].sessions.lost = True

    def read_again(self, where: Partition, records: Sequence[ConsumerRecord]) -> None:
        held = self._held[where]
        now = time.monotonic()
        for record in records:
            self._take(held, record, now, None)

    def begins(self, where: Partition) -> None:
        held = self._held[where]
        held.sessions.reads_again = False
        held.is_active = True
        for live in list(held.lives.values()):
            for entry in live.outbox:
                if not entry.is_acknowledged:
                    self._publish(held, live, entry)
            self._wake(held, live)

    def metadata(self, where: Partition, watermark: int) -> str:
        start = self._held[where].sessions.start(watermark)
        if start is None:
            return ""
        said = {"v": 1, "from": start.offset, "at": start.at}
        return json.dumps(said, separators=(",", ":"))

    def committed(self, where: Partition, watermark: int, metadata: str) -> None:
        held = self._held[where]
        held.committed = watermark, metadata
        held.known = {at: placed for at, placed in held.known.items() if at >= watermark}

    def revoked(self, where: Partition) -> None:
        held = self._held[where]
        held.is_active = False
        held.let_go_at = time.monotonic()
        for placed in list(held.known.values()):
            placed.let_go()
        if held.committed[0] is None or held.sessions.reads_again:
            self._drop(held)

    # Chunks.

    def _take(self, held: _Held, record: ConsumerRecord, polled: float, done: Done | None) -> None:
        known = held.known.get(record.offset)
        if known is not None and done is not None:
            known.is_delivered_again(done)
            return
        source = Source.of(record)
        # A producer's clock that is fast makes nobody else's session old.
        self._advance(held, min(record.timestamp, int(time.time() * 1000)))
        try:
            chunk = self._door.admit(source)
        except Refused as refused:
            if done is not None:
                telemetry.CHUNKS.add(Fate.REFUSED)
                done(self._outcomes.dead_letter(source, refused, polled))
            self._end_refused(held, (refused.tenant, refused.event_id))
            return
        placed = Placed(chunk, source, polled, done)
        if done is not None:
            held.known[record.offset] = placed
        self._took(held, placed, held.sessions.take(placed))

    def _took(self, held: _Held, placed: Placed, taken: Taken[Placed]) -> None:
        again = held.sessions.reads_again
        if not again:
            telemetry.CHUNKS.add(taken.fate)
        if taken.fate in (Fate.DUPLICATE, Fate.LATE):
            placed.finish()
            return
        if taken.session is None or taken.fate is Fate.WAITS:
            return
        live = self._live(held, taken.session)
        for applied in taken.applied:
            if again:
                live.again += applied.parts
                live.prompt_is_out = live.prompt_is_out or applied.ends_prompt
                applied.placed.finish()
            else:
                live.steps.append(applied)
        if taken.refused is not None:
            refused, reason = taken.refused
            live.outbox.append(
                _Entry(
                    (),
                    ((refused, () if again else self._misplaced(refused, reason)),),
                    _nothing,
                    is_acknowledged=True,
                )
            )
            self._drain(live)
        for each in taken.passed:
            telemetry.CHUNKS.add(Fate.LATE)
            each.finish()
        if taken.over:
            live.is_quiet = again
            self._count_over(taken.session)
        self._wake(held, live)

    def _end_refused(self, held: _Held, key: Key) -> None:
        """A chunk that is no chunk, and names its session: nothing that comes later could show that
        text is missing, so that the session is over as incomplete."""
        session = held.sessions.of(key)
        if session is not None and session.cause is None:
            self._over(held, held.sessions.abandon(session, Cause.REFUSED))

    def _advance(self, held: _Held, now: int) -> None:
        for over in held.sessions.advance(now):
            self._over(held, over)

    def _over(self, held: _Held, over: Over[Placed]) -> None:
        """A session is over without a chunk's saying so."""
        if over.settled:
            for placed in over.passed:
                telemetry.CHUNKS.add(Fate.SKIPPED)
                placed.finish()
            held.lives.pop(over.session.key, None)
            return
        self._count_over(over.session)
        live = self._live(held, over.session)
        live.is_quiet = held.sessions.reads_again
        if over.session.beginning is None:
            live.headless = over.passed
        else:
            for placed in over.passed:
                placed.finish()
        self._wake(held, live)

    def _count_over(self, session: Open[Placed]) -> None:
        assert session.cause is not None
        telemetry.SESSIONS_CLOSED.add(session.cause)
        if not session.cause.is_complete:
            _log.warning(
                "a session ends incomplete (%s): %s/%s from %s, tenant %r",
                session.cause.value,
                session.first.source.topic,
                session.first.source.partition,
                session.first.offset,
                session.key[0],
            )

    def _live(self, held: _Held, session: Open[Placed]) -> _Live:
        live = held.lives.get(session.key)
        if live is None:
            chunk = (session.beginning or session.first).chunk
            named = chunk.policy if session.beginning is not None else None
            tenant, policy = self._door.acting(chunk, named)
            live = _Live(session, tenant, policy, Session(*session.key))
            held.lives[session.key] = live
        return live

    def _misplaced(self, placed: Placed, reason: str) -> Owed:
        """The dead letter of a chunk that has no place in its session."""
        chunk = placed.chunk
        refused = Refused(
            ErrorClass.CONVERSATION, reason, event_id=chunk.session, tenant=chunk.tenant
        )
        return self._outcomes.dead_letter(placed.source, refused, placed.polled)

    # A session's way.

    def _wake(self, held: _Held, live: _Live) -> None:
        """Goes on with a session that has something to do."""
        if not held.is_active or live.task is not None:
            return
        if live.steps or (live.open.cause is not None and not live.is_concluded):
            live.task = asyncio.create_task(self._go(held, live), name="session")
            live.task.add_done_callback(partial(self._went, held, live))

    def _went(self, held: _Held, live: _Live, task: asyncio.Task[None]) -> None:
        live.task = None
        if task.cancelled():
            return
        self._ended(task)
        if task.exception() is None:
            self._wake(held, live)

    async def _go(self, held: _Held, live: _Live) -> None:
        while held.is_active:
            if live.again:
                parts, live.again = tuple(live.again), []
                await self._append(held, live, parts, replays=True)  # signalled before
            elif live.steps:
                steps = tuple(live.steps)
                live.steps.clear()
                await self._step(held, live, steps)
            elif live.open.cause is not None and not live.is_concluded:
                await self._conclude(held, live)
                return
            else:
                return

    async def _step(self, held: _Held, live: _Live, steps: Sequence[Applied[Placed]]) -> None:
        """Sends what has come, and owes what is said of it."""
        records = [(step.placed, ()) for step in steps]
        try:
            signals = await self._append(held, live, [part for s in steps for part in s.parts])
        except AppendRefused as error:
            if len(steps) == 1:
                self._guard_refuses(held, live, steps[0].placed, str(error))
                return
            # Each for itself, so that only the one to blame is a dead letter.
            for index, step in enumerate(steps):
                if live.is_abandoned:
                    self._owe(held, live, (), [(each.placed, ()) for each in steps[index:]])
                    return
                await self._step(held, live, (step,))
            return
        owed = self._signals(live, signals)
        if any(step.ends_prompt for step in steps):
            owed += await self._prompt(live)
        self._owe(held, live, owed, records, signals=len(signals))

    async def _append(
        self, held: _Held, live: _Live, parts: Sequence[Part], *, replays: bool = False
    ) -> list[Signal]:
        """Has the guard read on, and says what that raises. `replays`: this was read again."""
        if live.is_full or live.is_abandoned or not parts:
            return []
        try:
            heard = await self._client.append(live.session, parts, replays=replays)
        except AppendRefused:
            if not replays:
                raise
            self._abandon(held, live, Cause.REFUSED)
            return []
        except NoAnswer as error:
            _log.error("a session of tenant %r gets no answer: %s", live.open.key[0], error)
            self._abandon(held, live, Cause.NO_ANSWER)
            return []
        signals = self._hear(live, heard.scored)
        if heard.closed and not live.is_full:
            live.is_full = True
            tasks = [part.task for part in parts[-1:] if part.task is not None]
            signals += [
                verdicts.ending_of(
                    live.open, task, live.latch(task), verdicts.TOO_LONG, heard.revision
                )
                for task in tasks
            ]
        return signals

    def _hear(self, live: _Live, scored: Iterable[Scored]) -> list[Signal]:
        signals = []
        for each in scored:
            raised = live.latch(each.task).see(each)
            if raised is not None:
                revision = live.session.revision
                signals.append(
                    verdicts.flag_of(live.open, live.policy, each.task, raised, revision)
                )
        return signals

    def _abandon(self, held: _Held, live: _Live, cause: Cause) -> None:
        """The guard does not judge this session any further."""
        was = live.open.cause
        over = held.sessions.abandon(live.open, cause)
        live.is_abandoned = True
        for placed in over.passed:
            placed.finish()
        if was is None:
            self._count_over(live.open)

    def _guard_refuses(self, held: _Held, live: _Live, placed: Placed, reason: str) -> None:
        refused = Refused(
            ErrorClass.GUARD_REFUSED,
            f"the stream guard refuses the chunk: {reason}",
            event_id=placed.chunk.session,
            tenant=placed.chunk.tenant,
        )
        letter = self._outcomes.dead_letter(placed.source, refused, placed.polled)
        self._abandon(held, live, Cause.REFUSED)
        self._owe(held, live, (), [(placed, letter)])

    async def _prompt(self, live: _Live) -> Owed:
        """The verdict on the user's turn, as soon as it has ended."""
        cause = verdicts.TOO_LONG if live.is_full and live.word(Task.PROMPT) is None else None
        if live.is_abandoned or not live.open.transcript.length(Task.PROMPT):
            return ()  # its verdicts come together
        live.prompt_is_out = True
        return await self._judged(live, (Task.PROMPT,), cause)

    async def _conclude(self, held: _Held, live: _Live) -> None:
        """The session is over: what it still owes, and then it is settled."""
        live.is_concluded = True
        session = live.open
        assert session.cause is not None
        signals: list[Signal] = []
        if session.cause.is_complete:
            try:
                signals = await self._append(held, live, session.transcript.finish())
            except AppendRefused:
                self._abandon(held, live, Cause.REFUSED)
        cause: str | None = None
        tasks = verdicts.tasks_left(session, prompt_is_out=live.prompt_is_out)
        if not session.cause.is_complete:
            no_answer = session.cause is Cause.NO_ANSWER
            cause = verdicts.NO_ANSWER if no_answer else verdicts.INCOMPLETE
            signals += [
                verdicts.ending_of(session, task, live.latch(task), cause, live.session.revision)
                for task in tasks
            ]
        elif live.is_full:
            cause = verdicts.TOO_LONG
        owed = () if live.is_quiet else self._signals(live, signals)
        owed += await self._judged(live, tasks, cause)
        self._owe(held, live, owed, (), signals=len(signals), then=partial(_settle, held, live))

    async def _judged(self, live: _Live, tasks: Sequence[Task], cause: str | None) -> Owed:
        """The verdicts on these tasks, and what goes with them."""
        looks = await self._looks(live, tasks, cause)
        owed: Owed = ()
        for task in tasks:
            judged = Judged(task, live.word(task), live.session.revision, looks.get(task), cause)
            verdict = verdicts.verdict_of(live.open, live.policy, judged, self._door.keys)
            telemetry.EVENTS.add(verdict.basis.value)
            self._outcomes.count(verdict)
            source = live.open.first.source
            owed += owed_by_verdict(
                source,
                verdict,
                partial(_content, live, task),
                sample_rate=self._publication.evidence_sample,
                volatile=self._trace.forward(source.headers, source, verdict.basis.value),
                by=headers.STREAMER,
            )
        return owed

    async def _looks(
        self, live: _Live, tasks: Sequence[Task], cause: str | None
    ) -> dict[Task, Answer]:
        """What the guard of whole texts says of those tasks that want it."""
        wanted: list[tuple[Task, Wanted]] = []
        for task in tasks:
            if not verdicts.wants_look(live.policy, live.word(task), cause):
                continue
            conversation = live.open.transcript.conversation(task)
            if refusal_of(conversation.task, conversation.turns) is not None:
                continue
            written = conversation.to_json()
            views = live.policy.views
            row = row_of(written, views)
            content_hash = self._door.keys.content_hash(written)
            wanted.append((task, Wanted(row, content_hash, views, live.tenant.cache_scope)))
        answers: dict[Task, Answer] = {}

        def found(index: int, said: Found) -> None:
            answers[wanted[index][0]] = said.answer

        if wanted:
            await self._lookup.find([want for _, want in wanted], found)
        return answers

    # What is owed.

    def _owe(
        self,
        held: _Held,
        live: _Live,
        owed: Owed,
        records: Sequence[tuple[Placed, Owed]],
        *,
        signals: int = 0,
        then: Callable[[], None] | None = None,
    ) -> None:
        """Publishes in order; the records are done, in order, when it is acknowledged."""
        entry = _Entry(owed, records, then or _nothing, signals, is_acknowledged=not owed)
        live.outbox.append(entry)
        if owed and held.is_active:
            self._publish(held, live, entry)
        self._drain(live)

    def _publish(self, held: _Held, live: _Live, entry: _Entry) -> None:
        def settled(went: bool) -> None:
            if went:
                entry.is_acknowledged = True
                self._drain(live)

        def refused(reason: str) -> Owed:
            """Of what no broker takes, with the record that it is about."""
            placed = entry.records[-1][0] if entry.records else live.open.first
            tenant, session = live.open.key
            refusal = Refused(ErrorClass.UNPUBLISHABLE, reason, event_id=session, tenant=tenant)
            return self._outcomes.dead_letter(
                placed.source, refusal, placed.polled, max_bytes=KEPT_BYTES
            )

        offsets = [placed.offset for placed, _ in entry.records if not placed.is_done]
        self.delivery.publish(held.where, held.epoch, entry.owed, settled, refused, of=offsets)

    def _drain(self, live: _Live) -> None:
        while live.outbox and live.outbox[0].is_acknowledged:
            entry = live.outbox.popleft()
            now = time.monotonic()
            for placed, letter in entry.records:
                if entry.signals:
                    telemetry.SIGNAL_SECONDS.observe(now - placed.polled)
                placed.finish(letter)
            entry.then()

    def _signals(self, live: _Live, signals: Sequence[Signal]) -> Owed:
        if not signals:
            return ()
        source = live.open.first.source
        tenant, name = live.open.key
        key = source.key or f"{tenant}/{name}".encode()
        volatile: list[Header] = [
            headers.origin(source.topic, source.partition, source.offset),
            *self._trace.forward(source.headers, source, "signal"),
        ]
        owed: Owed = ()
        for signal in signals:
            telemetry.SIGNALS.add(signal.kind, signal.task)
            identity = f"{tenant}/{name}/{signal.task}/{signal.kind}"
            about = headers.cloud_event("signal", identity, by=headers.STREAMER)
            owed += (Message(topics.SIGNALS, key, encode(signal), [*about, *volatile]),)
        return owed

    # Where nothing comes.

    async def _look_from_time_to_time(self) -> None:
        finished, since = self._finished, time.monotonic()
        while True:
            await asyncio.sleep(_LOOK_S)
            for held in list(self._held.values()):
                at = self.delivery.read_up_to(held.where) if held.is_active else None
                if at is not None:
                    self._advance(held, at)
                if not held.is_active and 0 < held.let_go_at < time.monotonic() - _KEPT_S:
                    self._drop(held)
            telemetry.SESSIONS_OPEN.set(sum(len(held.sessions) for held in self._held.values()))
            waits = self.delivery.is_full and self._client.outage is None
            if not waits or self._finished != finished:
                finished, since = self._finished, time.monotonic()
            elif time.monotonic() - since > self._limits.gap_s:
                # All that may be in flight waits for chunks that stand behind it.
                self._give_up_a_gap()

    def _give_up_a_gap(self) -> None:
        active = [held for held in self._held.values() if held.is_active]
        held = max(active, key=lambda each: each.sessions.waiting, default=None)
        over = held.sessions.give_up_longest_gap() if held is not None else None
        if held is not None and over is not None:
            self._over(held, over)

    def _drop(self, held: _Held) -> None:
        """Forgets what is known of a partition."""
        self._held.pop(held.where, None)
        held.is_active = False
        for live in held.lives.values():
            if live.task is not None:
                live.task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.on_failure(error)


def _nothing() -> None:
    return None


def _settle(held: _Held, live: _Live) -> None:
    """All that a session owes is acknowledged."""
    held.sessions.settle(live.open)
    for placed in live.headless:
        placed.finish()
    held.lives.pop(live.open.key, None)


def _content(live: _Live, task: Task) -> Content:
    return Content(messages=live.open.transcript.messages(task))


class _Metadata(msgspec.Struct, rename={"start": "from"}):
    v: int
    start: int
    at: int = 0


def _start_in(metadata: str) -> Start | None:
    """From where a partition is to be read again, as its commit's metadata says; None where it
    says nothing, or nothing that is known here."""
    try:
        said = msgspec.json.decode(metadata, type=_Metadata)
    except msgspec.DecodeError:
        return None
    return Start(said.start, said.at) if said.v == 1 else None
