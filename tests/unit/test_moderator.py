"""The handler: a record with two tasks is one record, whatever order its answers come in."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY

from qwarden.contracts import headers, topics
from qwarden.delivery.owed import Owed
from qwarden.guard.answer import Answer, Failure, Triple
from qwarden.guard.row import Row, View
from qwarden.inference.memory import MemoryGuard
from qwarden.moderator.moderator import Moderator
from qwarden.policy.sources import load
from qwarden.policy.tenants import Tenant
from qwarden.tracing import Trace
from unit.builders import (
    CONTROVERSIAL,
    REVISION,
    SAFE,
    THOUGHT,
    UNSAFE,
    admission,
    assessment,
    assessment_of_views,
    event,
    source,
    unanswered,
)
from unit.moderating import ONE_BY_ONE, Finished, door_of, moderator_of, owed_by

SAYS: dict[str, Answer] = {
    "Mix flour and water.": assessment(SAFE, refusal=False),
    "They want bread.": assessment(CONTROVERSIAL),
    "unsafe": assessment(UNSAFE),
    "refused": unanswered(Failure.REFUSED),
    "crashed": unanswered(Failure.CRASHED),
    "too long": unanswered(Failure.TOO_LONG),
}
"""What the guard says of a last turn; of any other that it is Safe."""


class Fixture:
    """A moderator whose guard holds back what the test says."""

    def __init__(self) -> None:
        self.asked: list[Row] = []
        self.held: set[str] = set()
        self.released = asyncio.Event()
        self.spans = _Spans()
        self.moderator = self.process()

    def process(self, judge: Callable[[bytes], Answer] | None = None) -> Moderator:
        guard = MemoryGuard(judge or self._answer, revision=REVISION)
        slow = _Slow(guard, self.held, self.released)
        return moderator_of(slow, admission(), limits=ONE_BY_ONE, trace=self.spans)

    def _answer(self, row: bytes) -> Answer:
        asked = Row.from_json(row)
        self.asked.append(asked)
        return SAYS.get(asked.conversation.turns[-1].content, assessment(SAFE))


class _Spans(Trace):
    """Notes how many records each batch's span has, and how many have ended."""

    def __init__(self) -> None:
        super().__init__(None, "test")
        self.begun: list[int] = []
        self.ended = 0

    @contextmanager
    def batch(self, records: Sequence[Any]) -> Iterator[None]:
        self.begun.append(len(records))
        yield
        self.ended += 1


class _Slow:
    def __init__(self, guard: MemoryGuard, held: set[str], released: asyncio.Event) -> None:
        self._guard = guard
        self._held = held
        self._released = released

    async def revision(self) -> str:
        return await self._guard.revision()

    async def judge(self, rows: Sequence[bytes], *, timeout_s: float | None = None) -> list[Answer]:
        if self._held & {Row.from_json(row).conversation.turns[-1].content for row in rows}:
            await self._released.wait()
        return await self._guard.judge(rows)

    async def close(self) -> None: ...


@pytest.fixture
async def fixture() -> Fixture:
    return Fixture()


def thinks(content: str = "Mix flour and water.", thought: str = "They want bread.") -> bytes:
    answer = {"role": "assistant", "content": content, "reasoning": thought}
    return event(text=..., messages=[THOUGHT[0], answer])


async def owed_for(moderator: Moderator, *values: bytes) -> list[Owed]:
    return await owed_by(moderator, [source(value, offset=at) for at, value in enumerate(values)])


def said(owed: Owed) -> list[tuple[Any, ...]]:
    """Topic, and task and safety of the verdict or class of the error, of each message."""
    found = []
    for message in owed:
        body = json.loads(message.value)
        verdict = body.get("verdict", body)
        if message.topic == topics.DEAD_LETTERS:
            found.append((message.topic, body["error_class"], body["attempts"]))
        else:
            found.append((message.topic, verdict["task"], verdict["safety"]))
    return found


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_the_span_of_a_batch_ends_before_its_last_answer(fixture: Fixture) -> None:
    fixture.held.add("slow")
    values = [event(event_id="e1"), event(event_id="e2", text="slow")]
    judging = asyncio.create_task(owed_for(fixture.moderator, *values))
    while not fixture.spans.begun:  # noqa: ASYNC110  # what is waited for has no event
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    assert (fixture.spans.begun, fixture.spans.ended) == ([2], 0)
    fixture.released.set()
    await judging
    assert (fixture.spans.begun, fixture.spans.ended) == ([2], 1)


