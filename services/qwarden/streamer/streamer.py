"""The streamer's handler and keeper: chunks in. What becomes of a chunk and of a session is decided
by `sessions`; what is said of it, and when its chunks are done, is the matter of `judging`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from aiokafka import ConsumerRecord

from qwarden import telemetry
from qwarden.contracts.refusal import ErrorClass, Refused
from qwarden.delivery.owed import Finish, Owed
from qwarden.delivery.window import Partition
from qwarden.inference.session import Session
from qwarden.inference.stream_client import StreamClient
from qwarden.outcomes.lookup import Lookup
from qwarden.outcomes.publication import Publication
from qwarden.outcomes.source import Source
from qwarden.policy.tenants import Tenants
from qwarden.streamer.chunks import Arrived, Done, Door, Placed, Torn
from qwarden.streamer.commit import metadata_of, start_in
from qwarden.streamer.judging import Judging
from qwarden.streamer.live import Held, Live
from qwarden.streamer.sessions import Fate, Open, Over, Sessions, Taken
from qwarden.telemetry import TenantLabels
from qwarden.tracing import Trace

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


class Streamer(Judging):
    """Takes the chunks of running sessions: the handler and the keeper of a delivery."""

    def __init__(
        self,
        door: Door,
        client: StreamClient,
        lookup: Lookup,
        publication: Publication,
        *,
        trace: Trace,
        tenant_labels: TenantLabels,
        limits: Limits,
    ) -> None:
        super().__init__(
            door, client, lookup, publication, trace=trace, tenant_labels=tenant_labels
        )
        self._limits = limits
        self._held: dict[Partition, Held] = {}
        self._looking: asyncio.Task[None] | None = None
        self._finished = 0

    @property
    def tenants(self) -> Tenants:
        """The tenants whose policies act."""
        return self._door.tenants

    def enforce(self, tenants: Tenants) -> None:
        """From now on these tenants' policies act. A session that runs keeps the one with which it
        began, as the freezes of each moment have it act."""
        self._door = replace(self._door, tenants=tenants)

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
        with self.trace.batch(records):
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
        self._held[where] = Held(
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
        start = start_in(metadata)
        if metadata and start is None:
            _log.error(
                "%s/%s: the commit's metadata %r is not known here, so that open sessions end "
                "incomplete; was it written by a newer streamer?",
                *where,
                metadata[:200],
            )
        if start is None:
            return None
        sessions.reads_again = True
        # One whose clock was fast may have written it.
        sessions.now = min(start.at, int(time.time() * 1000))
        return start.offset if committed is None or start.offset < committed else None

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
        held = self._held[where]
        start = held.sessions.start(watermark)
        at, text = held.committed
        said = start_in(text)
        # While nothing comes its time alone goes on, and each commit costs the broker a write.
        idle = said is not None and at == watermark == start.offset == said.offset
        if said is not None and idle and 0 <= start.at - said.at < self._limits.gap_s * 1000:
            return text
        return metadata_of(start)

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

    def _take(self, held: Held, record: ConsumerRecord, polled: float, done: Done | None) -> None:
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
            self._refuse(held, Arrived(source, polled, done), refused)
            return
        placed = Placed(source, polled, done, chunk=chunk)
        if done is not None:
            held.known[record.offset] = placed
        self._took(held, placed, held.sessions.take(placed))

    def _took(self, held: Held, placed: Placed, taken: Taken[Placed]) -> None:
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
            live.last.append((refused, () if again else self._misplaced(refused, reason)))
        if taken.over is not None:
            self._over(held, taken.over)
        self._wake(held, live)

    def _refuse(self, held: Held, arrived: Arrived, refused: Refused) -> None:
        """A record that is no chunk: it is done when its sessions' last word is acknowledged."""
        letter: Owed = ()
        if not held.sessions.reads_again:
            telemetry.CHUNKS.add(Fate.REFUSED)
            letter = self.outcomes.dead_letter(arrived.source, refused, arrived.polled)
            held.known[arrived.offset] = arrived
        elif (chunk := self._door.was_admitted(arrived.source)) is not None:
            held.sessions.refuse_again(Placed(arrived.source, arrived.polled, None, chunk=chunk))
        torn = Torn.of(arrived.source)
        ended = held.sessions.refuse(torn.session, torn.seq, torn.key, arrived.offset)
        if not ended:
            arrived.finish(letter)
            return
        arrived.waits_for = len(ended)
        for over in ended:
            self._live(held, over.session).last.append((arrived, letter))
            self._over(held, over)

    def _advance(self, held: Held, now: int) -> None:
        for over in held.sessions.advance(now):
            self._over(held, over)

    def _over(self, held: Held, over: Over[Placed]) -> None:
        """A session is over."""
        if over.settled:
            for placed in over.passed:
                telemetry.CHUNKS.add(Fate.SKIPPED)
                placed.finish()
            held.lives.pop(over.session.key, None)
            return
        live = self._live(held, over.session)
        live.is_quiet = held.sessions.reads_again
        live.last += [(placed, ()) for placed in over.passed]
        self._wake(held, live)

    def _live(self, held: Held, session: Open[Placed]) -> Live:
        live = held.lives.get(session.key)
        if live is None:
            if session.beginning is not None:
                chunk = session.beginning.chunk
                tenant, policy = self._door.acting(chunk, chunk.policy)
            else:
                tenant, policy = self._door.acting_at_least(session.first.chunk)
            live = Live(session, tenant, policy, Session(*session.key))
            held.lives[session.key] = live
        return live

    def _misplaced(self, placed: Placed, reason: str) -> Owed:
        """The dead letter of a chunk that has no place in its session."""
        chunk = placed.chunk
        refused = Refused(
            ErrorClass.CONVERSATION, reason, event_id=chunk.session, tenant=chunk.tenant
        )
        return self.outcomes.dead_letter(placed.source, refused, placed.polled)

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
            own = [held.sessions for held in self._held.values() if held.is_active]
            telemetry.SESSIONS_OPEN.set(sum(map(len, own)))
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

    def _drop(self, held: Held) -> None:
        """Forgets what is known of a partition."""
        self._held.pop(held.where, None)
        held.is_active = False
        for live in held.lives.values():
            if live.task is not None:
                live.task.cancel()
