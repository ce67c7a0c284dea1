"""One session's text, turn by turn, and what of it the guard is sent. Pure.

Invariants, each held by `tests/property/test_transcript.py`:
- What is sent does not depend on where chunks are cut: the same turns give the same text of each
  task, the same conversations and the same value.
- What the guard has no place for is refused before it is sent, with a sentence that names the fix.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

import msgspec

from qwarden.contracts.chunk import Chunk
from qwarden.contracts.event import Message
from qwarden.guard.conversation import Conversation, Task, Turn
from qwarden.guard.stream import Part, Segment, task_of

_LEFT_OUT = frozenset({"system", "tool"})


@dataclass(slots=True)
class _Turn:
    """Chunks of one role, segment and side of history that follow each other."""

    role: str
    segment: Segment
    history: bool
    texts: list[str] = field(default_factory=list)
    ended: bool = False
    dropped: str = ""
    """As what the guard does not see it; empty where it does."""

    @property
    def kind(self) -> tuple[str, Segment, bool]:
        return self.role, self.segment, self.history

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def task(self) -> Task | None:
        return None if self.history or self.dropped else task_of(self.role, self.segment)


@dataclass(slots=True)
class _Text:
    """A task's text as its chunks gave it: `starts` in code points, `seqs` of the same chunks."""

    starts: list[int] = field(default_factory=list)
    seqs: list[int] = field(default_factory=list)
    length: int = 0


