"""The order of items against what it promises: nothing starves, and more harm is never later."""

from __future__ import annotations

import bisect
from fractions import Fraction
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from qwarden.review.order import MOST_REACH_FACTOR, due_of, reach_factor

NOW = 1_790_000_000.0

arrivals = st.floats(NOW, NOW + 10**6)
slas = st.integers(1, 366 * 86_400)
harms = st.integers(1, 10)
reaches = st.one_of(st.integers(0, 10**6), st.integers(0, 2**63 - 1))
items = st.tuples(arrivals, slas, harms, reaches)


def test_the_reach_factor_of_figures_that_anybody_can_check() -> None:
    assert [round(reach_factor(reach), 6) for reach in (0, 9, 99, 999_999, 10**9, 2**63)] == [
        1, 2, 3, 7, 10, 10,
    ]  # fmt: skip


@given(one=reaches, other=reaches)
def test_content_that_more_people_see_counts_less(one: int, other: int) -> None:
    less, more = sorted((one, other))
    assert 1 <= reach_factor(less) <= reach_factor(more) <= MOST_REACH_FACTOR


@given(item=items, more=items)
def test_more_harm_or_reach_or_a_shorter_sla_makes_an_item_later(
    item: tuple[float, int, int, int], more: tuple[float, int, int, int]
) -> None:
    at = min(item[0], more[0])
    sla = min(item[1], more[1])
    harm = max(item[2], more[2])
    reach = max(item[3], more[3])
    assert due_of(at, sla, harm, reach) <= due_of(*item)


@given(item=items)
def test_an_item_is_due_only_after_its_sla_is_over(item: tuple[float, int, int, int]) -> None:
    arrived_at, sla_s, harm, reach = item
    due_at = due_of(arrived_at, sla_s, harm, reach)
    assert arrived_at <= due_at <= arrived_at + sla_s
    # Nothing is a hundred times as urgent as its SLA says, so that no SLA means nothing.
    assert due_at >= arrived_at + sla_s / 100.0001 - 1e-6


@given(mine=items, others=st.lists(items, max_size=20))
def test_an_item_is_overtaken_by_what_arrives_after_it_is_due(
    mine: tuple[float, int, int, int], others: list[tuple[float, int, int, int]]
) -> None:
    due_at = due_of(*mine)
    for other in others:
        if due_of(*other) < due_at:
            assert other[0] < due_at


@given(
    sla=st.integers(60, 86_400),
    spare=st.integers(1, 20),
    between_s=st.integers(1, 600),
    harm=st.integers(2, 10),
    before=st.integers(0, 100),
)
def test_an_item_of_little_harm_starves_behind_harmful_ones(
    sla: int, spare: int, between_s: int, harm: int, before: int
) -> None:
    """Harmful items arrive for ever, one each `between_s`, and people take a little more than that:
    the mildest item is served by a time that is known when it arrives."""
    taking_s = Fraction(between_s) / (1 + Fraction(spare, 20))
    mild = due_of(0.0, sla, 1, 0)
    # What can come before it: what waits already, and what arrives until it is due.
    ahead = before + mild / between_s + 1
    bound = mild + float(ahead * taking_s)
    queue: list[tuple[float, int]] = sorted(
        [(due_of(-1.0, 60, 10, 10**9), n) for n in range(before)] + [(mild, -1)]
    )
    taken, arrived = 0, 0
    while True:
        taken += 1
        at = float(taken * taking_s)
        while arrived * between_s <= at and arrived * between_s < mild:
            bisect.insort(queue, (due_of(arrived * between_s, sla, harm, 0), before + arrived))
            arrived += 1
        assert queue, "the mild item is lost"
        if queue.pop(0)[1] == -1:
            break
        assert taken <= ahead, "more came before it than arrived before it was due"
    assert at <= bound + float(taking_s)


@given(
    arrived=st.lists(st.integers(0, 10**5), min_size=2, max_size=20, unique=True),
    sla=slas,
    harm=harms,
    reach=reaches,
)
def test_equals_are_not_served_first_come_first_served(
    arrived: list[int], sla: int, harm: int, reach: int
) -> None:
    dues = [due_of(NOW + at, sla, harm, reach) for at in sorted(arrived)]
    assert all(one < other for one, other in pairwise(dues))
