"""When tokens become a flag: against each rule as its source words it, over the whole text."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qwarden.guard.answer import Safety
from qwarden.guard.conversation import Task
from qwarden.guard.debounce import (
    RULES,
    Consecutive,
    Evaluation,
    Latch,
    Raised,
    Rule,
    Threshold,
)
from qwarden.guard.stream import Scored

S, C, U = Safety.SAFE, Safety.CONTROVERSIAL, Safety.UNSAFE


def token(at: int, p: tuple[float, float, float]) -> Scored:
    """A token of one code point with these probabilities, and a category that names it."""
    scored = Scored(Task.RESPONSE, at, at + 1, (log(p[0]), log(p[1]), log(p[2])))
    if scored.safety is S:
        return scored
    return Scored(Task.RESPONSE, at, at + 1, scored.logits, ((f"category {at}", 0.9),))


_P = {S: (0.8, 0.1, 0.1), C: (0.2, 0.6, 0.2), U: (0.1, 0.2, 0.7)}


def text(safeties: Sequence[Safety]) -> list[Scored]:
    return [token(at, _P[safety]) for at, safety in enumerate(safeties)]


def raised_by(rule: Rule, scored: Sequence[Scored]) -> list[Raised]:
    latch = Latch(rule)
    return [raised for raised in map(latch.see, scored) if raised is not None]


_safeties = st.lists(st.sampled_from([S, C, U]), max_size=24)
_weights = st.tuples(*[st.integers(1, 20)] * 3)
_texts = st.lists(_weights, max_size=24).map(
    lambda weights: [
        token(at, (s / (s + c + u), c / (s + c + u), u / (s + c + u)))
        for at, (s, c, u) in enumerate(weights)
    ]
)
_rules = st.one_of(
    st.builds(Consecutive, st.integers(1, 4)),
    st.just(Evaluation()),
    st.builds(Threshold, st.sampled_from([0.1, 0.25, 0.5, 0.75, 1.0]), st.integers(1, 4)),
)


def first_run(holds: Sequence[bool], run: int, behind: int = -1) -> int | None:
    """The end of the first window of `run` that all hold, ending behind `behind`."""
    ends = range(max(run - 1, behind + 1), len(holds))
    return next((end for end in ends if all(holds[end - run + 1 : end + 1])), None)


@given(_safeties, st.integers(1, 4))
@example([C, U], 2)
@example([U, C], 2)
@example([U], 2)
def test_an_answer_is_flagged_otherwise_than_the_report_says(
    safeties: list[Safety], run: int
) -> None:
    raised = raised_by(Consecutive(run), text(safeties))
    flag = first_run([safety is not S for safety in safeties], run)
    if flag is None:
        assert not raised
        return
    assert (raised[0].kind, raised[0].token) == ("flag", flag)
    assert raised[0].safety is safeties[flag]
    rise = None if safeties[flag] is U else first_run([s is U for s in safeties], run, flag)
    assert [(each.kind, each.token, each.safety) for each in raised[1:]] == (
        [] if rise is None else [("rise", rise, U)]
    )


def published(safeties: Sequence[Safety]) -> tuple[Safety, int]:
    """The evaluation script's verdict of a whole text, in words of our own: an Unsafe pair
    anywhere, else a Controversial pair, at its second token."""
    for safety in (U, C):
        end = first_run([each is safety for each in safeties], 2)
        if end is not None:
            return safety, end
    return S, -1


@given(_safeties)
@example([C, C, S, U, U])
@example([U, C, U, C])
@example([U, U, C, C])
def test_the_evaluations_rule_ends_elsewhere_than_the_published_script(
    safeties: list[Safety],
) -> None:
    latch = Latch(Evaluation())
    for scored in text(safeties):
        latch.see(scored)
    raised = latch.raised
    got = (S, -1) if raised is None else (raised.safety, raised.token)
    assert got == published(safeties)


@given(_texts, st.sampled_from([0.1, 0.25, 0.5, 0.75, 1.0]), st.integers(1, 8))
def test_a_threshold_flags_otherwise_than_its_run_of_probabilities(
    scored: list[Scored], p: float, run: int
) -> None:
    raised = raised_by(Threshold(p, run), scored)
    flag = first_run([each.scores[1] + each.scores[2] >= p for each in scored], run)
    unsafe = first_run([each.scores[2] >= p for each in scored], run)
    if flag is None:
        assert not raised
        return
    assert raised[0].token == flag
    at = scored[flag].scores
    assert (raised[0].safety is U) == (unsafe == flag or at[2] >= at[1])
    if raised[0].safety is U:
        assert len(raised) == 1
    else:
        assert [each.token for each in raised[1:]] == ([] if unsafe is None else [unsafe])


@given(_texts, _rules)
def test_something_raised_is_taken_back_or_bears_another_tokens_marks(
    scored: list[Scored], rule: Rule
) -> None:
    latch = Latch(rule)
    raised: list[Raised] = []
    for at, each in enumerate(scored):
        was = latch.raised
        now = latch.see(each)
        assert latch.raised is (now or was)
        assert (latch.tokens, latch.last) == (at + 1, each)
        if now is None:
            continue
        raised.append(now)
        assert now.safety is not S
        assert (now.token, now.start, now.end) == (at, each.start, each.end)
        assert now.scores == each.scores
        assert now.category == (f"category {at}" if each.safety is not S else None)
    assert [(each.kind, each.safety) for each in raised] in (
        [],
        [("flag", C)],
        [("flag", U)],
        [("flag", C), ("rise", U)],
    )


@given(_texts, _rules)
def test_an_end_in_doubt_is_missed_or_seen_where_there_is_none(
    scored: list[Scored], rule: Rule
) -> None:
    latch = Latch(rule)
    assert not latch.ends_in_doubt
    for each in scored:
        latch.see(each)
        _, controversial, unsafe = each.scores
        counts = (
            controversial + unsafe >= rule.p
            if isinstance(rule, Threshold)
            else each.safety is not S
        )
        assert latch.ends_in_doubt == (latch.raised is None and counts)


def test_a_prompt_waits_for_a_second_token_that_never_comes() -> None:
    assert [each.token for each in raised_by(RULES[Task.PROMPT], text([C]))] == [0]
    assert not raised_by(RULES[Task.PROMPT], text([S]))


def test_safe_thoughts_flag_on_the_pair_of_tokens_that_is_enough_for_answers() -> None:
    assert raised_by(RULES[Task.RESPONSE], text([U, U]))
    assert not raised_by(RULES[Task.THINKING], text([U] * 7 + [S] + [U] * 7))
    assert [each.token for each in raised_by(RULES[Task.THINKING], text([U] * 8))] == [7]


@pytest.mark.parametrize("wrong", [(0.0, 8), (1.5, 8), (0.5, 0)])
def test_a_rule_that_always_flags_or_never_is_taken(wrong: tuple[float, int]) -> None:
    with pytest.raises(ValueError, match=r"probability|at least one token"):
        Threshold(*wrong)
    with pytest.raises(ValueError, match="at least one token"):
        Consecutive(0)


def test_a_token_that_is_just_at_the_threshold_is_under_it() -> None:
    """Logits so far apart that half is exactly a half."""
    controversial = Scored(Task.THINKING, 0, 1, (-1000.0, 0.0, -1000.0))
    half_unsafe = Scored(Task.THINKING, 1, 2, (0.0, -1000.0, 0.0))
    assert half_unsafe.scores == (0.5, 0.0, 0.5)
    latch = Latch(Threshold(0.5, 1))
    raised = [latch.see(controversial), latch.see(half_unsafe)]
    assert [(each.kind, each.safety) for each in raised if each] == [
        ("flag", Safety.CONTROVERSIAL),
        ("rise", Safety.UNSAFE),
    ]
