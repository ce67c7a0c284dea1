"""What is read in an issuer's claims, and what may be said of a person."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from qwarden.review.people import fields, pseudonym
from qwarden.review.people.claims import lacks, said_in
from qwarden.review.people.fields import Preferences
from qwarden.review.person import Role
from qwarden.review.refusals import Invalid
from qwarden.settings import Oidc


def oidc(**more: Any) -> Oidc:
    return Oidc(issuer="http://i.test", client_id="qwarden", client_secret=SecretStr("s"), **more)


def test_another_application_s_roles_open_nothing_here() -> None:
    said = said_in({"sub": "1", "iat": 5, "roles": ["superuser", "Reviewer", "lead"]}, oidc())
    assert said.roles == {Role.LEAD}


def test_with_mapped_words_our_own_words_mean_nothing() -> None:
    settings = oidc(roles={"trust-and-safety": "reviewer", "ts-lead": "lead"})
    said = said_in(
        {"sub": "1", "iat": 5, "roles": ["trust-and-safety", "admin", "billing"]}, settings
    )
    assert said.roles == {Role.REVIEWER}


@pytest.mark.parametrize(
    ("claims", "name"),
    [
        ({"realm_access": {"roles": ["lead"]}}, "realm_access.roles"),
        ({"https://qwarden.test/roles": ["lead"]}, "https://qwarden.test/roles"),
        ({"scope": "openid lead"}, "scope"),
    ],
)
def test_roles_are_found_where_issuers_keep_them(claims: dict[str, Any], name: str) -> None:
    settings = oidc(roles_claim=name)
    assert said_in({"sub": "1", "iat": 5, **claims}, settings).roles == {Role.LEAD}
    assert not lacks(claims, settings)
    assert lacks({"realm_access": "lead"}, oidc(roles_claim="realm_access.roles"))


@pytest.mark.parametrize("value", [None, 5, {"lead": True}, [["lead"]], [5], "leader", True])
def test_a_claim_of_another_shape_gives_no_role(value: object) -> None:
    assert said_in({"sub": "1", "iat": 5, "roles": value}, oidc()).roles == frozenset()


def test_what_is_not_mapped_is_left_to_us() -> None:
    said = said_in({"sub": "1", "iat": 5, "roles": ["lead"], "tenants": ["demo"]}, oidc())
    assert (said.tenants, said.languages) == (None, None)
    mapped = oidc(tenants_claim="tenants", languages_claim="languages")
    said = said_in(
        {"sub": "1", "iat": 5, "tenants": ["demo"], "languages": ["pt-BR", "EN", "x", "*"]}, mapped
    )
    assert said.tenants == frozenset({"demo"})
    assert said.languages == frozenset({"pt", "en", "*"})
    assert said_in({"sub": "1", "iat": 5}, mapped).tenants == frozenset()


def test_a_program_is_told_from_a_person() -> None:
    assert said_in({"sub": "tool", "iat": 5, "client_id": "tool"}, oidc()).is_tool
    assert not said_in({"sub": "anna", "iat": 5, "client_id": "console"}, oidc()).is_tool
    assert not said_in({"sub": "anna", "iat": 5}, oidc()).is_tool


def test_a_person_without_a_name_is_called_as_the_issuer_calls_them() -> None:
    assert said_in({"sub": "4711", "iat": 5, "name": "  "}, oidc()).name == "4711"
    assert said_in({"sub": "4711", "iat": 5, "preferred_username": "anna"}, oidc()).name == "anna"


@pytest.mark.parametrize(
    ("check", "bad", "good"),
    [
        (fields.roles_of, ["boss"], ["lead", "auditor"]),
        (fields.roles_of, [], ["reviewer"]),
        (fields.tenants_of, [""], ["demo", "*"]),
        (fields.tenants_of, ["t" * 257], []),
        (fields.languages_of, ["pt-BR"], ["pt", "*"]),
        (fields.languages_of, ["EN"], ["en"]),
        (fields.name_of, "two\nlines", "Zoë Ångström"),
        (fields.name_of, "  ", " a "),
        (fields.name_of, "n" * 101, "n" * 100),
    ],
)
def test_what_cannot_be_said_of_a_person_is_refused(check: Any, bad: Any, good: Any) -> None:
    assert check(good) is not None
    with pytest.raises(Invalid):
        check(bad)


@pytest.mark.parametrize(
    "bad",
    [
        {"blur": ["Weather"]},
        {"theme": "sepia"},
        {"language": "<b>"},
        {"size": 3},
        {"masked": "perhaps"},
        {"blur": ["PII"] * 10},
    ],
)
def test_a_preference_that_the_console_does_not_have_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Preferences.model_validate(bad)


def test_text_is_masked_until_somebody_wants_it_otherwise() -> None:
    assert Preferences().masked


def test_a_pseudonym_is_drawn_and_not_made_from_the_name() -> None:
    drawn = {pseudonym.drawn(Random(seed)) for seed in range(2000)}
    assert len(drawn) > 1980
    assert all(each.isascii() and each.count("-") == 2 and len(each) <= 24 for each in drawn)
