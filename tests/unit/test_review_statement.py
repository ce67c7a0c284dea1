"""Statements of reasons: each field of Article 17(3), and nothing where nothing is restricted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwarden.contracts.decision import By, Decision
from qwarden.contracts.statement import DecidedBy, PromptedBy, Statement, What
from qwarden.contracts.verdict import (
    Action,
    Basis,
    Facts,
    Guard,
    Notice,
    PolicyUsed,
    Scores,
    Verdict,
    encode,
)
from qwarden.guard.taxonomy import CATEGORIES
from qwarden.review.refusals import NotFound
from qwarden.review.statement import LANGUAGES, sentences, statement_of, text_of

JUDGED_AT = datetime(2025, 3, 1, 12, tzinfo=UTC)
DECIDED_AT = datetime(2025, 3, 2, 12, tzinfo=UTC)
REDRESS = "You can complain to us."
NOTICE = Notice("terms", "§ 4", "Das ist gegen die Hausordnung.")


def verdict(action: Action | None = Action.BLOCK, **fields: Any) -> Verdict:
    made = Verdict(
        verdict_id="a" * 32,
        event_id="e1",
        edit=0,
        tenant="demo",
        subject="somebody",
        task="prompt",
        safety="Unsafe",
        scores=Scores(0.1, 0.2, 0.7),
        categories=["Unethical Acts"],
        category_scores=None,
        refusal=None,
        language="de",
        content_hash="c" * 32,
        facts=Facts(),
        action=action,
        notice=NOTICE,
        basis=Basis.GUARD,
        cause=None,
        guard=Guard("Qwen3Guard-Gen-0.6B", "r"),
        policy=PolicyUsed("house", "0123456789ab", 0, "unsafe"),
        dropped=[],
    )
    return msgspec.structs.replace(made, **fields)


def decision(action: str, **fields: Any) -> Decision:
    made = Decision(
        decision_id="d" * 32,
        tenant="demo",
        event_id="e1",
        edit=0,
        task="prompt",
        verdict_id="a" * 32,
        content_hash="c" * 32,
        action=action,
        categories=["PII"],
        reason="names a person",
        ground="terms",
        clause="§ 4",
        supersedes=None,
        decided_at=DECIDED_AT,
        reviewer="reviewer-7f3a",
        by=By.PERSON,
    )
    return msgspec.structs.replace(made, **fields)


def stated(of: Verdict, by: Decision | None = None, **fields: Any) -> Statement:
    return statement_of(of, by, judged_at=JUDGED_AT, redress=REDRESS, **fields)


def test_an_automatic_block_says_that_a_machine_found_and_decided() -> None:
    said = stated(verdict())
    assert said.restriction.what == What.DISABLED
    assert (said.restriction.scope, said.restriction.since) == ("everywhere", JUDGED_AT)
    assert said.restriction.until == "decided_otherwise"
    assert said.facts.prompted_by == PromptedBy.OWN_INITIATIVE
    assert said.facts.notifier is None
    assert (said.facts.safety, said.facts.categories) == ("Unsafe", ["Unethical Acts"])
    assert said.automation.detected and said.automation.assessed and said.automation.decided
    assert said.automation.decided_by == DecidedBy.AUTOMATION
    assert said.automation.guard == "Qwen3Guard-Gen-0.6B"
    assert said.ground is not None
    assert (said.ground.kind, said.ground.clause) == ("terms", "§ 4")
    assert said.ground.explanation == "Das ist gegen die Hausordnung."
    assert said.redress == REDRESS
    assert (said.decision_id, said.decided_at) == (None, JUDGED_AT)


def test_a_person_who_confirms_a_block_has_decided_it_and_it_began_with_the_block() -> None:
    said = stated(verdict(), decision("block"))
    assert said.automation.decided_by == DecidedBy.PERSON
    assert not said.automation.decided
    assert said.automation.assessed
    assert said.restriction.since == JUDGED_AT
    assert said.decided_at == DECIDED_AT
    assert said.decision_id == "d" * 32
    assert (said.facts.categories, said.facts.reason) == (["PII"], "names a person")
    assert said.ground is not None
    assert said.ground.explanation == "Das ist gegen die Hausordnung."


def test_what_a_person_blocks_that_was_shown_is_restricted_from_then_on() -> None:
    shown = verdict(Action.REVIEW, meanwhile="show")
    assert stated(shown, decision("block")).restriction.since == DECIDED_AT
    hidden = verdict(Action.REVIEW, meanwhile="hide")
    assert stated(hidden, decision("block")).restriction.since == JUDGED_AT
    assert stated(hidden, decision("disclaim")).restriction.since == DECIDED_AT


def test_a_restriction_that_was_only_confirmed_begins_anew() -> None:
    """It begins with the first of those that say the same, back to back."""
    at = [DECIDED_AT + timedelta(days=day) for day in range(3)]
    shown = verdict(Action.REVIEW, meanwhile="show")

    def since(of: Verdict, *actions: str) -> datetime:
        said = [decision(each, decided_at=when) for each, when in zip(actions, at, strict=False)]
        *earlier, last = said
        return stated(of, last, earlier=earlier[::-1]).restriction.since

    assert since(shown, "block", "block", "block") == at[0]
    assert since(shown, "block", "allow", "block") == at[2]
    assert since(shown, "disclaim", "block", "block") == at[1]
    assert since(verdict(), "block", "block") == JUDGED_AT
    assert since(verdict(), "allow", "block", "block") == at[1]
    assert since(verdict(Action.DISCLAIM), "disclaim") == JUDGED_AT
    # The verdict is a later one on the same edit: the restriction is older than it.
    later = stated(verdict(), decision("block", decided_at=JUDGED_AT - timedelta(days=1)))
    assert later.restriction.since == JUDGED_AT - timedelta(days=1)


def test_a_person_s_own_ground_is_stated_with_what_the_policy_says_of_it() -> None:
    by = decision("block", ground="law", clause="§ 201a StGB")
    said = stated(verdict(), by, explanation="Bilder brauchen Zustimmung.")
    assert said.ground is not None
    assert (said.ground.kind, said.ground.clause) == ("law", "§ 201a StGB")
    assert said.ground.explanation == "Bilder brauchen Zustimmung."
    assert stated(verdict(), by).ground != said.ground


def test_nothing_is_stated_where_nothing_is_restricted() -> None:
    for of, by in (
        (verdict(Action.ALLOW, notice=None), None),
        (verdict(Action.REVIEW, meanwhile="show"), None),
        (verdict(), decision("allow", ground=None, clause=None, categories=[])),
        (verdict(None, basis=Basis.WITHDRAWN, notice=None), None),
        (verdict(None, basis=Basis.WITHDRAWN, notice=None), decision("block")),
    ):
        with pytest.raises(NotFound):
            stated(of, by)


def test_a_statement_after_an_overturn_says_that_a_decision_allows_it() -> None:
    with pytest.raises(NotFound, match="the last decision allows it"):
        stated(verdict(), decision("allow"))


def test_what_is_hidden_until_a_person_decides_is_restricted_until_then() -> None:
    said = stated(verdict(Action.REVIEW, meanwhile="hide"))
    assert said.restriction.what == What.WITHHELD
    assert said.restriction.until == "decided_by_person"


def test_a_disclaimer_is_a_restriction_too() -> None:
    assert stated(verdict(Action.DISCLAIM)).restriction.what == What.LABELLED
    assert stated(verdict(), decision("disclaim")).restriction.what == What.LABELLED


def test_a_breach_that_blocks_is_no_person_s_decision() -> None:
    by = decision(
        "block", by=By.BREACH, reviewer=None, ground=None, clause=None, categories=[], reason="late"
    )
    said = stated(verdict(Action.REVIEW, meanwhile="show"), by)
    assert said.automation.decided
    assert said.automation.decided_by == DecidedBy.DEADLINE
    assert said.facts.categories == ["Unethical Acts"]
    assert said.facts.reason is None
    assert said.ground is not None
    assert said.ground.clause == "§ 4"


def test_an_override_names_the_decision_on_equal_content() -> None:
    said = stated(verdict(basis=Basis.HUMAN, decision="b" * 32))
    assert said.decision_id == "b" * 32
    assert said.automation.decided_by == DecidedBy.PERSON_ON_EQUAL_CONTENT
    assert said.automation.decided


@pytest.mark.parametrize("origin", ["user_report", "authority", "appeal"])
def test_a_notice_is_stated_and_nobody_s_name(origin: str) -> None:
    said = stated(verdict(facts=Facts(origin=origin)))
    assert said.facts.prompted_by == origin
    assert not said.automation.detected
    assert b'"notifier":null' in encode(said)


def test_what_no_guard_has_judged_says_so() -> None:
    unjudged = verdict(
        safety=None,
        scores=None,
        categories=None,
        guard=None,
        basis=Basis.DEGRADED,
        cause="too_long",
    )
    said = stated(unjudged)
    assert not said.automation.assessed
    assert said.facts.cause == "too_long"
    assert "could not be assessed" in text_of(said, "en")


def test_the_text_is_in_the_reader_s_language_where_we_have_it() -> None:
    said = stated(verdict())
    german, english = text_of(said, "de-AT"), text_of(said, "en")
    assert "Unethisches" not in english
    assert "unethisches Verhalten" in german
    assert "unethical acts" in english
    assert text_of(said, "fr") == english == text_of(said, None)
    for text in (german, english):
        assert "§ 4" in text
        assert "Das ist gegen die Hausordnung." in text
        assert REDRESS in text
        assert "e1" in text
        assert "2025-03-01" in text


def _shape(of: Any) -> Any:
    """The names in a file of sentences, and the fields that its sentences have."""
    if isinstance(of, Mapping):
        return {name: _shape(each) for name, each in of.items()}
    return sorted(re.findall(r"{(\w*)}", of))


def test_every_language_says_everything() -> None:
    english = sentences("en")
    for language in LANGUAGES:
        said = sentences(language)
        assert _shape(said) == _shape(english)
        assert set(said["what"]) == set(What)
        assert set(said["prompted_by"]) == set(PromptedBy)
        assert set(said["decided_by"]) == set(DecidedBy)
        assert set(said["ground"]) == {"law", "terms"}
        assert set(said["categories"]) == set(CATEGORIES)


verdicts = st.builds(
    verdict,
    st.sampled_from([Action.BLOCK, Action.DISCLAIM, Action.REVIEW]),
    event_id=st.text(max_size=20),
    meanwhile=st.just("hide"),
    categories=st.none() | st.lists(st.sampled_from([*CATEGORIES, "A later one"]), max_size=3),
    safety=st.sampled_from([None, "Unsafe"]),
    facts=st.builds(Facts, origin=st.sampled_from(["automatic", "user_report", "a later one"])),
    basis=st.sampled_from([Basis.GUARD, Basis.HUMAN, Basis.QUOTA, Basis.DEGRADED]),
    notice=st.none() | st.builds(Notice, st.sampled_from(["law", "terms"]), st.text(), st.text()),
)
decisions = st.none() | st.builds(
    decision,
    st.sampled_from(["block", "disclaim"]),
    by=st.sampled_from(list(By)),
    ground=st.sampled_from([None, "law", "terms"]),
    clause=st.text(max_size=20),
)


@given(verdicts, decisions, st.sampled_from(["en", "de", "pt-BR", None]))
def test_every_restriction_has_a_statement_that_can_be_read_back(
    of: Verdict, by: Decision | None, language: str | None
) -> None:
    said = stated(of, by)
    assert msgspec.json.decode(encode(said), type=Statement) == said
    text = text_of(said, language)
    assert of.event_id in text
    assert text.endswith(REDRESS)
