"""Answers: the worst entry speaks for its row, and what is read is what was written."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qwarden.cache import codec
from qwarden.guard.answer import (
    SAFETIES,
    Assessment,
    Entry,
    Failure,
    Safety,
    Triple,
    Unanswered,
    assessment_of,
    decode_answer,
    encode_answer,
    safety_of,
    scores_of,
    worst_of,
)
from qwarden.guard.row import View
from qwarden.guard.taxonomy import CATEGORIES

# Some equal values, so that ties come.
_logit = st.sampled_from([-3.0, 0.0, 1.0, 1e30, -1e30]) | st.floats(-40, 40, width=32)
_entries = st.builds(
    Entry,
    st.sampled_from(View),
    st.integers(0, 20),
    st.tuples(_logit, _logit, _logit),
    st.lists(st.tuples(st.sampled_from(CATEGORIES), st.floats(0, 1)), max_size=3).map(tuple),
    st.none() | st.booleans(),
    st.integers(0, 40_000),
)
_many = st.lists(_entries, min_size=1, max_size=6)
_revision = st.text(max_size=12)


def _rank(entry: Entry) -> tuple[int, float]:
    """Higher severity, then higher P(Controversial) + P(Unsafe), which is 1 - P(Safe)."""
    return SAFETIES.index(entry.safety), -entry.scores[0]


@pytest.mark.long
@settings(deadline=None)
@given(_many)
def test_a_row_is_milder_than_one_of_its_entries(entries: list[Entry]) -> None:
    worst = worst_of(entries)
    assert worst in entries
    assert all(_rank(entry) <= _rank(worst) for entry in entries)


@settings(deadline=None)
@given(_many, st.randoms(use_true_random=False))
def test_the_order_of_the_entries_changes_the_safety(entries: list[Entry], rng: object) -> None:
    shuffled = list(entries)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert _rank(worst_of(shuffled)) == _rank(worst_of(entries))


def test_of_equal_entries_another_than_the_first_speaks() -> None:
    first, second = (Entry(View.AS_SENT, piece, (0.0, 1.0, 0.0), (), None, 1) for piece in (0, 1))
    assert worst_of([first, second]) is first


def test_a_surely_controversial_entry_stands_before_a_barely_unsafe_one() -> None:
    controversial = Entry(View.AS_SENT, 0, (0.0, 9.0, 0.0), (), None, 1)
    unsafe = Entry(View.MARKERS_BROKEN, 0, (1.0, 0.9, 1.1), (), None, 1)
    assert worst_of([controversial, unsafe]) is unsafe


@settings(deadline=None)
@given(_many, st.integers(0, 9), _revision)
def test_an_assessment_says_otherwise_than_its_worst_entry(
    entries: list[Entry], dropped: int, revision: str
) -> None:
    answer = assessment_of(entries, dropped, revision)
    worst = worst_of(entries)
    assert (answer.safety, answer.scores) == (worst.safety, worst.scores)
    assert (answer.categories, answer.refusal) == (worst.categories, worst.refusal)
    assert answer.tokens == sum(entry.tokens for entry in entries)
    assert answer.entries == (tuple(entries) if len(entries) > 1 else ())


@settings(deadline=None)
@given(_many, st.integers(0, 9), _revision)
@example([Entry(View.MARKERS_BROKEN, 3, (1.0, 2.0, 3.0), (), True, 7)], 0, "")
def test_an_assessment_does_not_change_on_its_way(
    entries: list[Entry], dropped: int, revision: str
) -> None:
    answer = assessment_of(entries, dropped, revision)
    assert decode_answer(encode_answer(answer)) == answer
    assert codec.decode(codec.encode(answer)) == answer


@settings(deadline=None)
@given(st.builds(Unanswered, st.sampled_from(Failure), st.text(max_size=20), _revision))
def test_a_failure_does_not_change_on_its_way(answer: Unanswered) -> None:
    assert decode_answer(encode_answer(answer)) == answer


_NO_NUMBERS = Assessment((float("nan"), 0.0, 0.0), (), None, 1, 0, "g")


@settings(deadline=None)
@given(
    st.binary(max_size=40)
    | st.sampled_from([b"null", b"{}", b'{"revision":"g"}', b'{"revision":"g","entries":[]}'])
    | st.just(encode_answer(_NO_NUMBERS))
)
def test_what_is_no_answer_is_read_as_one(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode_answer(data)


_NOT_FINITE = [float("nan"), float("inf"), -float("inf")]


@pytest.mark.parametrize("number", _NOT_FINITE)
@pytest.mark.parametrize("at", range(3))
def test_what_is_no_number_is_safe(number: float, at: int) -> None:
    safe, controversial, unsafe = (number if i == at else float(i) for i in range(3))
    with pytest.raises(ValueError, match="not all finite"):
        safety_of((safe, controversial, unsafe))


@pytest.mark.parametrize("number", _NOT_FINITE)
@pytest.mark.parametrize("which", ["whole", "entry"])
def test_what_is_no_number_is_read_from_the_cache(number: float, which: str) -> None:
    good, bad = (Entry(View.AS_SENT, 0, (x, 0.0, 0.0), (), None, 1) for x in (1.0, number))
    entries = (good, bad) if which == "entry" else ()
    logits = good.logits if which == "entry" else bad.logits
    kept = Assessment(logits, (), None, 1, 0, "g", entries)
    assert codec.decode(codec.encode(kept)) is None


def test_an_answer_without_a_word_is_refused_without_a_reason() -> None:
    with pytest.raises(
        ValueError, match=r"^an answer has entries or a failure, and this has neither$"
    ):
        decode_answer(b'{"revision":"toy@1"}')


def test_a_row_of_one_piece_is_told_to_be_the_second_of_two() -> None:
    sent = encode_answer(Assessment((4.0, 0.0, 0.0), (), None, 3, 0, "toy@1"))
    assert [entry["piece"] for entry in msgspec.json.decode(sent)["entries"]] == [0]


@pytest.mark.parametrize(
    ("logits", "safety"),
    [
        ((1.0, 1.0, 1.0), Safety.UNSAFE),
        ((1.0, 0.0, 1.0), Safety.UNSAFE),
        ((0.0, 1.0, 1.0), Safety.UNSAFE),
        ((1.0, 1.0, 0.0), Safety.CONTROVERSIAL),
    ],
)
def test_a_tie_goes_to_the_milder_word(logits: Triple, safety: Safety) -> None:
    assert safety_of(logits) is safety


def test_scores_are_no_probabilities() -> None:
    assert scores_of((0.0, 0.0, 0.0)) == (1 / 3, 1 / 3, 1 / 3)
    assert scores_of((-1000.0, 0.0, -1000.0)) == (0.0, 1.0, 0.0)
