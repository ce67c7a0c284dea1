"""What people may say: what a user is not told the reasons of, or no reader could take."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import msgspec
import pytest

from at_work import ALLOW, BLOCK, DISCLAIM
from qwarden.contracts import topics
from qwarden.contracts.control import Override, written
from qwarden.contracts.decision import By, decode_decision
from qwarden.guard.taxonomy import CATEGORIES
from qwarden.review.refusals import Conflict, Invalid
from qwarden.review.ruling import (
    MOST_BYTES,
    MOST_CLAUSE,
    MOST_REASON,
    MOST_REVIEWER,
    OWN_WORDS,
    REASONS,
    Link,
    Said,
    Unneeded,
    check_place,
    checked,
    code_of,
    last_of,
    place_of,
)
from qwarden.review.store.decisions import Target, decision_of, message_of


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (replace(ALLOW, action="review"), "An action is one of allow, disclaim, block"),
        (replace(ALLOW, action="Block"), "An action is one of"),
        (replace(ALLOW, reason=" \n "), "needs its reason: a code such as no_violation, or"),
        (replace(ALLOW, reason="x" * (MOST_REASON + 1)), "The reason has 501 characters"),
        (replace(ALLOW, reason="a\0b"), "control character"),
        (replace(ALLOW, ground="terms"), "^What is allowed has no categories, no ground"),
        (replace(ALLOW, clause="3.1"), "no ground"),
        (replace(ALLOW, categories=("Violent",)), "no categories"),
        (
            replace(BLOCK, ground=None),
            r"name the ground .* and the clause, which the user is told\.",
        ),
        (replace(BLOCK, ground="both"), "name the ground"),
        (replace(DISCLAIM, clause=None), "name the ground"),
        (replace(DISCLAIM, clause="\t"), "name the ground"),
        (replace(BLOCK, clause="x" * (MOST_CLAUSE + 1)), "The clause has 201 characters"),
        (
            replace(BLOCK, categories=("Violent", "Rude")),
            f"1 of the categories are unknown; .*: {', '.join(CATEGORIES)}",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_sentence(said: Said, sentence: str) -> None:
    with pytest.raises(Invalid, match=sentence) as refused:
        checked(said)
    assert "Rude" not in str(refused.value)


def test_what_is_meant_is_written_one_way() -> None:
    said = replace(
        BLOCK,
        categories=("PII", "Violent", "PII"),
        reason="  spam\n",
        clause=" 3.1 ",
        override=True,
    )
    assert checked(said) == Said("block", ("Violent", "PII"), "spam", "terms", "3.1", override=True)
    assert checked(replace(ALLOW, clause="")) == ALLOW


def test_own_words_of_two_lines_are_refused() -> None:
    assert checked(replace(ALLOW, reason="one\ntwo")).reason == "one\ntwo"


def test_a_decision_that_is_superseded_or_of_a_later_edit_stands() -> None:
    chain = [
        Link("b", None, 0, By.PERSON),
        Link("a", None, 1, By.PERSON),
        Link("c", "b", 0, By.PERSON),
        Link("d", None, 2, By.PERSON),
    ]
    standing = [last_of(chain, edit) for edit in (0, 1, 2, 3)]
    assert [link and link.decision_id for link in standing] == ["c", "a", "d", "d"]
    assert last_of(chain[1:2], 0) is None
    assert last_of([], 0) is None


def test_a_reason_is_a_code_or_nobody_elses_business() -> None:
    codes = [code for each in REASONS.values() for code in each]
    assert [code_of(code) for code in codes] == codes
    assert code_of("They wrote something of mine.") == OWN_WORDS


def test_a_tool_that_names_another_decision_is_told_the_last_one() -> None:
    chain = [Link("a", None, 0, By.PERSON), Link("b", "a", 0, By.PERSON)]
    check_place(chain, 0, "b")
    check_place([], 0, None)
    for wrong in (None, "a", "c"):
        with pytest.raises(
            Conflict,
            match=r"last decision is b: name that one in `supersedes` if it is to be replaced.",
        ):
            check_place(chain, 0, wrong)
    with pytest.raises(Conflict, match=r"^There is no decision yet .* leave `supersedes` out\.$"):
        check_place([], 0, "a")


def test_a_breach_takes_a_persons_place_or_comes_where_all_is_decided() -> None:
    person, breach = Link("a", None, 0, By.PERSON), Link("a", None, 0, By.BREACH)
    assert place_of([], 0, By.BREACH) is None
    assert place_of([person], 1, By.BREACH) is None, "it stands beside what a person has said"
    assert place_of([breach], 1, By.BREACH) == breach
    for decided in (person, breach):
        assert place_of([decided], 0, By.PERSON) == decided
        with pytest.raises(Unneeded):
            place_of([decided], 0, By.BREACH)


@pytest.mark.parametrize("name", ["\1", "%", "/", '"', "\N{FACE WITH TEARS OF JOY}"])
def test_the_longest_record_fits_every_topic(name: str) -> None:
    """A name may be of any 256 characters; what is said is of printable ones."""
    text = name if name.isprintable() else '"'
    said = checked(
        Said("block", CATEGORIES, text * MOST_REASON, "terms", text * MOST_CLAUSE, override=True)
    )
    ids = "0" * 32
    decision = decision_of(
        Target(name * 256, name * 256, 2**53, "response", ids, "0" * 64),
        said,
        decision_id=ids,
        supersedes=ids,
        reviewer=text * MOST_REVIEWER,
        by=By.PERSON,
        now=1.8e9,
    )
    message = message_of(decision, None)
    assert message.value is not None and decode_decision(message.value) == decision
    at = datetime.now(UTC)
    override = written(
        Override(
            tenant=name * 256, content_hash="0" * 64, action="block", categories=list(CATEGORIES),
            ground="terms", clause=text * MOST_CLAUSE, decision_id=ids, until=at, at=at,
            by=text * MOST_REVIEWER,
        )
    )  # fmt: skip
    assert override.value is not None
    about = sum(len(key) + len(data) for key, data in override.headers)
    sizes = (len(message.key) + len(message.value), len(override.key) + len(override.value) + about)
    assert max(sizes) <= MOST_BYTES < topics.CONTENT_OVERHEAD_BYTES
    assert msgspec.json.decode(override.value, type=Override).tenant == name * 256
