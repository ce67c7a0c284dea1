"""The room against a plain model of it: the sizes of the records that are inside."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from qwarden.delivery.room import Room

pytestmark = pytest.mark.long


class RoomMachine(RuleBasedStateMachine):
    """Polls that enter where there is room, and whose records leave in any order."""

    @initialize(records=st.integers(1, 20), most_bytes=st.integers(1, 100), most=st.integers(1, 50))
    def make(self, records: int, most_bytes: int, most: int) -> None:
        self.room = Room(records=records, most_bytes=most_bytes, uncommitted=most)
        self.records, self.most_bytes, self.most = records, most_bytes, most
        self.inside: list[int] = []
        self.alone = False

    @rule(
        sizes=st.lists(st.integers(0, 30), min_size=1, max_size=8), uncommitted=st.integers(0, 60)
    )
    def ask(self, sizes: list[int], uncommitted: int) -> None:
        is_alone = not self.inside
        fits = (
            len(self.inside) + len(sizes) <= self.records
            and sum(self.inside) + sum(sizes) <= self.most_bytes
        )
        has = self.room.has(len(sizes), sum(sizes), uncommitted)
        assert has == (uncommitted < self.most and (is_alone or fits))
        if has:
            self.room.enter(len(sizes), sum(sizes))
            self.inside += sizes
            self.alone = is_alone

    @precondition(lambda self: self.inside)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.inside) - 1))
        self.room.leave(1, self.inside.pop(at))

    @invariant()
    def nothing_is_over_but_for_one_poll_alone(self) -> None:
        if hasattr(self, "room"):
            fits = len(self.inside) <= self.records and sum(self.inside) <= self.most_bytes
            assert fits or self.alone
            assert self.room.is_empty == (not self.inside)

    @invariant()
    def where_it_is_low_half_of_it_may_enter(self) -> None:
        if hasattr(self, "room") and self.room.is_low(0):
            assert self.room.has(self.records // 2, self.most_bytes // 2, 0)

    @invariant()
    def an_empty_room_is_low_unless_too_much_is_uncommitted(self) -> None:
        if hasattr(self, "room") and not self.inside:
            assert self.room.is_low(self.most // 2)
            assert not self.room.is_low(self.most)


TestRoom = RoomMachine.TestCase
