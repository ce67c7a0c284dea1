"""What an issuer of OpenID Connect says of somebody, in our words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwarden.review.people.fields import MOST_NAME, MOST_TENANT, ROLES, is_language
from qwarden.review.person import Role
from qwarden.settings import Oidc


@dataclass(frozen=True, slots=True)
class Said:
    """`subject`: the issuer's own id of this one. `tenants`, `languages`: None where the issuer is
    not asked. `at`: when it said so, in seconds since 1970. `is_tool`: a program that speaks for
    itself."""

    subject: str
    name: str
    roles: frozenset[Role]
    tenants: frozenset[str] | None
    languages: frozenset[str] | None
    at: float
    is_tool: bool = False


def said_in(claims: Mapping[str, Any], oidc: Oidc) -> Said:
    """What verified claims with `sub` and `iat` say. Words that are no role, tenant or language
    here are another application's and are passed over."""
    subject = str(claims["sub"])
    words = _words(claims, oidc.roles_claim)
    roles = [oidc.roles.get(word, "") for word in words] if oidc.roles else words
    tenants = None if oidc.tenants_claim is None else _words(claims, oidc.tenants_claim)
    languages = None if oidc.languages_claim is None else _words(claims, oidc.languages_claim)
    return Said(
        subject=subject,
        name=_name(claims) or subject[:MOST_NAME],
        roles=frozenset(Role(role) for role in roles if role in ROLES),
        tenants=None
        if tenants is None
        else frozenset(each for each in tenants if len(each) <= MOST_TENANT),
        languages=None
        if languages is None
        else frozenset(tag for each in languages if is_language(tag := _primary(each))),
        at=float(claims["iat"]),
        # RFC 9068: a client's own token has the client as its subject.
        is_tool=claims.get("client_id") == subject,
    )


def lacks(claims: Mapping[str, Any], oidc: Oidc) -> bool:
    """Whether a claim that is to be read is not there at all."""
    named = (oidc.roles_claim, oidc.tenants_claim, oidc.languages_claim)
    return any(name is not None and _found(claims, name) is None for name in named)


def _name(claims: Mapping[str, Any]) -> str:
    for key in ("preferred_username", "name", "email"):
        value = claims.get(key)
        if isinstance(value, str) and value.strip():
            return value.strip()[:MOST_NAME]
    return ""


def _words(claims: Mapping[str, Any], name: str) -> list[str]:
    """A list of words, or one text of words with spaces between, as `scope` is."""
    value = _found(claims, name)
    if isinstance(value, str):
        return value.split()
    if isinstance(value, list):
        return [each for each in value if isinstance(each, str) and each]
    return []


def _found(claims: Mapping[str, Any], name: str) -> Any:
    """The claim of that name, which may have dots in it; else the one that the dots lead to, as in
    `realm_access.roles`."""
    if name in claims:
        return claims[name]
    value: Any = claims
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _primary(tag: str) -> str:
    return tag.replace("_", "-").partition("-")[0].lower()
