"""A row: a conversation, the views in which it is judged, and its wire form."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from qwarden.guard.conversation import Conversation, Turn, refusal_of


class View(enum.StrEnum):
    """A way to read one text. Each is judged, and the worst is the verdict's."""

    AS_SENT = "as_sent"
    MARKERS_BROKEN = "markers_broken"
    """With a space in every text marker of the checkpoint's template; only where there is one."""
    NORMALISED = "normalised"
    """As a person reads it, without zero-width characters, look-alikes and the like (`normaliser`),
    and its markers broken; only where that is another text."""


_AS_SENT_ALONE = (View.AS_SENT,)


@dataclass(frozen=True, slots=True)
class Row:
    """What the guard is asked: `exact` wants it judged alone in one fixed shape."""

    conversation: Conversation
    views: tuple[View, ...] = _AS_SENT_ALONE
    exact: bool = False

    @classmethod
    def from_json(cls, data: bytes) -> Row:
        """Reads what `row_of` wrote; raises `ValueError` with a sentence for anything else, also
        for a conversation that the guard cannot judge."""
        try:
            body = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"a conversation is JSON, and this is not ({error})") from None
        conversation = Conversation.from_body(body)
        views = views_of(body.get("views", _AS_SENT_ALONE))
        exact = body.get("exact", False)
        if not isinstance(exact, bool):
            raise ValueError("exact is true or false")
        reason = refusal_of(conversation.task, conversation.turns)
        if reason:
            raise ValueError(reason)
        return cls(conversation, views, exact)


def views_of(named: Iterable[str]) -> tuple[View, ...]:
    """The views of these names, each once and in one order; raises `ValueError` with a sentence."""
    try:
        found = {View(name) for name in named}
    except (ValueError, TypeError) as error:
        raise ValueError(f"views is a list of {', '.join(View)}, and {error}") from None
    if View.AS_SENT not in found:
        raise ValueError(f"views must hold {View.AS_SENT}: what was sent is always judged")
    return tuple(view for view in View if view in found)


def rewritten(conversation: Conversation, rewrite: Callable[[str], str]) -> Conversation | None:
    """The conversation with the content of every turn rewritten; None where none changes."""
    turns = tuple(Turn(turn.role, rewrite(turn.content)) for turn in conversation.turns)
    return Conversation(conversation.task, turns) if turns != conversation.turns else None


def row_of(conversation: bytes, views: Sequence[View], *, exact: bool = False) -> bytes:
    """The wire form: `Conversation.to_json`, with `views` and `exact` behind it where they are
    not what a row without them means."""
    return conversation[:-1] + tail_of(views, exact=exact)


def tail_of(views: Sequence[View], *, exact: bool = False) -> bytes:
    """What stands in a row instead of the conversation's last brace."""
    more = ""
    if tuple(views) != _AS_SENT_ALONE:
        more = ',"views":["' + '","'.join(views) + '"]'
    if exact:
        more += ',"exact":true'
    return more.encode() + b"}"
