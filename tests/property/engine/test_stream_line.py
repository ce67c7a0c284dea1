"""Whose text is written next, whoever comes and however much each needs."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from qwarden_engine.stream.line import TOGETHER, Line

_turns = st.integers(1, 4)
_coming = st.lists(st.lists(_turns, max_size=2 * TOGETHER), max_size=12)


@given(_coming)
def test_a_long_text_keeps_another_waiting_or_is_kept_by_others(coming: list[list[int]]) -> None:
    line: Line[int] = Line()
    left: list[int] = []
    new: deque[int] = deque()
    begun: deque[int] = deque()
    arrivals = deque(coming)
    while arrivals or line:
        for turns in arrivals.popleft() if arrivals else ():
            line.add(len(left))
            new.append(len(left))
            left.append(turns)
        first = [new.popleft() for _ in range(min(TOGETHER, len(new)))]
        more = [begun.popleft()] if begun else []
        assert len(line) == len(first) + len(more) + len(new) + len(begun)
        taken = line.next()
        assert taken == first + more, "first turns in order, and one of the others"
        for each in taken:
            left[each] -= 1
            if left[each]:
                line.again(each)
                begun.append(each)
    assert not any(left), "all are written to their end"