async def test_a_record_is_done_without_the_verdict_on_its_reasoning(fixture: Fixture) -> None:
    before = counted("qwarden_events_total", outcome="guard")
    (owed,) = await owed_for(fixture.moderator, thinks())
    assert said(owed) == [
        (topics.VERDICTS, "response", "Safe"),
        (topics.VERDICTS, "thinking", "Controversial"),
        (topics.REVIEW, "thinking", "Controversial"),
        (topics.EVIDENCE, "thinking", "Controversial"),
    ]
    assert {message.key for message in owed} == {b"demo/e1"}
    assert len({json.loads(m.value).get("verdict_id") for m in owed[:2]}) == 2
    assert {headers.header(m.headers, headers.CACHE) for m in owed[:2]} == {"miss"}
    assert counted("qwarden_events_total", outcome="guard") == before + 1, "it is one record"


@pytest.mark.parametrize("slow", ["Mix flour and water.", "They want bread."])
async def test_a_record_is_finished_before_all_of_its_answers_are_here(
    fixture: Fixture, slow: str
) -> None:
    fixture.held.add(slow)
    finished = Finished()
    sources = [source(thinks(), offset=0), source(event(), offset=1)]
    running = asyncio.create_task(fixture.moderator.handle(sources, finished))
    await asyncio.wait_for(finished.one.wait(), 10)
    assert set(finished) == {1}
    fixture.released.set()
    await asyncio.wait_for(running, 10)
    assert [each[1] for each in said(finished[0])[:2]] == ["response", "thinking"]


@pytest.mark.parametrize(
    ("failure", "letter"),
    [
        ("refused", (topics.DEAD_LETTERS, "guard_refused", 1)),
        ("crashed", (topics.DEAD_LETTERS, "crashed", 2)),
    ],
)
@pytest.mark.parametrize("which", ["response", "thinking"])
async def test_half_a_record_is_a_verdict_and_half_a_dead_letter(
    fixture: Fixture, failure: str, letter: tuple[object, ...], which: str
) -> None:
    bad = thinks(content=failure) if which == "response" else thinks(thought=failure)
    owed = await owed_for(fixture.moderator, event(), bad, thinks(failure, failure), event())
    assert said(owed[1]) == said(owed[2]) == [letter]
    assert which in json.loads(owed[1][0].value)["reason"]
    assert [each[0][0] for each in (said(owed[0]), said(owed[3]))] == [topics.VERDICTS] * 2


async def test_what_could_not_be_judged_of_one_task_keeps_the_other_from_its_readers(
    fixture: Fixture,
) -> None:
    before = counted("qwarden_events_total", outcome="degraded")
    (owed,) = await owed_for(fixture.moderator, thinks(content="unsafe", thought="too long"))
    assert said(owed) == [
        (topics.VERDICTS, "response", "Unsafe"),
        (topics.EVIDENCE, "response", "Unsafe"),
        (topics.VERDICTS, "thinking", None),
        (topics.REVIEW, "thinking", None),
        (topics.EVIDENCE, "thinking", None),
    ]
    assert counted("qwarden_events_total", outcome="degraded") == before + 1


async def test_a_model_that_only_thought_is_refused(fixture: Fixture) -> None:
    (owed,) = await owed_for(fixture.moderator, thinks(content=""))
    assert said(owed)[0] == (topics.VERDICTS, "thinking", "Controversial")
    assert {each[1] for each in said(owed)} == {"thinking"}


async def test_no_reasoning_is_judged_as_some(fixture: Fixture) -> None:
    (owed,) = await owed_for(fixture.moderator, thinks(thought=""))
    assert said(owed) == [(topics.VERDICTS, "response", "Safe")]


async def test_an_edit_leaves_one_of_two_verdicts_open(fixture: Fixture) -> None:
    value = json.dumps(json.loads(thinks()) | {"edit": 1}).encode()
    (owed,) = await owed_for(fixture.moderator, value)
    review = [json.loads(m.value) for m in owed if m.topic == topics.REVIEW]
    assert [(each["verdict"]["task"], each["kind"]) for each in review] == [
        ("response", "close"),
        ("thinking", "review"),
    ]


