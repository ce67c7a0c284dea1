"""From an event's messages to the conversation that the guard judges.

The official template drops some turns without a word (its jinja source, 2025-10); here what is left
out is named, and what would change the meaning is refused.
"""

from __future__ import annotations

from qwarden.contracts.event import ROLES, Event, Message
from qwarden.contracts.refusal import ErrorClass, Refused
from qwarden.guard.conversation import Conversation, Task, Turn, refusal_of

_LEFT_OUT = frozenset({"system", "tool"})


def conversation_of(event: Event) -> tuple[Conversation, tuple[str, ...]]:
    """The conversation to judge, and the roles of the turns that were taken out, in order.

    `system` (also called `developer`) and `tool` turns are not content of users, and an assistant's
    greeting before the first user turn has no place in the template: they are taken out.
    Raises `Refused`.
    """
    turns, dropped = _turns(event)
    if not turns:
        raise _refused(event, "no turn of a user or an assistant is left to judge; send one")
    task = Task.PROMPT if turns[-1].role == "user" else Task.RESPONSE
    reason = refusal_of(task, turns)
    if reason:
        raise _refused(event, reason)
    return Conversation(task, tuple(turns)), tuple(dropped)


def _turns(event: Event) -> tuple[list[Turn], list[str]]:
    if event.text is not None:
        if event.messages is not None:
            raise _refused(event, "an event has either text or messages, not both; send one")
        return [Turn("user", event.text)], []
    if not event.messages:
        raise _refused(event, "an event needs messages with at least one turn, or text")
    turns: list[Turn] = []
    dropped: list[str] = []
    last = len(event.messages) - 1
    for index, message in enumerate(event.messages):
        role = "system" if message.role == "developer" else message.role
        if role not in ROLES:
            raise _refused(
                event,
                f"messages[{index}] has the unknown role {message.role!r}; known are "
                "user, assistant, system, developer and tool",
            )
        content = _content(event, index, message)
        if role in _LEFT_OUT:
            if index == last:
                raise _refused(
                    event,
                    f"the last turn has the role {role}, which the guard does not judge; to judge "
                    "this text, send it as text",
                )
            dropped.append(role)
        elif role == "assistant" and not turns:
            if index == last:
                raise _refused(
                    event,
                    "the last turn is an assistant turn without a user turn before it, which the "
                    "guard cannot judge; send the question too, or the answer as text",
                )
            dropped.append(role)
        else:
            turns.append(Turn(role, content))
    return turns, dropped


def _content(event: Event, index: int, message: Message) -> str:
    if message.reasoning is not None:
        raise _refused(
            event, f"messages[{index}].reasoning is not judged by this version; leave it out"
        )
    if isinstance(message.content, str):
        return message.content
    texts = []
    for part in message.content:
        if part.type != "text" or part.text is None:
            raise _refused(
                event,
                f"messages[{index}] has a part of type {part.type!r}; only text parts, "
                '{"type": "text", "text": …}, can be judged',
            )
        texts.append(part.text)
    return "\n".join(texts)


def _refused(event: Event, reason: str) -> Refused:
    return Refused(ErrorClass.CONVERSATION, reason, event_id=event.event_id, tenant=event.tenant)
