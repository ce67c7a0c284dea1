"""A record that the contract refuses: poison, never an outage."""

from __future__ import annotations

import enum
from collections.abc import Iterable


class ErrorClass(enum.StrEnum):
    """Why a record became a dead letter. Bounded: it is a metric's label."""

    TOO_LARGE = "too_large"
    NOT_JSON = "not_json"
    NOT_AN_EVENT = "not_an_event"
    NOT_A_CHUNK = "not_a_chunk"
    UNKNOWN_TENANT = "unknown_tenant"
    UNKNOWN_POLICY = "unknown_policy"
    CONVERSATION = "conversation"
    GUARD_REFUSED = "guard_refused"
    CRASHED = "crashed"
    UNPUBLISHABLE = "unpublishable"


MAX_REASON_CHARACTERS = 1000
"""A reason quotes what was sent; a quoted role can be as long as the record."""

_NAMES_LISTED = 20
"""More than that nobody looks through for a slip of the pen."""


class Refused(Exception):
    """The record can never succeed. `reason` is a sentence that names the fix.

    `event_id` and `tenant` are what could be read of it before it was refused. `attempts`: how
    often it was tried.
    """

    def __init__(
        self,
        error_class: ErrorClass,
        reason: str,
        *,
        event_id: str = "",
        tenant: str = "",
        attempts: int = 1,
    ) -> None:
        reason = _shortened(reason)
        super().__init__(reason)
        self.error_class = error_class
        self.reason = reason
        self.event_id = event_id
        self.tenant = tenant
        self.attempts = attempts


def listed(names: Iterable[str]) -> str:
    """The names for a reason: in order, and only the first of very many."""
    ordered = sorted(names)
    more = len(ordered) - _NAMES_LISTED
    shown = ", ".join(ordered[:_NAMES_LISTED]) or "none"
    return f"{shown} and {more} more" if more > 0 else shown


def _shortened(reason: str) -> str:
    """Cut in the middle: the fix stands at the end."""
    if len(reason) <= MAX_REASON_CHARACTERS:
        return reason
    half = MAX_REASON_CHARACTERS // 2 - 2
    return f"{reason[:half]} … {reason[-half:]}"
