"""Sessions against a model that is written for nothing but to be read."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from examples import examples
from qwarden.guard.stream import Status
from qwarden_engine.stream.sessions import Key, Room, Session, Sessions

STEP = 4
ROOM = Room(total=40, high_water=30, silent_s=5.0, context=28, step=STEP)

KEYS = st.sampled_from([("a", "1"), ("a", "2"), ("b", "1"), ("b", "2"), ("a", "3")])


@dataclass(eq=False)
class Told:
    """What the model knows of a session."""

    key: Key
    real: Session[int]
    received: int
    tokens: int = 0
    waiting: int = 1
    silent: tuple[float, int] = (0.0, 0)
    """When it last had something to do; and a number, for who was so at the same time."""

    @property
    def room(self) -> int:
        return STEP * max(1, -(-self.tokens // STEP))


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.made = 0
        self.real: Sessions[int] = Sessions(ROOM, self.state)
        self.now = 0.0
        self.settled = 0
        self.known: list[Told] = []
        """In the order in which they began."""
        self.old: list[Told] = []
        self.evicted = 0

    def state(self, key: Key) -> int:
        self.made += 1
        return self.made

    def of(self, key: Key) -> Told | None:
        return next((each for each in self.known if each.key == key), None)

    def go(self, told: Told) -> None:
        self.known.remove(told)
        self.old.append(told)

    def make_room(self, tokens: int, limit: int, grows: Told | None) -> bool:
        while sum(each.room for each in self.known) + tokens > limit:
            idle = [each for each in self.known if not each.waiting]
            longest = min(idle, key=lambda each: each.silent, default=None)
            if longest is not None and self.now - longest.silent[0] >= ROOM.silent_s:
                self.go(longest)
            elif grows is not None and self.known[-1] is not grows:
                self.go(self.known[-1])
            else:
                return False
            self.evicted += 1
        return True

    @rule(
        key=KEYS, offset=st.sampled_from(["new", "fits", "early", "late"]), points=st.integers(0, 9)
    )
    def an_append(self, key: Key, offset: str, points: int) -> None:
        told = self.of(key)
        received = told.received if told is not None else 3
        at = {"new": 0, "fits": received, "early": max(0, received - 1), "late": received + 1}[
            offset
        ]
        got = self.real.take(key, at, points, self.now)
        if at == 0:
            if told is not None:
                self.go(told)
            if not self.make_room(STEP, ROOM.high_water, None):
                assert got is Status.FULL
                return
            assert isinstance(got, Session)
            assert got.state == self.made
            self.known.append(Told(key, got, points))
        elif told is None or told.received != at:
            assert got is Status.REPLAY
        else:
            assert got is told.real
            told.received += points
            told.waiting += 1

    @precondition(lambda self: any(each.waiting for each in self.known))
    @rule(data=st.data(), tokens=st.integers(0, 30))
    def its_tokens(self, data: st.DataObject, tokens: int) -> None:
        told = data.draw(st.sampled_from([each for each in self.known if each.waiting]))
        fitting = min(tokens, ROOM.context - told.tokens)
        grown = STEP * max(1, -(-(told.tokens + fitting) // STEP))
        begins = told.tokens == 0
        limit = ROOM.high_water if begins else ROOM.total
        granted = grown == told.room or self.make_room(
            grown - told.room, limit, None if begins else told
        )
        oldest = self.known and self.known[0] is told
        got = self.real.promise(told.real, tokens, self.now)
        if granted:
            assert got == fitting
            told.tokens += fitting
        else:
            assert got is None
            assert begins or not oldest, "the oldest always gets on"
            self.go(told)

    @precondition(lambda self: any(each.waiting for each in [*self.known, *self.old]))
    @rule(data=st.data())
    def an_answer(self, data: st.DataObject) -> None:
        waiting = [each for each in [*self.known, *self.old] if each.waiting]
        told = data.draw(st.sampled_from(waiting))
        self.real.settle(told.real, self.now)
        told.waiting -= 1
        self.settled += 1
        told.silent = (self.now, self.settled)

    @rule(key=KEYS)
    def an_end(self, key: Key) -> None:
        told = self.of(key)
        if told is not None:
            self.real.forget(told.real)
            self.real.forget(told.real)
            self.go(told)

    @rule(seconds=st.floats(0, 4))
    def time_goes_on(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def memory_is_what_the_sessions_have(self) -> None:
        assert len(self.real) == len(self.known)
        assert self.real.used == sum(each.room for each in self.known) <= ROOM.total
        for each in self.known:
            real = each.real
            assert (real.gone, real.received, real.tokens) == (False, each.received, each.tokens)
            assert real.room == each.room
            assert real.waiting == each.waiting
        assert all(each.real.gone for each in self.old)
        assert self.real.evicted == self.evicted

    @invariant()
    def what_has_gone_is_freed_once_and_what_had_nothing_never(self) -> None:
        had_tokens = [each.real for each in self.old if each.tokens]
        assert {id(each) for each in self.real.dropped} == {id(each) for each in had_tokens}
        assert len(self.real.dropped) == len(had_tokens)


Machine.TestCase.settings = settings(max_examples=examples(100), stateful_step_count=40)
TestMachine = Machine.TestCase


def begun(sessions: Sessions[int], name: str, tokens: int, now: float) -> Session[int] | None:
    """A session with so many tokens that waits for an answer; None where there is no room."""
    session = sessions.take(("t", name), 0, 1, now)
    if not isinstance(session, Session):
        return None
    return session if sessions.promise(session, tokens, now) == tokens else None


def test_sessions_that_all_grow_wait_for_each_other() -> None:
    """The one that began last gives way, also to itself, and the first comes to its end."""
    sessions: Sessions[int] = Sessions(ROOM, lambda key: 0)
    old, middle, young = (begun(sessions, name, 9, 0.0) for name in "abc")
    assert old
    assert middle
    assert young is None, "the high-water mark is in the way"
    young = begun(sessions, "c", 4, 0.0)
    assert young
    assert sessions.promise(young, 16, 0.0) is None
    assert young.gone
    assert sessions.evicted == 0, "it gave way to nobody"
    assert begun(sessions, "d", 4, 0.0)
    assert sessions.promise(old, 19, 0.0) == 19
    assert not middle.gone
    assert sessions.promise(old, 1, 0.0) == 0, "its context is full"
    assert sessions.promise(middle, 3, 0.0) == 3
    assert sessions.promise(middle, 3, 0.0) is None
    assert sessions.used == 28


def test_one_that_is_silent_for_long_outlives_one_that_began_later() -> None:
    sessions: Sessions[int] = Sessions(ROOM, lambda key: 0)
    for name, tokens in (("a", 12), ("b", 8), ("c", 8)):
        session = begun(sessions, name, tokens, 0.0)
        assert session
        if name != "b":
            sessions.settle(session, 1.0)
    grows = sessions.take(("t", "b"), 1, 1, 5.0)
    assert isinstance(grows, Session)
    assert sessions.promise(grows, 13, 5.9) == 13, "one had to go, and it was the last one"
    assert sessions.take(("t", "c"), 1, 1, 5.9) is Status.REPLAY
    late = begun(sessions, "d", 4, 5.9)
    assert late is None, "nobody has been silent for long enough"
    assert begun(sessions, "d", 4, 6.0)
    assert sessions.take(("t", "a"), 1, 1, 6.0) is Status.REPLAY


def test_what_is_forgotten_all_at_once_keeps_its_memory() -> None:
    sessions: Sessions[int] = Sessions(ROOM, lambda key: 0)
    one, other = begun(sessions, "a", 9, 0.0), begun(sessions, "b", 4, 0.0)
    sessions.forget_all()
    assert (len(sessions), sessions.used) == (0, 0)
    assert sessions.dropped == [one, other]
