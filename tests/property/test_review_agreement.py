"""Agreement and shares, against their definitions and a textbook's example."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qwarden.review.agreement import kappa, weighted, wilson
from qwarden.review.sampling import takes

WORDS = ("allow", "disclaim", "block")
said = st.sampled_from(WORDS)
tables = st.dictionaries(st.tuples(said, said), st.integers(0, 10**6), max_size=9)


def test_kappa_is_cohens() -> None:
    # Two readers and 50 proposals, yes or no: 20 both yes, 15 both no, 5 and 10 apart.
    assert kappa(
        {("yes", "yes"): 20, ("yes", "no"): 5, ("no", "yes"): 10, ("no", "no"): 15}
    ) == pytest.approx(0.4)
    # Cohen's own, of 1960: two who put 200 into three classes; 0.70 observed, 0.41 by chance.
    table = [[88, 14, 18], [10, 40, 10], [2, 6, 12]]
    pairs = {(WORDS[i], WORDS[j]): n for i, row in enumerate(table) for j, n in enumerate(row)}
    assert kappa(pairs) == pytest.approx((0.70 - 0.41) / (1 - 0.41))


def test_chance_alone_is_no_agreement() -> None:
    assert kappa({(one, other): 7 for one in WORDS for other in WORDS}) == 0.0
    assert kappa({}) is None


@given(tables)
def test_kappa_is_between_minus_one_and_one_and_the_same_for_both(
    pairs: dict[tuple[str, str], int],
) -> None:
    found = kappa(pairs)
    assert (found is None) == (sum(pairs.values()) == 0)
    if found is not None:
        assert -1.0 <= found <= 1.0
        assert kappa({(b, a): n for (a, b), n in pairs.items()}) == pytest.approx(found, abs=1e-12)


@given(st.dictionaries(said, st.integers(1, 10**6), min_size=1))
def test_who_agrees_in_all_has_a_kappa_of_one(counts: dict[str, int]) -> None:
    assert kappa({(word, word): count for word, count in counts.items()}) == 1.0


@given(st.integers(0, 10**6), st.integers(1, 10**6))
def test_the_interval_holds_the_share_and_stays_within_zero_and_one(hits: int, of: int) -> None:
    hits = min(hits, of)
    found = wilson(hits, of)
    assert found is not None
    assert 0.0 <= found.low <= found.share <= found.high <= 1.0
    assert found.share == hits / of
    assert found.low < found.high


@given(st.integers(0, 1000), st.integers(1, 1000), st.integers(2, 50))
def test_the_interval_shrinks_with_what_was_looked_at(hits: int, of: int, times: int) -> None:
    hits = min(hits, of)
    few, many = wilson(hits, of), wilson(hits * times, of * times)
    assert few is not None and many is not None
    assert many.high - many.low < few.high - few.low
    assert many.share == pytest.approx(few.share)


def test_the_interval_is_wilsons() -> None:
    found = wilson(1, 10)  # Wilson's bounds of 1 in 10, from any table: 0.018 and 0.404
    assert found is not None
    assert found.low == pytest.approx(0.0179, abs=5e-5)
    assert found.high == pytest.approx(0.4042, abs=5e-5)
    assert wilson(0, 0) is None


rates = st.floats(1e-6, 1.0)
strata = st.lists(
    st.tuples(st.integers(0, 1000), st.integers(0, 1000), rates).map(
        lambda each: (min(each[:2]), max(each[:2]), each[2])
    ),
    max_size=6,
)


@given(strata)
def test_a_weighted_share_lies_between_those_of_its_strata(
    of: list[tuple[int, int, float]],
) -> None:
    found = weighted(of)
    shares = [hits / looked_at for hits, looked_at, _ in of if looked_at]
    assert (found is None) == (not shares)
    if found is not None:
        assert min(shares) - 1e-9 <= found.share <= max(shares) + 1e-9
        assert 0.0 <= found.low <= found.share <= found.high <= 1.0


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(50, 99)), min_size=1, max_size=5), rates)
def test_one_rate_for_all_weighs_nothing(counts: list[tuple[int, int]], rate: float) -> None:
    alike = weighted([(hits, of, rate) for hits, of in counts])
    plain = wilson(sum(hits for hits, _ in counts), sum(of for _, of in counts))
    assert alike is not None and plain is not None
    assert (alike.share, alike.low, alike.high) == pytest.approx(
        (plain.share, plain.low, plain.high)
    )


def test_what_was_seldom_looked_at_counts_for_more() -> None:
    """10 of 100 blocks wrong, all looked at, and 50 of 100 of which one in a hundred was."""
    found = weighted([(10, 100, 1.0), (50, 100, 0.01)])
    assert found is not None
    assert found.share == pytest.approx((10 + 5000) / (100 + 10_000))


@pytest.mark.long
@given(st.text(max_size=40), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_sample_takes_all_that_a_smaller_one_does(
    name: str, one: float, other: float
) -> None:
    assume(name.isascii())
    if takes(name, min(one, other)):
        assert takes(name, max(one, other))
    assert takes(name, 1.0)
    assert not takes(name, 0.0)


@pytest.mark.parametrize("share", [0.001, 0.02, 0.05, 0.1, 0.5])
def test_a_sample_takes_its_share_also_of_what_another_sample_took(share: float) -> None:
    """Names are as the moderator's sample of 1 % lets them through: with few leading digits."""
    names = [f"sample/{number:08x}{number * 2654435761 % 2**96:024x}" for number in range(40_000)]
    taken = [name for name in names if takes(name, share)]
    # Five standard deviations of a binomial: wrong for one share in 1.7 million.
    assert abs(len(taken) - share * len(names)) < 5 * math.sqrt(len(names) * share * (1 - share))
    assert taken == [name for name in names if takes(name, share)]
    both = sum(takes(name.replace("sample/", "second/"), share) for name in taken)
    bound = 5 * math.sqrt(len(taken) * share * (1 - share)) + 1
    assert abs(both - share * len(taken)) < bound


def test_the_sample_is_the_same_in_every_release() -> None:
    """What was taken yesterday is taken today: the hash is written down here."""
    taken = [number for number in range(200) if takes(f"second/{number:032x}", 0.05)]
    assert taken == [0, 3, 15, 17, 24, 28, 58, 85, 95, 97, 104, 113, 120, 194, 197]
