"""The client of the stream guard, whatever its replicas do: each token's score comes once, in
order, as if nothing had happened."""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from qwarden.guard.answer import Categories, Triple
from qwarden.guard.conversation import Task
from qwarden.guard.stream import Append, Appended, Part, Scored, Segment, Status
from qwarden.inference.memory_stream import MemoryStream
from qwarden.inference.port import GuardUnavailable, Trouble
from qwarden.inference.replica import NoAnswer, StreamLimits
from qwarden.inference.session import Session
from qwarden.inference.stream_client import AppendRefused, StreamClient
from qwarden.inference.trials import BYTES_A_TOKEN
from twin import clock

TOKENS_A_SECOND = 60.0
LIMITS = StreamLimits(
    appends_a_request=3,
    requests_in_flight=2,
    replay_tokens_a_second=TOKENS_A_SECOND,
    leave_s=4.0,
    backoff_s=0.05,
    max_backoff_s=1.0,
)
POISON = "poison"
KNOWN_GOOD = ""
"""The tenant of the session with which the client asks whether anybody can judge."""


def score(task: Task, text: str, before: str) -> tuple[Triple, Categories]:
    """Of all that came before, so that no part of a transcript can be missing or come twice."""
    digest = hashlib.blake2b(f"{task}\0{text}\0{before}".encode(), digest_size=3).digest()
    safe, controversial, unsafe = (float(byte) for byte in digest)
    return (safe, controversial, unsafe), ()


@dataclass
class Taken:
    """An append that a guard has taken, when it was sent, and what was said."""

    at: float
    guard: object
    append: Append
    status: Status


class Guard(MemoryStream):
    """A memory guard that takes its time, fails as it is told to, and watches its clients."""

    def __init__(self, world: World) -> None:
        super().__init__(score, context=world.context)
        self.away_until = 0.0
        self.troubles: list[tuple[Trouble, bool]] = []
        """What the next requests end with, and whether they were taken."""
        self._world = world

    async def append(
        self, appends: Sequence[Append], *, timeout_s: float | None = None
    ) -> list[Appended]:
        world, sent_at = self._world, time.monotonic()
        sessions = [append.session for append in appends if append.tenant != KNOWN_GOOD]
        assert len(set(sessions)) == len(sessions)
        out = world.under_way.intersection(sessions)
        assert out <= world.cancelled, "two appends of a session are out"
        assert len(appends) <= LIMITS.appends_a_request
        world.under_way.update(sessions)
        try:
            trouble, taken = self.troubles.pop(0) if self.troubles else (None, False)
            await asyncio.sleep(world.chance.random() * 0.2)
            if time.monotonic() < self.away_until:
                trouble, taken = Trouble.AWAY, False
            if any(POISON in part.text for append in appends for part in append.parts):
                self.forget(*[(append.tenant, append.session) for append in appends])
                trouble, taken = Trouble.FAILED, False
            if trouble is None or taken:
                answers = await super().append(appends)
                for append, answer in zip(appends, answers, strict=True):
                    world.taken.append(Taken(sent_at, self, append, answer.status))
            await asyncio.sleep(world.chance.random() * 0.2)
            if trouble is not None:
                raise GuardUnavailable("trouble", trouble)
            return answers
        finally:
            world.under_way.difference_update(sessions)


@dataclass
class World:
    """All guards there are, by address, and which of them are known."""

    chance: random.Random
    context: int = 10_000
    known: frozenset[str] = frozenset()
    guards: dict[str, Guard] = field(default_factory=dict)
    under_way: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)
    """Sessions with an append that was cancelled, which may be under way beside the next."""
    taken: list[Taken] = field(default_factory=list)

    def guard_at(self, address: str) -> Guard:
        if address not in self.guards:
            self.guards[address] = Guard(self)
        return self.guards[address]

    async def look(self) -> frozenset[str]:
        return self.known

    def client(self) -> StreamClient:
        return StreamClient(self.guard_at, self.look, LIMITS, look_s=0.3, chance=self.chance.random)


ADDRESSES = ["a:1", "b:1", "c:1"]

_yes = st.booleans()
_text = st.text("ab \n😀", max_size=12)
_assistant = st.lists(_text, max_size=6)


