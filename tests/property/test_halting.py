"""The halt decider under any outcomes: what may not halt a fleet, and what may not fail to."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwarden.guard.answer import Answer, Failure, Unanswered
from qwarden.moderator.halting import Halting, Run, may_be_the_guards_fault
from unit.builders import assessment, unanswered

CONTENTS, OUTCOMES = 3, 8

FAILS = (Failure.CRASHED, Failure.NO_ANSWER)
IS_ANSWERED = (None, Failure.TOO_LONG, Failure.REFUSED)
"""None: an assessment."""

Outcome = tuple[str, int, Failure | None]
"""Tenant, content, and how it failed."""


def answer_of(failure: Failure | None) -> Answer:
    return assessment() if failure is None else unanswered(failure)


def fed(outcomes: Sequence[Outcome]) -> list[Run | None]:
    """What the decider says to each."""
    halting = Halting(contents=CONTENTS, outcomes=OUTCOMES)
    return [
        halting.saw(tenant, b"%d" % content, answer_of(failure))
        for tenant, content, failure in outcomes
    ]


def halts(outcomes: Sequence[Outcome]) -> bool:
    return any(fed(outcomes))


outcomes_of = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 6), st.sampled_from((*FAILS, *IS_ANSWERED))),
    max_size=40,
)
failures_of_one = st.lists(
    st.tuples(st.just("a"), st.integers(0, 6), st.sampled_from(FAILS)), max_size=12
)


def expected(outcomes: Sequence[Outcome]) -> list[bool]:
    """The rule once more, written from its words and as slow as it likes."""
    said: list[bool] = []
    since = 0
    for now, (_, _, failure) in enumerate(outcomes, start=1):
        window = outcomes[max(since, now - OUTCOMES) : now]
        said.append(failure in FAILS and is_a_run(window))
        if said[-1]:
            since = now
    return said


def is_a_run(window: Sequence[Outcome]) -> bool:
    owner: dict[int, str] = {}
    for tenant, content, failure in window:
        if failure in FAILS and content not in owner:
            owner[content] = tenant
    if len(owner) < CONTENTS:
        return False
    if len(set(owner.values())) > 1:
        return True
    (alone,) = set(owner.values())
    latest = next(
        window[at:]
        for at in range(len(window) - 1, -1, -1)
        if len({content for _, content, failure in window[at:] if failure in FAILS}) == CONTENTS
    )
    return all(tenant == alone for tenant, _, failure in latest if failure not in FAILS)


@given(outcomes_of)
def test_the_decider_differs_from_its_words(outcomes: list[Outcome]) -> None:
    assert [run is not None for run in fed(outcomes)] == expected(outcomes)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9)), max_size=60))
def test_an_answered_row_halts(rows: list[tuple[str, int]]) -> None:
    assert not halts([(tenant, content, IS_ANSWERED[content % 3]) for tenant, content in rows])


@pytest.mark.long
@given(st.lists(st.sampled_from("abc"), max_size=60), st.sampled_from(FAILS))
def test_one_content_halts_the_fleet_however_many_repeat_it(
    tenants: list[str], failure: Failure
) -> None:
    assert not halts([(tenant, content % 2, failure) for content, tenant in enumerate(tenants)])


@given(failures_of_one, st.integers(1, 2))
def test_one_tenants_poison_halts_the_fleet_while_others_are_answered(
    failures: list[Outcome], between: int
) -> None:
    """An answer to another tenant among any three of its failures in a row."""
    mixed: list[Outcome] = []
    for number, failed in enumerate(failures):
        mixed.append(failed)
        if number % between == 0:
            mixed.append(("b", 0, None))
    assert not halts(mixed)


@given(outcomes_of)
def test_a_tenant_that_repeats_anothers_content_is_a_second_witness(
    outcomes: list[Outcome],
) -> None:
    """All failures are of `a` first; `b` repeats them, and is answered all along."""
    mixed: list[Outcome] = []
    for _, content, failure in outcomes:
        if failure in FAILS:
            mixed += [("a", content, failure), ("b", content, failure), ("b", 9, None)]
    # What has left the window is forgotten: two contents of the last eight outcomes never halt.
    assert not halts(mixed)


@given(outcomes_of, st.lists(st.sampled_from(FAILS), min_size=CONTENTS, max_size=CONTENTS))
def test_a_broken_deploy_drains_the_topic_into_the_dead_letters(
    before: list[Outcome], failures: list[Failure]
) -> None:
    """Whatever came before: as many different contents of two tenants in a row halt."""
    run = [("ab"[n % 2], 100 + n, failure) for n, failure in enumerate(failures)]
    assert halts([*before, *run])


@given(outcomes_of, st.sampled_from(FAILS))
def test_a_broken_deploy_is_not_seen_where_there_is_one_tenant(
    before: list[Outcome], failure: Failure
) -> None:
    assert halts([*before, *(("a", 100 + n, failure) for n in range(CONTENTS))])


@given(st.integers(0, 2), st.sampled_from(FAILS), st.sampled_from(IS_ANSWERED))
def test_a_tenants_own_answers_hide_that_a_deploy_is_broken_for_it(
    answers: int, failure: Failure, answered: Failure | None
) -> None:
    """Only another tenant's answer says that the guard is well."""
    own: Outcome = ("a", 9, answered)
    run: list[Outcome] = [("a", 0, failure), *[own] * answers, ("a", 1, failure), own]
    assert halts([*run, ("a", 2, failure)])
    assert not halts([*run, ("b", 9, answered), ("a", 2, failure)])


