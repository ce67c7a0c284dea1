"""The signal: what the stream guard says of a session while it runs."""

from __future__ import annotations

import enum
from typing import Annotated, Literal

import msgspec

from qwarden.contracts.values import one_of
from qwarden.contracts.verdict import Action, Category, Guard, PolicyUsed
from qwarden.guard.answer import SAFETIES
from qwarden.guard.conversation import Task


class SignalKind(enum.StrEnum):
    """What a signal tells."""

    FLAG = "flag"
    """From this token on the text is not Safe; it stays so."""
    RISE = "rise"
    """What was Controversial is Unsafe from this token on."""
    CLOSED = "closed"
    """The guard's context is full: what follows is judged as a whole, at the end."""
    INCOMPLETE = "incomplete"
    """A chunk is missing or was refused: nothing of the session is judged any more."""


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    """A record of `moderation.signals`. It may come twice, with the same content."""

    schema_version: Literal[1] = 1
    tenant: str
    session: str
    task: Annotated[str, one_of(*Task)]
    """Which of the session's texts it is about: the user's, the answer or the thoughts."""
    kind: SignalKind
    seq: int
    """The chunk that holds the end of the token; where `incomplete`, the chunk that is missing."""
    token: int
    """The guard's token of that text, from 0; where `closed` or `incomplete`, how many were
    judged."""
    char: int
    """Where in that text the token begins, in code points from 0; where `closed` or `incomplete`,
    how many are judged."""
    safety: Annotated[str, one_of(*SAFETIES)] | None
    """Null where `closed` or `incomplete`."""
    category: Category | None
    """The likeliest at that token; null where it has none."""
    cause: str | None
    """Why nothing more is judged: `too_long` where `closed`; `incomplete`, or `no_answer` where the
    guard failed. Null for flags."""
    action: Action | None
    """What the policy does about content of this safety and category: a platform that shows text
    while it comes may act at once. Null where `closed` or `incomplete`."""
    guard: Guard | None
    """Null where no guard was asked."""
    policy: PolicyUsed | None
    """The rule that gave the action; null where there is none."""