@st.composite
def scripts(draw: Any) -> list[list[Part]]:
    """One session, as it is appended."""
    parts: list[Part] = []
    if draw(_yes):
        parts.append(Part("user", draw(_text), end=True, history=True))
        parts.append(Part("assistant", draw(_text), end=True, history=True))
    parts += [Part("user", text) for text in draw(st.lists(_text, max_size=2))]
    parts.append(Part("user", draw(_text), end=True))
    thoughts = draw(_assistant)
    parts += [Part("assistant", text, Segment.THINKING) for text in thoughts]
    if thoughts and draw(_yes):
        parts.append(Part("assistant", "", Segment.THINKING, end=True))
    parts += [Part("assistant", text) for text in draw(_assistant)]
    parts.append(Part("assistant", draw(_text), end=True))
    appends: list[list[Part]] = []
    for part in parts:
        if appends and draw(_yes):
            appends[-1].append(part)
        else:
            appends.append([part])
    return appends


_event = st.one_of(
    st.tuples(st.just("forget"), st.sampled_from(ADDRESSES)),
    st.tuples(st.just("anew"), st.sampled_from(ADDRESSES)),
    st.tuples(st.just("known"), st.frozensets(st.sampled_from(ADDRESSES), min_size=1)),
    st.tuples(
        st.just("trouble"),
        st.sampled_from(ADDRESSES),
        st.sampled_from([Trouble.AWAY, Trouble.BUSY]),
        st.booleans(),
        st.integers(1, 4),
    ),
    st.tuples(st.just("away"), st.sampled_from(ADDRESSES), st.floats(0.1, 8)),
    st.tuples(st.just("full"), st.sampled_from(ADDRESSES), st.floats(0.1, 3)),
)
_events = st.lists(st.tuples(st.floats(0, 1.5), _event), max_size=12)
_failures = st.lists(st.tuples(st.floats(0, 6), st.sampled_from(ADDRESSES)), max_size=2)
"""At most two: an append that is well stays one failure short of being given up."""


async def happen(world: World, events: Sequence[tuple[float, Any]]) -> None:
    for later_s, event in events:
        await asyncio.sleep(later_s)
        match event:
            case ("known", known):
                world.known = known
            case ("forget", address):
                world.guard_at(address).forget()
            case ("anew", address):
                world.guard_at(address).start_anew(f"memory@{time.monotonic()}")
            case ("trouble", address, trouble, taken, count):
                world.guard_at(address).troubles += [(trouble, taken)] * count
            case ("away", address, seconds):
                world.guard_at(address).away_until = time.monotonic() + seconds
            case ("full", address, seconds):
                guard = world.guard_at(address)
                guard.room = 1
                asyncio.get_running_loop().call_later(seconds, setattr, guard, "room", None)


async def speak(
    world: World,
    client: StreamClient,
    session: Session,
    script: list[list[Part]],
    patience_s: float,
) -> list[Scored]:
    """Appends it all; where an answer takes longer than its patience, the first time, it asks
    again."""
    heard: list[Scored] = []
    for parts in script:
        await asyncio.sleep(world.chance.random() * 0.3)
        try:
            async with asyncio.timeout(patience_s):
                answer = await client.append(session, parts)
        except TimeoutError:
            world.cancelled.add(session.session)
            answer = await client.append(session, parts)
        heard += answer.scored
    return heard


def uninterrupted(script: list[list[Part]], context: int = 10_000) -> list[Scored]:
    async def run() -> list[Scored]:
        guard = MemoryStream(score, context=context)
        parts = tuple(part for parts in script for part in parts)
        [answer] = await guard.append([Append("t", "s", 0, parts)])
        return list(answer.scored)

    return clock.run(run)


def replays_exceed(taken: Sequence[Taken], sessions: Sequence[list[list[Part]]]) -> bool:
    """Whether the transcripts that were sent again were sent faster than the rate. What a session
    begins with is new, however often it is sent."""
    begins = {
        f"s{n}": next((size for parts in script if (size := points(parts))), 0)
        for n, script in enumerate(sessions)
    }
    replays: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for each in sorted(taken, key=lambda each: each.at):
        append = each.append
        if append.tenant == KNOWN_GOOD or append.offset or each.status is Status.FULL:
            continue
        if points(append.parts) > begins[append.session]:
            size = sum(len(part.text.encode()) for part in append.parts)
            replays[id(each.guard)].append((each.at, math.ceil(size / BYTES_A_TOKEN)))
    return any(
        sum(tokens for _, tokens in of_one[first:last])
        > TOKENS_A_SECOND * (of_one[last][0] - of_one[first][0]) + 1e-2
        for of_one in replays.values()
        for first in range(len(of_one))
        for last in range(first + 1, len(of_one))
    )


def points(parts: Sequence[Part]) -> int:
    return sum(len(part.text) for part in parts)


