"""How fast transcripts are sent again: never faster than the rate, and never for ever later."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwarden.inference.replay_rate import ReplayRate

_replays = st.lists(
    st.tuples(st.integers(1, 5000), st.floats(0, 2), st.booleans()), min_size=1, max_size=40
)


@given(_replays, st.sampled_from([100.0, 5000.0]))
def test_replays_are_sent_faster_than_the_rate(
    replays: list[tuple[int, float, bool]], tokens_a_second: float
) -> None:
    """Each is asked for some time after the one before, and some are not worked off."""
    rate, now = ReplayRate(tokens_a_second), 0.0
    taken: list[tuple[float, int]] = []
    for tokens, later_s, full in replays:
        now += later_s
        asked, wait_s = now, rate.wait_s(now)
        now += wait_s
        assert rate.wait_s(now) == pytest.approx(0, abs=1e-6)
        if taken:
            last, last_tokens = taken[-1]
            free = last + last_tokens / tokens_a_second
            assert now == pytest.approx(max(asked, free)), "it waits for what was given back"
        started = rate.start(tokens, now)
        if full:
            rate.give_back(started, tokens)
        else:
            taken.append((now, tokens))
    for first in range(len(taken)):
        for last in range(first + 1, len(taken)):
            span_s = taken[last][0] - taken[first][0]
            tokens = sum(tokens for _, tokens in taken[first:last])
            assert tokens <= tokens_a_second * span_s + 1e-3


def test_a_replay_whose_time_has_passed_is_given_back() -> None:
    rate = ReplayRate(100)
    first = rate.start(1000, 0)
    rate.start(500, 10)
    rate.give_back(first, 1000)
    assert rate.wait_s(10) == 5


def test_what_is_given_back_takes_the_time_of_others_with_it() -> None:
    rate = ReplayRate(100)
    rate.start(1000, 0)
    rate.give_back(rate.start(500, 0), 500)
    assert rate.wait_s(0) == 10
