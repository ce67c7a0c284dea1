"""Labelled files as people have them: other names, other labels, and lines that are wrong."""

from __future__ import annotations

import gzip
import io
import json
from typing import Any

import pytest

from qwarden.guard.answer import Safety
from qwarden.guard.conversation import Conversation, Task, Turn
from qwarden.offline.eval.files import Reader
from qwarden.offline.eval.labelled import Labelled, labelled_of
from qwarden.offline.eval.names import names_of


def read(*rows: Any, fields: tuple[str, ...] = (), labels: tuple[str, ...] = ()) -> list[Labelled]:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    return read_bytes(b"\n".join(lines), fields, labels)


def read_bytes(
    data: bytes, fields: tuple[str, ...] = (), labels: tuple[str, ...] = ()
) -> list[Labelled]:
    reader = Reader(names_of(fields, labels), labelled_of)
    reader.read("data/set.v1.jsonl.gz", io.BufferedReader(io.BytesIO(data)))
    reader.close()
    return reader.rows


def asked(row: Labelled) -> Conversation:
    assert row.row is not None
    body = json.loads(row.row)
    turns = tuple(Turn(turn["role"], turn["content"]) for turn in body["messages"])
    return Conversation(Task(body["task"]), turns)


QUESTION, ANSWER = Turn("user", "How?"), Turn("assistant", "So.")
THOUGHT = Turn("assistant", "Hm.")
PROMPT = Conversation(Task.PROMPT, (QUESTION,))
RESPONSE = Conversation(Task.RESPONSE, (QUESTION, ANSWER))
THINKING = Conversation(Task.THINKING, (QUESTION, THOUGHT))
REASONED = [
    {"role": "user", "content": "How?"},
    {"role": "assistant", "content": "So.", "reasoning": "Hm."},
]


@pytest.mark.parametrize(
    ("fields", "conversation"),
    [
        ({"text": "How?"}, PROMPT),
        ({"prompt": "How?"}, PROMPT),
        ({"prompt": "How?", "response": None}, PROMPT),
        ({"prompt": "How?", "response": "So."}, RESPONSE),
        ({"prompt": "How?", "response": "So.", "task": "response"}, RESPONSE),
        ({"prompt": "How?", "response": "So.", "task": "prompt"}, PROMPT),
        ({"messages": [{"role": "user", "content": "How?"}]}, PROMPT),
        ({"messages": REASONED}, RESPONSE),
        ({"messages": REASONED, "task": "thinking"}, THINKING),
        (
            {
                "messages": [
                    {"role": "system", "content": "Be kind."},
                    {"role": "user", "content": "How?"},
                    {"role": "assistant", "content": "So."},
                ]
            },
            RESPONSE,
        ),
    ],
)
def test_another_turn_is_judged_than_the_labelled_one(
    fields: dict[str, Any], conversation: Conversation
) -> None:
    (row,) = read({"label": "Safe"} | fields)
    assert asked(row) == conversation
    assert row.task is conversation.task


def test_a_file_with_names_of_its_own_is_not_read() -> None:
    body = {
        "question": "How?",
        "answer": "So.",
        "annotation": {"toxicity": 1.0, "kinds": ["Violent"]},
        "dotted.name": "set a",
        "language": "de",
        "refused": "No",
    }
    (row,) = read(
        body,
        fields=(
            "prompt=question",
            "response=answer",
            "label=annotation.toxicity",
            "categories=annotation.kinds",
            "source=dotted.name",
            "lang=language",
            "refusal=refused",
        ),
        labels=("1=Unsafe", "0=safe"),
    )
    assert asked(row) == RESPONSE
    assert (row.label, row.categories) == (Safety.UNSAFE, ("Violent",))
    assert (row.source, row.lang, row.refusal) == ("set a", "de", False)


def test_a_row_without_names_has_no_place_in_the_breakdown() -> None:
    (row,) = read({"label": "safe", "text": "How?"})
    assert (row.id, row.source, row.lang) == ("data/set.v1.jsonl.gz:1", "set.v1", None)
    assert (row.categories, row.refusal) == (None, None)


@pytest.mark.parametrize(
    ("value", "word"),
    [("Toxic", "toxic"), (" TOXIC ", "toxic"), (1, "1"), (1.0, "1"), (True, "true"), (0.5, "0.5")],
)
def test_a_label_is_not_recognised_as_its_option_writes_it(value: Any, word: str) -> None:
    (row,) = read({"label": value, "text": "How?"}, labels=(f"{word}=Controversial",))
    assert row.label is Safety.CONTROVERSIAL


def test_a_number_is_taken_for_a_safety_that_nobody_gave_it() -> None:
    with pytest.raises(ValueError, match=r"line 1 of .* --label 1=Unsafe"):
        read({"label": 1, "text": "How?"})


