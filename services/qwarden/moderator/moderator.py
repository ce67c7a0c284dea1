"""The moderator's handler: a batch of records in, what each of them owes out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import zip_longest

from prometheus_client import Counter

from qwarden import telemetry
from qwarden.contracts import headers
from qwarden.contracts.headers import Header
from qwarden.contracts.refusal import Refused
from qwarden.contracts.verdict import Verdict
from qwarden.delivery.owed import Owed
from qwarden.moderator import verdicts
from qwarden.moderator.case import Admission, Case, Record, Source
from qwarden.moderator.lookup import Found, Lookup, Wanted
from qwarden.moderator.outcome import owed_by_refusal, owed_by_verdict
from qwarden.moderator.verdicts import Verdicts
from qwarden.telemetry import TenantLabels

_log = logging.getLogger(__name__)

Finish = Callable[[int, Owed], None]


@dataclass(frozen=True, slots=True)
class Publication:
    """How outcomes are written: the evidence sample's rate (0 to 1), the name of this consumer in
    dead letters, and how large a record's value may be to stand in one whole (bytes)."""

    evidence_sample: float
    consumer: str
    max_event_bytes: int


class _Pending:
    """A case whose questions are asked, until all of their answers are here."""

    __slots__ = ("case", "found", "index", "left")

    def __init__(self, index: int, case: Case) -> None:
        self.index = index
        self.case = case
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
        trace: telemetry.Trace,
        tenant_labels: TenantLabels,
    ) -> None:
        self._admission = admission
        self._lookup = lookup
        self._publication = publication
        self._trace = trace
        self._labels = tenant_labels
        self._counters: dict[tuple[Counter | str, ...], Counter] = {}

    async def handle(self, records: Sequence[Record], finish: Finish) -> None:
        """What `Delivery` calls: `finish(index, owed)` once for each record."""
        polled = time.monotonic()
        now = datetime.now(UTC)
        asked: list[tuple[_Pending, int]] = []
        wanted: list[Wanted] = []
        for index, record in enumerate(records):
            telemetry.QUEUE_SECONDS.observe(max(0.0, now.timestamp() - record.timestamp / 1000))
            source = Source.of(record)
            try:
                case = self._admission.admit(source)
            except Refused as refused:
                finish(index, self._dead_letter(source, refused))
                continue
            if case.event.deleted:
                said = verdicts.withdrawn(case, self._admission.keys.id)
                finish(index, self._owed(case, said, polled, ()))
            elif case.is_expired(now):
                said = verdicts.expired(case, self._admission.keys.id)
                finish(index, self._owed(case, said, polled, ()))
            else:
                pending = _Pending(index, case)
                for at, wants in enumerate(_wanted(case)):
                    asked.append((pending, at))
                    wanted.append(wants)
        if not wanted:
            return

        def on_found(which: int, found: Found) -> None:
            pending, at = asked[which]
            if pending.take(at, found):
                finish(pending.index, self._answered(pending, polled))

        await self._lookup.find(wanted, on_found)

    def _answered(self, pending: _Pending, polled: float) -> Owed:
        """What a case owes whose questions all have their answers."""
        case, key_id = pending.case, self._admission.keys.id
        found = [each for each in pending.found if each is not None]
        if case.is_expired(datetime.now(UTC)):
            return self._owed(case, verdicts.expired(case, key_id), polled, found)
        try:
            said = verdicts.judged(case, [each.answer for each in found], key_id)
        except Refused as refused:
            return self._dead_letter(case.source, refused)
        return self._owed(case, said, polled, found)

    def _owed(self, case: Case, said: Verdicts, polled: float, found: Sequence[Found]) -> Owed:
        """`found`: of each verdict, or nothing where nobody was asked."""
        basis = verdicts.basis_of(said).value
        self._counter(telemetry.EVENTS, basis).inc()
        shared: list[Header] = [
            headers.milliseconds(headers.TOTAL_MS, time.monotonic() - polled),
            *self._trace.forward(case.source.headers, case.source, basis),
        ]
        owed: Owed = ()
        for verdict, each in zip_longest(said, found):
            volatile = [*shared, *_place(each)] if each is not None else shared
            self._count(verdict)
            owed += owed_by_verdict(
                case, verdict, sample_rate=self._publication.evidence_sample, volatile=volatile
            )
        return owed

    def _count(self, verdict: Verdict) -> None:
        self._counter(
            telemetry.VERDICTS,
            self._labels(verdict.tenant),
            verdict.task or "none",
            verdict.safety or "none",
            verdict.action.value if verdict.action else "none",
            verdict.categories[0] if verdict.categories else "none",
        ).inc()

    def _counter(self, metric: Counter, *labels: str) -> Counter:
        """A look-up by labels costs 2.5 µs, as much as decoding an event five times."""
        key: tuple[Counter | str, ...] = (metric, *labels)
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = metric.labels(*labels)
        return counter

    def _dead_letter(self, source: Source, refused: Refused) -> Owed:
        telemetry.EVENTS.labels("dead_letter").inc()
        _log.info(
            "dead letter: %s/%s/%s, tenant %r, event %r, %s",
            source.topic,
            source.partition,
            source.offset,
            refused.tenant,
            refused.event_id,
            refused.error_class.value,
        )
        tenant = self._labels(refused.tenant) if refused.tenant else "unknown"
        telemetry.DEAD_LETTERS.labels(refused.error_class.value, tenant).inc()
        return owed_by_refusal(
            source,
            refused,
            consumer=self._publication.consumer,
            max_bytes=self._publication.max_event_bytes,
            volatile=self._trace.forward(source.headers, source, "dead_letter"),
        )


def _wanted(case: Case) -> Iterator[Wanted]:
    assert case.policy is not None
    for question in case.questions:
        yield Wanted(
            question.row, question.content_hash, case.policy.views, case.tenant.cache_scope
        )


def _place(found: Found) -> list[Header]:
    return [
        (headers.CACHE, found.place.encode()),
        headers.milliseconds(headers.QUEUE_MS, found.queue_s),
        headers.milliseconds(headers.MODEL_MS, found.model_s),
    ]
