"""A session's text, however it is cut into chunks."""

from __future__ import annotations

import random
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from qwarden.contracts.chunk import Chunk
from qwarden.guard.conversation import Task, refusal_of
from qwarden.guard.stream import Part, Segment
from qwarden.streamer.transcript import Transcript

Turn = tuple[str, str, bool, str]
"""Role, segment, whether it is history, text."""


@st.composite
def sessions(draw: st.DrawFn) -> list[Turn]:
    text = st.text("ab \né😀", min_size=1, max_size=12)
    turns: list[Turn] = []
    for _ in range(draw(st.integers(0, 2))):
        turns.append(("user", "answer", True, draw(text)))
        if draw(st.booleans()):
            turns.append(("assistant", "thinking", True, draw(text)))
        turns.append(("assistant", "answer", True, draw(text)))
    if draw(st.booleans()):
        turns.append(("system", "answer", False, draw(text)))
    turns.append(("user", "answer", False, draw(text)))
    if draw(st.booleans()):
        turns.append(("assistant", "thinking", False, draw(text)))
    if draw(st.booleans()):
        turns.append(("assistant", "answer", False, draw(text)))
    return turns


def chunks_of(turns: list[Turn], rng: random.Random) -> list[Chunk]:
    """The turns in pieces; a turn's end is said or not, where the next one says it too."""
    chunks: list[Chunk] = []
    for at, (role, segment, history, text) in enumerate(turns):
        following = turns[at + 1] if at + 1 < len(turns) else None
        must = following is not None and following[0] == role and following[2] == history
        thinks = segment == "thinking" and following is not None and following[0] == role
        ends = (must and not thinks) or rng.random() < 0.5
        cuts = sorted(rng.sample(range(len(text) + 1), min(len(text), rng.randint(0, 3))))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        for number, piece in enumerate(pieces):
            end = "turn" if ends and number == len(pieces) - 1 else None
            fields = {
                "session": "s", "tenant": "t", "seq": len(chunks), "role": role, "text": piece,
                "end": end, "segment": segment, "history": history,
            }  # fmt: skip
            chunks.append(msgspec.convert(fields, Chunk))
    return chunks


def joined(parts: list[Part]) -> list[tuple[Any, ...]]:
    """Parts of one text that follow each other are one. That a thought ends is said by its answer
    too."""
    whole: list[list[Any]] = []
    for part in parts:
        kind = [part.role, part.segment, part.history]
        if whole and whole[-1][:3] == kind and not whole[-1][4]:
            whole[-1][3] += part.text
            whole[-1][4] = part.end
        else:
            whole.append([*kind, part.text, part.end])
    return [(*kind, text, end or kind[1] == "thinking") for *kind, text, end in whole]


def written(chunks: list[Chunk]) -> tuple[Transcript, list[Part]]:
    transcript = Transcript(10_000)
    parts = [part for chunk in chunks for part in transcript.write(chunk)]
    return transcript, [*parts, *transcript.finish()]


@given(sessions(), st.integers(0, 10**6), st.integers(0, 10**6))
@settings(max_examples=examples(200))
def test_where_chunks_are_cut_changes_what_is_sent_or_said(
    turns: list[Turn], one: int, other: int
) -> None:
    first, sent = written(chunks_of(turns, random.Random(one)))
    second, also = written(chunks_of(turns, random.Random(other)))
    assert joined(sent) == joined(also)
    assert first.tasks == second.tasks
    for task in first.tasks:
        assert first.value(task) == second.value(task)
        assert first.messages(task) == second.messages(task)
        assert first.dropped(task) == second.dropped(task)
        conversation = first.conversation(task)
        assert conversation == second.conversation(task)
        assert refusal_of(task, conversation.turns) is None
        text = conversation.turns[-1].content
        assert first.length(task) == len(text)
        assert text == "".join(p.text for p in sent if p.task is task)


@given(sessions(), st.integers(0, 10**6))
@settings(max_examples=examples(100))
def test_a_place_in_a_text_is_of_another_chunk(turns: list[Turn], seed: int) -> None:
    chunks = chunks_of(turns, random.Random(seed))
    transcript, _ = written(chunks)
    for task in transcript.tasks:
        owners = [
            chunk.seq
            for chunk in chunks
            for _ in chunk.text
            if not chunk.history
            and Part(chunk.role, chunk.text, Segment(chunk.segment)).task is task
            and chunk.role in ("user", "assistant")
        ]
        assert [transcript.seq_at(task, end) for end in range(1, len(owners) + 1)] == owners


def chunk(seq: int, role: str, text: str = "x ", **more: Any) -> Chunk:
    return Chunk(session="s", tenant="t", seq=seq, role=role, text=text, **more)


@pytest.mark.parametrize(
    ("chunks", "word"),
    [
        ([chunk(0, "assistant")], "send the question first"),
        ([chunk(0, "user", end="turn"), chunk(1, "user")], "start a new session"),
        ([chunk(0, "user"), chunk(1, "assistant"), chunk(2, "user")], "start a new session"),
        ([chunk(0, "user"), chunk(1, "user", history=True)], "send history first"),
        (
            [
                chunk(0, "user"),
                chunk(1, "assistant"),
                chunk(2, "assistant", segment="thinking"),
            ],
            "before the answer",
        ),
        (
            [chunk(0, "user"), chunk(1, "assistant", end="turn"), chunk(2, "assistant")],
            "has ended",
        ),
        (
            [
                chunk(0, "user"),
                chunk(1, "assistant", segment="thinking", end="turn"),
                chunk(2, "assistant", segment="thinking"),
            ],
            "has ended",
        ),
        (
            [
                chunk(0, "user", history=True),
                chunk(1, "assistant", history=True, end="turn"),
                chunk(2, "assistant"),
            ],
            "right behind an assistant's turn of history",
        ),
        ([chunk(0, "user", "x" * 10_000)], "end sessions sooner"),
    ],
)
def test_what_the_guard_has_no_place_for_is_sent_to_it(chunks: list[Chunk], word: str) -> None:
    transcript = Transcript(10_000)
    for each in chunks[:-1]:
        transcript.write(each)
    before = transcript.value(Task.RESPONSE)
    with pytest.raises(ValueError, match=word):
        transcript.write(chunks[-1])
    assert transcript.value(Task.RESPONSE) == before, "what was refused has left something behind"


def test_ten_thousand_turns_take_a_minute() -> None:
    transcript = Transcript(1_000_000)
    began = time.process_time()
    for seq in range(16_000):
        role = ("user", "assistant")[seq % 2]
        transcript.write(chunk(seq, role, "x", history=True, end="turn"))
    assert time.process_time() - began < 3, "each turn looks at all before it"


def test_a_tool_that_speaks_cuts_the_answer_in_two() -> None:
    transcript, parts = written(
        [
            chunk(0, "user", end="turn"),
            chunk(1, "assistant", "let me see, "),
            chunk(2, "tool", "42", end="turn"),
            chunk(3, "assistant", "it is 42"),
        ]
    )
    assert joined(parts)[-1][3] == "let me see, it is 42"
    assert transcript.dropped(Task.RESPONSE) == ["tool"]
    assert transcript.dropped(Task.PROMPT) == []


def test_a_greeting_in_the_history_stands_before_any_question() -> None:
    transcript, parts = written(
        [chunk(0, "assistant", history=True, end="turn"), chunk(1, "user", end="turn")]
    )
    assert [part.role for part in parts] == ["user"]
    assert transcript.dropped(Task.PROMPT) == ["assistant"]
    assert [message.role for message in transcript.messages(Task.PROMPT)] == ["assistant", "user"]
