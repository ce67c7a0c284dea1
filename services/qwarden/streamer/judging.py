"""One session's way through the guards, and what is owed for it. It waits and acts; what becomes of
a session is decided by `sessions`, what is said of it by `verdicts`.

A session's text goes to the guard one append at a time; what comes meanwhile is the next one. Its
chunks are done, in their order, when what was said of them is acknowledged.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from opentelemetry.trace import SpanContext

from qwarden import telemetry
from qwarden.contracts import headers, topics
from qwarden.contracts.dead_letter import KEPT_BYTES
from qwarden.contracts.escalation import Content
from qwarden.contracts.headers import Header
from qwarden.contracts.names import name_of
from qwarden.contracts.refusal import ErrorClass, Refused
from qwarden.contracts.signal import Signal
from qwarden.contracts.verdict import encode
from qwarden.delivery.consumer import Delivery
from qwarden.delivery.owed import Message, Owed
from qwarden.guard.answer import Answer
from qwarden.guard.conversation import Task, refusal_of
from qwarden.guard.row import row_of
from qwarden.guard.stream import Part, Scored
from qwarden.inference.replica import NoAnswer
from qwarden.inference.stream_client import AppendRefused, StreamClient
from qwarden.outcomes.lookup import Found, Lookup, Wanted
from qwarden.outcomes.owing import owed_by_verdict
from qwarden.outcomes.publication import Outcomes, Publication
from qwarden.policy.policy import Policy
from qwarden.streamer import verdicts
from qwarden.streamer.chunks import Arrived, Door, Placed
from qwarden.streamer.live import Entry, Held, Live, count_over
from qwarden.streamer.sessions import Applied, Cause
from qwarden.streamer.verdicts import Judged
from qwarden.telemetry import TenantLabels
from qwarden.tracing import Trace

_log = logging.getLogger(__name__)


class Judging:
    """Judges running sessions. `delivery` is to be set before anything is judged; `on_failure` is
    told of what it cannot go on from."""

    delivery: Delivery

    def __init__(
        self,
        door: Door,
        client: StreamClient,
        lookup: Lookup,
        publication: Publication,
        *,
        trace: Trace,
        tenant_labels: TenantLabels,
    ) -> None:
        self.on_failure: Callable[[BaseException], None] = lambda error: None
        self._door = door
        self._client = client
        self._lookup = lookup
        self._publication = publication
        self.trace = trace
        """Where what it judges is traced."""
        self.outcomes = Outcomes(publication, trace, tenant_labels, headers.STREAMER)

    def _wake(self, held: Held, live: Live) -> None:
        """Goes on with a session that has something to do."""
        if not held.is_active or live.task is not None:
            return
        if live.steps or (live.open.cause is not None and not live.is_concluded):
            live.task = asyncio.create_task(self._go(held, live), name="session")
            live.task.add_done_callback(partial(self._went, held, live))

    def _went(self, held: Held, live: Live, task: asyncio.Task[None]) -> None:
        live.task = None
        if task.cancelled():
            return
        self._ended(task)
        if task.exception() is None:
            self._wake(held, live)

    async def _go(self, held: Held, live: Live) -> None:
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

    async def _step(self, held: Held, live: Live, steps: Sequence[Applied[Placed]]) -> None:
        """Sends what has come, and owes what is said of it."""
        try:
            signals = await self._append(
                held, live, [part for s in steps for part in s.parts], trace=self._traced(steps)
            )
        except AppendRefused as error:
            if len(steps) == 1:
                self._guard_refuses(held, live, steps[0].placed, str(error))
                return
            # Each for itself, so that only the one to blame is a dead letter.
            for index, step in enumerate(steps):
                if live.is_abandoned:
                    live.last += [(each.placed, ()) for each in steps[index:]]
                    return
                await self._step(held, live, (step,))
            return
        owed = self._signals(live, signals)
        if any(step.ends_prompt for step in steps):
            owed += await self._prompt(live)
        records = [(step.placed, ()) for step in steps]
        if live.is_abandoned:
            live.last += records
        else:
            self._owe(held, live, owed, records, signals=len(signals))

    def _traced(self, steps: Sequence[Applied[Placed]]) -> SpanContext | None:
        """What the spans of the first traced one of these hang on."""
        if not self.trace.is_on:
            return None
        found = (self.trace.of(step.placed.source) for step in steps)
        return next((each for each in found if each is not None), None)

    async def _append(
        self,
        held: Held,
        live: Live,
        parts: Sequence[Part],
        *,
        replays: bool = False,
        trace: SpanContext | None = None,
    ) -> list[Signal]:
        """Has the guard read on, and says what that raises. `replays`: this was read again."""
        if live.is_full or live.is_abandoned or not parts:
            return []
        try:
            heard = await self._client.append(live.session, parts, replays=replays, trace=trace)
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
            task = parts[-1].task or Task.PROMPT  # which follows the history
            signals.append(
                verdicts.ending_of(
                    live.open, task, live.latch(task), verdicts.TOO_LONG, heard.revision
                )
            )
        return signals

    def _hear(self, live: Live, scored: Iterable[Scored]) -> list[Signal]:
        signals = []
        for each in scored:
            raised = live.latch(each.task).see(each)
            if raised is not None:
                revision = live.session.revision
                signals.append(
                    verdicts.flag_of(
                        live.open,
                        self._standing(live),
                        each.task,
                        raised,
                        revision,
                        detector=self._door.detector,
                    )
                )
        return signals

    def _abandon(self, held: Held, live: Live, cause: Cause) -> None:
        """The guard does not judge this session any further."""
        over = held.sessions.abandon(live.open, cause)
        live.is_abandoned = True
        live.last += [(placed, ()) for placed in over.passed]

    def _guard_refuses(self, held: Held, live: Live, placed: Placed, reason: str) -> None:
        refused = Refused(
            ErrorClass.GUARD_REFUSED,
            f"the stream guard refuses the chunk: {reason}",
            event_id=placed.chunk.session,
            tenant=placed.chunk.tenant,
        )
        letter = self.outcomes.dead_letter(placed.source, refused, placed.polled)
        self._abandon(held, live, Cause.REFUSED)
        live.last.append((placed, letter))

    async def _prompt(self, live: Live) -> Owed:
        """The verdict on the user's turn, as soon as it has ended."""
        cause = verdicts.TOO_LONG if live.is_full and live.word(Task.PROMPT) is None else None
        if live.is_abandoned or not live.open.transcript.length(Task.PROMPT):
            return ()  # its verdicts come together
        live.prompt_is_out = True
        causes = {Task.PROMPT: cause}
        return self._judged(live, causes, await self._looks(live, causes))

    async def _conclude(self, held: Held, live: Live) -> None:
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
        causes = self._causes(live)
        looks = await self._looks(live, causes)
        # Meanwhile more of an old session may have come, which nobody has judged.
        session.is_told = True
        count_over(session)
        causes = self._causes(live)
        if not session.cause.is_complete:
            signals += [
                verdicts.ending_of(session, task, live.latch(task), why, live.session.revision)
                for task, why in causes.items()
                if why is not None
            ]
        owed = () if live.is_quiet else self._signals(live, signals)
        owed += self._judged(live, causes, looks)
        if not causes and not live.prompt_is_out:
            owed += self._without_text(live)
        self._owe(held, live, owed, live.last, then=partial(held.settle, live))

    def _causes(self, live: Live) -> dict[Task, str | None]:
        return verdicts.causes_of(
            live.open, live.latches, is_full=live.is_full, prompt_is_out=live.prompt_is_out
        )

    def _judged(
        self, live: Live, causes: Mapping[Task, str | None], looks: Mapping[Task, Answer]
    ) -> Owed:
        """The verdicts on these tasks, and what goes with them."""
        policy = self._standing(live)
        owed: Owed = ()
        for task, cause in causes.items():
            look = looks.get(task) if cause in (None, verdicts.TOO_LONG) else None
            judged = Judged(task, live.word(task), live.session.revision, look, cause)
            verdict = verdicts.verdict_of(
                live.open, policy, judged, self._door.keys, self._door.detector
            )
            telemetry.EVENTS.add(verdict.basis.value)
            self.outcomes.count(verdict)
            source = live.open.first.source
            owed += owed_by_verdict(
                source,
                verdict,
                partial(_content, live, task),
                sample_rate=self._publication.evidence_sample,
                volatile=self.trace.forward(source.headers, source, verdict.basis.value),
                policy=policy,
                by=headers.STREAMER,
            )
        return owed

    def _standing(self, live: Live) -> Policy:
        """A session's policy as the freezes of now have it act."""
        return self._door.tenants.freezes.acting(live.tenant.name, live.policy)

    async def _looks(self, live: Live, causes: Mapping[Task, str | None]) -> dict[Task, Answer]:
        """What the guard of whole texts says of those tasks that want it."""
        wanted: list[tuple[Task, Wanted]] = []
        for task, cause in causes.items():
            if not verdicts.wants_look(live.policy, live.word(task), cause):
                continue
            conversation = live.open.transcript.conversation(task)
            if refusal_of(conversation.task, conversation.turns) is not None:
                continue
            written = conversation.to_json()
            views = live.policy.views
            row = row_of(written, views)
            content_hash = self._door.keys.content_hash(written)
            wanted.append(
                (task, Wanted(row, content_hash, views, live.tenant.cache_scope, live.policy))
            )
        answers: dict[Task, Answer] = {}

        def found(index: int, said: Found) -> None:
            answers[wanted[index][0]] = said.answer

        if wanted:
            await self._lookup.find([want for _, want in wanted], found)
        return answers

    # What is owed.

    def _owe(
        self,
        held: Held,
        live: Live,
        owed: Owed,
        records: Sequence[tuple[Arrived, Owed]],
        *,
        signals: int = 0,
        then: Callable[[], None] | None = None,
    ) -> None:
        """Publishes in order; the records are done, in order, when it is acknowledged."""
        entry = Entry(owed, records, then or _nothing, signals, is_acknowledged=not owed)
        live.outbox.append(entry)
        if owed and held.is_active:
            self._publish(held, live, entry)
        self._drain(live)

    def _publish(self, held: Held, live: Live, entry: Entry) -> None:
        def settled(went: bool) -> None:
            if went:
                entry.is_acknowledged = True
                self._drain(live)

        def refused(reason: str) -> Owed:
            """Of what no broker takes, with the record that it is about."""
            placed = entry.records[-1][0] if entry.records else live.open.first
            tenant, session = live.open.key
            refusal = Refused(ErrorClass.UNPUBLISHABLE, reason, event_id=session, tenant=tenant)
            return self.outcomes.dead_letter(
                placed.source, refusal, placed.polled, max_bytes=KEPT_BYTES
            )

        offsets = [placed.offset for placed, _ in entry.records if not placed.is_done]
        self.delivery.publish(held.where, held.epoch, entry.owed, settled, refused, of=offsets)

    def _drain(self, live: Live) -> None:
        while live.outbox and live.outbox[0].is_acknowledged:
            entry = live.outbox.popleft()
            now = time.monotonic()
            for placed, letter in entry.records:
                if entry.signals:
                    telemetry.SIGNAL_SECONDS.observe(now - placed.polled)
                placed.finish(letter)
            entry.then()

    def _signals(self, live: Live, signals: Sequence[Signal]) -> Owed:
        if not signals:
            return ()
        source = live.open.first.source
        name = name_of(*live.open.key)
        key = source.key or name.encode()
        volatile: list[Header] = [
            headers.origin(source.topic, source.partition, source.offset),
            *self.trace.forward(source.headers, source, "signal"),
        ]
        owed: Owed = ()
        for signal in signals:
            telemetry.SIGNALS.add(signal.kind, signal.task)
            identity = f"{name}/{signal.task}/{signal.kind}"
            about = headers.cloud_event("signal", identity, by=headers.STREAMER)
            owed += (Message(topics.SIGNALS, key, encode(signal), [*about, *volatile]),)
        return owed

    def _without_text(self, live: Live) -> Owed:
        """The outcome of a session in which nothing is judged: the dead letter of its first chunk,
        as an event is refused that has no text."""
        tenant, session = live.open.key
        refused = Refused(
            ErrorClass.CONVERSATION,
            "nothing of the session can be judged: but for history and system or tool turns it has "
            "no text; send the text of a user or an assistant, or begin no session",
            event_id=session,
            tenant=tenant,
        )
        return self.outcomes.dead_letter(live.open.first.source, refused, live.open.first.polled)

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.on_failure(error)


def _nothing() -> None:
    return None


def _content(live: Live, task: Task) -> Content:
    return Content(messages=live.open.transcript.messages(task))
