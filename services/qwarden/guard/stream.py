"""What the stream guard is asked and what it answers, and their wire forms.

A session is one exchange, sent in pieces. The guard keeps keys, values and token boundaries of it
and may drop them at any time: then it says `replay`, and is sent the whole transcript again.
Source of the meaning of the scores: Qwen3Guard technical report (arXiv 2510.14276), section 4.
"""

from __future__ import annotations

import enum

import msgspec

from qwarden.guard.answer import Categories, Safety, Triple, safety_of, scores_of
from qwarden.guard.conversation import Task


class Segment(enum.StrEnum):
    """What of an assistant's turn a text is; a user's turn has only an `answer`."""

    ANSWER = "answer"
    THINKING = "thinking"


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """Text of one turn. `end`: the turn ends behind it. `history`: of an earlier exchange, which is
    read and not judged. Parts of one turn and segment that follow each other are one text."""

    role: str
    text: str
    segment: Segment = Segment.ANSWER
    end: bool = False
    history: bool = False

    @property
    def task(self) -> Task | None:
        """As what its text is judged; None for history."""
        return None if self.history else task_of(self.role, self.segment)


def task_of(role: str, segment: Segment) -> Task:
    """As what a text is judged."""
    if role == "user":
        return Task.PROMPT
    return Task.THINKING if segment is Segment.THINKING else Task.RESPONSE


class Append(msgspec.Struct, frozen=True, omit_defaults=True):
    """More of a session.

    `offset`: code points of the transcript that were sent before, over all its parts; 0 begins the
    session anew. `since`: code points of the transcript whose scores are known already and are not
    answered again.
    """

    tenant: str
    session: str
    offset: int
    parts: tuple[Part, ...]
    since: int = 0

    def to_json(self) -> bytes:
        return _encoder.encode(self)

    @classmethod
    def from_json(cls, data: bytes) -> Append:
        """Reads what `to_json` wrote; raises `ValueError` with a sentence for anything else, also
        for a text that is not Unicode and a role that the guard does not know."""
        append = _append_decoder.decode(data)
        if append.offset < 0 or append.since < 0:
            raise ValueError("offset and since are counts of code points, from 0")
        for part in append.parts:
            if part.role not in ("user", "assistant"):
                raise ValueError(f"the guard has no role {part.role!r}; send user and assistant")
        return append


class Scored(msgspec.Struct, frozen=True, array_like=True):
    """What the guard says at one token.

    `start`, `end`: the code points of its task's text that the token covers; a character of several
    tokens has several with the same. `logits`: of Safe, Controversial, Unsafe. `categories`:
    (name, probability), best first; empty where the likeliest safety is Safe, since the category
    head has not learnt anything there (report, section 4.2).
    """

    task: Task
    start: int
    end: int
    logits: Triple
    categories: Categories = ()

    @property
    def safety(self) -> Safety:
        return safety_of(self.logits)

    @property
    def scores(self) -> Triple:
        return scores_of(self.logits)


class Status(enum.StrEnum):
    """What became of an append."""

    DONE = "done"
    REPLAY = "replay"
    """The session is not known here, or not up to this offset: send its transcript from 0."""
    FULL = "full"
    """Memory is at its high-water mark: send the same again later."""
    CLOSED = "closed"
    """The context is full; nothing behind `held` can be judged token by token."""
    REFUSED = "refused"
    """This append is wrong and always will be."""


class Appended(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the guard answers to one append.

    `scored`: a judged user turn that ended here has one, of its whole text (the head is only
    trained at the turn's end); answers and thoughts have one a token, in order, behind `since`.
    `held`: code points at the end of the current text that wait until their tokens are stable.
    """

    revision: str
    status: Status = Status.DONE
    reason: str = ""
    scored: tuple[Scored, ...] = ()
    held: int = 0

    def to_json(self) -> bytes:
        return _encoder.encode(self)

    @classmethod
    def from_json(cls, data: bytes) -> Appended:
        """Reads what `to_json` wrote; raises `ValueError` for anything else."""
        return _appended_decoder.decode(data)


_encoder = msgspec.json.Encoder()
_append_decoder = msgspec.json.Decoder(Append)
_appended_decoder = msgspec.json.Decoder(Appended)