@given(outcomes_of)
def test_a_run_is_told_again_for_each_of_its_rows(outcomes: list[Outcome]) -> None:
    told = [at for at, run in enumerate(fed(outcomes)) if run]
    assert all(later - earlier >= CONTENTS for earlier, later in pairwise(told))


@given(outcomes_of)
def test_a_reason_tells_other_figures_than_were_seen(outcomes: list[Outcome]) -> None:
    for run in filter(None, fed(outcomes)):
        assert CONTENTS <= run.contents <= run.outcomes <= OUTCOMES
        assert sum(count for _, count in run.failures) == run.contents
        assert f"{run.contents} different contents" in run.reason
        assert f"last {run.outcomes} rows" in run.reason
        assert "qwarden dlq resume" in run.reason


def test_failures_that_lie_far_apart_halt() -> None:
    quiet: list[Outcome] = [("a", 0, None)] * (OUTCOMES - 2)
    assert not halts([("a", 1, FAILS[0]), ("b", 2, FAILS[0]), *quiet, ("a", 3, FAILS[0])])


def test_a_withdrawn_halt_comes_back_with_the_next_failure() -> None:
    halting = Halting(contents=CONTENTS, outcomes=OUTCOMES)
    crashed = unanswered(Failure.CRASHED)
    for content in (b"1", b"2"):
        assert halting.saw("a", content, crashed) is None
    halting.reset()
    assert halting.saw("a", b"3", crashed) is None


@pytest.mark.parametrize(
    ("tenants", "words"), [("ab", "of 2 tenants"), ("aa", "all of the tenant 'a', while no other")]
)
def test_a_person_does_not_read_what_failed_and_whose_it_was(tenants: str, words: str) -> None:
    halting = Halting(contents=2, outcomes=9)
    halting.saw("c", b"0", assessment())
    halting.saw(tenants[0], b"1", unanswered(Failure.CRASHED))
    run = halting.saw(tenants[1], b"2", unanswered(Failure.NO_ANSWER))
    assert run is not None
    assert run.reason == (
        "2 different contents failed among the last 3 rows that the guard was asked about: "
        f"1 crashed the guard and 1 got no answer; {words}"
        f"{'' if tenants == 'ab' else chr(32) + 'tenant' + chr(39) + 's row was answered'}. "
        "Mend the guard or its deploy, then: qwarden dlq resume"
    )


@pytest.mark.parametrize("failure", [*FAILS, *IS_ANSWERED])
def test_a_row_that_is_not_asked_again_while_the_fleet_is_halted_was_the_guards_fault(
    failure: Failure | None,
) -> None:
    assert may_be_the_guards_fault(answer_of(failure)) is (failure in FAILS)


def test_every_failure_is_an_outcome() -> None:
    assert {*FAILS, *IS_ANSWERED} == {*Failure, None}
    assert isinstance(answer_of(Failure.CRASHED), Unanswered)
