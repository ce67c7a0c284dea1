"""A stream guard without a model: sessions as the engine keeps them, scores from a function.

For tests and benchmarks. It forgets, fills up and fails when it is told to.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from qwarden.guard.answer import Categories, Triple
from qwarden.guard.conversation import Task
from qwarden.guard.stream import Append, Appended, Part, Scored, Segment, Status

Score = Callable[[Task, str, str], tuple[Triple, Categories]]
"""What is said at a token: of its task, that task's text up to the token's end, and all that came
before that text."""

Hook = Callable[[Sequence[Append]], Awaitable[None]]

_TOKEN = re.compile(r"\s*\S{1,16}")
_BEYOND_BMP = 0xFFFF
"""A character above it makes two tokens of a word: real ones split such characters too."""
_WORDS: dict[str, tuple[Triple, Categories]] = {
    "unsafe": ((-2.0, 0.0, 3.0), (("Violent", 0.9), ("PII", 0.1))),
    "controversial": ((-1.0, 2.0, 0.0), (("Unethical Acts", 0.8), ("PII", 0.2))),
}
_SAFE: tuple[Triple, Categories] = ((4.0, -1.0, -2.0), ())
"""Made-up logits, so far apart that no rule takes one word for another."""


def score_of_words(task: Task, text: str, before: str) -> tuple[Triple, Categories]:
    """A text is what its last word says: `unsafe`, `controversial`, else Safe."""
    word = text.split()[-1:] or [""]
    return _WORDS.get(word[0], _SAFE)


async def _nothing(appends: Sequence[Append]) -> None:
    return None


class MemoryStream:
    """A word is a token, with the white space before it; a longer one is cut every 16 code points;
    one with a character that UTF-16 writes in two units counts as two tokens. A word waits until
    something follows it, or the end.

    `context`: tokens of a session. `room`: sessions at once; a new one is `full` then, until one is
    forgotten. `before` and `after` are awaited around each request: what they raise is raised,
    before the appends are taken or when their answers are lost.
    """

    def __init__(
        self,
        score: Score = score_of_words,
        *,
        context: int = 8192,
        room: int | None = None,
        revision: str = "memory@0",
    ) -> None:
        self.room = room
        self.before: Hook = _nothing
        self.after: Hook = _nothing
        self._score = score
        self._context = context
        self._revision = revision
        self._kept: dict[tuple[str, str], _Kept] = {}

    async def revision(self) -> str:
        return self._revision

    async def append(
        self, appends: Sequence[Append], *, timeout_s: float | None = None
    ) -> list[Appended]:
        await self.before(appends)
        answers = [self._answer(append) for append in appends]
        await self.after(appends)
        return answers

    async def close(self) -> None:
        self.forget()

    @property
    def sessions(self) -> frozenset[tuple[str, str]]:
        """Tenant and name of all that is kept."""
        return frozenset(self._kept)

    def forget(self, *sessions: tuple[str, str]) -> None:
        """Drops these sessions, or all."""
        for session in sessions or tuple(self._kept):
            self._kept.pop(session, None)

    def start_anew(self, revision: str) -> None:
        """As a server does that comes back with another model."""
        self.forget()
        self._revision = revision

    def _answer(self, append: Append) -> Appended:
        try:
            append = Append.from_json(append.to_json())
        except ValueError as error:
            return Appended(self._revision, Status.REFUSED, str(error))
        session = append.tenant, append.session
        kept = self._kept.get(session)
        if append.offset and (kept is None or kept.sent != append.offset):
            return Appended(self._revision, Status.REPLAY, f"not known up to {append.offset}")
        if kept is None and self.room is not None and len(self._kept) >= self.room:
            return Appended(self._revision, Status.FULL, f"{self.room} sessions are kept")
        if kept is None or not append.offset:
            kept = self._kept[session] = _Kept()
        try:
            scored = self._take(kept, append)
        except ValueError as error:
            del self._kept[session]
            return Appended(self._revision, Status.REFUSED, str(error))
        if kept.closed or (kept.ended and kept.task is Task.RESPONSE):
            del self._kept[session]  # nothing can follow
        held = 0 if kept.ended else len(kept.text) - kept.stable
        if kept.closed:
            reason = f"the context of {self._context} tokens is full"
            return Appended(self._revision, Status.CLOSED, reason, scored, held)
        return Appended(self._revision, Status.DONE, "", scored, held)

    def _take(self, kept: _Kept, append: Append) -> tuple[Scored, ...]:
        scored = []
        for part in append.parts:
            if not part.text and (not part.end or (kept.ended and _kind(part) == kept.kind)):
                continue  # it says nothing, or the end of a turn once more, as a late copy does
            if kept.ended or _kind(part) != kept.kind:
                scored += self._end(kept)
                kept.begin(part)
            kept.text += part.text
            kept.sent += len(part.text)
            scored += self._scored(kept, final=False)
            if part.end:
                scored += self._end(kept)
        # Of a prompt without code points nobody can tell whether it is known.
        return tuple(each for at, each in scored if at > append.since or not each.end)

    def _end(self, kept: _Kept) -> list[tuple[int, Scored]]:
        if kept.ended:
            return []
        scored = self._scored(kept, final=True)
        if kept.task is Task.PROMPT and not kept.closed:
            scored.append(self._at(kept, Task.PROMPT, 0, len(kept.text)))
        kept.ended = True
        return scored

    def _scored(self, kept: _Kept, *, final: bool) -> list[tuple[int, Scored]]:
        """What is stable now, each with where it ends in the transcript."""
        scored = []
        while not kept.closed and kept.stable < len(kept.text):
            match = _TOKEN.match(kept.text, kept.stable)
            end = match.end() if match else len(kept.text)
            if end == len(kept.text) and not final:
                break
            start, kept.stable = kept.stable, end
            for _ in range(1 + any(ord(each) > _BEYOND_BMP for each in kept.text[start:end])):
                kept.tokens += 1
                if kept.tokens > self._context:
                    kept.closed, kept.stable = True, start
                    break
                if kept.task is not None and kept.task is not Task.PROMPT:
                    scored.append(self._at(kept, kept.task, start, end))
        return scored

    def _at(self, kept: _Kept, task: Task, start: int, end: int) -> tuple[int, Scored]:
        logits, categories = self._score(task, kept.text[:end], kept.before)
        at = kept.sent - len(kept.text) + end
        return at, Scored(task, start, end, logits, categories)


@dataclass(slots=True)
class _Kept:
    """`sent`: code points of the transcript. `before`: what came before the current `text`, of
    which `stable` code points are tokens."""

    sent: int = 0
    tokens: int = 0
    closed: bool = False
    kind: tuple[str, Segment, bool] | None = None
    task: Task | None = None
    text: str = ""
    before: str = ""
    stable: int = 0
    ended: bool = True
    judged: set[Task] = field(default_factory=set)

    def begin(self, part: Part) -> None:
        """A new text begins. Raises `ValueError` where it has no place."""
        if part.role == "user" and part.segment is Segment.THINKING:
            raise ValueError("a user's turn has no thinking; send its text as an answer")
        if part.role == "assistant" and self.kind is None:
            raise ValueError("the assistant speaks first; begin with what the user said")
        earlier = self.kind is not None and self.kind[0] == "assistant" and self.task is None
        if part.role == "assistant" and not part.history and earlier:
            raise ValueError("a judged answer follows the history's; send a user's turn before it")
        if part.role == "user" and self.judged & {Task.RESPONSE, Task.THINKING}:
            raise ValueError("a user turn follows a judged answer; begin a new session")
        if part.task in self.judged and part.task is not Task.PROMPT:
            raise ValueError("the assistant's turn has ended; begin a new session")
        if part.task is Task.THINKING and Task.RESPONSE in self.judged:
            raise ValueError("thinking follows the answer; send it before")
        if part.history and self.judged:
            raise ValueError("history follows judged text; send it first")
        self.before += self.text + f"\0{part.role} {part.segment}\0"
        self.kind, self.task, self.text = _kind(part), part.task, ""
        self.stable, self.ended = 0, False
        if self.task is not None:
            self.judged.add(self.task)


def _kind(part: Part) -> tuple[str, Segment, bool]:
    return part.role, part.segment, part.history