def test_categories_that_are_not_said_count_as_none() -> None:
    safe, unsafe, one = read(
        {"label": "Safe", "text": "How?", "categories": []},
        {"label": "Unsafe", "text": "How?", "categories": []},
        {"label": "Unsafe", "text": "How?", "categories": "PII"},
    )
    assert (safe.categories, unsafe.categories, one.categories) == ((), None, ("PII",))


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"text": ""}, "empty"),
        ({"prompt": None, "response": "So."}, "without a user turn"),
        ({"messages": [{"role": "narrator", "content": "Once"}]}, "unknown role"),
        ({"messages": []}, "at least one turn"),
    ],
)
def test_a_row_that_the_guard_refuses_stops_the_file(fields: dict[str, Any], why: str) -> None:
    (row,) = read({"label": "Unsafe"} | fields)
    assert row.row is None
    assert why in row.refused


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{broken", "line 2 of data/set.v1.jsonl.gz: it is not JSON"),
        (b"\xff\xfe", "it is not JSON"),
        (b"[1]", "not a JSON object"),
        ({"text": "How?"}, "--field label=NAME"),
        ({"label": None, "text": "How?"}, "which is no label"),
        ({"label": {"a": 1}, "text": "How?"}, "which is no label"),
        ({"label": "spam", "text": "How?"}, "--label spam=Unsafe"),
        ({"label": "Safe"}, "--field text=NAME"),
        ({"label": "Safe", "text": None}, "--field text=NAME"),
        ({"label": "Safe", "text": 7}, "its text is 7, not a text"),
        ({"label": "Safe", "text": "How?", "messages": []}, "--field messages=messages"),
        ({"label": "Safe", "messages": "How?"}, "not a list of {role, content}"),
        ({"label": "Safe", "text": "How?", "task": "response"}, "it holds a prompt"),
        ({"label": "Safe", "text": "How?", "task": "toxicity"}, "a task is one of"),
        ({"label": "Safe", "text": "How?", "task": ["prompt"]}, "a task is one of"),
        ({"label": "Safe", "text": "How?", "categories": {"PII": True}}, "a list of names"),
        ({"label": "Safe", "text": "How?", "refusal": "maybe"}, "in any case of letters"),
        ({"label": "Safe", "text": "How?", "source": ["a"]}, "not a name"),
    ],
)
def test_a_bad_line_is_skipped_or_its_number_is_not_said(line: Any, said: str) -> None:
    with pytest.raises(ValueError, match="line 2 of") as error:
        read({"label": "Safe", "text": "How?"}, line)
    assert said in str(error.value)


def test_the_number_of_a_line_does_not_count_blank_ones() -> None:
    with pytest.raises(ValueError, match="line 4 of"):
        read(b"", {"label": "Safe", "text": "How?"}, b"  ", b"{broken")


def test_two_forms_in_one_row_cannot_be_told_apart_by_an_option() -> None:
    body = {"label": "Safe", "text": "How?", "messages": [{"role": "user", "content": "Why?"}]}
    (row,) = read(body, fields=("text=text",))
    assert asked(row) == PROMPT


def test_a_misspelt_field_leaves_a_table_out_in_silence() -> None:
    with pytest.raises(ValueError, match="--field lang=langauge: no row has such a field"):
        read({"label": "Safe", "text": "How?", "language": "de"}, fields=("lang=langauge",))


def test_a_gzipped_file_is_not_read() -> None:
    line = json.dumps({"label": "Safe", "text": "How?"}).encode()
    zipped = gzip.compress(line + b"\n" + line)
    assert len(read_bytes(zipped)) == 2
    with pytest.raises(ValueError, match="cannot be read to its end"):
        read_bytes(zipped[:-12])


def test_a_byte_order_mark_is_taken_for_a_broken_line() -> None:
    assert len(read_bytes(b'\xef\xbb\xbf{"label": "Safe", "text": "How?"}\n')) == 1


def test_an_empty_file_gives_a_report_of_nothing() -> None:
    with pytest.raises(ValueError, match="no row to judge"):
        read_bytes(b"\n\n")


@pytest.mark.parametrize(
    ("fields", "labels", "said"),
    [
        (("toxicity",), (), "OURS=THEIRS"),
        (("toxicity=label",), (), "ours are id, source"),
        (("label=a", "label=b"), (), "label is a already"),
        ((), ("toxic",), "WORD=SAFETY"),
        ((), ("toxic=Bad",), "Safe, Controversial, Unsafe"),
        ((), ("1=Safe", "1=Unsafe"), "1 is Safe already"),
    ],
)
def test_a_wrong_option_is_taken(
    fields: tuple[str, ...], labels: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ValueError, match="--") as error:
        names_of(fields, labels)
    assert said in str(error.value)
