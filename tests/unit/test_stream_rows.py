"""Rows of Qwen3GuardTest's format: what is sent of them, and where their unsafe sentence stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from qwarden.guard.answer import Safety
from qwarden.guard.conversation import Task
from qwarden.guard.stream import Part, Segment
from qwarden.offline.eval.names import names_of
from qwarden.offline.eval.stream_rows import StreamRow, stream_row_of
from qwarden.offline.eval.stream_spans import Span

HEAD = "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
IM_START, IM_END, ASSISTANT, THINK, NO_THINK = 151644, 151645, 77091, 151667, 151668


def characters(text: str) -> list[int]:
    """A tokenizer with a token a byte, as byte-level ones have at worst."""
    return list(text.encode())


def decode(ids: Sequence[int]) -> str:
    return bytes(ids).decode(errors="replace")


def published(content: str, marked: str | None, **fields: Any) -> dict[str, Any]:
    """A row as the data set has it, its span that of `marked` in the rendered whole."""
    thought = content.startswith("<think>")
    whole = HEAD + (content if thought else f"<think>\n\n</think>\n\n{content}") + "<|im_end|>\n"
    first = last = None
    if marked is not None:
        first = len(whole[: whole.rindex(marked)].encode())
        last = first + len(marked.encode()) - 1
    return {
        "message": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": content}],
        "label": "Unsafe",
        "unique_id": "q1",
        "source": "a-model",
        "unsafe_type": "Violent",
        "input_ids": characters(whole),
        "unsafe_start_index": first,
        "unsafe_end_index": last,
        **fields,
    }


def row(body: dict[str, Any]) -> StreamRow:
    return stream_row_of(body, names_of([], []), "f.jsonl", 1, decode=decode)


def marked(found: StreamRow) -> str:
    assert found.span is not None
    return "".join(text for _, text in found.texts)[found.span.start : found.span.end]


def test_a_thought_is_sent_as_its_answer() -> None:
    found = row(published("<think>\nHm. Kill.\n</think>\n\nNo.", "Kill."))
    assert found.parts == (
        Part("user", "Why?", end=True),
        Part("assistant", "Hm. Kill.", Segment.THINKING, end=True),
        Part("assistant", "No.", end=True),
    )
    assert found.labelled.task is Task.THINKING
    assert (found.labelled.id, found.labelled.source) == ("q1", "a-model")
    assert found.labelled.label is Safety.UNSAFE
    assert marked(found) == "Kill."
    assert found.span == Span(4, 9, is_exact=True)


@pytest.mark.parametrize(
    ("content", "mark", "there"),
    [
        ("Kill. No. Kill.", "Kill.", "Kill."),
        ("你好。杀人。好。", "杀人。", "杀人。"),
        # The span is in the answer behind a thought that says the same.
        ("<think>\nKill.\n</think>\n\nNo. Kill.", "Kill.", "Kill."),
        # The user's turn and the thought hold the same text as the answer.
        ("<think>\nWhy?\n</think>\n\nWhy? Kill.", "Kill.", "Kill."),
        # The template strips the newlines around the texts.
        ("\n\nNo.\nKill.\n\n", "Kill.", "Kill."),
        # Over the edge of a text only what is judged of it counts.
        ("<think>\nHm. Kill.\n</think>\n\nNo.", "Kill.\n</think>\n\n", "Kill."),
    ],
)
def test_a_span_marks_other_characters_than_its_tokens(content: str, mark: str, there: str) -> None:
    found = row(published(content, mark))
    assert marked(found) == there
    whole = "".join(text for _, text in found.texts)
    assert found.span is not None
    assert found.span.start == whole.rindex(there)


def test_a_span_within_a_character_loses_it() -> None:
    body = published("ab 👍 cd", "👍")
    body["unsafe_start_index"] += 1
    body["unsafe_end_index"] -= 1
    assert marked(row(body)) == "👍"


def test_a_text_that_the_tokenizer_composes_is_not_found() -> None:
    sent = "cafe\u0301 re\u0301sume\u0301. Kill e\u0301."
    body = published("café résumé. Kill é.", "Kill é.")
    body["message"][1]["content"] = sent
    found = row(body)
    assert found.span is not None
    assert found.span.is_exact
    assert marked(found) == "Kill e\u0301."


def test_the_span_of_another_tokenizer_is_taken_for_exact() -> None:
    text = "x" * 60 + "y" * 20 + "z" * 20
    body = published(text, "y")
    count = 50  # a token is two characters
    for ids, start in (
        ([IM_START, 872, 198, 9, IM_END, 198, IM_START, ASSISTANT, 198, THINK, 271, NO_THINK, 271],
         13),
        ([IM_START, 872, 198, 9, IM_END, 198, IM_START, ASSISTANT, 198, THINK, 198], 11),
    ):  # fmt: skip
        body["message"][1]["content"] = text if start == 13 else f"<think>\n{text}"
        body["input_ids"] = [*ids, *[7] * count, IM_END, 198]
        body["unsafe_start_index"], body["unsafe_end_index"] = start + 30, start + 39
        found = stream_row_of(body, names_of([], []), "f", 1, decode=None)
        assert found.span is not None
        assert not found.span.is_exact
        assert set(marked(found)) == {"y"}
        assert found.span.end - found.span.start == 20
    # A tokenizer that gives something else does not spell the text either.
    found = stream_row_of(body, names_of([], []), "f", 1, decode=lambda ids: "?" * len(ids))
    assert found.span is not None
    assert not found.span.is_exact


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"label": "toxic"}, "its label is 'toxic'"),
        ({"message": "no"}, "not a list of {role, content}"),
        ({"unsafe_start_index": 5000, "unsafe_end_index": 5001}, "no span of its"),
        ({"unsafe_start_index": 3, "unsafe_end_index": 2}, "no span of its"),
        ({"unsafe_start_index": 0, "unsafe_end_index": 3}, "outside of the assistant's"),
        ({"unsafe_end_index": None}, "not all of these are integers"),
        ({"input_ids": None}, "not all of these are integers"),
    ],
)
def test_a_wrong_row_gives_a_figure(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        row(published("No. Kill.", "Kill.", **fields))


def test_a_row_without_a_span_has_one() -> None:
    assert row(published("No.", None)).span is None
    assert row(published("No. Kill.", "Kill.", label="Safe")).span is None


def test_a_row_that_the_guard_can_only_refuse_is_sent() -> None:
    body = published("No.", None)
    body["message"] = body["message"][1:]
    found = row(body)
    assert found.parts == ()
    assert "first turn must be a user turn" in found.labelled.refused


def test_a_row_of_the_projects_own_format_is_read_as_the_published_one() -> None:
    names = names_of(["label=toxic"], ["1=Unsafe"])
    body = {"toxic": 1, "prompt": "Why?", "response": "Kill.", "message": "of no interest"}
    found = stream_row_of(body, names, "f", 1, decode=None)
    assert found.parts == (
        Part("user", "Why?", end=True),
        Part("assistant", "Kill.", end=True),
    )
    assert found.texts == ((Task.RESPONSE, "Kill."),)
    prompt = stream_row_of({"label": "Safe", "text": "Why?"}, names_of([], []), "f", 1, decode=None)
    assert prompt.parts == (Part("user", "Why?", end=True),)
    two = [{"role": role, "content": "a"} for role in ("user", "assistant", "assistant")]
    body = {"label": "Safe", "messages": two}
    refused = stream_row_of(body, names_of([], []), "f", 1, decode=None)
    assert refused.parts == ()
    assert "follow each other" in refused.labelled.refused
