"""One contract for every stream guard: behind Triton, in this process, and in memory."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count, pairwise
from pathlib import Path

import pytest

from qwarden.guard.conversation import Task
from qwarden.guard.stream import Append, Appended, Part, Scored, Segment, Status
from qwarden.guard.taxonomy import categories_of
from qwarden.inference.in_process_stream import InProcessStream
from qwarden.inference.memory_stream import MemoryStream
from qwarden.inference.port import GuardUnavailable
from qwarden.inference.stream_port import StreamGuard
from qwarden.inference.triton_stream import TritonStream
from qwarden.stack import triton as triton_part
from qwarden.stack.home import Home
from qwarden.stack.ports import free_ports
from qwarden.stack.triton import Triton
from qwarden_engine.stream.settings import StreamSettings
from unit.engine.stream_checkpoint import random_stream_checkpoint

pytestmark = pytest.mark.parts

Open = Callable[[], AbstractAsyncContextManager[StreamGuard]]

CONTEXT = 512
SILENT_S = 3.0
KV_MIB = 8
"""Of 8,192 tokens: 64 sessions of a few tokens, 14 of a whole context."""

_names = count()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guard")
    return random_stream_checkpoint(folder, max_position_embeddings=CONTEXT)


@pytest.fixture(scope="module")
def environ(checkpoint: Path) -> dict[str, str]:
    return {
        "QWARDEN_STREAM__CHECKPOINT": str(checkpoint),
        "QWARDEN_STREAM__DTYPE": "float32",
        "QWARDEN_STREAM__THREADS": "1",
        "QWARDEN_STREAM__KV_MIB": str(KV_MIB),
        "QWARDEN_STREAM__SILENT_S": str(SILENT_S),
    }


@pytest.fixture(scope="module")
def stream_triton(
    environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Triton]:
    reason = triton_part.available()
    if reason is not None:
        pytest.skip(reason)
    with Triton(Home(tmp_path_factory.mktemp("stream")), environ) as part:
        yield part


@pytest.fixture(params=["triton", "in-process", "memory"])
def opened(request: pytest.FixtureRequest, environ: dict[str, str]) -> Open:
    kind = request.param
    url = request.getfixturevalue("stream_triton").grpc if kind == "triton" else ""

    @asynccontextmanager
    async def guard() -> AsyncIterator[StreamGuard]:
        made: StreamGuard
        if kind == "triton":
            made = TritonStream(url, timeout_s=60)
        elif kind == "in-process":
            made = InProcessStream(StreamSettings.from_env(environ))
        else:
            made = MemoryStream(context=CONTEXT)
        try:
            yield made
        finally:
            await made.close()

    return guard


def user(text: str = "What is safe?", *, end: bool = True, history: bool = False) -> Part:
    return Part("user", text, end=end, history=history)


def answer(text: str, *, end: bool = False, history: bool = False) -> Part:
    return Part("assistant", text, end=end, history=history)


def thought(text: str, *, end: bool = False) -> Part:
    return Part("assistant", text, Segment.THINKING, end=end)


WHOLE = (
    user("What is a controversial 界 house?"),
    thought("They ask of houses, some of them unsafe and some not. ", end=True),
    answer("A house is unsafe where it burns 👍🏽, and controversial in a park.", end=True),
)


def length(parts: Sequence[Part]) -> int:
    return sum(len(part.text) for part in parts)


class Session:
    """One session that nobody else has."""

    def __init__(self, guard: StreamGuard) -> None:
        self.guard = guard
        self.name = f"session {next(_names)}"
        self.sent: tuple[Part, ...] = ()

    def next(self, *parts: Part) -> Append:
        made = Append("tenant", self.name, length(self.sent), parts)
        self.sent += parts
        return made

    def whole(self, since: int = 0) -> Append:
        return Append("tenant", self.name, 0, self.sent, since)

    async def say(self, *parts: Part) -> Appended:
        [said] = await self.guard.append([self.next(*parts)])
        return said


def same(some: Sequence[Scored], others: Sequence[Scored]) -> None:
    """Both say the same of the same, but for what the order of a sum moves."""
    assert [(s.task, s.start, s.end) for s in some] == [(s.task, s.start, s.end) for s in others]
    for one, other in zip(some, others, strict=True):
        assert one.logits == pytest.approx(other.logits, abs=1e-3)
        assert one.safety == other.safety
        shares = dict(other.categories)
        # Whether the last of them is answered can hang on the last bit.
        for name, share in one.categories[:1]:
            assert share == pytest.approx(shares[name], abs=1e-3)


def pieces(size: int) -> list[Part]:
    """`WHOLE` in pieces of so many code points."""
    cut = []
    for part in WHOLE:
        for at in range(0, len(part.text), size):
            end = part.end and at + size >= len(part.text)
            cut.append(Part(part.role, part.text[at : at + size], part.segment, end=end))
    return cut


async def test_every_answer_names_the_revision(opened: Open) -> None:
    async with opened() as guard:
        revision = await guard.revision()
        session = Session(guard)
        said = await session.say(*WHOLE)
        lost = await Session(guard).guard.append([Append("tenant", "lost", 9, (user(),))])
        wrong = await Session(guard).say(Part("tool", "x"))
    assert revision
    assert {said.revision, lost[0].revision, wrong.revision} == {revision}


async def test_a_token_is_left_out_or_its_place_is_wrong(opened: Open) -> None:
    async with opened() as guard:
        said = await Session(guard).say(*WHOLE)
    assert said.status is Status.DONE
    assert said.held == 0
    by_task = {task: [s for s in said.scored if s.task is task] for task in Task}
    [prompt] = by_task[Task.PROMPT]
    assert (prompt.start, prompt.end) == (0, len(WHOLE[0].text))
    assert list(said.scored) == [prompt, *by_task[Task.THINKING], *by_task[Task.RESPONSE]]
    for part in WHOLE[1:]:
        tokens = by_task[part.task or Task.PROMPT]
        assert len(tokens) > 5
        for one, other in pairwise(tokens):
            assert one.start < one.end
            assert one.start <= other.start <= one.end <= other.end
        assert tokens[0].start == 0
        # What the template strips from a text's end has no token.
        assert len(part.text.rstrip()) <= tokens[-1].end <= len(part.text)
    for scored in said.scored:
        assert all(math.isfinite(logit) for logit in scored.logits)
        assert bool(scored.categories) is (scored.safety != "Safe")
        assert all(name in categories_of(scored.task) for name, _ in scored.categories)


@pytest.mark.parametrize("size", [1, 3, 16, 64])
async def test_the_size_of_chunks_changes_what_is_said(opened: Open, size: int) -> None:
    async with opened() as guard:
        whole = await Session(guard).say(*WHOLE)
        session = Session(guard)
        scored: list[Scored] = []
        for part in pieces(size):
            said = await session.say(part)
            assert said.status is Status.DONE
            if part.task is not Task.PROMPT:
                told = [s.end for s in scored if s.task is part.task] or [0]
                sent = [p for p in session.sent if p.task is part.task]
                assert all(s.end <= length(sent) for s in said.scored if s.task is part.task)
                assert said.held <= length(sent) - told[-1]
            scored += said.scored
    same(scored, whole.scored)


async def test_a_session_that_is_not_known_is_judged(opened: Open) -> None:
    async with opened() as guard:
        session = Session(guard)
        session.sent = WHOLE[:2]
        said = await session.say(answer("unsafe"))
        assert (said.status, said.scored) == (Status.REPLAY, ())
        assert said.reason
        [again] = await guard.append([session.whole()])
        assert again.status is Status.DONE
        assert [s.task for s in again.scored if s.task is Task.PROMPT] == [Task.PROMPT]
        after = await session.say(answer(" house", end=True))
        assert after.status is Status.DONE
        assert after.scored


@pytest.mark.parametrize("by", [-1, 1, 1000])
async def test_an_append_that_does_not_fit_is_judged(opened: Open, by: int) -> None:
    async with opened() as guard:
        session = Session(guard)
        first = await session.say(user(), answer("as safe as"))
        right = session.next(answer(" a house", end=True))
        wrong = Append(right.tenant, right.session, right.offset + by, right.parts)
        [said] = await guard.append([wrong])
        assert (said.status, said.scored) == (Status.REPLAY, ())
        [last] = await guard.append([session.whole(since=length(session.sent[:1]))])
    assert last.status is Status.DONE
    # What was said before the replay is not said again, and nothing is left out.
    told = [s for s in first.scored if s.task is Task.PROMPT]
    async with opened() as guard:
        whole = await Session(guard).say(*session.sent)
    same([*told, *last.scored], whole.scored)


async def test_scores_that_are_known_are_said_again(opened: Open) -> None:
    async with opened() as guard:
        whole = await Session(guard).say(*WHOLE)
        begins = {
            Task.PROMPT: 0,
            Task.THINKING: length(WHOLE[:1]),
            Task.RESPONSE: length(WHOLE[:2]),
        }
        for at in (0, 1, len(whole.scored) // 2, len(whole.scored) - 1):
            known = whole.scored[at]
            since = begins[known.task] + known.end
            session = Session(guard)
            session.sent = WHOLE
            [said] = await guard.append([session.whole(since)])
            same(said.scored, [s for s in whole.scored if begins[s.task] + s.end > since])


async def test_sessions_of_one_request_are_mixed_up(opened: Open) -> None:
    async with opened() as guard:
        sessions = [Session(guard) for _ in range(12)]
        texts = [f"unsafe {'house ' * n} and safe" for n in range(12)]
        first = await guard.append(
            [session.next(user(text)) for session, text in zip(sessions, texts, strict=True)]
        )
        then = await guard.append(
            [session.next(answer(f"{n} is safe", end=True)) for n, session in enumerate(sessions)]
        )
        assert {said.status for said in (*first, *then)} == {Status.DONE}
        for session, one, other in list(zip(sessions, first, then, strict=True))[::4]:
            alone = await Session(guard).say(*session.sent)
            same([*one.scored, *other.scored], alone.scored)


async def test_a_tenants_session_is_anothers(opened: Open) -> None:
    async with opened() as guard:
        name = f"session {next(_names)}"
        ours, theirs = (Append(tenant, name, 0, (user(tenant),)) for tenant in ("ours", "they"))
        await guard.append([ours, theirs])
        [said] = await guard.append([Append("ours", name, 4, (answer("safe", end=True),))])
        alone = await Session(guard).say(user("ours"), answer("safe", end=True))
    same(said.scored, alone.scored[1:])


BAD = {
    "a role": (Part("tool", "x"),),
    "an assistant who begins": (answer("x"),),
    "a user behind the answer": (user(), answer("x", end=True), user()),
    "history behind what is judged": (user(), answer("x", history=True)),
    "a thought behind the answer": (user(), answer("x"), thought("y")),
    "an answer behind the history's": (
        user("a", history=True), answer("b", end=True, history=True), answer("x")
    ),
    "a thought behind the history's answer": (
        user("a", history=True), answer("b", history=True), thought("x")
    ),
    "an assistant of the history who begins": (answer("x", history=True), user()),
    "a user behind the thought": (user(), thought("x"), user()),
    "a user who thinks": (Part("user", "x", Segment.THINKING),),
    "a second thought": (user(), thought("x", end=True), thought("y")),
    "a second answer": (user(), answer("x", end=True), answer("y")),
    "half a surrogate pair": (user("\ud800"),),
}  # fmt: skip


NOTHING = {
    "an empty part": (user(), answer(""), thought("as safe"), thought(""), answer("as", end=True)),
    "ends that come twice": (
        user(), user(""), thought("as safe", end=True), thought("", end=True),
        answer("as", end=True), answer("", end=True),
    ),
}  # fmt: skip


@pytest.mark.parametrize("parts", NOTHING.values(), ids=NOTHING)
async def test_what_says_nothing_changes_what_is_said(
    opened: Open, parts: tuple[Part, ...]
) -> None:
    async with opened() as guard:
        said = await Session(guard).say(*parts)
        whole = (user(), thought("as safe"), answer("as", end=True))
        expected = await Session(guard).say(*whole)
    assert said.status is Status.DONE
    same(said.scored, expected.scored)


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
async def test_a_wrong_append_fails_those_beside_it(opened: Open, bad: tuple[Part, ...]) -> None:
    async with opened() as guard:
        wrong, one, other = (Session(guard) for _ in range(3))
        first, refused, last = await guard.append(
            [one.next(*WHOLE), wrong.next(*bad), other.next(*WHOLE)]
        )
        assert refused.status is Status.REFUSED
        assert refused.reason
        same(first.scored, last.scored)
        after = await wrong.say(answer("more"))
    assert after.status is Status.REPLAY, "what was refused is not half kept"


async def test_history_is_judged(opened: Open) -> None:
    history = (user("unsafe", history=True), answer("unsafe too", end=True, history=True))
    async with opened() as guard:
        said = await Session(guard).say(*history, user("And a house?"), answer("safe", end=True))
    assert said.status is Status.DONE
    assert {s.task for s in said.scored} == {Task.PROMPT, Task.RESPONSE}
    assert said.scored[0].end == len("And a house?")


async def test_the_contexts_end_fails_a_session(opened: Open) -> None:
    text = "house " * CONTEXT
    async with opened() as guard:
        session, other = Session(guard), Session(guard)
        said, beside = await guard.append([session.next(user(), answer(text)), other.next(*WHOLE)])
        assert beside.status is Status.DONE
        assert said.status is Status.CLOSED
        assert str(CONTEXT) in said.reason
        tokens = [s for s in said.scored if s.task is Task.RESPONSE]
        assert 10 < len(tokens) < CONTEXT
        assert said.held >= len(text) - tokens[-1].end - 1
        # Whoever sends it once more is told the same.
        [again] = await guard.append([session.whole(since=len(user().text) + tokens[-1].end)])
    assert (again.status, again.scored) == (Status.CLOSED, ())


async def test_memory_that_is_full_is_a_failure(opened: Open) -> None:
    """Who comes late is told to wait, until the longest silent session gives way."""
    text = "house " * 300
    async with opened() as guard:
        if isinstance(guard, MemoryStream):
            guard.room = 3
        sessions: list[Session] = []
        while True:
            session = Session(guard)
            said = await session.say(user(text, end=False))
            if said.status is Status.FULL:
                break
            assert said.status is Status.DONE
            sessions.append(session)
            assert len(sessions) < 40
        assert said.reason
        assert said.scored == ()
        going_on = await sessions[-1].say(user("", end=True))
        assert going_on.status is Status.DONE, "those that there are go on"
        if isinstance(guard, MemoryStream):
            guard.forget(("tenant", sessions[0].name))
        deadline = time.monotonic() + 60
        while (await guard.append([session.whole()]))[0].status is Status.FULL:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        dropped = await sessions[0].say(answer("safe"))
        assert dropped.status is Status.REPLAY
        for each in sessions:  # so that the next test finds room
            each.sent = (user("x"),)
            await guard.append([each.whole()])
            await each.say(answer("x", end=True))


async def test_clients_at_once_disturb_each_other(opened: Open) -> None:
    async with opened() as guard:
        whole = await Session(guard).say(*WHOLE)

        async def client(size: int) -> None:
            session = Session(guard)
            scored: list[Scored] = []
            for part in pieces(size):
                said = await session.say(part)
                assert said.status is Status.DONE
                scored += said.scored
            same(scored, whole.scored)

        await asyncio.gather(*(client(3 + n % 9) for n in range(24)))


async def test_a_huge_append_keeps_the_others_waiting(opened: Open) -> None:
    turns = tuple(user("as", history=True) for _ in range(40_000))
    async with opened() as guard:
        await Session(guard).say(user())
        asking = asyncio.create_task(Session(guard).say(*turns))
        answered = 0
        while not asking.done():
            said = await Session(guard).say(user(), answer("as", end=True))
            assert said.status is Status.DONE
            answered += not asking.done()
            await asyncio.sleep(0)
        assert (await asking).status is Status.CLOSED
    assert answered > 2 or isinstance(guard, MemoryStream), "nothing else answers in no time"


async def test_a_request_that_is_cancelled_ends_the_guard(opened: Open) -> None:
    async with opened() as guard:
        await guard.revision()
        session = Session(guard)
        asking = asyncio.create_task(session.say(user("house " * 400)))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert asking.cancelled() or isinstance(guard, MemoryStream), "nothing answers in no time"
        other = await Session(guard).say(*WHOLE)
        assert other.status is Status.DONE
        # Whether it was taken is not known; what is sent from its start is.
        session.sent = WHOLE
        [again] = await guard.append([session.whole()])
    same(again.scored, other.scored)


async def test_a_deadline_that_passes_is_no_outage_or_ends_the_guard(opened: Open) -> None:
    async with opened() as guard:
        await guard.revision()
        session = Session(guard)
        try:
            await guard.append([session.next(user("house " * 400))], timeout_s=0.002)
        except GuardUnavailable:
            pass
        else:
            assert isinstance(guard, MemoryStream), "nothing else answers in no time"
        session.sent = WHOLE
        [again] = await guard.append([session.whole()], timeout_s=60)
        other = await Session(guard).say(*WHOLE)
    same(again.scored, other.scored)


async def test_no_appends_have_no_answers(opened: Open) -> None:
    async with opened() as guard:
        assert await guard.append([]) == []


async def test_an_absent_triton_is_an_outage_and_not_an_answer() -> None:
    (port,) = free_ports(1)
    guard = TritonStream(f"127.0.0.1:{port}", timeout_s=2)
    try:
        with pytest.raises(GuardUnavailable, match=f"127.0.0.1:{port}"):
            await Session(guard).say(user())
    finally:
        await guard.close()
