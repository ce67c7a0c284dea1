"""Who may do what, and how it is said that something is not done."""

from __future__ import annotations

import pytest

from qwarden.review.person import EVERY, UNDETERMINED, Person, Role
from qwarden.review.refusals import Conflict, Stale, TooOften


def person(*roles: Role, languages: frozenset[str] = frozenset()) -> Person:
    return Person("1", "Ann", "calm-heron-27", frozenset(roles), frozenset(), languages)


@pytest.mark.parametrize(
    ("roles", "decides"),
    [
        ((), False),
        ((Role.REVIEWER,), True),
        ((Role.LEAD,), True),
        ((Role.AUDITOR, Role.ADMIN), False),
        ((Role.AUDITOR, Role.LEAD), True),
    ],
)
def test_who_only_reads_decides(roles: tuple[Role, ...], decides: bool) -> None:
    assert person(*roles).decides is decides


def test_one_of_several_roles_does_not_suffice() -> None:
    assert person(Role.AUDITOR).has(Role.ADMIN, Role.AUDITOR)
    assert not person(Role.REVIEWER).has(Role.ADMIN, Role.AUDITOR)
    assert not person().has(*Role)


def test_content_that_nobody_can_read_is_given_to_somebody() -> None:
    german = person(languages=frozenset({"de"}))
    assert [german.reads(each) for each in ("de", "fr", UNDETERMINED)] == [True, False, True]
    assert person(languages=frozenset({EVERY})).reads("fr")
    assert person().reads(UNDETERMINED)


def test_a_refusal_loses_what_its_reader_needs() -> None:
    assert TooOften("wait", retry_after_s=3.5).retry_after_s == 3.5
    assert Conflict("taken", holder="calm-heron-27").holder == "calm-heron-27"
    assert Conflict("over").holder is None
    stale = Stale("it is over")
    assert (str(stale), stale.status, stale.code) == ("it is over", 409, "stale_lease")
