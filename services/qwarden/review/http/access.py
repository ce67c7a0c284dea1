"""Who may ask for what: routes take a person with one of some roles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends

from qwarden.review.http.auth import person_of
from qwarden.review.person import Person, Role
from qwarden.review.refusals import Forbidden

Someone = Annotated[Person, Depends(person_of)]


def _having(*roles: Role) -> Callable[[Someone], Person]:
    def having(person: Someone) -> Person:
        if not person.has(*roles):
            raise Forbidden(
                f"this is for people with the role {' or '.join(roles)}; an admin gives roles"
            )
        return person

    return having


Reviewer = Annotated[Person, Depends(_having(Role.REVIEWER, Role.LEAD))]
"""Who claims and decides."""
Reader = Annotated[Person, Depends(_having(Role.REVIEWER, Role.LEAD, Role.AUDITOR))]
"""Who may see items and content."""
Lead = Annotated[Person, Depends(_having(Role.LEAD))]
Overseer = Annotated[Person, Depends(_having(Role.LEAD, Role.AUDITOR))]
"""Who sees what others did."""
Auditor = Annotated[Person, Depends(_having(Role.AUDITOR, Role.ADMIN))]
Admin = Annotated[Person, Depends(_having(Role.ADMIN))]


def _answerable(person: Someone) -> Person:
    if not person.is_tool and not person.has(Role.LEAD, Role.AUDITOR, Role.ADMIN):
        raise Forbidden(
            "this is for leads, auditors, admins and tools; who reviews is not told what others say"
        )
    return person


Answerable = Annotated[Person, Depends(_answerable)]
"""Who answers for what was decided, to users and others."""