async def test_what_is_too_late_or_gone_is_said_of_one_task_or_twice(fixture: Fixture) -> None:
    late = json.loads(thinks()) | {"deadline": "2020-01-01T00:00:00Z"}
    gone = json.loads(thinks()) | {"deleted": True}
    expired, withdrawn = await owed_for(
        fixture.moderator, json.dumps(late).encode(), json.dumps(gone).encode()
    )
    assert [each[1] for each in said(expired) if each[0] == topics.VERDICTS] == [
        "response",
        "thinking",
    ]
    assert said(withdrawn) == [(topics.VERDICTS, None, None), (topics.REVIEW, None, None)]
    assert fixture.asked == []


async def test_a_deadline_that_passes_on_the_way_splits_a_record(fixture: Fixture) -> None:
    fixture.held.add("They want bread.")
    soon = datetime.now(UTC) + timedelta(milliseconds=300)
    value = json.dumps(json.loads(thinks()) | {"deadline": soon.isoformat()}).encode()
    pending = asyncio.create_task(owed_for(fixture.moderator, value))
    await asyncio.sleep((soon - datetime.now(UTC)).total_seconds() + 0.01)
    assert len(fixture.asked) == 1, "the answer itself was judged in time"
    fixture.released.set()
    (owed,) = await pending
    bases = [json.loads(m.value)["basis"] for m in owed if m.topic == topics.VERDICTS]
    assert bases == ["expired", "expired"]


async def test_records_with_one_id_differ(fixture: Fixture) -> None:
    values = [
        thinks(),
        thinks(content=""),
        thinks(thought="unsafe"),
        event(text="unsafe"),
        thinks(),
    ]
    by_id: dict[str, bytes] = {}
    for moderator in (fixture.moderator, fixture.moderator, fixture.process()):
        for owed in await owed_for(moderator, *values):
            for message in owed:
                if message.topic == topics.VERDICTS:
                    identity = json.loads(message.value)["verdict_id"]
                    assert by_id.setdefault(identity, message.value) == message.value
    assert len(by_id) == 6


async def test_an_answer_that_was_seen_before_costs_its_reasoning_again(fixture: Fixture) -> None:
    await owed_for(fixture.moderator, thinks())
    (owed,) = await owed_for(fixture.moderator, thinks(content="Another answer."))
    places = [headers.header(m.headers, headers.CACHE) for m in owed]
    assert places[:2] == ["miss", "memory"]


async def test_the_guard_is_asked_for_other_views_than_the_policy_says(fixture: Fixture) -> None:
    await owed_for(fixture.moderator, thinks())
    assert [row.views for row in fixture.asked] == [tuple(View)] * 2
    assert not any(row.exact for row in fixture.asked)


async def test_the_milder_of_two_views_decides(fixture: Fixture) -> None:
    moderator = fixture.process(lambda row: assessment_of_views(SAFE, UNSAFE))
    (owed,) = await owed_for(moderator, event())
    verdict = json.loads(owed[0].value)
    assert (verdict["safety"], verdict["action"]) == ("Unsafe", "block")
    assert [view["name"] for view in verdict["views"]] == ["as_sent", "markers_broken"]


NUMBERS = """
name: numbers
extends: default
rules: [{name: sure, when: {score: {unsafe: {at_least: 0.5}}}, then: block, ground: law, clause: c}]
"""


@pytest.mark.parametrize(
    ("alone", "action"), [((0.0, -50.0, -0.01), "allow"), ((0.0, -50.0, 0.01), "block")]
)
async def test_the_rows_of_a_batch_decide_beside_a_threshold(alone: Triple, action: str) -> None:
    """The guard says of a batch what is just on the other side of the number."""
    asked: list[bool] = []

    def judge(row: bytes) -> Answer:
        asked.append(Row.from_json(row).exact)
        safe, controversial, unsafe = alone
        return assessment(alone if asked[-1] else (safe, controversial, -unsafe))

    used = load({"numbers": NUMBERS}).policies["numbers"]
    demo = Tenant("demo", {"numbers": used}, used, "demo", fresh_horizon_s=math.inf)
    guard = MemoryGuard(judge, revision=REVISION)
    moderator = moderator_of(guard, door_of([demo]), exact_bound=0.03)
    for times in ("asked", "kept"):
        (owed,) = await owed_for(moderator, event())
        assert json.loads(owed[0].value)["action"] == action, times
    assert asked == [False, True]