@pytest.mark.long
@settings(max_examples=examples(150))
@given(
    st.lists(scripts(), min_size=1, max_size=8),
    _events,
    _failures,
    st.sampled_from([0.4, 5.0, 1000.0]),
    st.integers(0, 2**32),
)
def test_a_score_is_lost_comes_twice_or_is_another_than_without_interruption(
    sessions: list[list[list[Part]]],
    events: list[tuple[float, Any]],
    failures: list[tuple[float, str]],
    patience_s: float,
    seed: int,
) -> None:
    world = World(random.Random(seed), known=frozenset(ADDRESSES[:2]))
    fails = [(later_s, ("trouble", at, Trouble.FAILED, True, 1)) for later_s, at in failures]

    async def run() -> list[list[Scored]]:
        client = world.client()
        happening = [
            asyncio.create_task(happen(world, events)),
            asyncio.create_task(happen(world, fails)),
        ]
        async with asyncio.timeout(3600):
            heard = await asyncio.gather(
                *[
                    speak(world, client, Session("t", f"s{n}"), script, patience_s)
                    for n, script in enumerate(sessions)
                ]
            )
            await asyncio.gather(*happening)
        await client.close()
        return heard

    for script, heard in zip(sessions, clock.run(run, seed=seed), strict=True):
        assert heard == uninterrupted(script)
    assert not replays_exceed(world.taken, sessions)


@pytest.mark.long
@settings(max_examples=examples(60))
@given(
    st.lists(scripts(), min_size=2, max_size=6),
    st.integers(0, 9),
    _events,
    st.integers(0, 2**32),
)
def test_an_append_that_fails_the_guard_takes_others_with_it_or_waits_for_ever(
    sessions: list[list[list[Part]]], at: int, events: list[tuple[float, Any]], seed: int
) -> None:
    world = World(random.Random(seed), known=frozenset(ADDRESSES[:2]))
    poisoned = [list(parts) for parts in sessions[0]]
    poisoned[at % len(poisoned)].append(Part("assistant", f" {POISON} "))

    async def run() -> list[list[Scored]]:
        client = world.client()
        happening = asyncio.create_task(happen(world, events))
        async with asyncio.timeout(36_000):
            asked = [
                asyncio.create_task(speak(world, client, Session("t", f"s{n}"), script, 1e6))
                for n, script in enumerate([poisoned, *sessions[1:]])
            ]
            with pytest.raises(NoAnswer, match="alone"):
                await asked[0]
            heard = await asyncio.gather(*asked[1:])
            await happening
        await client.close()
        return heard

    for script, heard in zip(sessions[1:], clock.run(run, seed=seed), strict=True):
        assert heard == uninterrupted(script)


@settings(max_examples=examples(60))
@given(scripts(), _events, st.integers(1, 12), st.integers(0, 2**32))
def test_a_full_context_is_not_heard_of_or_takes_back_what_was_scored(
    script: list[list[Part]], events: list[tuple[float, Any]], context: int, seed: int
) -> None:
    world = World(random.Random(seed), context=context, known=frozenset(ADDRESSES[:2]))

    async def run() -> tuple[list[Scored], bool]:
        client = world.client()
        happening = asyncio.create_task(happen(world, events))
        session = Session("t", "s")
        async with asyncio.timeout(3600):
            heard = await speak(world, client, session, script, 1000)
            await happening
        await client.close()
        return heard, session.closed

    heard, closed = clock.run(run, seed=seed)
    assert heard == uninterrupted(script, context)
    whole = uninterrupted(script)
    assert heard == whole[: len(heard)]
    assert closed or heard == whole


def test_a_refused_append_is_lost_in_the_transcript() -> None:
    world = World(random.Random(0), known=frozenset(ADDRESSES))

    async def run() -> list[Scored]:
        client, session = world.client(), Session("t", "s")
        await client.append(session, [Part("user", "hello", end=True)])
        heard = list((await client.append(session, [Part("assistant", "one two")])).scored)
        with pytest.raises(AppendRefused, match="history"):
            await client.append(session, [Part("assistant", "old", history=True)])
        with pytest.raises(AppendRefused, match="surrogates"):
            await client.append(session, [Part("assistant", " \ud800")])
        heard += (await client.append(session, [Part("assistant", " three", end=True)])).scored
        await client.close()
        return heard

    script = [[Part("user", "hello", end=True), Part("assistant", "one two three", end=True)]]
    assert clock.run(run) == uninterrupted(script)[1:]
