"""Whatever order records come in, however often and in whatever batches, the same stands open and
in the ledger, and it is what the records say."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from escalated import NOW, closing, escalation, evidence, identity, verdict, withdrawal
from examples import examples
from qwarden.contracts.decision import ACTIONS
from qwarden.contracts.escalation import Escalation, Kind, escalation_of
from qwarden.contracts.verdict import Action, Basis, Facts, Verdict
from qwarden.review.order import due_of
from qwarden.review.store import schema
from qwarden.review.store.closing import DECIDED_BEFORE
from qwarden.review.store.database import Database
from qwarden.review.store.intake import Arrived, take
from qwarden.settings import Review

LIMITS = Review(sample_share=1.0, samples_open=10_000)
TENANTS = ("acme", "a\0b\\0c")
EVENTS = ("e1", "e\0\\2", "e3", "e4")
QUEUES = ("general", "harm")
Key = tuple[str, str, str, int]
"""Tenant, event, task, edit."""


@dataclass(frozen=True)
class Story:
    """`records`: all that is ever written; `decided`: what people decided before."""

    records: tuple[Arrived, ...]
    decided: frozenset[Key]


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """Mostly of what is asked and stays; some of it is gone, each in one of the ways."""

    def happens(one_in: int) -> bool:
        return draw(st.sampled_from((*(False,) * (one_in - 1), True)))

    verdicts: list[Verdict] = []
    records: list[Arrived] = []
    for number in range(draw(st.integers(4, 12))):
        tenant, event = draw(st.sampled_from(TENANTS)), draw(st.sampled_from(EVENTS))
        at = NOW + draw(st.integers(0, 600))
        earlier = [each for each in verdicts if (each.tenant, each.event_id) == (tenant, event)]
        if happens(15):
            said = withdrawal((tenant, event), tenant=tenant, event_id=event)
        else:
            replaced = earlier[-1].verdict_id if earlier and happens(4) else None
            content = draw(st.sampled_from(("x", "x", "y", None)))
            said = verdict(
                number,
                tenant=tenant,
                event_id=event,
                edit=draw(st.sampled_from((1, 2))) if happens(10) else 0,
                task=draw(st.sampled_from(("prompt", "response"))),
                content_hash=None if content is None else identity(content),
                action=draw(st.sampled_from((Action.REVIEW,) * 5 + (Action.BLOCK, Action.ALLOW))),
                basis=draw(st.sampled_from((Basis.GUARD, Basis.GUARD, Basis.DEGRADED))),
                facts=Facts(reach=draw(st.sampled_from((None, 0, 10, 10**6)))),
                supersedes=replaced,
            )
        verdicts.append(said)
        kind = escalation_of(said)
        if kind == Kind.REVIEW:
            how = {
                "harm": draw(st.integers(1, 10)),
                "sla_s": draw(st.integers(1, 7200)),
                "on_breach": draw(st.sampled_from(("allow", "allow", "block", "raise"))),
            }
            records.append(escalation(said, at, queue="harm" if happens(5) else "general", **how))
        elif kind == Kind.CLOSE:
            records.append(closing(said, at))
        if said.basis != Basis.WITHDRAWN:
            records.append(evidence(said, at + draw(st.sampled_from((-5, 0, 5)))))
    decided = set()
    if happens(3):
        of = draw(st.sampled_from(verdicts))
        decided.add((of.tenant, of.event_id, of.task or "", of.edit))
    return Story(tuple(records), frozenset(decided))


def batches(draw: st.DrawFn, records: Sequence[Arrived]) -> list[list[Arrived]]:
    again = draw(st.lists(st.sampled_from(records), max_size=4))
    order = draw(st.permutations([*records, *again]))
    cuts = sorted(draw(st.sets(st.integers(1, len(order)), max_size=4)))
    return [
        list(order[begin:end])
        for begin, end in itertools.pairwise([0, *cuts, len(order)])
        if begin < end
    ]


@st.composite
def told_twice(draw: st.DrawFn) -> tuple[Story, list[list[Arrived]], list[list[Arrived]]]:
    story = draw(stories())
    return story, batches(draw, story.records), batches(draw, story.records)


class Telling:
    """One database for all examples, of which nothing stays in it."""

    def __init__(self, runner: asyncio.Runner, database: Database) -> None:
        self._runner = runner
        self._database = database

    def __call__(self, story: Story, how: Sequence[Sequence[Arrived]]) -> Stands:
        """What stands after these batches."""
        return self._runner.run(_told(self._database, story, how))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Telling]:
    path: Path = tmp_path_factory.mktemp("intake") / "review.db"
    database = Database.open(f"sqlite:///{path}", 2)
    with asyncio.Runner() as runner:
        runner.run(database.migrate())
        yield Telling(runner, database)
        runner.run(database.close())


@dataclass(frozen=True)
class Stands:
    """What the database says in the end."""

    items: list[Any]
    escalations: dict[str, Any]
    ledger: dict[str, dict[str, Any]]
    events: dict[tuple[str, str], tuple[int, bool]]
    closed: int


class _Enough(Exception):
    """Ends a transaction without a trace."""


async def _told(database: Database, story: Story, how: Sequence[Sequence[Arrived]]) -> Stands:
    try:
        async with database.writing() as tx:
            for number, decided in enumerate(sorted(story.decided)):
                await tx.execute(insert(schema.decisions).values(_decision(number, *decided)))
            closed = sum([(await take(tx, batch, NOW, LIMITS)).closed for batch in how])
            stands = await _read(tx, closed)
            raise _Enough
    except _Enough:
        return stands


def _decision(number: int, tenant: str, event_id: str, task: str, edit: int) -> dict[str, Any]:
    return {
        "decision_id": identity("decision", number),
        "ruling_id": identity("ruling", number),
        "tenant": tenant,
        "event_id": event_id,
        "edit": edit,
        "task": task,
        "verdict_id": identity("earlier", number),
        "by": "person",
        "value": b"{}",
    }


async def _read(tx: AsyncConnection, closed: int) -> Stands:
    rows = (await tx.execute(select(schema.escalations))).all()
    kept = (await tx.execute(select(schema.ledger))).mappings().all()
    events = (await tx.execute(select(schema.events))).all()
    return Stands(
        items=list(await tx.execute(select(schema.items))),
        escalations={row.verdict_id: row for row in rows},
        ledger={row["verdict_id"]: dict(row) for row in kept},
        events={(row.tenant, row.event_id): (row.edit, row.withdrawn) for row in events},
        closed=closed,
    )


Place = tuple[str, str, str | None, frozenset[str]]
"""An open item: tenant, queue, content, and the verdicts that it stands for."""


@dataclass(frozen=True)
class Expected:
    """What the records say, read all at once."""

    open: frozenset[Place]
    samples: frozenset[str]
    ledger: frozenset[str]
    asked: dict[str, Arrived]


def expected(story: Story) -> Expected:
    edits: dict[tuple[str, str], int] = {}
    withdrawn: set[tuple[str, str]] = set()
    replaced: set[str] = set()
    asked: dict[str, Arrived] = {}
    kept: dict[str, Verdict] = {}
    for each in story.records:
        said = each.said.verdict
        event = said.tenant, said.event_id
        if isinstance(each.said, Escalation):
            edits[event] = max(edits.get(event, 0), said.edit)
            if said.basis == Basis.WITHDRAWN:
                withdrawn.add(event)
            if said.supersedes:
                replaced.add(said.supersedes)
            if each.said.kind == Kind.REVIEW:
                asked[said.verdict_id] = each
        else:
            kept[said.verdict_id] = said

    def stands(said: Verdict) -> bool:
        event = said.tenant, said.event_id
        return event not in withdrawn and said.edit >= edits.get(event, 0)

    groups: dict[tuple[Any, ...], set[str]] = {}
    for verdict_id, each in asked.items():
        said = each.said.verdict
        key = said.tenant, said.event_id, said.task or "", said.edit
        if stands(said) and verdict_id not in replaced and key not in story.decided:
            assert isinstance(each.said, Escalation)
            alone = verdict_id if said.content_hash is None else None
            place = said.tenant, each.said.queue, said.content_hash, alone
            groups.setdefault(place, set()).add(verdict_id)
    return Expected(
        open=frozenset((*place[:3], frozenset(those)) for place, those in groups.items()),
        samples=frozenset(
            verdict_id
            for verdict_id, said in kept.items()
            if stands(said) and said.basis == Basis.GUARD and said.action in ACTIONS
        ),
        ledger=frozenset(kept),
        asked=asked,
    )


def check(stands: Stands, says: Expected) -> None:
    open_items = [each for each in stands.items if each.state == "open"]
    reviews = [each for each in open_items if each.kind == "review"]
    of: dict[str, set[str]] = {each.item_id: set() for each in stands.items}
    for row in stands.escalations.values():
        if row.is_open:
            of[row.item_id].add(row.verdict_id)
    assert {
        (each.tenant, each.queue, each.content_hash, frozenset(of[each.item_id]))
        for each in reviews
    } == says.open
    assert len(reviews) == len(says.open)
    assert {each.verdict_id for each in open_items if each.kind == "sample"} == says.samples
    assert set(stands.ledger) == says.ledger
    for item in reviews:
        mine = [says.asked[verdict_id] for verdict_id in of[item.item_id]]
        assert item.count == len(mine)
        assert item.verdict_id in of[item.item_id], "it shows what is gone"
        harms = [each.said.harm or 0 for each in mine if isinstance(each.said, Escalation)]
        assert item.harm >= max(harms)
        # What is gone may have been one with it before, and has then had its say.
        ways = {_on_breach(each) for each in mine}
        assert item.on_breach in ways | {"raise"}, "it is decided as no policy of its own says"
        if len(ways) > 1 or not _others(says, item, of[item.item_id]):
            assert item.on_breach == (ways.pop() if len(ways) == 1 else "raise")
        for each in mine:
            assert isinstance(each.said, Escalation)
            assert each.said.harm is not None
            assert each.said.sla_s is not None
            reach = each.said.verdict.facts.reach or 0
            assert item.due_at <= due_of(each.at, each.said.sla_s, each.said.harm, reach)
            assert item.breach_at <= each.at + each.said.sla_s
            assert item.arrived_at <= each.at
            assert item.reach >= reach
    ended = [each for each in stands.items if each.state == "closed"]
    assert len(ended) + len(open_items) == len(stands.items)
    aside = [each for each in ended if each.ended_why == DECIDED_BEFORE]
    ended = [each for each in ended if each not in aside]
    aside = [each for each in ended if each.ended_why == DECIDED_BEFORE]
    ended = [each for each in ended if each not in aside]
    assert len(ended) == stands.closed
    for item in [*ended, *aside]:
        assert item.ended_why.endswith(".")
        assert item.ended_at == NOW
        assert not of[item.item_id], "it was closed with something left"


def _on_breach(each: Arrived) -> str | None:
    assert isinstance(each.said, Escalation)
    return each.said.on_breach


def _others(says: Expected, item: Any, own: set[str]) -> bool:
    """Whether anything else was asked of equal content, which is gone now."""
    return any(
        (each.said.verdict.tenant, each.said.verdict.content_hash)
        == (item.tenant, item.content_hash)
        for verdict_id, each in says.asked.items()
        if verdict_id not in own and item.content_hash is not None
    )


@pytest.mark.long
@settings(max_examples=examples(40))
@given(data=told_twice())
def test_what_stands_open_hangs_on_the_order_in_which_records_come(
    told: Telling, data: tuple[Story, list[list[Arrived]], list[list[Arrived]]]
) -> None:
    story, once, otherwise = data
    says = expected(story)
    first = told(story, once)
    second = told(story, otherwise)
    check(first, says)
    check(second, says)
    assert first.ledger == second.ledger
    assert first.events == second.events


@pytest.mark.long
@settings(max_examples=examples(15))
@given(data=told_twice())
def test_what_comes_again_changes_something(
    told: Telling, data: tuple[Story, list[list[Arrived]], list[list[Arrived]]]
) -> None:
    story, once, again = data
    first = told(story, once)
    second = told(story, [*once, *again])
    for one, other in zip(
        sorted(first.items, key=str_of), sorted(second.items, key=str_of), strict=True
    ):
        # Its own name is new each time.
        assert {**one._mapping, "item_id": ""} == {**other._mapping, "item_id": ""}
    assert first.ledger == second.ledger
    assert first.escalations.keys() == second.escalations.keys()


def str_of(item: Any) -> str:
    return repr({**item._mapping, "item_id": ""})
