"""What `people/limits.py` promises, over any order of requests."""

from __future__ import annotations

import copy

from hypothesis import given
from hypothesis import strategies as st

from qwarden.review.people.limits import Limits

RATES = st.integers(1, 600)
PAUSES = st.one_of(st.just(0.0), st.floats(0, 0.2), st.floats(0, 90))
CLOCKS = st.floats(0, 2e9)
REQUESTS = st.lists(st.tuples(PAUSES, st.sampled_from("abc")), max_size=120)


@given(a_minute=RATES, pauses=st.lists(PAUSES, max_size=150), began=CLOCKS)
def test_in_no_time_is_more_allowed_than_was_said(
    a_minute: int, pauses: list[float], began: float
) -> None:
    limits, now = Limits(), began
    allowed: list[float] = []
    for pause in pauses:
        now += pause
        if not limits.wait_s("a", a_minute, now):
            allowed.append(now)
    for first, start in enumerate(allowed):
        for last in range(first, len(allowed)):
            within = last - first + 1
            assert within <= a_minute * (1 + (allowed[last] - start) / 60) + 1e-3


@given(a_minute=RATES, burst=st.integers(0, 700), now=CLOCKS)
def test_a_minute_s_worth_is_allowed_at_once_and_no_more(
    a_minute: int, burst: int, now: float
) -> None:
    limits = Limits()
    allowed = sum(not limits.wait_s("a", a_minute, now) for _ in range(burst))
    assert allowed == min(burst, a_minute)


@given(a_minute=RATES, pauses=st.lists(PAUSES, max_size=80), share=st.floats(0, 0.99))
def test_who_waits_as_long_as_was_told_is_let_in_and_nobody_earlier(
    a_minute: int, pauses: list[float], share: float
) -> None:
    limits, now = Limits(), 1000.0
    for pause in pauses:
        now += pause
        limits.wait_s("a", a_minute, now)
    while not (wait := limits.wait_s("a", a_minute, now)):
        pass
    assert wait <= 60 / a_minute + 1e-6
    early = copy.deepcopy(limits)
    assert early.wait_s("a", a_minute, now + wait * share)
    assert not limits.wait_s("a", a_minute, now + wait + 1e-6)


@given(a_minute=RATES, requests=REQUESTS)
def test_one_s_haste_costs_nobody_else_anything(
    a_minute: int, requests: list[tuple[float, str]]
) -> None:
    together, now = Limits(), 0.0
    alone = {name: Limits() for name in "abc"}
    for pause, name in requests:
        now += pause
        assert together.wait_s(name, a_minute, now) == alone[name].wait_s(name, a_minute, now)


@given(
    names=st.integers(1, 10),
    a_minute=RATES,
    requests=st.lists(st.tuples(PAUSES, st.integers(0, 50)), max_size=120),
)
def test_names_that_anybody_makes_up_neither_fill_the_memory_nor_add_up(
    names: int, a_minute: int, requests: list[tuple[float, int]]
) -> None:
    limits, now = Limits(names), 0.0
    for pause, name in requests:
        now += pause
        limits.wait_s(str(name), a_minute, now)
        assert len(limits) <= names + 1
    flood = sum(not limits.wait_s(f"new {number}", a_minute, now) for number in range(700))
    assert flood <= names + a_minute
