"""What was sent as what was said."""

from __future__ import annotations

from qwarden.review.http.bodies import Says
from qwarden.review.ruling import Said


def said_of(body: Says) -> Said:
    """Unchecked."""
    return Said(
        action=body.action,
        categories=tuple(body.categories),
        reason=body.reason,
        ground=body.ground,
        clause=body.clause,
        override=body.override,
    )
