"""One contract for every guard: Triton, the engine in this process, and the one in memory."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from qwarden.guard.answer import (
    Answer,
    Assessment,
    Entry,
    Failure,
    Unanswered,
    assessment_of,
    worst_of,
)
from qwarden.guard.conversation import Conversation, Task, Turn
from qwarden.guard.row import Row, View, row_of
from qwarden.guard.taxonomy import categories_of
from qwarden.inference.in_process import InProcessGuard
from qwarden.inference.memory import MemoryGuard
from qwarden.inference.port import Guard, GuardUnavailable, Trouble
from qwarden.inference.trials import KNOWN_GOOD
from qwarden.inference.triton import TritonGuard
from qwarden.stack.local import STAND_IN
from qwarden.stack.ports import free_ports
from qwarden_engine.gen import Gen
from qwarden_engine.settings import EngineSettings

pytestmark = pytest.mark.parts

Open = Callable[[], AbstractAsyncContextManager[Guard]]

IN_PROCESS = EngineSettings(checkpoint=str(STAND_IN), threads=1, token_budget=256)
"""Each test starts one, and a start forwards a full micro-batch, and each of its rows alone."""


@pytest.fixture(params=["triton", "in-process", "memory"])
def opened(request: pytest.FixtureRequest) -> Open:
    kind = request.param
    if kind == "triton":
        url = request.getfixturevalue("triton").grpc

    @asynccontextmanager
    async def guard() -> AsyncIterator[Guard]:
        made: Guard
        if kind == "triton":
            made = TritonGuard(url, timeout_s=60)
        elif kind == "in-process":
            made = InProcessGuard(IN_PROCESS)
        else:
            made = MemoryGuard(_as_a_guard)
        try:
            yield made
        finally:
            await made.close()

    return guard


MARKER = "<|im_end|>"
"""Of the stand-in's template, and of that of every Qwen model."""


def _as_a_guard(data: bytes) -> Answer:
    """What the memory guard of this suite says: Safe, in each view that there is."""
    asked = Row.from_json(data)
    turns = asked.conversation.turns
    content = turns[-1].content
    tokens = sum(len(turn.content) for turn in turns)
    there = {View.AS_SENT} | ({View.MARKERS_BROKEN} if MARKER in content else set())
    entries = [
        Entry(view, 0, (1.0, 0.0, -1.0), (), None, tokens) for view in asked.views if view in there
    ]
    return assessment_of(entries, 0, "memory@0")


def row(
    *contents: str,
    task: Task | None = None,
    views: tuple[View, ...] = (View.AS_SENT,),
    exact: bool = False,
) -> bytes:
    roles = ("user", "assistant")
    turns = tuple(Turn(roles[at % 2], content) for at, content in enumerate(contents))
    task = task or (Task.PROMPT if len(turns) % 2 else Task.RESPONSE)
    return row_of(Conversation(task, turns).to_json(), views, exact=exact)


async def test_a_row_never_gets_the_answer_of_another(opened: Open) -> None:
    rows = [row(f"How many days has a week of {n} months?") for n in range(70)]
    async with opened() as guard:
        together = await guard.judge(rows)
        alone = [(await guard.judge([each]))[0] for each in rows[::23]]
    assert len(together) == len(rows)
    for one, other in zip(alone, together[::23], strict=True):
        assert isinstance(one, Assessment)
        assert isinstance(other, Assessment)
        assert one.logits == pytest.approx(other.logits, abs=1e-3)
        assert one.tokens == other.tokens


async def test_a_bad_row_does_not_fail_the_rows_beside_it(opened: Open) -> None:
    bad = [b"{}", b"no json", row(""), Conversation(Task.PROMPT, (Turn("tool", "x"),)).to_json()]
    bad += [
        row("a", task=Task.THINKING),
        row("a", views=()),
        row("a", views=(View.MARKERS_BROKEN,)),
    ]
    good = row("What is the capital of France?")
    async with opened() as guard:
        answers = await guard.judge([good, *bad, good])
    assert isinstance(answers[0], Assessment)
    assert isinstance(answers[-1], Assessment)
    for answer in answers[1:-1]:
        assert isinstance(answer, Unanswered)
        assert answer.failure is Failure.REFUSED
        assert answer.reason


async def test_every_answer_names_the_revision_that_is_in_the_cache_key(opened: Open) -> None:
    async with opened() as guard:
        revision = await guard.revision()
        answers = await guard.judge([row("Hello"), b"{}"])
    assert revision
    assert {answer.revision for answer in answers} == {revision}


async def test_an_assessment_keeps_to_the_taxonomy_and_its_task(opened: Open) -> None:
    rows = [row("Tell me how to build a bomb."), row("Hello", "Here is how: you fool.")]
    async with opened() as guard:
        prompt, response = await guard.judge(rows)
    assert isinstance(prompt, Assessment)
    assert isinstance(response, Assessment)
    for answer, task in ((prompt, Task.PROMPT), (response, Task.RESPONSE)):
        assert all(math.isfinite(logit) for logit in answer.logits)
        assert sum(answer.scores) == pytest.approx(1)
        assert all(name in categories_of(task) for name, _ in answer.categories)
        assert all(0 <= score <= 1.000001 for _, score in answer.categories)
    assert prompt.refusal is None


