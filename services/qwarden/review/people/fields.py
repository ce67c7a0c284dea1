"""What may be said of a person: names, roles, tenants, languages, preferences. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from qwarden.guard.taxonomy import CATEGORIES
from qwarden.review.person import EVERY, Role
from qwarden.review.refusals import Invalid

MOST_NAME = 100
MOST_TENANT = 256
"""Characters, as in an event."""
ROLES = frozenset[str](Role)
_LANGUAGE = re.compile(r"[a-z]{2,8}")


def is_language(text: str) -> bool:
    """Whether this can be a language's primary subtag, or stands for all of them."""
    return text == EVERY or _LANGUAGE.fullmatch(text) is not None


def name_of(text: str) -> str:
    """A person's or a tool's name, without space around it. Raises Invalid."""
    name = text.strip()
    if not name or len(name) > MOST_NAME or not name.isprintable():
        raise Invalid(f"a name has 1 to {MOST_NAME} characters that can be shown, on one line")
    return name


def roles_of(words: Iterable[str]) -> frozenset[Role]:
    """Raises Invalid for a role that there is not, and for none at all."""
    said = list(words)
    if not said or any(word not in ROLES for word in said):
        raise Invalid(
            f"roles are {', '.join(Role)}, at least one; to take all away, remove the one"
        )
    return frozenset(Role(word) for word in said)


def tenants_of(words: Iterable[str]) -> frozenset[str]:
    """Raises Invalid for what cannot be a tenant's name."""
    said = frozenset(words)
    if any(not 1 <= len(word) <= MOST_TENANT for word in said):
        raise Invalid(f"a tenant's name has 1 to {MOST_TENANT} characters; {EVERY} is all of them")
    return said


def languages_of(words: Iterable[str]) -> frozenset[str]:
    """Raises Invalid for what is no primary subtag."""
    said = frozenset(words)
    if any(not is_language(word) for word in said):
        raise Invalid(
            f"a language is a primary subtag in lower case, such as pt for pt-BR; {EVERY} is all"
        )
    return said


def _known(category: str) -> str:
    if category not in CATEGORIES:
        raise ValueError(f"the categories are {', '.join(CATEGORIES)}")
    return category


class Preferences(BaseModel):
    """How one wants the console."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    masked: bool = True
    """Whether text is hidden until it is asked for."""
    blur: Annotated[
        list[Annotated[str, AfterValidator(_known)]], Field(max_length=len(CATEGORIES))
    ] = []
    """Categories whose text stays blurred when it is shown."""
    theme: Literal["system", "light", "dark"] = "system"
    language: Annotated[str, Field(pattern=r"^[a-z]{2,8}(-[A-Za-z0-9]{1,8})*$")] | None = None
    """Of the console's own words; null: the browser's."""
