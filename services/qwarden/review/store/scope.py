"""Which items are a person's business, and which can be theirs: conditions of queries."""

from __future__ import annotations

from sqlalchemy import ColumnElement, and_, exists, false, not_, or_, text, true

from qwarden.review.person import EVERY, UNDETERMINED, Person, Role
from qwarden.review.store.schema import exclusions, items, rulings

is_open = items.c.state == text("'open'")
"""In the words of the partial indexes: with a parameter in it no plan could use them."""

SKIPPED = "skipped"
"""Why somebody is not given an item again, and may take it all the same."""


def of_tenants(person: Person, tenant: ColumnElement[str]) -> ColumnElement[bool]:
    """That it is one of this person's."""
    return true() if EVERY in person.tenants else tenant.in_(sorted(person.tenants))


def of_languages(person: Person, language: ColumnElement[str]) -> ColumnElement[bool]:
    """That it is one of this person's, or that nobody can tell which it is."""
    if EVERY in person.languages:
        return true()
    return language.in_(sorted({*person.languages, UNDETERMINED}))


def seen_by(person: Person) -> ColumnElement[bool]:
    """Of this one's tenants, and not for leads alone where this is none."""
    own = of_tenants(person, items.c.tenant)
    if person.has(Role.LEAD, Role.AUDITOR, Role.ADMIN):
        return own
    return and_(own, items.c.role == text("'reviewer'"))


def listed_to(person: Person) -> ColumnElement[bool]:
    """What stands in this one's lists: what they see, and of golden items their own alone, so that
    nobody sees one come and go which nobody else can open."""
    own = exists().where(rulings.c.item_id == items.c.item_id, rulings.c.user_id == person.user_id)
    is_own = or_(items.c.kind != text("'golden'"), items.c.holder == person.user_id, own)
    return and_(seen_by(person), is_own)


def kept_from(person: Person, item_id: ColumnElement[str] | str) -> ColumnElement[bool]:
    """That this one had a part in what it is about, and may not look at it; an auditor may look at
    all."""
    if person.has(Role.AUDITOR):
        return false()
    return exists().where(
        exclusions.c.item_id == item_id,
        exclusions.c.user_id == person.user_id,
        exclusions.c.why != SKIPPED,
    )


def given_to(person: Person) -> ColumnElement[bool]:
    """What this one is given without asking for that very item."""
    conditions = [
        items.c.kind != text("'golden'"),
        of_tenants(person, items.c.tenant),
        of_languages(person, items.c.language),
    ]
    if not person.has(Role.LEAD):
        conditions.append(items.c.role == text("'reviewer'"))
    excluded = exists().where(
        exclusions.c.item_id == items.c.item_id, exclusions.c.user_id == person.user_id
    )
    return and_(*conditions, not_(excluded))
