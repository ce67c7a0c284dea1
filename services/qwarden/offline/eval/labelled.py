"""A labelled row: what is judged, and what is true of it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from qwarden.contracts.event import Event, Message
from qwarden.contracts.judged import conversations_of
from qwarden.contracts.refusal import Refused
from qwarden.guard.answer import Safety
from qwarden.guard.conversation import Task
from qwarden.offline.eval.names import ABSENT, Names, word_of

_FORMS = {"messages": ("messages",), "prompt": ("prompt", "response"), "text": ("text",)}
"""The three ways to hold a conversation, by the field that tells them apart."""
_REFUSAL = {
    **dict.fromkeys(("true", "1", "yes", "refusal"), True),
    **dict.fromkeys(("false", "0", "no", "compliance"), False),
}
_ENDINGS = re.compile(r"(\.jsonl|\.json)?(\.gz)?$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Labelled:
    """One row of a file. `row`: what the guard is asked, None where it could only refuse it, and
    `refused` says why.

    `categories`: the true ones, None where the file does not say; empty only for what is Safe.
    `refusal`: whether the answer truly refuses, None where the file does not say.
    """

    file: str
    line: int
    id: str
    source: str
    lang: str | None
    task: Task
    label: Safety
    categories: tuple[str, ...] | None
    refusal: bool | None
    row: bytes | None
    refused: str = ""


def labelled_of(body: Mapping[str, Any], names: Names, file: str, line: int) -> Labelled:
    """Reads one row. Raises `ValueError` with a sentence that names the fix."""
    label = _label(body, names)
    wanted = _task(body, names)
    messages = _messages(body, names, wanted)
    task, row, refused = _asked(messages, wanted)
    return Labelled(
        file=file,
        line=line,
        id=_name(body, names, "id") or f"{file}:{line}",
        source=_name(body, names, "source") or _ENDINGS.sub("", file.rpartition("/")[2]),
        lang=_name(body, names, "lang"),
        task=task,
        label=label,
        categories=_categories(body, names, label),
        refusal=_refusal(body, names),
        row=row,
        refused=refused,
    )


def _label(body: Mapping[str, Any], names: Names) -> Safety:
    value = names.value(body, "label")
    field = names.fields.get("label", "label")
    if value is ABSENT:
        raise ValueError(f"it has no field {field}; say which holds the label: --field label=NAME")
    word = word_of(value)
    if word is None:
        raise ValueError(f"its {field} is {_shown(value)}, which is no label; repair it")
    if word not in names.labels:
        known = ", ".join(sorted(names.labels))
        raise ValueError(
            f"its {field} is {_shown(value)}, and known are {known}; say what it means: "
            f"--label {word}=Unsafe, =Controversial or =Safe"
        )
    return names.labels[word]


def _messages(body: Mapping[str, Any], names: Names, task: Task | None) -> list[Message]:
    """The conversation, up to the turn that is judged."""
    form = _form(body, names)
    if form == "messages":
        try:
            return msgspec.convert(names.value(body, "messages"), list[Message])
        except msgspec.ValidationError as error:
            raise ValueError(
                f"its messages are not a list of {{role, content}}: {error}; repair it"
            ) from None
    turns = (("user", form), ("assistant", "response")) if form == "prompt" else (("user", form),)
    if task is Task.PROMPT:
        turns = turns[:1]
    return [
        Message(role, content)
        for role, field in turns
        if (content := _content(body, names, field)) is not None
    ]


def _asked(messages: list[Message], wanted: Task | None) -> tuple[Task, bytes | None, str]:
    """The task, the row for the guard, and where there is none the reason."""
    last = messages[-1].role if messages else ""
    try:
        conversations, _ = conversations_of(Event(event_id="-", tenant="-", messages=messages))
    except Refused as refused:
        implied = Task.RESPONSE if last == "assistant" else Task.PROMPT
        return wanted or implied, None, refused.reason
    of_task = {each.task: each for each in conversations}
    task = wanted or conversations[0].task
    if task not in of_task:
        raise ValueError(
            f"its task is {task} and it holds a {' and a '.join(of_task)} to judge; correct the "
            "task, or say which fields hold the conversation: --field prompt=NAME --field "
            "response=NAME, or messages"
        )
    return task, of_task[task].to_json(), ""


def _form(body: Mapping[str, Any], names: Names) -> str:
    forms = {form: fields for form, fields in _FORMS.items() if names.fields.keys() & set(fields)}
    held = [
        form
        for form, fields in (forms or _FORMS).items()
        if any(names.value(body, field) not in (ABSENT, None) for field in fields)
    ]
    if not held:
        raise ValueError(
            "it has no text to judge; say which field holds it: --field text=NAME, or prompt and "
            "response, or messages"
        )
    if len(held) > 1:
        raise ValueError(
            f"it has both {' and '.join(held)}; say which is judged: "
            f"--field {held[0]}={names.fields.get(held[0], held[0])}"
        )
    return held[0]


def _task(body: Mapping[str, Any], names: Names) -> Task | None:
    value = names.value(body, "task")
    if value in (ABSENT, None):
        return None
    if value not in list(Task):
        raise ValueError(
            f"its {names.fields.get('task', 'task')} is {_shown(value)}; a task is one of "
            f"{', '.join(Task)}, and without one the last turn tells"
        )
    return Task(value)


def _content(body: Mapping[str, Any], names: Names, field: str) -> str | None:
    value = names.value(body, field)
    if value in (ABSENT, None):
        return None
    if not isinstance(value, str):
        raise ValueError(f"its {names.fields.get(field, field)} is {_shown(value)}, not a text")
    return value


def _categories(body: Mapping[str, Any], names: Names, label: Safety) -> tuple[str, ...] | None:
    value = names.value(body, "categories")
    if value in (ABSENT, None):
        return None
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        field = names.fields.get("categories", "categories")
        raise ValueError(f"its {field} is {_shown(value)}; write a list of names, or one name")
    if not value and label is not Safety.SAFE:
        return None
    return tuple(dict.fromkeys(value))


def _refusal(body: Mapping[str, Any], names: Names) -> bool | None:
    value = names.value(body, "refusal")
    if value in (ABSENT, None):
        return None
    word = word_of(value)
    if word not in _REFUSAL:
        raise ValueError(
            f"its {names.fields.get('refusal', 'refusal')} is {_shown(value)}; known are "
            f"{', '.join(_REFUSAL)}, in any case of letters"
        )
    return _REFUSAL[word]


def _name(body: Mapping[str, Any], names: Names, field: str) -> str | None:
    value = names.value(body, field)
    if value in (ABSENT, None, ""):
        return None
    if isinstance(value, dict | list):
        raise ValueError(f"its {names.fields.get(field, field)} is {_shown(value)}, not a name")
    return str(value)


def _shown(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else f"{text[:57]}…"
