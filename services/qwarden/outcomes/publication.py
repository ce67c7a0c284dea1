"""How a service writes what it cannot judge, and counts what it says."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from qwarden import telemetry
from qwarden.contracts.dead_letter import KEPT_BYTES
from qwarden.contracts.headers import Header
from qwarden.contracts.refusal import ErrorClass, Refused
from qwarden.contracts.verdict import Basis, Verdict
from qwarden.delivery.owed import Owed
from qwarden.outcomes.owing import owed_by_refusal
from qwarden.outcomes.source import Record, Source
from qwarden.tracing import Trace

_log = logging.getLogger(__name__)

_UNJUDGED = frozenset({Basis.DEGRADED, Basis.EXPIRED})
"""The bases on which a verdict has a cause and no assessment."""


@dataclass(frozen=True, slots=True)
class Publication:
    """How outcomes are written: the evidence sample's rate (0 to 1), the name of this consumer in
    dead letters, and how large a record's value may be to stand in one whole (bytes)."""

    evidence_sample: float
    consumer: str
    max_event_bytes: int


class Outcomes:
    """Those of one service. `by`: the header that names it."""

    def __init__(
        self,
        publication: Publication,
        trace: Trace,
        labels: telemetry.TenantLabels,
        by: Header,
    ) -> None:
        self._publication = publication
        self._trace = trace
        self._labels = labels
        self._by = by

    def count(self, verdict: Verdict) -> None:
        telemetry.VERDICTS.add(
            self._labels(verdict.tenant),
            verdict.task or "none",
            verdict.safety or "none",
            verdict.action or "none",
            telemetry.category_label(verdict.categories[0]) if verdict.categories else "none",
        )
        telemetry.LANGUAGES.add(telemetry.language_label(verdict.language))
        if verdict.basis in _UNJUDGED:
            telemetry.UNJUDGED.add(telemetry.cause_label(verdict.cause))

    def unpublishable(self, record: Record, reason: str) -> Owed:
        """The dead letter of a record whose outcome no broker takes. Its content is kept in part:
        what is too large for one topic may be for the dead letters too."""
        refused = Refused(ErrorClass.UNPUBLISHABLE, reason)
        source = Source.of(record)
        return self.dead_letter(source, refused, time.monotonic(), max_bytes=KEPT_BYTES)

    def dead_letter(
        self, source: Source, refused: Refused, polled: float, *, max_bytes: int | None = None
    ) -> Owed:
        """What a record owes that is refused. `polled`: when it came, of a clock that does not jump
        (s). `max_bytes`: how large its value may be to stand there whole, where that is less."""
        telemetry.EVENTS.add("dead_letter")
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
        now = datetime.now(UTC)
        return owed_by_refusal(
            source,
            refused,
            consumer=self._publication.consumer,
            max_bytes=max_bytes or self._publication.max_event_bytes,
            volatile=self._trace.forward(source.headers, source, "dead_letter"),
            tried=(now - timedelta(seconds=time.monotonic() - polled), now),
            by=self._by,
        )
