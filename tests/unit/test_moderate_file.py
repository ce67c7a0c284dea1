"""A file that was judged in part: it is gone on with at the right line, whatever was written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from qwarden.guard.answer import Answer, Failure, Unanswered
from qwarden.guard.row import Row, View
from qwarden.inference.memory import MemoryGuard
from qwarden.moderator.case import Admission
from qwarden.offline.moderate import moderate, tasks_of
from qwarden.offline.resuming import ResumeError, resume
from unit.builders import REVISION, THOUGHT, UNSAFE, admission, assessment, event
from unit.moderating import moderator_of

THINKS = event(text=..., messages=THOUGHT)
LINES = [
    event(),
    THINKS,
    event(text=..., messages=[THOUGHT[0], {**THOUGHT[1], "reasoning": "refused"}]),
    b"{broken",
    event(text=..., messages=[THOUGHT[0], {**THOUGHT[1], "content": ""}]),
    THINKS,
    event(deleted=True),
    event(text=..., messages=THOUGHT, deadline="2020-01-01T00:00:00Z"),
    event(event_id="last"),
]
OUTCOMES = [1, 2, 1, 1, 1, 2, 1, 2, 1]
"""How many lines each of them has in the output."""


def _judge(row: bytes) -> Answer:
    last = Row.from_json(row).conversation.turns[-1].content
    if last == "refused":
        return Unanswered(Failure.REFUSED, "of no interest", REVISION)
    return assessment(UNSAFE, ("Violent", 0.5))


async def _written(lines: list[bytes], door: Admission, first: int = 0) -> list[bytes]:
    guard = MemoryGuard(_judge, revision=REVISION)
    moderator = moderator_of(guard, door, evidence_sample=1.0)
    written: list[bytes] = []
    done: list[int] = []
    await moderate(
        moderator, iter(lines), name="f", first=first, write=written.append, done=done.append
    )
    assert sum(done) == len(lines), "it counts what it writes, not what it has read"
    return written


@pytest.fixture
async def outcomes() -> list[bytes]:
    return await _written(LINES, admission())


async def test_a_line_has_more_or_fewer_outcomes_than_it_owes(outcomes: list[bytes]) -> None:
    assert len(outcomes) == sum(OUTCOMES)
    assert all(json.loads(line) for line in outcomes)
    tasks = [json.loads(line).get("task", "dead letter") for line in outcomes]
    assert tasks == [
        "prompt", "response", "thinking", "dead letter", "dead letter", "thinking",
        "response", "thinking", None, "response", "thinking", "prompt",
    ]  # fmt: skip


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("kept", range(sum(OUTCOMES) + 1))
async def test_a_file_is_gone_on_with_at_the_wrong_line(
    outcomes: list[bytes], tmp_path: Path, kept: int, half: int
) -> None:
    out = tmp_path / "out.jsonl"
    out.write_bytes(b"".join(outcomes[:kept]) + b"".join(outcomes[kept : kept + half])[:20])
    door = admission()
    done = resume(out, LINES, REVISION, door, tasks_of)
    whole = out.read_bytes()
    assert whole == b"".join(outcomes[: sum(OUTCOMES[:done])])
    assert sum(OUTCOMES[:done]) <= kept < sum(OUTCOMES[: done + 1]) or done == len(LINES)
    rest = await _written(LINES[done:], door, first=done)
    assert [*whole.splitlines(keepends=True), *rest] == outcomes


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        ([2], [THINKS]),
        ([1, 1], [THINKS]),
        ([1, 0], [THINKS]),
        ([1, 3], [THINKS, LINES[2]]),
        ([0, 1], [event(), event()]),
        ([3], [event()]),
        ([0], [b"{broken"]),
        ([8], [THINKS]),
        ([1, 2, 0], [THINKS]),
    ],
)
def test_the_outcome_of_another_line_counts(
    outcomes: list[bytes], tmp_path: Path, written: list[int], lines: list[bytes]
) -> None:
    out = tmp_path / "out.jsonl"
    out.write_bytes(b"".join(outcomes[at] for at in written))
    door = admission()
    with pytest.raises(ResumeError, match="is not the outcome of line"):
        resume(out, lines, REVISION, door, tasks_of)
    assert out.read_bytes() == b"".join(outcomes[at] for at in written), "it was cut all the same"


def test_a_file_is_finished_with_other_views_than_it_was_begun(
    outcomes: list[bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    out.write_bytes(b"".join(outcomes))
    door = admission()
    one = replace(door, tenants=door.tenants.with_views([View.AS_SENT]))
    with pytest.raises(ResumeError, match=r"line 1 of .* another version of the policy default"):
        resume(out, LINES, REVISION, one, tasks_of)


def test_a_file_is_finished_with_another_guard_than_it_was_begun(
    outcomes: list[bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    out.write_bytes(b"".join(outcomes))
    door = admission()
    with pytest.raises(ResumeError, match=f"begun with the guard {REVISION}"):
        resume(out, LINES, "another@1", door, tasks_of)
