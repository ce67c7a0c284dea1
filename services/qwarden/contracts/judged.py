"""From an event's messages to the conversations that the guard judges, one a task.

The official template drops some turns without a word (its jinja source, 2025-10); here what is left
out is named, and what would change the meaning is refused.
"""

from __future__ import annotations

from qwarden.contracts.event import ROLES, Event, Message
from qwarden.contracts.refusal import ErrorClass, Refused
from qwarden.guard.conversation import Conversation, Task, Turn, refusal_of

_LEFT_OUT = frozenset({"system", "tool"})


def conversations_of(event: Event) -> tuple[tuple[Conversation, ...], tuple[str, ...]]:
    """The conversation of each task to judge, and what was taken out, in order: roles of turns,
    and `reasoning` for that of an earlier turn, which the template leaves out.

    The last turn is a prompt or a response; a response with reasoning is two, `response` and then
    `thinking`, or only `thinking` where the answer is empty.
    `system` (also called `developer`) and `tool` turns are not content of users, and an assistant's
    greeting before the first user turn has no place in the template: they are taken out.
    Raises `Refused`.
    """
    turns, dropped, reasoning = _turns(event)
    task = Task.PROMPT if turns[-1].role == "user" else Task.RESPONSE
    asked = [Conversation(task, tuple(turns))]
    if reasoning:
        thought = Conversation(Task.THINKING, (*turns[:-1], Turn("assistant", reasoning)))
        asked = [*asked, thought] if turns[-1].content else [thought]
    for conversation in asked:
        reason = refusal_of(conversation.task, conversation.turns)
        if reason:
            raise _refused(event, reason)
    return tuple(asked), tuple(dropped)


def _turns(event: Event) -> tuple[list[Turn], list[str], str | None]:
    """The turns that are kept, the last one among them; what was taken out; and the reasoning of
    the last turn."""
    if event.text is not None:
        if event.messages is not None:
            raise _refused(event, "an event has either text or messages, not both; send one")
        return [Turn("user", event.text)], [], None
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
        if message.reasoning and role != "assistant":
            raise _refused(
                event,
                f"messages[{index}] has the role {role} and reasoning, which only an assistant "
                "turn can have; leave it out, or send it as content",
            )
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
            if message.reasoning and index < last:
                dropped.append("reasoning")
    return turns, dropped, event.messages[last].reasoning


def _content(event: Event, index: int, message: Message) -> str:
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
