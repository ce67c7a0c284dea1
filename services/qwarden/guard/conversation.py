"""A conversation as the guard judges it, and its wire form."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

import msgspec


class Task(enum.StrEnum):
    """Which kind of turn is judged (Qwen3Guard technical report, section 3)."""

    PROMPT = "prompt"
    RESPONSE = "response"
    THINKING = "thinking"
    """What a model thought before its answer: an assistant turn whose content is the thought."""


_encoder = msgspec.json.Encoder()


class Turn(msgspec.Struct, frozen=True):
    """One turn: `role` is `user` or `assistant`, `content` is the text as sent."""

    role: str
    content: str


class Conversation(msgspec.Struct, frozen=True, rename={"turns": "messages"}):
    """Turns in order; the last one is judged.

    The order must be one that the checkpoint's template renders without silently dropping a
    turn: it starts with a user turn. `refusal_of` says what else would not be rendered.
    """

    task: Task
    turns: tuple[Turn, ...]

    def to_json(self) -> bytes:
        """The form in which a conversation travels to Triton: compact UTF-8 JSON.

        Two conversations are equal exactly when their bytes are, so the cache keys on them.
        Lone surrogates, which UTF-8 cannot carry, raise `UnicodeEncodeError`.
        """
        return _encoder.encode(self)

    @classmethod
    def from_body(cls, body: Any) -> Conversation:
        """Reads what `to_json` wrote, parsed; raises `ValueError` with a sentence for anything
        else."""
        try:
            task = Task(body["task"])
            turns = tuple(Turn(str(m["role"]), m["content"]) for m in body["messages"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f'a conversation is {{"task": one of {", ".join(Task)}, "messages": '
                f'[{{"role", "content"}}]}}, and this is not one ({error})'
            ) from None
        return cls(task, turns)


def refusal_of(task: Task, turns: Sequence[Turn]) -> str | None:
    """Why the guard cannot judge these turns, as a sentence, or None where it can.

    Guards against what the official template does silently: a leading assistant turn, and
    turns of roles other than user and assistant, vanish from its text (its jinja source, 2025-10).
    """
    if not turns:
        return "a conversation without turns cannot be judged; send at least one user turn"
    for turn in turns:
        if turn.role not in ("user", "assistant"):
            return f"the guard has no role {turn.role!r}; send user and assistant turns"
        if not isinstance(turn.content, str):
            return "the content of a turn must be a string"
        if not is_unicode(turn.content):
            return "the content holds half of a surrogate pair, which is not Unicode; repair it"
    if turns[0].role != "user":
        return "the first turn must be a user turn, else the template would drop it"
    last = turns[-1]
    if last.role != ("user" if task is Task.PROMPT else "assistant"):
        return f"task {task.value} judges a last turn of another role than {last.role!r}"
    if not last.content:
        return "the last turn is empty; there is nothing to judge"
    return None


def is_unicode(text: str) -> bool:
    """Whether `text` can be written as UTF-8, that is: holds no lone surrogate."""
    if text.isascii():  # which Python knows of every text, without a look
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
