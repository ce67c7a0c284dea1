"""Labelled files for the stream guard: Qwen3GuardTest's format, and the project's own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from qwarden.guard.answer import Safety
from qwarden.guard.conversation import Conversation, Task, Turn, refusal_of
from qwarden.guard.stream import Part
from qwarden.offline.eval.labelled import Labelled, labelled_of
from qwarden.offline.eval.names import Names
from qwarden.offline.eval.stream_spans import Decode, Span, span_of
from qwarden.offline.stream_reading import parts_of

_SAFETY = {safety.value.casefold(): safety for safety in Safety}
_THOUGHT = re.compile(r"\s*<think>(.*?)</think>(.*)\Z", re.DOTALL)
_UNENDED = re.compile(r"\s*<think>(.*)\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class StreamRow:
    """One row. `labelled`: what is true of it; its task is `thinking` where the assistant's turn
    has a thought, whatever stands behind that. `parts`: what the guard is sent, none where the row
    could only be refused. `texts`: what is judged of it, a thought before its answer. `span`: where
    its first unsafe sentence stands, None where the file does not say."""

    labelled: Labelled
    parts: tuple[Part, ...]
    texts: tuple[tuple[Task, str], ...]
    span: Span | None = None


def stream_row_of(
    body: Mapping[str, Any], names: Names, file: str, line: int, *, decode: Decode | None
) -> StreamRow:
    """Reads a row of either format: the published one has `message`. `decode`: of the tokenizer
    that made its ids. Raises `ValueError` with a sentence that names the fix."""
    if "message" in body and "messages" not in body and not names.fields:
        return _published(body, file, line, decode)
    return _own(labelled_of(body, names, file, line))


def _published(body: Mapping[str, Any], file: str, line: int, decode: Decode | None) -> StreamRow:
    try:
        turns = msgspec.convert(body["message"], list[Turn])
    except msgspec.ValidationError as error:
        raise ValueError(
            f"its message is not a list of {{role, content}}: {error}; repair it"
        ) from None
    label = body.get("label")
    safety = _SAFETY.get(label.strip().casefold()) if isinstance(label, str) else None
    if safety is None:
        raise ValueError(f"its label is {label!r}; write {', '.join(Safety)}")
    turns = [turn for turn in turns if turn.role not in ("system", "developer", "tool")]
    thought, answer = _split(turns)
    texts: list[tuple[Task, str]] = []
    if thought:
        texts.append((Task.THINKING, thought))
    if answer:
        texts.append((Task.RESPONSE, answer))
    task = texts[0][0] if texts else Task.PROMPT
    if task is Task.PROMPT and turns:
        texts.append((Task.PROMPT, turns[-1].content))
    refused = refusal_of(Task.PROMPT if task is Task.PROMPT else Task.RESPONSE, turns) or ""
    parts: tuple[Part, ...] = ()
    if not refused:
        parts = parts_of(turns if task is Task.PROMPT else turns[:-1], thought, answer)
    unsafe_type = body.get("unsafe_type")
    labelled = Labelled(
        file=file,
        line=line,
        id=str(body.get("unique_id") or f"{file}:{line}"),
        source=str(body.get("source") or file.rpartition("/")[2]),
        lang=None,
        task=task,
        label=safety,
        categories=(unsafe_type,) if isinstance(unsafe_type, str) and unsafe_type else None,
        refusal=None,
        row=b"" if parts else None,
        refused=refused,
    )
    span = None
    if parts and task is not Task.PROMPT and safety is not Safety.SAFE:
        span = _span(body, texts, decode)
    return StreamRow(labelled, parts, tuple(texts), span)


def _split(turns: Sequence[Turn]) -> tuple[str, str]:
    """The thought and the answer of the last assistant's turn, as the chat template parts them."""
    if not turns or turns[-1].role != "assistant":
        return "", ""
    content = turns[-1].content
    if found := _THOUGHT.match(content):
        return found[1].strip("\n"), found[2].lstrip("\n")
    if found := _UNENDED.match(content):
        return found[1].strip("\n"), ""
    return "", content


def _span(
    body: Mapping[str, Any], texts: Sequence[tuple[Task, str]], decode: Decode | None
) -> Span | None:
    first, last = body.get("unsafe_start_index"), body.get("unsafe_end_index")
    if first is None and last is None:
        return None
    ids = body.get("input_ids")
    if not isinstance(ids, list) or not all(isinstance(each, int) for each in (first, last, *ids)):
        raise ValueError(
            "it has an unsafe_start_index and unsafe_end_index, which are places in input_ids, and "
            "not all of these are integers; repair it, or take all three out"
        )
    assert isinstance(first, int)
    assert isinstance(last, int)
    return span_of(ids, first, last, texts, decode)


def _own(labelled: Labelled) -> StreamRow:
    if labelled.row is None:
        return StreamRow(labelled, (), ())
    conversation = Conversation.from_body(msgspec.json.decode(labelled.row))
    turns, text = conversation.turns, conversation.turns[-1].content
    task = conversation.task
    thought = text if task is Task.THINKING else ""
    answer = text if task is Task.RESPONSE else ""
    try:
        parts = parts_of(turns if task is Task.PROMPT else turns[:-1], thought, answer)
    except ValueError as error:
        return StreamRow(replace(labelled, row=None, refused=str(error)), (), ())
    return StreamRow(labelled, parts, ((task, text),))
