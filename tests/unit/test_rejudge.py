"""The undo: what it may say that nobody has decided, and what may stand again behind it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from aiokafka import ConsumerRecord

from qwarden.cache.memory import MemoryCache
from qwarden.contracts import topics
from qwarden.contracts.escalation import Content
from qwarden.contracts.event import Message
from qwarden.contracts.standing import standing
from qwarden.contracts.verdict import Action, Basis, Verdict, encode
from qwarden.guard.answer import Answer, Assessment, Triple
from qwarden.guard.row import Row as Asked
from qwarden.inference.dispatch import Dispatcher, Limits
from qwarden.outcomes.lookup import Lookup
from qwarden.policy.in_force import Acting
from qwarden.policy.policy import Policy
from qwarden.policy.records import Recorded
from qwarden.policy.sources import load
from qwarden.rejudge import contents
from qwarden.rejudge.acting import _Work
from qwarden.rejudge.contents import Door
from qwarden.rejudge.planning import Change, Judge, Row, Selection, Unclear, planned, policies_for
from qwarden.settings import Kafka
from unit.builders import KEY, admission, verdict

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SELECTION = Selection(version="0" * 12, rule="wrong", since=NOW, until=NOW)
EVENTS = topics.CONTENT


def policy_of(text: str) -> Policy:
    return load({"house": f"name: house\nextends: default\n{text}"}).policies["house"]


def said(identity: str, serial: int = 0, **fields: Any) -> Verdict:
    used = {"name": "forum", "version": "0" * 12, "serial": serial, "rule": "wrong"}
    return verdict(identity * 32, **{"policy": used} | fields)


def row_of(own: Verdict) -> Row:
    recorded = msgspec.json.decode(encode(own), type=Recorded)
    return Row(own, recorded, 0, None, (EVENTS, 0, 7))


UNJUDGED: dict[str, Any] = dict.fromkeys(("safety", "scores", "categories"))


@pytest.mark.parametrize(
    ("cause", "basis", "action"),
    [("deadline", Basis.EXPIRED, Action.ALLOW), ("no_answer", Basis.DEGRADED, Action.BLOCK)],
)
def test_what_a_quota_had_braked_is_undone_by_another_key_or_still_called_braked(
    cause: str, basis: Basis, action: Action
) -> None:
    policy = policy_of("on_expired: allow\non_unjudged: block\n")
    braked = said("a", action="review", basis="quota", cause=cause, **UNJUDGED)
    word = Judge({"demo": policy}, None).word(row_of(braked))
    assert isinstance(word, Change)
    new = word.verdict
    assert (new.basis, new.cause, new.action) == (basis, cause, action)


@pytest.mark.parametrize("serials", [{}, {"forum": 45}, {"forum": 60}])
def test_what_was_outranked_stands_again_behind_an_undo(serials: dict[str, int]) -> None:
    """By a policy that was never activated, since the tenant may not use the old one any more."""
    before, wrong = said("b", 40, action="block"), said("c", 50, action="block")
    fields: dict[str, Any] = {"scores": {"safe": 1.0, "controversial": 0.0, "unsafe": 0.0}}
    rows = [row_of(said("c", 50, action="block", **fields)), row_of(said("d", 30, event_id="e2"))]
    now = Acting(admission().tenants, {}, {}, frozenset(), {})
    for some in (rows, rows[::-1]):
        policies = policies_for(some, now, serials)
        assert policies["demo"].serial == max(50, *serials.values(), 0)
        word = Judge(policies, None).word(rows[0])
        assert isinstance(word, Change)
        stands = standing([(9, before), (0, wrong), (1, word.verdict)])
        assert [each.action for each in stands.values()] == [Action.ALLOW]


class Noisy:
    """A guard that is over the policy's number in a batch, and under it where it looks exactly."""

    async def revision(self) -> str:
        return "g@1"

    async def judge(self, rows: Sequence[bytes], *, timeout_s: float | None = None) -> list[Answer]:
        logits: tuple[Triple, Triple] = ((0.0, -50.0, 0.01), (0.0, -50.0, -0.01))
        return [
            Assessment(logits[Asked.from_json(row).exact], (), None, 1, 0, "g@1") for row in rows
        ]

    async def close(self) -> None: ...


async def test_an_undo_acts_on_what_a_batch_has_moved_over_a_number_of_the_policys() -> None:
    over = (
        "{name: x, when: {score: {unsafe: {at_least: 0.5}}}, then: block, ground: law, clause: c}"
    )
    policy = policy_of(f"rules: [{over}]\n")
    row = row_of(said("a", action="block", basis="degraded", cause="outage", **UNJUDGED))
    plan = planned(SELECTION, [row], {"demo": policy}, None, ends={}, at=NOW, by="me")
    dispatcher = Dispatcher(Noisy(), Limits(64, 100_000, 4, 0.001, 0.01))

    async def begin() -> Lookup:
        return Lookup(dispatcher, KEY, MemoryCache(10, 60), None, None, exact_bound=0.03)

    limits = dict.fromkeys((topics.VERDICTS, topics.REVIEW, topics.EVIDENCE), 1_000_000)
    work = _Work(plan, Door(admission(), None), begin, limits=limits, sample_rate=0.0)
    content = Content(messages=[Message(role="user", content="How do I bake bread?")])
    ready, told = await work.ready([(Unclear(row, policy, "on_outage", "it waits"), content)])
    await dispatcher.close()
    assert told == []
    assert [change.verdict.action for change, _ in ready] == [Action.ALLOW]


class Broken(Door):
    async def content(self, row: Row, record: ConsumerRecord) -> Content | str:
        raise ValueError("a fault of ours")


async def test_a_fault_in_reading_a_record_is_called_content_that_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def records_of(*_: object) -> AsyncGenerator[ConsumerRecord, None]:
        yield ConsumerRecord(EVENTS, 0, 7, 0, 0, None, b"{}", None, 0, 2, ())

    async def no_partition(*_: object) -> AsyncGenerator[ConsumerRecord, None]:
        raise ValueError("there is no such partition")
        yield

    async def read() -> list[tuple[Row, Content | str]]:
        rows = [row_of(said("a"))]
        door = Broken(admission(), None)
        return [each async for each in contents._from_origins(Kafka(), rows, door)]

    monkeypatch.setattr(contents, "records_of", records_of)
    with pytest.raises(ValueError, match="a fault of ours"):
        await read()
    monkeypatch.setattr(contents, "records_of", no_partition)
    assert [why for _, why in await read()] == [contents.GONE]
