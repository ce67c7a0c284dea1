"""Who works here, and what each may see and do. Pure."""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass

from qwarden.guard.language import canonical, is_known

EVERY = "*"
"""Stands for all tenants, or all languages."""

UNDETERMINED = "und"
"""The language where nobody can tell: everybody is asked."""


def primary(tag: str | None) -> str:
    """The primary subtag of a language, such as `pt` for `pt-BR`; `und` for what names none."""
    written = None if tag is None else canonical(tag)
    if written is None or not is_known(written):
        return UNDETERMINED
    return written.partition("-")[0]


class Role(enum.StrEnum):
    """What a person may do; one may have several."""

    REVIEWER = "reviewer"
    """Claims and decides."""
    LEAD = "lead"
    """That, and: decides in bulk and on disagreements, moves items, sees how all of it goes."""
    AUDITOR = "auditor"
    """Reads everything and the log, and decides nothing."""
    ADMIN = "admin"
    """Says who may do what, and erases content."""


@dataclass(frozen=True, slots=True)
class Person:
    """A person, or a tool with a token. `tenants` and `languages` may hold `EVERY`; languages are
    primary subtags, such as `pt`."""

    user_id: str
    name: str
    pseudonym: str
    roles: frozenset[Role]
    tenants: frozenset[str]
    languages: frozenset[str]
    is_tool: bool = False

    def has(self, *roles: Role) -> bool:
        """Whether this one has any of these roles."""
        return not self.roles.isdisjoint(roles)

    @property
    def decides(self) -> bool:
        return self.has(Role.REVIEWER, Role.LEAD)

    def sees(self, tenant: str) -> bool:
        """Whether what belongs to a tenant is any of this one's business."""
        return EVERY in self.tenants or tenant in self.tenants

    def covers(self, tenants: Collection[str]) -> bool:
        """Whether all of these tenants, which may be `EVERY`, are this one's own to give."""
        return EVERY in self.tenants or self.tenants.issuperset(tenants)

    def reads(self, language: str) -> bool:
        """Whether content of a language, a primary subtag, can be given to this one."""
        return language == UNDETERMINED or EVERY in self.languages or language in self.languages
