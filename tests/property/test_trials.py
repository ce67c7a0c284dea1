"""The dispatcher's deciders: what a failure of a row, of the guard, and of its room may lead to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qwarden.backoff import Backoff
from qwarden.guard.row import Row
from qwarden.inference.breaker import Breaker, State
from qwarden.inference.pace import Pace
from qwarden.inference.trials import FAILURES_ALONE, KNOWN_GOOD, UNTRIED, deadline_s

_seconds = st.floats(0.001, 1000)
_chance = st.floats(0, 1, exclude_max=True)


@given(_seconds, _seconds, st.integers(0, 10**6), _chance)
def test_a_wait_is_over_the_longest_or_under_half_of_its_step(
    first_s: float, more_s: float, failures: int, chance: float
) -> None:
    backoff = Backoff(first_s, first_s + more_s)
    wait = backoff.wait_s(failures, chance)
    whole = 2 * backoff.wait_s(failures, 0.0)
    assert first_s / 2 <= wait <= backoff.most_s
    assert whole / 2 <= wait <= whole
    assert wait <= backoff.wait_s(failures + 1, chance)
    assert backoff.wait_s(1, 0.0) == first_s / 2
    assert backoff.wait_s(2, 0.0) == min(first_s, backoff.most_s / 2)


_said = st.sampled_from(["went", "asks", "came_back", "did_not", "answered"])


@given(st.lists(_said, max_size=60))
def test_the_breaker_closes_by_anything_but_an_answer_to_a_probe_sent_since_it_opened(
    said: list[str],
) -> None:
    breaker, probe_out, failures = Breaker(), False, 0
    for each in said:
        was = breaker
        if each == "went":
            breaker = breaker.went("away")
            failures += was.closed
        elif each == "asks":
            breaker = breaker.asks()
            probe_out = probe_out or not was.closed
            assert was.state is State.OPEN or breaker == was, "a second probe is sent"
        elif each == "came_back":
            breaker = breaker.good_came_back()
            assert breaker.closed == (was.closed or probe_out)
            probe_out = probe_out and not breaker.closed
        elif each == "did_not":
            breaker = breaker.good_did_not("silent")
            failures, probe_out = failures + 1, False
        else:
            breaker = breaker.answered()
            failures = 0 if was.closed else failures
        assert breaker.failures == failures
        assert (breaker.state is State.PROBING) == probe_out
        assert (breaker.reason is None) == breaker.closed


@given(st.integers(1, 64), st.lists(st.sampled_from(["send", "refused", "answered"]), max_size=200))
def test_one_full_queue_halves_more_than_once_or_the_pace_leaves_its_range(
    most: int, said: list[str]
) -> None:
    pace = Pace.of(most)
    sent: list[int] = []
    for each in said:
        was = pace
        if each == "send":
            if len(sent) < pace.allowed:
                sent.append(pace.cuts)
            continue
        if not sent:
            continue
        cuts = sent.pop(0)
        if each == "refused":
            pace = pace.refused(cuts)
            assert pace.allowed == (max(1, was.allowed // 2) if cuts == was.cuts else was.allowed)
        else:
            pace = pace.answered()
            assert was.allowed <= pace.allowed <= was.allowed + 1
            assert pace.refusals == 0
        assert 1 <= pace.allowed <= most


@given(st.integers(1, 64), st.integers(1, 10))
def test_the_pace_never_grows_back_or_grows_at_once(most: int, cuts: int) -> None:
    pace = Pace.of(most)
    for _ in range(cuts):
        pace = pace.refused(pace.cuts)
    assert pace.refusals == cuts
    while pace.allowed < most:
        allowed = pace.allowed
        for _ in range(allowed - 1):
            pace = pace.answered()
            assert pace.allowed == allowed
        pace = pace.answered()
        assert pace.allowed == allowed + 1
    assert pace.answered().allowed == most


def test_a_second_full_queue_halves_once_for_each_that_it_refuses() -> None:
    first = Pace.of(16)
    second = first.refused(first.cuts)
    third = second.refused(second.cuts)
    assert (second.allowed, third.allowed) == (8, 4)
    assert third.refused(first.cuts) == third.refused(second.cuts) == third
    grown = third
    for _ in range(4):
        grown = grown.answered()
    assert (grown.most, grown.allowed, grown.cuts) == (16, 5, 2), "it forgets what it was told"


def test_a_guard_that_takes_one_request_at_a_time_is_asked_ever_more_rarely() -> None:
    pace = Pace.of(1)
    assert pace.refused(pace.cuts).refusals == 1
    assert pace.refused(pace.cuts).answered().refusals == 0


@given(st.lists(st.booleans(), max_size=30))
def test_a_row_is_given_up_for_an_outage_or_for_what_stood_beside_it(came_back: list[bool]) -> None:
    trial, proven = UNTRIED, 0
    for good_came_back in came_back:
        if trial.given_up:
            break
        was = trial
        trial = trial.failed(good_came_back=good_came_back)
        if not good_came_back:
            assert trial == was
        proven += good_came_back
        # The first proven failure was in company.
        assert trial.suspect == (proven >= 1)
        assert trial.given_up == (proven >= 1 + FAILURES_ALONE)


@given(st.integers(0, 2_000_000), st.integers(0, 2_000_000), _seconds, _seconds)
def test_a_longer_row_gets_a_shorter_deadline(
    size: int, more: int, base_s: float, per_s: float
) -> None:
    def deadline(size: int) -> float:
        return deadline_s(size, base_s=base_s, per_1000_tokens_s=per_s)

    assert base_s <= deadline(size) <= deadline(size + more)
    assert deadline(300_000) > deadline(0) + 50 * per_s
    assert deadline_s(6000, base_s=1.0, per_1000_tokens_s=5.0) == 11.0


def test_the_known_good_conversation_is_refused_by_the_contract_itself() -> None:
    assert Row.from_json(KNOWN_GOOD).conversation.turns[-1].content == "hello"
