"""One session as its client keeps it: the transcript, which nobody else has, and what was heard.

Pure. What is sent again is told from what is new by counting code points, which an empty text does
not move: the end of a turn often is one. Invariants, each held by
`tests/property/test_stream_client.py`:
- While nothing but empty texts is sent, all of them are sent again with what follows: an append at
  offset 0 begins anew.
- Where it is not known whether the guard has taken an append without code points, it is sent with
  the whole transcript: at the same offset its scores would be taken for answered.
- The score of an empty prompt lies behind no code point, so that a guard gives it with each replay:
  it is heard once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qwarden.guard.stream import Append, Appended, Part, Scored, Segment, Status
from qwarden.inference.trials import BYTES_A_TOKEN


@dataclass(frozen=True, slots=True)
class Heard:
    """What an append brought: `scored` behind all that was heard of the session before.

    `closed`: the context is full, and no more of the session is judged token by token. `revision`:
    of the guard that answered last, empty where none has.
    """

    scored: tuple[Scored, ...]
    closed: bool
    revision: str


@dataclass(slots=True)
class _Text:
    """A text in the pieces in which it came."""

    role: str
    segment: Segment
    history: bool
    pieces: list[str]
    end: bool


class Session:
    """`sent`: code points of the transcript. `known`: up to where its scores are; behind it the
    guard has given none. `in_doubt`: what the guard has taken beyond them is not known."""

    __slots__ = ("_bytes", "_empty", "_texts", "busy", "closed", "in_doubt", "known", "revision",
                 "sent", "session", "tenant")  # fmt: skip

    def __init__(self, tenant: str, session: str) -> None:
        self.tenant = tenant
        self.session = session
        self.sent = 0
        self.known = 0
        self.closed = False
        self.revision = ""
        self.busy = False
        self.in_doubt = False
        self._empty = 0
        """Prompts without code points whose scores are heard."""
        self._bytes = 0
        self._texts: list[_Text] = []

    @property
    def parts(self) -> tuple[Part, ...]:
        """The transcript, each text of it in one part."""
        return tuple(
            Part(text.role, "".join(text.pieces), text.segment, text.end, text.history)
            for text in self._texts
        )

    @property
    def tokens(self) -> int:
        """Of the transcript, about: they are the guard's to count, and depend on the language."""
        return math.ceil(self._bytes / BYTES_A_TOKEN)

    def next(self, parts: Sequence[Part]) -> Append:
        """What the guard is sent that knows all before."""
        if not self.sent:
            return self.anew(parts)
        return Append(self.tenant, self.session, self.sent, tuple(parts), self.known)

    def anew(self, parts: Sequence[Part]) -> Append:
        """What a guard is sent that knows nothing of the session."""
        return Append(self.tenant, self.session, 0, (*self.parts, *parts), self.known)

    def heard(self, parts: Sequence[Part], append: Append, answer: Appended) -> Heard:
        """The guard has taken these parts, with this append."""
        scored = answer.scored
        empty = sum(each.end == 0 for each in scored)
        if append.offset == 0:
            first = min(empty, self._empty)  # they stand before all that has code points
            scored, empty = scored[first:], empty - first
        self._empty += empty
        for part in parts:
            self._add(part)
        if scored:
            self.known = self.sent - answer.held
        self.closed = answer.status is Status.CLOSED
        self.revision = answer.revision
        self.in_doubt = False
        return Heard(scored, self.closed, self.revision)

    def _add(self, part: Part) -> None:
        self.sent += len(part.text)
        self._bytes += len(part.text.encode())
        kind = part.role, part.segment, part.history
        last = self._texts[-1] if self._texts else None
        if last is None or last.end or (last.role, last.segment, last.history) != kind:
            self._texts.append(_Text(*kind, [part.text], part.end))
        else:
            last.pieces.append(part.text)
            last.end = part.end