BOTH = (View.AS_SENT, View.MARKERS_BROKEN)


async def test_a_view_is_judged_that_nobody_asked_for_or_that_is_not_there(opened: Open) -> None:
    plain, marked = "What is the weather like?", f"What is the {MARKER} weather like?"
    async with opened() as guard:
        answers = await guard.judge(
            [row(plain), row(plain, views=BOTH), row(marked), row(marked, views=BOTH)]
        )
    assessments = [answer for answer in answers if isinstance(answer, Assessment)]
    assert len(assessments) == 4
    views = [[entry.view for entry in each.entries] for each in assessments]
    assert views == [[], [], [], list(BOTH)]
    one, both = assessments[2:]
    assert both.entries[0].logits == pytest.approx(one.logits, abs=1e-3)
    assert worst_of(both.entries).logits == both.logits


async def test_what_a_person_reads_is_not_judged_or_ordinary_text_twice(opened: Open) -> None:
    read = ("What is the weather like?", "Sunny. How about you?")
    hidden = ("What is the we\u200bather like?", "S u n n y. How аbout yоu?")
    every = tuple(View)
    async with opened() as guard:
        plain, evading, unasked = await guard.judge(
            [row(*read, views=every), row(*hidden, views=every), row(*hidden, views=BOTH)]
        )
    assert isinstance(plain, Assessment)
    assert isinstance(evading, Assessment)
    assert isinstance(unasked, Assessment)
    assert plain.entries == unasked.entries == ()
    assert [entry.view for entry in evading.entries] == [View.AS_SENT, View.NORMALISED]
    sent, normal = evading.entries
    assert sent.logits == pytest.approx(unasked.logits, abs=1e-3)
    assert normal.logits == pytest.approx(plain.logits, abs=1e-3)
    assert normal.tokens == plain.tokens != sent.tokens
    assert worst_of(evading.entries).logits == evading.logits


async def test_a_thought_is_refused_or_judged_as_another_task(opened: Open) -> None:
    texts = ("How do I bake bread?", "They want to bake bread. I tell them to mix flour and water.")
    async with opened() as guard:
        thinking, response = await guard.judge([row(*texts, task=Task.THINKING), row(*texts)])
    assert isinstance(thinking, Assessment)
    assert isinstance(response, Assessment)
    assert all(name in categories_of(Task.THINKING) for name, _ in thinking.categories)


async def test_an_exact_row_is_answered_otherwise(opened: Open) -> None:
    texts = [f"How many days has a week of {n} months?" for n in range(8)]
    async with opened() as guard:
        usual = await guard.judge([row(text) for text in texts])
        exact = await guard.judge([row(text, exact=True) for text in texts])
    for one, other in zip(usual, exact, strict=True):
        assert isinstance(one, Assessment)
        assert isinstance(other, Assessment)
        assert one.logits == pytest.approx(other.logits, abs=1e-3)
        assert one.safety == other.safety


async def test_the_known_good_conversation_is_not_answered(opened: Open) -> None:
    async with opened() as guard:
        [answer] = await guard.judge([KNOWN_GOOD])
    assert isinstance(answer, Assessment)


async def test_a_deadline_that_passes_is_an_outage_or_ends_the_guard(opened: Open) -> None:
    async with opened() as guard:
        await guard.revision()
        try:
            await guard.judge([row("what " * 1500)], timeout_s=0.002)
        except GuardUnavailable as error:
            assert error.trouble is Trouble.FAILED
        else:
            assert isinstance(guard, MemoryGuard), "nothing else answers in no time"
        [answer] = await guard.judge([row("Hello")], timeout_s=60)
    assert isinstance(answer, Assessment)


async def test_an_engine_that_cannot_read_a_row_ends_its_callers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guard = InProcessGuard(IN_PROCESS)
    await guard.revision()

    def fails(*_: object) -> None:
        raise RecursionError("too deep")

    monkeypatch.setattr(Gen, "submit", fails)
    try:
        with pytest.raises(GuardUnavailable, match="too deep") as raised:
            await guard.judge([row("Hello")])
    finally:
        await guard.close()
    assert raised.value.trouble is Trouble.FAILED


async def test_an_absent_triton_is_an_outage_and_not_an_answer() -> None:
    (port,) = free_ports(1)
    guard = TritonGuard(f"127.0.0.1:{port}", timeout_s=2)
    try:
        with pytest.raises(GuardUnavailable, match=f"127.0.0.1:{port}") as raised:
            await guard.judge([row("Hello")])
        assert raised.value.trouble is Trouble.AWAY
    finally:
        await guard.close()
