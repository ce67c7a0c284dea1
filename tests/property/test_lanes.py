"""Quotas and the fresh horizon, against what a plain sum of what was admitted allows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwarden.contracts import topics
from qwarden.delivery.lanes import Quotas, estimated_tokens, is_stale, lane_of

ARRIVALS = st.lists(
    st.tuples(st.floats(0, 30), st.integers(1, 500), st.sampled_from(["flood", "other"])),
    max_size=60,
)
A_MINUTE = {"flood": 600, "other": 6000}


@given(ARRIVALS)
def test_a_tenant_gets_more_than_its_burst_and_rate_or_less_than_it_may(
    arrivals: list[tuple[float, int, str]],
) -> None:
    quotas = Quotas()
    now = 0.0
    admitted: dict[str, list[tuple[float, int]]] = {"flood": [], "other": []}
    for gap, tokens, tenant in arrivals:
        now += gap
        a_minute = A_MINUTE[tenant]
        if quotas.admits(tenant, tokens, a_minute=a_minute, now_s=now):
            admitted[tenant].append((now, tokens))
        else:
            spent = sum(of for _, of in admitted[tenant])
            assert spent >= a_minute, "turned away before its burst was spent"
    for tenant, taken in admitted.items():
        a_minute = A_MINUTE[tenant]
        for first in range(len(taken)):
            spent = 0
            for at, tokens in taken[first:]:
                allowed = a_minute + (at - taken[first][0]) * a_minute / 60
                assert spent <= allowed + 1e-6, "a record is admitted after its quota was spent"
                spent += tokens


@given(st.lists(st.integers(1, 500), min_size=1, max_size=30))
def test_what_was_turned_away_is_counted(sizes: list[int]) -> None:
    """After a minute's rest there is room again, however much was turned away."""
    quotas = Quotas()
    for tokens in sizes * 20:
        quotas.admits("flood", tokens, a_minute=600, now_s=0)
    spent_by_one_record_at_most = max(sizes) / (600 / 60)
    assert quotas.admits("flood", 1, a_minute=600, now_s=spent_by_one_record_at_most + 0.001)


@given(st.integers(0, 1_000_000))
def test_an_estimate_is_none_at_all_for_a_short_text(size: int) -> None:
    assert 1 <= estimated_tokens(size) <= size + 1


@given(st.floats(-1000, 1000), st.floats(0.1, 1000))
def test_what_is_just_at_the_horizon_or_from_the_future_is_relayed(
    age_s: float, fresh_s: float
) -> None:
    assert is_stale(age_s=age_s, fresh_s=fresh_s) == (age_s > fresh_s)


@pytest.mark.parametrize(
    ("topic", "lane"),
    [
        (topics.CONTENT, "interactive"),
        ("shop.comments", "interactive"),
        (topics.BACKLOG, "backlog"),
        (topics.CHUNKS, "stream"),
        (topics.REVIEW, None),
        (topics.EVIDENCE, None),
    ],
)
def test_a_topic_of_others_has_no_lane_or_what_comes_of_verdicts_has_one(
    topic: str, lane: str | None
) -> None:
    assert lane_of(topic) == lane
