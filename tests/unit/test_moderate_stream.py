"""A file of events as sessions: the same rows however it is cut, and resumed at the right line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qwarden.guard.conversation import Task
from qwarden.guard.debounce import Threshold
from qwarden.guard.row import View
from qwarden.guard.stream import Append, Part, Scored, Segment
from qwarden.inference.memory_stream import MemoryStream
from qwarden.inference.port import GuardUnavailable, Trouble
from qwarden.inference.replica import StreamLimits
from qwarden.inference.stream_client import StreamClient
from qwarden.offline.moderate_stream import moderate_stream, row_of, tasks_of
from qwarden.offline.resuming import ResumeError, resume
from qwarden.offline.stream_reading import AT_ONCE, ExchangeReader, Read, in_order, in_pieces
from unit.builders import admission, event, source

LIMITS = StreamLimits(8, 4, 1e9, 60.0, 0.001, 0.01)
ASK = {"role": "user", "content": "Say it"}


def answered(answer: str, reasoning: str | None = None, **fields: Any) -> bytes:
    turn = {"role": "assistant", "content": answer, "reasoning": reasoning}
    return event(text=..., messages=[*fields.pop("before", []), ASK, turn], **fields)


LINES = [
    event(text="is it unsafe"),
    answered("fine words and unsafe unsafe unsafe ones", event_id="flagged"),
    answered("controversial controversial then unsafe unsafe", event_id="rises"),
    b"{broken",
    answered("well", "so " + "unsafe " * 8 + "then", event_id="thought"),
    answered("", "unsafe", event_id="only thought"),
    answered("hi " * 90, event_id="long"),
    answered("one unsafe word 👍 你好", event_id="not flagged"),
    event(deleted=True, event_id="gone"),
    answered("a", event_id="later", before=[ASK, {"role": "assistant", "content": "unsafe b"}]),
    event(text=..., messages=[ASK, *[{"role": "assistant", "content": "a"}] * 2], event_id="two"),
    event(event_id="last"),
]


async def written(
    lines: Sequence[bytes],
    chunk: int | None = None,
    first: int = 0,
    guard: MemoryStream | None = None,
) -> list[bytes]:
    guard = guard or MemoryStream(context=64)

    async def look() -> frozenset[str]:
        return frozenset({"here"})

    client = StreamClient(lambda _: guard, look, LIMITS)
    rows: list[bytes] = []
    done: list[int] = []
    try:
        await moderate_stream(
            ExchangeReader(client, chunk), admission(), lines, name="f", first=first,
            write=rows.append, done=done.append,
        )  # fmt: skip
    finally:
        await client.close()
    assert sum(done) == len(lines) == len(rows)
    return rows


@pytest.fixture
async def rows() -> list[bytes]:
    return await written(LINES)


def test_a_row_says_something_else_than_the_guard(rows: list[bytes]) -> None:
    made = [json.loads(row) for row in rows]
    prompt, flagged, rises, broken, thought, only, long, doubt, gone, later, two, _ = made
    assert prompt["prompt"]["safety"] == "Unsafe"
    assert prompt["prompt"]["category"] == "Violent"
    scores = {"safe": 0.006, "controversial": 0.047, "unsafe": 0.946}
    assert prompt["prompt"]["scores"] == scores
    assert (prompt["tokens"], prompt["flagged_at"], prompt["safety"]) == ([], None, None)

    assert (flagged["flagged_at"], flagged["safety"], flagged["category"]) == (
        4,
        "Unsafe",
        "Violent",
    )
    text = "fine words and unsafe unsafe unsafe ones"
    words = [text[token["start"] : token["end"]] for token in flagged["tokens"]]
    assert words == ["fine", " words", " and", " unsafe", " unsafe", " unsafe", " ones"]
    assert [token["category"] for token in flagged["tokens"][2:4]] == [None, "Violent"]
    assert flagged["prompt"]["safety"] == "Safe"
    assert (flagged["guard"]["revision"], flagged["policy"]["name"]) == ("memory@0", "default")

    assert (rises["flagged_at"], rises["risen_at"], rises["safety"]) == (1, 4, "Unsafe")
    assert broken["error_class"] == "not_json"
    assert (thought["flagged_at"], thought["safety"]) == (None, "Safe")
    assert (thought["thinking"]["flagged_at"], thought["thinking"]["safety"]) == (8, "Unsafe")
    assert (len(only["thinking"]["tokens"]), only["tokens"]) == (1, [])
    assert (long["cause"], len(long["tokens"])) == ("too_long", 62)
    assert long["safety"] is None, "half a text was called Safe"
    assert (doubt["flagged_at"], doubt["safety"]) == (None, "Safe")
    assert (gone["cause"], gone["prompt"], gone["guard"]) == ("withdrawn", None, None)
    assert len(later["tokens"]) == 1, "an earlier answer was judged"
    assert two["error_class"] == "conversation"
    assert "join them into one" in two["reason"]
    assert all(row.get("cause") is None for row in (prompt, flagged, rises, thought, only))


async def test_an_answer_that_ends_on_one_token_that_is_not_safe_is_called_safe() -> None:
    thinks = answered("then unsafe", "so much " + "unsafe " * 3 + "unsafe")
    (row,) = [json.loads(row) for row in await written([thinks])]
    for said in (row, row["thinking"]):
        assert (said["flagged_at"], said["safety"], said["category"]) == (
            None,
            "Unsafe",
            "Violent",
        )


def test_a_prompt_is_read_by_another_rule_than_its_policys(monkeypatch: pytest.MonkeyPatch) -> None:
    case = admission().admit(source(event(text="hi")))
    assert case.policy is not None
    policy = case.policy.with_views([View.AS_SENT])
    monkeypatch.setattr(policy, "flags", {**policy.flags, Task.PROMPT: Threshold(0.3, 1)})
    doubtful = Scored(Task.PROMPT, 0, 2, (0.0, -1.0, -1.0))
    row = row_of(msgspec.structs.replace(case, policy=policy), Read("memory@0", doubtful))
    assert row.prompt is not None
    assert (row.prompt.safety, row.prompt.category) == ("Unsafe", None)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1000])
async def test_the_size_of_chunks_changes_a_row(rows: list[bytes], chunk: int) -> None:
    assert await written(LINES, chunk) == rows


def test_pieces_lose_a_character_or_an_end() -> None:
    parts = [
        Part("user", "", end=True),
        Part("user", "abcde", end=True, history=True),
        Part("assistant", "ab👍c", Segment.THINKING, end=True),
    ]
    for chunk in range(1, 7):
        pieces = list(in_pieces(parts, chunk))
        assert all(len(piece.text) <= chunk for piece in pieces)
        assert [piece.end for piece in pieces].count(True) == 3
        for part in parts:
            own = [each for each in pieces if (each.role, each.history, each.segment)
                   == (part.role, part.history, part.segment)]  # fmt: skip
            assert "".join(each.text for each in own) == part.text
            assert own[-1].end


@pytest.mark.parametrize("kept", range(len(LINES) + 1))
async def test_a_file_is_gone_on_with_at_the_wrong_line(
    rows: list[bytes], tmp_path: Path, kept: int
) -> None:
    out = tmp_path / "out.jsonl"
    out.write_bytes(b"".join(rows[:kept]) + b"".join(rows[kept : kept + 1])[:20])
    door = admission()
    done = resume(out, LINES, "memory@0", door, tasks_of)
    assert done == kept
    assert out.read_bytes() == b"".join(rows[:kept])
    assert [*rows[:kept], *await written(LINES[done:], first=done)] == rows


def test_the_row_of_another_line_guard_or_policy_counts(rows: list[bytes], tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_bytes(rows[1])
    door = admission()
    other = replace(door, tenants=door.tenants.with_views([View.AS_SENT]))
    for lines, revision, now, said in (
        (LINES, "memory@0", door, "not the outcome of line 1"),
        (LINES[3:], "memory@0", door, "not the outcome of line 1"),
        ([], "memory@0", door, "not the outcome of line 1"),
        (LINES[1:], "memory@1", door, "begun with the guard memory@0"),
        (LINES[1:], "memory@0", other, "another version of the policy"),
    ):
        with pytest.raises(ResumeError, match=said):
            resume(out, lines, revision, now, tasks_of)
    out.write_bytes(b"no\n")
    with pytest.raises(ResumeError, match="is not an outcome"):
        resume(out, LINES, "memory@0", door, tasks_of)
    assert resume(tmp_path / "absent", LINES, "memory@0", door, tasks_of) == 0


async def test_a_row_is_lost_in_an_outage_or_told_twice_after_a_replay(rows: list[bytes]) -> None:
    guard = MemoryStream(context=64)
    count = 0

    async def before(appends: Sequence[Append]) -> None:
        nonlocal count
        count += 1
        if count % 5 == 0:
            guard.forget()
        if count % 7 == 0:
            raise GuardUnavailable("away", Trouble.AWAY)

    guard.before = before
    assert await written(LINES, 5, guard=guard) == rows
    assert count > 10


async def test_sessions_that_are_over_fill_the_guard() -> None:
    guard = MemoryStream(room=AT_ONCE)
    count = 3 * AT_ONCE
    rows = await written([event(event_id=f"{at}") for at in range(count)], guard=guard)
    assert [json.loads(row)["event_id"] for row in rows] == [f"{at}" for at in range(count)]
    assert len(guard.sessions) <= AT_ONCE


async def test_what_fails_leaves_others_running() -> None:
    ended: list[int] = []

    async def work(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        ended.append(item)
        return item

    with pytest.raises(ValueError, match="three"):
        async for _ in in_order(range(500), work):
            pass
    assert len(ended) < 500
