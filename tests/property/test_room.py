"""The room against a plain model of it: the sizes of what is inside."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from qwarden.delivery.room import Room


class RoomMachine(RuleBasedStateMachine):
    """Polls that enter where there is room, and leave in any order."""

    @initialize(polls=st.integers(1, 5), most_bytes=st.integers(1, 100), most=st.integers(1, 50))
    def make(self, polls: int, most_bytes: int, most: int) -> None:
        self.room = Room(polls=polls, most_bytes=most_bytes, uncommitted=most)
        self.polls, self.most_bytes, self.most = polls, most_bytes, most
        self.inside: list[int] = []

    @rule(size=st.integers(0, 200), uncommitted=st.integers(0, 60))
    def ask(self, size: int, uncommitted: int) -> None:
        is_alone = not self.inside
        fits = len(self.inside) < self.polls and sum(self.inside) + size <= self.most_bytes
        has = self.room.has(size, uncommitted)
        assert has == (uncommitted < self.most and (is_alone or fits))
        if has:
            self.room.enter(size)
            self.inside.append(size)

    @precondition(lambda self: self.inside)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.inside) - 1))
        self.room.leave(self.inside.pop(at))

    @invariant()
    def nothing_is_over_but_for_one_alone(self) -> None:
        if hasattr(self, "room"):
            assert len(self.inside) <= self.polls
            assert len(self.inside) == 1 or sum(self.inside) <= self.most_bytes
            assert self.room.is_empty == (not self.inside)

    @invariant()
    def where_it_is_low_half_the_bytes_may_enter(self) -> None:
        if hasattr(self, "room") and self.room.is_low(0):
            assert self.room.has(self.most_bytes // 2, 0)

    @invariant()
    def an_empty_room_is_low_unless_too_much_is_uncommitted(self) -> None:
        if hasattr(self, "room") and not self.inside:
            assert self.room.is_low(self.most // 2)
            assert not self.room.is_low(self.most)


TestRoom = RoomMachine.TestCase
