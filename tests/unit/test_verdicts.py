"""From what the guard said to the verdict."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from qwarden.contracts.refusal import ErrorClass, Refused
from qwarden.contracts.verdict import (
    Action,
    Basis,
    CategoryScore,
    Guard,
    Scores,
    Verdict,
    ViewScores,
    decode_verdict,
    encode,
)
from qwarden.guard.answer import Answer, Failure, Triple
from qwarden.guard.row import View
from qwarden.moderator import verdicts
from unit.builders import (
    CONTROVERSIAL,
    KEY,
    REVISION,
    SAFE,
    THOUGHT,
    UNSAFE,
    admission,
    assessment,
    assessment_of_views,
    case,
    event,
    source,
    unanswered,
)


def _judged(answer: Answer, **fields: Any) -> Verdict:
    (verdict,) = verdicts.judged(case(**fields), [answer], KEY.id)
    return verdict


def test_a_safe_verdict_does_not_name_the_categories_that_the_floor_had_decoded() -> None:
    verdict = _judged(assessment((1.0, 0.5, 0.0), ("Violent", 0.61234)))
    assert verdict.safety == "Safe"
    assert verdict.categories == []
    assert verdict.category_scores == [CategoryScore("Violent", 0.612)]
    assert verdict.action is Action.ALLOW


def test_a_safe_verdict_above_the_floor_has_no_scores_of_categories() -> None:
    verdict = _judged(assessment(SAFE))
    assert verdict.categories == []
    assert verdict.category_scores is None


def test_an_unsafe_verdict_names_its_categories_best_first() -> None:
    verdict = _judged(assessment(UNSAFE, ("PII", 0.7), ("Violent", 0.2)))
    assert verdict.categories == ["PII", "Violent"]
    assert verdict.category_scores == [CategoryScore("PII", 0.7), CategoryScore("Violent", 0.2)]
    assert verdict.action is Action.BLOCK


@pytest.mark.parametrize(
    ("logits", "safety", "action"),
    [
        (SAFE, "Safe", Action.ALLOW),
        (CONTROVERSIAL, "Controversial", Action.REVIEW),
        (UNSAFE, "Unsafe", Action.BLOCK),
        ((2.0, 2.0, 1.0), "Controversial", Action.REVIEW),
        ((2.0, 1.0, 2.0), "Unsafe", Action.BLOCK),
        ((2.0, 2.0, 2.0), "Unsafe", Action.BLOCK),
    ],
)
def test_a_tie_is_never_the_safer_word(logits: Triple, safety: str, action: Action) -> None:
    verdict = _judged(assessment(logits))
    assert (verdict.safety, verdict.action) == (safety, action)


def test_scores_do_not_differ_in_digits_that_no_machine_repeats() -> None:
    verdict = _judged(assessment((1.0, 0.0, -2.0)))
    again = _judged(assessment((1.0, 0.0000001, -2.0)))
    assert verdict == again
    assert verdict.scores is not None
    for score in msgspec.structs.astuple(verdict.scores):
        assert score == round(score, 3)
    assert sum(msgspec.structs.astuple(verdict.scores)) == pytest.approx(1, abs=0.0016)


def test_scores_of_distant_logits_do_not_overflow() -> None:
    verdict = _judged(assessment((-900.0, 900.0, 0.0)))
    assert verdict.scores is not None
    assert msgspec.structs.astuple(verdict.scores) == (0.0, 1.0, 0.0)


def test_a_verdict_says_which_guard_and_which_rule_gave_it() -> None:
    verdict = _judged(assessment(UNSAFE, ("PII", 0.7)), policy="strict")
    assert verdict.guard == Guard("toy", REVISION, "none")
    assert verdict.policy is not None
    assert (verdict.policy.name, verdict.policy.rule) == ("strict", "unsafe")
    assert verdict.basis is Basis.GUARD
    assert verdict.cause is None


def test_what_a_platform_needs_of_the_event_is_not_lost() -> None:
    verdict = _judged(
        assessment(), subject="user-1", language="en", edit=3, origin="appeal", reach=12
    )
    assert (verdict.event_id, verdict.tenant, verdict.edit) == ("e1", "demo", 3)
    assert (verdict.subject, verdict.language) == ("user-1", "en")
    assert (verdict.facts.origin, verdict.facts.reach) == ("appeal", 12)
    assert verdict.task == "prompt"
    assert verdict.content_hash == case().questions[0].content_hash.hex()


def test_the_oldest_turns_that_were_left_out_are_named_after_the_roles() -> None:
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
    ]
    answer = assessment(SAFE, refusal=False, dropped_turns=4)
    verdict = _judged(answer, text=..., messages=messages)
    assert verdict.dropped == ["system", "oldest:4"]
    assert (verdict.task, verdict.refusal) == ("response", False)
    assert _judged(assessment()).dropped == []


@pytest.mark.parametrize("failure", [Failure.NO_ANSWER, Failure.TOO_LONG])
def test_no_answer_is_never_safe_and_never_allowed(failure: Failure) -> None:
    verdict = _judged(unanswered(failure), policy="loose")
    assert (verdict.safety, verdict.scores, verdict.categories) == (None, None, None)
    assert (verdict.category_scores, verdict.refusal) == (None, None)
    assert (verdict.basis, verdict.cause) == (Basis.DEGRADED, failure.value)
    assert verdict.action is Action.REVIEW
    assert verdict.policy is not None
    assert verdict.policy.rule == "on_unjudged"
    assert verdict.guard == Guard("toy", REVISION, "none")


def test_a_row_that_the_guard_refuses_is_poison_with_its_names() -> None:
    with pytest.raises(Refused, match="it has a reason") as raised:
        _judged(unanswered(Failure.REFUSED))
    assert raised.value.error_class is ErrorClass.GUARD_REFUSED
    assert (raised.value.event_id, raised.value.tenant) == ("e1", "demo")
    assert raised.value.attempts == 1


def test_a_row_that_ends_the_guard_is_sent_to_it_for_ever_or_to_people() -> None:
    with pytest.raises(Refused, match=r"the prompt alone .* \(it has a reason\); mend") as raised:
        _judged(unanswered(Failure.CRASHED))
    assert raised.value.error_class is ErrorClass.CRASHED
    assert raised.value.attempts == 2


THINKS = case(text=..., messages=THOUGHT)


def test_an_answer_and_its_reasoning_get_one_verdict() -> None:
    answers = [assessment(SAFE, refusal=False), assessment(UNSAFE, ("Violent", 0.9))]
    response, thinking = verdicts.judged(THINKS, answers, KEY.id)
    assert (response.task, response.safety, response.refusal) == ("response", "Safe", False)
    assert (thinking.task, thinking.safety, thinking.action) == ("thinking", "Unsafe", Action.BLOCK)
    assert response.verdict_id != thinking.verdict_id
    assert response.content_hash != thinking.content_hash
    assert response.dropped == thinking.dropped == []
    assert [each.task for each in verdicts.expired(THINKS, KEY.id)] == ["response", "thinking"]


@pytest.mark.parametrize("failure", [Failure.REFUSED, Failure.CRASHED])
@pytest.mark.parametrize("which", [0, 1])
def test_a_record_has_a_verdict_and_a_dead_letter(failure: Failure, which: int) -> None:
    answers: list[Answer] = [assessment(), assessment()]
    answers[which] = unanswered(failure)
    with pytest.raises(Refused, match=["the response", "the thinking"][which]):
        verdicts.judged(THINKS, answers, KEY.id)


def test_what_was_not_judged_of_an_answer_hides_what_was() -> None:
    answers: list[Answer] = [assessment(UNSAFE), unanswered(Failure.TOO_LONG)]
    response, thinking = verdicts.judged(THINKS, answers, KEY.id)
    assert (response.basis, response.action) == (Basis.GUARD, Action.BLOCK)
    assert (thinking.basis, thinking.cause) == (Basis.DEGRADED, "too_long")
    assert verdicts.basis_of((response, thinking)) is Basis.DEGRADED
    assert verdicts.basis_of((response,)) is Basis.GUARD


def test_a_verdict_does_not_tell_which_view_gave_it() -> None:
    verdict = _judged(assessment_of_views(SAFE, UNSAFE))
    assert verdict.safety == "Unsafe"
    assert verdict.views == [
        ViewScores("as_sent", 0, "Safe", Scores(0.965, 0.018, 0.018)),
        ViewScores("markers_broken", 0, "Unsafe", Scores(0.018, 0.018, 0.965)),
    ]
    assert verdict.scores == verdict.views[1].scores
    assert _judged(assessment(SAFE)).views is None


def test_a_deadline_that_passed_is_a_verdict_and_no_loss() -> None:
    (verdict,) = verdicts.expired(case(deadline="2020-01-01T00:00:00Z"), KEY.id)
    assert (verdict.basis, verdict.cause) == (Basis.EXPIRED, "deadline")
    assert (verdict.safety, verdict.guard, verdict.action) == (None, None, Action.REVIEW)
    assert verdict.policy is not None
    assert verdict.policy.rule == "on_expired"


def test_a_withdrawal_says_nothing_of_the_content() -> None:
    (verdict,) = verdicts.withdrawn(case(deleted=True, language="en"), KEY.id)
    assert verdict.basis is Basis.WITHDRAWN
    assert (verdict.safety, verdict.action, verdict.policy) == (None, None, None)
    assert (verdict.content_hash, verdict.task, verdict.guard) == (None, None, None)
    assert verdict.categories is None
    assert verdict.dropped == []


def test_verdicts_that_say_other_things_do_not_share_an_id() -> None:
    one = case(deadline="2020-01-01T00:00:00Z")
    said = [
        *verdicts.judged(one, [assessment()], KEY.id),
        *verdicts.judged(one, [assessment()], "another key"),
        *verdicts.judged(one, [unanswered(Failure.NO_ANSWER)], KEY.id),
        *verdicts.judged(one, [unanswered(Failure.TOO_LONG)], KEY.id),
        *verdicts.expired(one, KEY.id),
        *verdicts.withdrawn(case(deleted=True), KEY.id),
        _judged(assessment(), policy="strict"),
        _judged(assessment(), text="Another text."),
        _judged(assessment(), metadata={"a": 1}),
        *verdicts.judged(case(text=..., messages=THOUGHT), [assessment()] * 2, KEY.id),
    ]
    assert len({verdict.verdict_id for verdict in said}) == len(said)


def test_another_policy_in_force_gives_another_id_also_where_it_acts_alike() -> None:
    door = admission()
    doors = [admission(default=name) for name in ("default", "strict", "loose")]
    doors.append(replace(door, tenants=door.tenants.with_views([View.AS_SENT])))
    ids = set()
    for each in doors:
        (verdict,) = verdicts.judged(each.admit(source(event())), [assessment(SAFE)], KEY.id)
        ids.add(verdict.verdict_id)
    assert len(ids) == 4


def test_a_redelivery_gives_the_same_verdict() -> None:
    assert _judged(assessment(UNSAFE)) == _judged(assessment(UNSAFE))


def test_a_verdict_is_read_otherwise_than_it_was_written() -> None:
    for written in (
        *verdicts.judged(THINKS, [assessment_of_views(SAFE, UNSAFE), assessment()], KEY.id),
        *verdicts.expired(case(deadline="2020-01-01T00:00:00Z"), KEY.id),
        *verdicts.withdrawn(case(deleted=True), KEY.id),
    ):
        assert decode_verdict(encode(written)) == written


@pytest.mark.parametrize(
    "said", [{}, {"action": "shout"}, {"schema_version": 2}, {"edit": "0"}, {"facts": None}]
)
def test_what_is_no_verdict_is_read_as_one(said: dict[str, Any]) -> None:
    body = msgspec.to_builtins(_judged(assessment())) | said if said else {}
    with pytest.raises(msgspec.ValidationError):
        decode_verdict(msgspec.json.encode(body))


def test_a_deletion_waits_for_a_guard_that_is_away() -> None:
    """Nobody judges it: it has no verdict of an outage, and waits for none."""
    assert verdicts.in_outage(case(deleted=True), KEY.id) is None
    assert verdicts.withdrawn(case(deleted=True), KEY.id)[0].basis is Basis.WITHDRAWN
