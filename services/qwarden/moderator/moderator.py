"""The moderator's handler: a batch of records in, what each of them owes out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache, partial
from itertools import zip_longest

from qwarden import telemetry
from qwarden.contracts import headers, topics
from qwarden.contracts.headers import Header
from qwarden.contracts.refusal import Refused
from qwarden.delivery.owed import Decide, Finish, Owed
from qwarden.moderator import verdicts
from qwarden.moderator.case import Admission, Case
from qwarden.moderator.halting import Halting, Run, may_be_the_guards_fault
from qwarden.moderator.present import Present
from qwarden.moderator.relays import Relays
from qwarden.moderator.verdicts import Verdicts
from qwarden.outcomes.lookup import Found, Lookup, Wanted
from qwarden.outcomes.owing import owed_by_verdict
from qwarden.outcomes.publication import Outcomes, Publication
from qwarden.outcomes.source import Record, Source
from qwarden.policy.tenants import Tenants
from qwarden.registry.schemas import Schemas
from qwarden.telemetry import TenantLabels
from qwarden.tracing import Trace

_log = logging.getLogger(__name__)

_Numbered = Sequence[tuple[int, Record]]
"""Records of a batch, each with its index there."""


class _Pending:
    """A case whose questions are asked, until all of their answers are here."""

    __slots__ = ("case", "finish", "found", "index", "lane", "left", "polled")

    def __init__(self, case: Case, lane: str, polled: float, index: int, finish: Finish) -> None:
        self.case = case
        self.lane = lane
        self.polled = polled
        self.index = index
        self.finish = finish
        self.left = len(case.questions)
        self.found: list[Found | None] = [None] * self.left

    def take(self, at: int, found: Found) -> bool:
        """Takes the answer to one question. Whether it was the last."""
        self.found[at] = found
        self.left -= 1
        return not self.left


class Moderator:
    """Judges batches of records. Every record is finished exactly once, with a verdict for each of
    its tasks or a dead letter, or the call raises."""

    def __init__(
        self,
        admission: Admission,
        lookup: Lookup,
        publication: Publication,
        trace: Trace,
        tenant_labels: TenantLabels,
        *,
        halting: Halting,
        guard_is_away: Callable[[], bool],
        schemas: Schemas | None = None,
    ) -> None:
        """`schemas`: of the topics whose values are in the Confluent wire format, where there are
        any."""
        self.trace = trace
        """Where what it judges is traced."""
        self.on_run: Callable[[Run], None] = lambda run: None
        """Told of a run of failures that should halt the fleet."""
        others = sorted(admission.topics.keys() - {topics.CONTENT})
        self.topics = (topics.CONTENT, *others)
        """The topics of the fresh lane: the fleet's own, and those that have a file."""
        self.present = Present(admission.tenants, tenant_labels)
        self.relays = Relays(self.topics, tenant_labels)
        self._halting = halting
        self._resumed = asyncio.Event()
        self._resumed.set()
        self._admission = admission
        self._schemas = schemas
        self._guard_is_away = guard_is_away
        self._reads_on = _answers_in_outage(admission.tenants)
        """Whether there is a policy that answers in an outage, so that intake may not wait."""
        self._pending: set[_Pending] = set()
        self._lookup = lookup
        self._publication = publication
        self.outcomes = Outcomes(publication, trace, tenant_labels, headers.MODERATOR)

    @property
    def tenants(self) -> Tenants:
        """The tenants whose policies act."""
        return self._admission.tenants

    def enforce(self, tenants: Tenants) -> None:
        """From now on these tenants' policies act."""
        self._admission = replace(self._admission, tenants=tenants)
        self.present.tenants = tenants
        self._reads_on = _answers_in_outage(tenants)

    @property
    def registry_outage(self) -> str | None:
        """Why schemas cannot be learned now, where some are waited for."""
        return None if self._schemas is None else self._schemas.outage

    async def handle(self, records: Sequence[Record], finish: Finish) -> None:
        """What `Delivery` calls: `finish(index, owed)` once for each record."""
        polled = time.monotonic()
        numbered = list(enumerate(records))
        with self.trace.batch(records):
            if self._schemas is None:
                await self._handle(numbered, finish, polled)
            else:
                await self._handle_when_readable(self._schemas, numbered, finish, polled)

    async def _handle_when_readable(
        self, schemas: Schemas, numbered: _Numbered, finish: Finish, polled: float
    ) -> None:
        """Records of schemas that are new wait until those are learned, and the others do not wait
        for them."""
        unread: dict[int, int] = {}
        for index, record in numbered:
            identity = self._admission.unknown_schema(Source.of(record))
            if identity is not None:
                unread[index] = identity

        async def learn() -> None:
            missing = await schemas.learn(set(unread.values()))
            waited = [each for each in numbered if each[0] in unread]
            await self._handle(waited, finish, polled, missing)

        async with asyncio.TaskGroup() as both:
            both.create_task(learn())
            both.create_task(
                self._handle([each for each in numbered if each[0] not in unread], finish, polled)
            )

    async def _handle(
        self,
        numbered: _Numbered,
        finish: Finish,
        polled: float,
        missing: Collection[int] = (),
    ) -> None:
        now = datetime.now(UTC)
        now_s = now.timestamp()
        asked: list[tuple[_Pending, int]] = []
        for index, record in numbered:
            age_s = now_s - record.timestamp / 1000
            telemetry.QUEUE_SECONDS.observe(max(0.0, age_s))
            source = Source.of(record)
            try:
                case = self._admission.admit(source, missing=missing)
            except Refused as refused:
                finish(index, self.outcomes.dead_letter(source, refused, polled))
                continue
            if case.displaced_tenant is not None:
                telemetry.TENANTS_DISPLACED.labels(source.topic).inc()
            lane = record.topic
            owed = self._unasked(case, lane, age_s, now, polled)
            if owed is not None:
                finish(index, owed)
                continue
            pending = _Pending(case, lane, polled, index, finish)
            self._pending.add(pending)
            asked += [(pending, at) for at in range(pending.left)]
        while asked:
            stayed: list[tuple[_Pending, int]] = []
            await self._lookup.find(
                [_wanted(pending.case, at, self.trace) for pending, at in asked],
                partial(self._found, asked, stayed),
            )
            await self._resumed.wait()
            asked = stayed

    def _found(
        self,
        asked: list[tuple[_Pending, int]],
        stayed: list[tuple[_Pending, int]],
        which: int,
        found: Found,
    ) -> None:
        """The answer to one of the questions `asked`; what a halt leaves open has `stayed`."""
        pending, at = asked[which]
        question = pending.case.questions[at]
        if found.place == "miss" and self._resumed.is_set():
            tenant = pending.case.event.tenant
            run = self._halting.saw(tenant, question.content_hash, found.answer)
            if run is not None:
                self.on_run(run)
        if not self._resumed.is_set() and may_be_the_guards_fault(found.answer):
            stayed.append((pending, at))
        elif pending.take(at, found) and pending in self._pending:
            self._pending.discard(pending)
            pending.finish(pending.index, partial(self._answered, pending))

    def halt(self) -> None:
        """What the guard fails on from now on is neither a dead letter nor given up: it is asked
        again after `resume`."""
        self._resumed.clear()

    def resume(self) -> None:
        if not self._resumed.is_set():
            self._halting.reset()
            self._resumed.set()

    def guard_went_away(self) -> None:
        """Answers what is asked already, as far as people have decided it or its policies answer in
        an outage; where any policy does, what the others let wait is relayed, so that intake goes
        on. What the guard says of them later is kept in the cache and published by nobody."""
        for pending in list(self._pending):
            owed = self._in_outage(pending.case, pending.lane, pending.polled)
            if owed is not None:
                self._pending.discard(pending)
                pending.finish(pending.index, owed)

    # What waits behind another record of its key must not come out as it was before a freeze or an
    # override: a verdict is decided, and taken from quotas, when it is sent.

    def _unasked(
        self, case: Case, lane: str, age_s: float, now: datetime, polled: float
    ) -> Owed | Decide | None:
        """What a case owes that is not for the guard, or not now; None for the others. `lane`: the
        topic that it came from."""
        if case.event.deleted:
            said = verdicts.withdrawn(case, self._admission.keys.id)
            return partial(self._owed, case, said, polled, ())
        if case.is_expired(now):
            return partial(self._expired, case, lane, polled, ())
        if self._guard_is_away():
            owed = self._in_outage(case, lane, polled)
            if owed is not None:
                return owed
        return self.relays.of_late(case, lane, age_s=age_s, now_s=polled)

    def _in_outage(self, case: Case, lane: str, polled: float) -> Owed | Decide | None:
        acting = self.present.of(case)
        if verdicts.in_outage(acting, self._admission.keys.id) is not None:
            return partial(self._said_in_outage, case, acting, lane, polled)
        return self.relays.in_outage(case, lane) if self._reads_on else None

    def _said_in_outage(self, case: Case, acted: Case, lane: str, polled: float) -> Owed:
        """`acted`: the case when there was something to say of it. Where an override has gone since
        and there is nothing any more, that stands."""
        key_id = self._admission.keys.id
        for acting in (self.present.of(case), acted):
            said = verdicts.in_outage(acting, key_id, self.present.brake(acting, lane))
            if said is not None:
                return self._owed(acting, said, polled, ())
        raise AssertionError("there was something to say")

    def _expired(self, case: Case, lane: str, polled: float, found: Sequence[Found]) -> Owed:
        case = self.present.of(case)
        brake = self.present.brake(case, lane)
        said = verdicts.expired(case, self._admission.keys.id, brake)
        return self._owed(case, said, polled, found)

    def _answered(self, pending: _Pending) -> Owed:
        """What a case owes whose questions all have their answers."""
        polled = pending.polled
        case = pending.case
        found = [each for each in pending.found if each is not None]
        if case.event.deadline is not None and case.is_expired(datetime.now(UTC)):
            return self._expired(case, pending.lane, polled, found)
        case = self.present.of(case)
        brake = self.present.brake(case, pending.lane)
        try:
            answers = [each.answer for each in found]
            said = verdicts.judged(case, answers, self._admission.keys.id, brake)
        except Refused as refused:
            return self.outcomes.dead_letter(case.source, refused, polled)
        return self._owed(case, said, polled, found)

    def _owed(self, case: Case, said: Verdicts, polled: float, found: Sequence[Found]) -> Owed:
        """`found`: of each verdict, or nothing where nobody was asked."""
        basis = str(verdicts.basis_of(said))
        telemetry.EVENTS.add(basis)
        shared: list[Header] = [
            headers.milliseconds(headers.TOTAL_MS, time.monotonic() - polled),
            *self.trace.forward(
                case.source.headers, case.source, basis, polled=polled, found=found
            ),
        ]
        owed: Owed = ()
        for verdict, each in zip_longest(said, found):
            volatile = shared
            if each is not None:
                volatile = [*shared, *_place(each.place, each.queue_s, each.model_s)]
            self.outcomes.count(verdict)
            owed += owed_by_verdict(
                case.source,
                verdict,
                case.content,
                sample_rate=self._publication.evidence_sample,
                volatile=volatile,
                policy=case.policy,
            )
        return owed


def _answers_in_outage(tenants: Tenants) -> bool:
    return any(policy.answers_in_outage for policy in tenants.policies().values())


def _wanted(case: Case, at: int, trace: Trace) -> Wanted:
    assert case.policy is not None
    question, policy = case.questions[at], case.policy
    return Wanted(
        question.row,
        question.content_hash,
        policy.views,
        case.tenant.cache_scope,
        policy,
        trace=trace.of(case.source) if trace.is_on else None,
    )


@lru_cache(maxsize=64)
def _place(place: str, queue_s: float, model_s: float) -> tuple[Header, ...]:
    """The rows of one request to the guard have all three in common."""
    return (
        (headers.CACHE, place.encode()),
        headers.milliseconds(headers.QUEUE_MS, queue_s),
        headers.milliseconds(headers.MODEL_MS, model_s),
    )
