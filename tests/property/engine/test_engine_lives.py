"""Whoever is convicted stood alone at two deaths, with a good run between: over many lives."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from examples import examples
from qwarden_engine.conviction import GOOD, LIMIT, Record

_NAMES = [f"row {at}" for at in range(5)]


class _Lives(RuleBasedStateMachine):
    """A record and, beside it, what has happened to each row since it was last cleared.

    `events` of a row: `d` a death with it alone, `g` the known good conversation came back. A death
    of the good one wipes them, since no death before it counts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.record = Record()
        self.events = dict.fromkeys(_NAMES, "")
        self.suspected: set[str] = set()

    @precondition(lambda self: not self.record.running)
    @rule(rows=st.lists(st.sampled_from(_NAMES), min_size=1, max_size=5, unique=True))
    def forward(self, rows: list[str]) -> None:
        """Suspects are alone, convicts never run; the good one may or may not come first."""
        rows = [row for row in rows if row not in self.record.convicted]
        suspects = [row for row in rows if self.record.must_be_alone(row)]
        self.record.running = suspects[:1] or rows

    @precondition(lambda self: not self.record.running)
    @rule()
    def forward_good(self) -> None:
        self.record.running = [GOOD]

    @precondition(lambda self: self.record.running)
    @rule(whole=st.booleans())
    def came_back(self, whole: bool) -> None:
        running = self.record.running
        self.record.came_back(whole=whole)
        assert not self.record.running
        if running == [GOOD]:
            for row in _NAMES:
                self.events[row] += "g"
        elif len(running) == 1 and whole:
            [row] = running
            self.events[row] = ""
            self.suspected.discard(row)
        self.check()

    @rule()
    def died(self) -> None:
        running = self.record.running
        before = list(self.record.convicted)
        self.record.died()
        assert not self.record.running
        if running == [GOOD]:
            self.events.update((row, "") for row in _NAMES if row not in before)
            assert self.record.convicted == before
        elif len(running) == 1:
            self.events[running[0]] += "d"
            self.suspected.add(running[0])
        else:
            self.suspected.update(running)
            assert self.record.convicted == before
        self.check()

    def check(self) -> None:
        assert GOOD not in self.record.convicted
        assert GOOD not in self.record.suspects
        for row in _NAMES:
            events = self.events[row].lstrip("g")
            while "gg" in events:
                events = events.replace("gg", "g")
            convicted = row in self.record.convicted
            assert convicted == ("dgd" in events), (row, events)
            # Who was running at a death runs alone until it comes back.
            suspected = row in self.suspected and not convicted
            assert self.record.must_be_alone(row) == suspected
            assert self.record.wants_good_first(row) == (suspected and events.endswith("d"))


_Lives.TestCase.settings = settings(max_examples=examples(100), stateful_step_count=40)
TestARowIsConvictedForAnothersDeath = _Lives.TestCase


def test_the_record_grows_without_end() -> None:
    record = Record()
    for at in range(LIMIT + 10):
        record.running = [f"together {at}", f"beside {at}"]
        record.died()
    assert len(record.suspects) == LIMIT
    assert record.must_be_alone(f"beside {LIMIT + 9}")
    assert not record.must_be_alone("together 0")
    for at in range(LIMIT + 10):
        for _ in range(2):
            record.running = [f"row {at}"]
            record.died()
            record.running = [GOOD]
            record.came_back(whole=True)
    assert record.convicted == [f"row {at}" for at in range(10, LIMIT + 10)]
