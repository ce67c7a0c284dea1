"""What the lanes hand on: each record is finished once, whatever becomes of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from sqlalchemy import func, select

import escalated
from qwarden import settings as settings_module
from qwarden.contracts import topics
from qwarden.contracts.headers import Header
from qwarden.contracts.verdict import encode
from qwarden.delivery.owed import Decide, Owed, decided
from qwarden.review.consuming import Consuming
from qwarden.review.store import intake
from qwarden.review.store.database import Database
from qwarden.review.store.schema import items, ledger
from qwarden.tracing import Trace
from reviewing import settings_of


@dataclass
class Read:
    """A record as a poll gives it."""

    value: bytes | None
    topic: str = topics.REVIEW
    partition: int = 0
    offset: int = 0
    timestamp: int = int(escalated.NOW * 1000)
    key: bytes | None = b"k"
    headers: Sequence[Header] = ()


@dataclass
class Finished:
    """What each record owed."""

    owed: dict[int, Owed] = field(default_factory=dict)

    def __call__(self, index: int, owed: Owed | Decide, /) -> None:
        assert index not in self.owed, "finished twice"
        self.owed[index] = decided(owed)


def consumer(database: Database, held: list[str | None]) -> Consuming:
    settings = settings_module.load(settings_of("127.0.0.1:1", "sqlite:///none"))
    trace = Trace(None, "qwarden-review-service")
    return Consuming(database, settings.review, trace, consumer="review@here", held=held.append)


def record(name: object, **fields: Any) -> Read:
    return Read(encode(escalated.escalation(escalated.verdict(name, **fields)).said))


async def test_a_record_that_no_database_takes_holds_up_the_others(database: Database) -> None:
    records = [record(number) for number in range(7)]
    said = msgspec.json.decode(records[3].value or b"")
    said["verdict"]["edit"] = 2**70
    records[3] = Read(msgspec.json.encode(said), offset=3)
    finished, held = Finished(), list[str | None]()
    await consumer(database, held).handle(records, finished)
    assert finished.owed.keys() == set(range(7))
    assert [index for index, owed in finished.owed.items() if owed] == [3]
    (letter,) = finished.owed[3]
    assert letter.topic == topics.DEAD_LETTERS
    told = msgspec.json.decode(letter.value)
    assert told["error_class"] == "not_an_event" and "refuses to keep" in told["reason"]
    async with database.reading() as tx:
        for table in (items, ledger):
            assert (await tx.execute(select(func.count()).select_from(table))).scalar_one() == 6
    assert held == [], "that is no outage"


async def test_evidence_is_read_as_an_escalation(database: Database) -> None:
    allowed = escalated.verdict("allowed", action="allow", safety="Safe", categories=[])
    value = encode(escalated.evidence(allowed).said)
    rate: Header = ("qw-sample-rate", b"0.25")
    records = [
        Read(value, topic=topics.EVIDENCE, headers=[rate]),
        Read(value, topic=topics.REVIEW, offset=1),
    ]
    finished = Finished()
    await consumer(database, []).handle(records, finished)
    assert [bool(finished.owed[index]) for index in (0, 1)] == [False, True]
    async with database.reading() as tx:
        row = (await tx.execute(select(ledger))).one()
    assert (row.sample_rate, row.arrived_at, row.key) == (0.25, escalated.NOW, b"k")


@pytest.mark.long
async def test_an_outage_is_not_waited_for(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database refuses twice, as one does that restarts; then it takes the batch."""
    taken = intake.take
    tries = 0

    async def away_at_first(*given: Any) -> Any:
        nonlocal tries
        tries += 1
        if tries <= 2:
            raise ConnectionRefusedError
        return await taken(*given)

    monkeypatch.setattr(intake, "take", away_at_first)
    finished, held = Finished(), list[str | None]()
    await asyncio.wait_for(consumer(database, held).handle([record(1)], finished), 30)
    assert finished.owed == {0: ()}
    assert held == ["the database is away", None]
    async with database.reading() as tx:
        assert (await tx.execute(select(func.count()).select_from(items))).scalar_one() == 1