class Transcript:
    """What a session has said so far; `write` takes its chunks in the order of their `seq`."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._turns: list[_Turn] = []
        self._texts: dict[Task, _Text] = {}
        self._running: _Turn | None = None
        """The turn that the guard was sent last, while it has not ended."""
        self._aside: _Turn | None = None
        """The same of turns that it does not see."""
        self._seen: _Turn | None = None
        """The last turn that it sees."""
        self._judged: dict[Task, _Turn] = {}
        """The turn of each task, in their order."""
        self._has_user = False
        self.bytes = 0
        """Of its texts as JSON, as evidence holds them."""
        self.is_prompt_over = False
        """Whether a user's turn that is judged has ended."""

    def write(self, chunk: Chunk) -> tuple[Part, ...]:
        """Takes one chunk: what the guard is sent for it. Raises `ValueError` with a sentence."""
        role = "system" if chunk.role == "developer" else chunk.role
        segment = Segment(chunk.segment)
        size = len(msgspec.json.encode(chunk.text))
        if self.bytes + size > self._most_bytes:
            raise ValueError(
                f"with this chunk the session has {self.bytes + size:,} bytes of text and the "
                f"limit is {self._most_bytes:,}; end sessions sooner, or raise "
                "streamer.max_event_bytes and the topics' max.message.bytes"
            )
        dropped = self._dropped_as(role, segment, chunk.history)
        if dropped is not None:
            self._set_aside(dropped, role, segment, chunk)
            self.bytes += size
            return ()
        parts: list[Part] = []
        turn = self._running
        if turn is None or turn.kind != (role, segment, chunk.history):
            self._check(role, segment, chunk.history)
            if turn is not None and not _goes_on(turn, role, segment, chunk):
                parts += self._end(turn)
            turn = self._running = _Turn(role, segment, chunk.history)
            self._begin(turn)
        self._aside = None
        self.bytes += size
        turn.texts.append(chunk.text)
        task = turn.task
        if task is not None and chunk.text:
            text = self._texts.setdefault(task, _Text())
            text.starts.append(text.length)
            text.seqs.append(chunk.seq)
            text.length += len(chunk.text)
        ends = chunk.end is not None
        if chunk.text or ends:
            parts.append(Part(role, chunk.text, segment, ends, chunk.history))
        if ends:
            self._ended(turn)
        return tuple(parts)

    def finish(self) -> tuple[Part, ...]:
        """The session is over: what the guard is sent so that it holds nothing back."""
        return () if self._running is None else self._end(self._running)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks that have text, in the order of verdicts: prompt, response, thinking."""
        return tuple(task for task in Task if task in self._texts)

    def has_ended(self, task: Task) -> bool:
        """Whether nothing more of a task's text may come: its turn has ended, or the answer is
        there behind the thought."""
        turn = self._judged.get(task)
        thought = task is Task.THINKING and Task.RESPONSE in self._judged
        return turn is not None and (turn.ended or thought)

    def length(self, task: Task) -> int:
        """Code points of a task's text."""
        text = self._texts.get(task)
        return text.length if text else 0

    def seq_at(self, task: Task, end: int) -> int:
        """Which chunk holds the last code point before `end` of a task's text."""
        text = self._texts[task]
        return text.seqs[max(0, bisect_right(text.starts, max(0, end - 1)) - 1)]

    def conversation(self, task: Task) -> Conversation:
        """What Gen would be asked about a task: the turns up to its own."""
        turns: list[Turn] = []
        for turn in self._turns:
            if turn.dropped or (turn.task is Task.THINKING and task is not Task.THINKING):
                continue
            turns.append(Turn(turn.role, turn.text))
            if turn.task is task:
                break
        return Conversation(task, tuple(turns))

    def dropped(self, task: Task) -> list[str]:
        """Roles of turns that the guard is not shown, in order, and `reasoning` for that of an
        earlier turn, which its template leaves out."""
        return [turn.dropped for turn in self._up_to(task) if turn.dropped]

    def messages(self, task: Task) -> list[Message]:
        """The session as people are shown it, what the guard does not see included."""
        messages: list[Message] = []
        thought: str | None = None
        for turn in self._up_to(task):
            if turn.segment is Segment.THINKING:
                thought = turn.text
                continue
            reasoning = thought if turn.role == "assistant" else None
            messages.append(Message(role=turn.role, content=turn.text, reasoning=reasoning))
            thought = None
        if thought is not None:
            messages.append(Message(role="assistant", content="", reasoning=thought))
        return messages

    def value(self, task: Task) -> list[list[object]]:
        """All that was said up to the end of a task's turn: what its verdict's id stands on. A
        prompt's does not change with the answer behind it."""
        return [
            [turn.role, turn.segment.value, turn.history, turn.text] for turn in self._up_to(task)
        ]

    def _up_to(self, task: Task) -> list[_Turn]:
        """All turns; for a prompt those up to its own, whatever has come since."""
        prompt = [at for at, turn in enumerate(self._turns) if turn.task is task is Task.PROMPT]
        return self._turns[: prompt[0] + 1] if prompt else self._turns

    def _dropped_as(self, role: str, segment: Segment, history: bool) -> str | None:
        """As what the guard does not see such a turn, or None where it sees it."""
        if role in _LEFT_OUT:
            return role
        if history and segment is Segment.THINKING:
            return "reasoning"
        if history and role == "assistant" and not self._has_user:
            return role
        return None

    def _begin(self, turn: _Turn) -> None:
        self._turns.append(turn)
        self._seen = turn
        self._has_user = self._has_user or turn.role == "user"
        if turn.task is not None:
            self._judged[turn.task] = turn

    def _check(self, role: str, segment: Segment, history: bool) -> None:
        tasks = self._judged.keys()
        if history and tasks:
            raise ValueError(
                "the chunk is history and comes behind text that is judged; send history first"
            )
        if history:
            return
        if role == "user":
            if tasks - {Task.PROMPT}:
                raise ValueError(
                    "a user's turn comes behind an answer that was judged; start a new session, "
                    "with the turns of this one as its history"
                )
            if tasks:
                raise ValueError(
                    "a second user's turn comes before any answer; send it in the first one, or "
                    "start a new session"
                )
            return
        if not self._has_user:
            raise ValueError(
                "an answer comes before any user's turn, which the guard cannot judge; send the "
                "question first"
            )
        seen = self._seen
        if seen is not None and seen.role == "assistant" and seen.history:
            raise ValueError(
                "an answer comes right behind an assistant's turn of history; send the question "
                "that it answers first, or mark the answer as history too"
            )
        # The end of a thought is not that of its turn: the answer is of the same.
        before = (Task.PROMPT,) if segment is Segment.THINKING else (Task.PROMPT, Task.THINKING)
        last = next(reversed(self._judged.values()), None)
        if last is not None and last.ended and last.task not in before:
            raise ValueError(
                "the assistant's turn has ended; start a new session, or end the turn only with "
                "the last chunk of the answer"
            )
        if segment is Segment.THINKING and Task.RESPONSE in tasks:
            raise ValueError("thinking comes behind the answer; send it before the answer")

    def _set_aside(self, dropped: str, role: str, segment: Segment, chunk: Chunk) -> None:
        """Keeps what the guard does not see, for people. It ends no turn: an answer may go on
        behind what a tool has said."""
        turn = self._aside
        if turn is None or turn.kind != (role, segment, chunk.history):
            turn = self._aside = _Turn(role, segment, chunk.history, dropped=dropped)
            self._turns.append(turn)
        turn.texts.append(chunk.text)
        if chunk.end is not None:
            self._aside = None

    def _end(self, turn: _Turn) -> tuple[Part, ...]:
        self._ended(turn)
        return (Part(turn.role, "", turn.segment, end=True, history=turn.history),)

    def _ended(self, turn: _Turn) -> None:
        turn.ended = True
        self._running = None
        if turn.task is Task.PROMPT:
            self.is_prompt_over = True


def _goes_on(turn: _Turn, role: str, segment: Segment, chunk: Chunk) -> bool:
    """Whether the next text is of the same turn: the answer behind its thoughts."""
    return (
        turn.role == role == "assistant"
        and turn.history == chunk.history
        and turn.segment is Segment.THINKING
        and segment is Segment.ANSWER
    )
