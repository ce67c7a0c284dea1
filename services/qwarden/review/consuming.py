"""The review service's handler: a poll of escalations or evidence in, one transaction, and nothing
owed but for what cannot be read.

A record is done when its row is committed. While the database is away the poll waits here, and its
lane is held: nothing is lost and nothing is refused for it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence

import msgspec

from qwarden import telemetry
from qwarden.backoff import Backoff
from qwarden.contracts import headers, topics
from qwarden.contracts.escalation import Escalation, Evidence
from qwarden.contracts.refusal import ErrorClass, Refused
from qwarden.delivery.owed import Finish
from qwarden.outcomes.publication import Outcomes, Publication
from qwarden.outcomes.source import Record, Source
from qwarden.review.failing import where
from qwarden.review.store import intake
from qwarden.review.store.database import Database, is_outage
from qwarden.review.store.intake import Arrived
from qwarden.settings import Review
from qwarden.tracing import Trace

_log = logging.getLogger(__name__)

_BACKOFF = Backoff(0.2, 5.0)
"""How often an absent database is tried; also how late its return may be noticed."""

_escalation = msgspec.json.Decoder(Escalation)
_evidence = msgspec.json.Decoder(Evidence)


class Consuming:
    """Writes what comes of both topics. `held`: told why nothing can be written now, and None when
    it can again."""

    def __init__(
        self,
        database: Database,
        limits: Review,
        trace: Trace,
        *,
        consumer: str,
        held: Callable[[str | None], None],
    ) -> None:
        self._database = database
        self._limits = limits
        self._trace = trace
        self._held = held
        self._waiting = 0
        self.outcomes = Outcomes(
            Publication(
                evidence_sample=0.0,  # it decides nothing that a sample is of
                consumer=consumer,
                max_event_bytes=limits.max_event_bytes,
            ),
            trace,
            telemetry.TenantLabels(frozenset(), limits.tenant_labels),
            headers.REVIEW_SERVICE,
        )

    async def handle(self, records: Sequence[Record], finish: Finish) -> None:
        """What `Delivery` calls: `finish(index, owed)` once for each record."""
        with self._trace.batch(records):
            await self._handle(records, finish)

    async def _handle(self, records: Sequence[Record], finish: Finish) -> None:
        polled = time.monotonic()
        arrived: list[Arrived] = []
        read: list[int] = []
        for index, record in enumerate(records):
            telemetry.QUEUE_SECONDS.observe(max(0.0, time.time() - record.timestamp / 1000))
            try:
                arrived.append(arrived_of(record))
                read.append(index)
            except Refused as refused:
                finish(index, self.outcomes.dead_letter(Source.of(record), refused, polled))
        for index, unkept in await self._take(list(zip(read, arrived, strict=True))):
            finish(index, self.outcomes.dead_letter(Source.of(records[index]), unkept, polled))
            read.remove(index)
        for index in read:
            finish(index, ())

    async def _take(self, numbered: list[tuple[int, Arrived]]) -> list[tuple[int, Refused]]:
        """Writes them, in as few transactions as it takes; which of them no database takes."""
        if not numbered:
            return []
        try:
            await self._written([each for _, each in numbered])
        except Exception as error:
            if len(numbered) == 1:
                _log.error("a record cannot be kept: %s", where(error))
                return [(numbered[0][0], _unkept(numbered[0][1], error))]
            middle = len(numbered) // 2
            return [*await self._take(numbered[:middle]), *await self._take(numbered[middle:])]
        return []

    async def _written(self, arrived: Sequence[Arrived]) -> None:
        """One transaction; waits for a database that is away, raises for anything else."""
        failures = 0
        try:
            while not await self._is_written(arrived):
                failures += 1
                if failures == 1:
                    self._waits(1)
                await asyncio.sleep(_BACKOFF.wait_s(failures, random.random()))
        finally:
            if failures:
                self._waits(-1)

    async def _is_written(self, arrived: Sequence[Arrived]) -> bool:
        """Whether the database was there."""
        try:
            async with self._database.writing() as tx:
                taken = await intake.take(tx, arrived, time.time(), self._limits)
        except Exception as error:
            if not is_outage(error):
                raise
            _log.debug("the database is away: %s", type(error).__name__)
            return False
        for name in ("opened", "joined", "closed", "kept"):
            telemetry.REVIEW_TAKEN.labels(name).inc(getattr(taken, name))
        return True

    def _waits(self, more: int) -> None:
        """A batch more, or less, waits for the database."""
        was_away, self._waiting = bool(self._waiting), self._waiting + more
        if bool(self._waiting) != was_away:
            if self._waiting:
                _log.warning("waiting for the database")
            self._held("the database is away" if self._waiting else None)


def arrived_of(record: Record) -> Arrived:
    """What a record says. Raises `Refused` with a sentence that names the fix."""
    kind, decoder, schema = (
        ("an escalation", _escalation, "escalation")
        if record.topic == topics.REVIEW
        else ("evidence", _evidence, "evidence")
    )
    if record.value is None:
        raise Refused(
            ErrorClass.NOT_AN_EVENT,
            f"the record has no value; {record.topic} is written by services that judge alone",
        )
    try:
        said: Escalation | Evidence = decoder.decode(record.value)
    except msgspec.ValidationError as error:
        raise Refused(
            ErrorClass.NOT_AN_EVENT,
            f"the value is not {kind}: {error}; the schema is {schema}.schema.json",
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refused(
            ErrorClass.NOT_JSON, f"the value is not JSON that can be read; send {kind}"
        ) from None
    return Arrived(said, record.timestamp / 1000, _sample_rate(record), record.key)


def _sample_rate(record: Record) -> float | None:
    try:
        return float(headers.header(record.headers, headers.SAMPLE_RATE) or "")
    except ValueError:
        return None


def _unkept(arrived: Arrived, error: Exception) -> Refused:
    verdict = arrived.said.verdict
    return Refused(
        ErrorClass.NOT_AN_EVENT,
        f"the database refuses to keep this record ({type(error).__name__}); replay it with a "
        "version of the review service that can",
        event_id=verdict.event_id,
        tenant=verdict.tenant,
    )
