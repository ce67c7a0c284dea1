"""What `person.py` promises of tenants."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qwarden.review.person import EVERY, Person

TENANTS = st.frozensets(st.sampled_from(["a", "b", "c", EVERY]))


def having(tenants: frozenset[str]) -> Person:
    return Person("", "", "", frozenset(), tenants, frozenset())


@given(own=TENANTS, given=TENANTS)
def test_what_one_gives_shows_nobody_more_than_they_see(
    own: frozenset[str], given: frozenset[str]
) -> None:
    giver, taker = having(own), having(given)
    more = [each for each in ("a", "b", "c", "unknown") if taker.sees(each) > giver.sees(each)]
    assert giver.covers(given) == (not more)
