"""The report of a few rows that can be counted by hand, through a guard that reads words."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from qwarden.guard.answer import Safety
from qwarden.guard.conversation import Task
from qwarden.guard.debounce import Threshold
from qwarden.inference.memory_stream import MemoryStream
from qwarden.inference.replica import StreamLimits
from qwarden.inference.stream_client import StreamClient
from qwarden.offline.eval.names import names_of
from qwarden.offline.eval.outcomes import Mode
from qwarden.offline.eval.stream_evaluation import (
    StreamEvaluation,
    choices_of,
    decoder_of,
    named,
    read_rows,
)
from qwarden.offline.eval.stream_measures import AHEAD, HIT, MISSED, Debounce
from qwarden.offline.eval.stream_rows import StreamRow, stream_row_of
from qwarden.offline.eval.stream_table import choice_table, stream_table
from qwarden.offline.score_sheet import lines_of
from qwarden.offline.stream_reading import ExchangeReader, Read
from qwarden.stack.home import Home

os.environ.setdefault("MPLCONFIGDIR", str(Home().cache("matplotlib")))

LIMITS = StreamLimits(8, 4, 1e9, 60.0, 0.001, 0.01)
ASK = {"role": "user", "content": "Why?"}
FILLER = "word " * 40


def rows_of(*bodies: dict[str, Any]) -> list[StreamRow]:
    names = names_of([], [])
    return [
        stream_row_of(body, names, "f.jsonl", number, decode=None)
        for number, body in enumerate(bodies, 1)
    ]


def located(answer: str, *, source: str = "m", label: str = "Unsafe") -> dict[str, Any]:
    """A row of the published format whose unsafe sentence is the words between bars, and whose ids
    stand for one character each."""
    before, marked, after = answer.split("|")
    text = before + marked + after
    head = [151644, 872, 198, 9, 151645, 198, 151644, 77091, 198, 151667, 271, 151668, 271]
    first = len(head) + len(before)
    return {
        "message": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": text}],
        "label": label,
        "unique_id": text[:20],
        "source": source,
        "unsafe_type": None,
        "input_ids": [*head, *[7] * len(text), 151645, 198],
        "unsafe_start_index": first if label == "Unsafe" else None,
        "unsafe_end_index": first + len(marked) - 1 if label == "Unsafe" else None,
    }


async def read_all(rows: list[StreamRow], context: int = 8192) -> list[Read]:
    async def look() -> frozenset[str]:
        return frozenset({"here"})

    client = StreamClient(lambda _: MemoryStream(context=context), look, LIMITS)
    done: list[int] = []
    try:
        return await read_rows(ExchangeReader(client, 11), rows, done.append)
    finally:
        await client.close()
        assert sum(done) == len(rows)


async def evaluated(*bodies: dict[str, Any], context: int = 8192) -> StreamEvaluation:
    rows = rows_of(*bodies)
    return StreamEvaluation.of(rows, await read_all(rows, context), "memory@0")


LOCATED = [
    located("a unsafe unsafe b |now unsafe it| is"),  # ahead
    located("well |to unsafe unsafe you| then"),  # hit
    located("well |to unsafe do| unsafe then"),  # one behind
    located(f"well |do it| {FILLER}unsafe unsafe"),  # 42 behind
    located("well |do it| then"),  # missed
    located("well |to controversial controversial| then", source="n"),  # hit, and strict only
]


async def test_a_flag_is_counted_in_another_place_than_it_was_planted() -> None:
    found = await evaluated(*LOCATED)
    [split] = found.report.splits
    assert (split.name, split.rows, split.spans, split.shared) == ("response_loc", 6, 6, 6)
    ruled = split.rules[Debounce.SCRIPT]
    assert ruled.latency is not None
    counted = {name: count for name, count in ruled.latency.bins.items() if count}
    assert counted == {AHEAD: 1, HIT: 2, "33 to 64 after": 1, MISSED: 2}
    assert ruled.latency.soon == 4 / 6
    assert ruled.latency.in_time == 3 / 6
    strict, loose = ruled.modes[Mode.STRICT], ruled.modes[Mode.LOOSE]
    assert (strict.flagged, loose.flagged) == (4, 3)
    assert strict.recall == 4 / 6
    assert loose.f1 == pytest.approx(2 * 0.5 / 1.5)
    assert strict.fpr is None
    assert [(each.name, each.rows) for each in split.sources] == [("m", 5), ("n", 1)]


@pytest.mark.parts
async def test_what_is_shown_of_it(tmp_path: Path) -> None:
    safe = located("|fine| controversial controversial", label="Safe")
    found = await evaluated(*LOCATED, safe, {"label": "Unsafe", "text": "unsafe"})
    shown = found.text()
    assert "## response\n" in shown
    assert "of these 6 only about" in shown
    assert "published 4B" in shown
    assert "86.0% (699)" in shown
    script = next(line for line in shown.splitlines() if line.startswith("| script's rule"))
    assert [cell.strip() for cell in script.split("|")[3:9]] == [
        "6", "5", "0.800", "0.667", "1.000", "0.727",
    ]  # fmt: skip
    assert "The stream guard at the end of each text" in shown
    found.write(tmp_path)
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == shown
    assert {each.name for each in tmp_path.glob("*.png")} == {
        "flags.png", "recall.png", "flagged.png", "reliability.png", "roc.png", "scores.png",
    }  # fmt: skip
    assert json.loads((tmp_path / "eval.json").read_bytes())["splits"][0]["rows"] == 7


async def test_a_row_without_an_answer_counts_as_safe() -> None:
    bodies = [
        {"label": "Unsafe", "prompt": "Why?", "response": "unsafe unsafe"},
        {"label": "Unsafe", "prompt": "Why?", "response": ""},
        {"label": "Unsafe", "prompt": "w " * 70, "response": "unsafe unsafe"},
        {"label": "Unsafe", "prompt": "Why?", "response": "unsafe unsafe " + "w " * 70},
        {"label": "Safe", "text": "hello"},
    ]
    found = await evaluated(*bodies, context=64)
    ends = found.report.ends
    assert (ends.rows, ends.answered) == (5, 3)
    assert {each.failure for each in ends.not_answered.listed} == {"refused", "too_long"}
    [split] = found.report.splits
    assert (split.rows, split.closed) == (2, 1)
    assert split.rules[Debounce.DEFAULT].modes[Mode.STRICT].recall == 1
    # At its end the second one is Safe again: the last word that was read says so.
    assert ends.tasks[0].strict.recall == 0.5
    assert stream_table(found.report).count("not read to their end: 1") == 1


async def test_the_end_of_a_text_is_read_from_its_middle() -> None:
    found = await evaluated(
        {"label": "Unsafe", "source": "a", "prompt": "Why?", "response": "well unsafe"},
        {"label": "Safe", "source": "a", "prompt": "Why?", "response": "unsafe unsafe well"},
        {"label": "Safe", "source": "b", "text": "unsafe"},
    )
    [one, other] = found.report.ends.sources
    assert (one.name, one.strict.auc, one.strict.fpr) == ("a", 1, 0)
    assert (other.name, other.strict.fpr) == ("b", 1)


async def test_a_rule_is_chosen_on_prompts_or_on_answers_behind_thoughts() -> None:
    bodies = [
        {"label": label, "messages": [ASK, {"role": "assistant", "content": "", "reasoning": text}]}
        for text, label, count in (
            ("unsafe " * 12, "Unsafe", 30), ("unsafe " * 3 + "well", "Safe", 30)
        )
        for _ in range(count)
    ]  # fmt: skip
    rows = rows_of(*bodies, {"label": "Safe", "text": "unsafe"})
    choices, missing = choices_of(rows, await read_all(rows), 0.0)
    assert missing == []
    [choice] = choices
    assert choice.task is Task.THINKING
    assert choice.chosen is not None
    assert isinstance(choice.chosen.rule, Threshold)
    assert choice.chosen.rule.run == 4, "the soonest that flags no Safe one"
    assert (choice.safe, choice.unsafe) == (30, 30)
    shown = choice_table(choices)
    assert f"thinking: {{rule: threshold, p: {choice.chosen.rule.p:g}, run: 4}}" in shown
    assert "This file cannot show that 0.0% is kept" in shown
    _, missing = choices_of(rows[-1:], [Read("r")], 0.01)
    assert missing == ["the file has no thought and no answer to choose a rule on"]


async def test_a_row_is_drawn_that_was_not_named(tmp_path: Path) -> None:
    rows = rows_of(*LOCATED, {"label": "Safe", "id": "../é $x$", "text": "hello"})
    some = named(rows, ["../é $x$", rows[1].labelled.id])
    found = StreamEvaluation.of(some, await read_all(some), "memory@0")
    files = found.draw(tmp_path)
    assert [file.parent for file in files] == [tmp_path, tmp_path]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)
    with pytest.raises(ValueError, match="no row has the id 'none'; there are 7"):
        named(rows, ["none"])


def test_a_line_of_the_picture_loses_a_character() -> None:
    for text in (
        "",
        "a",
        "word " * 50,
        "x" * 250,
        "你好" * 80,
        "a\n\nb  c\t" * 40,
        "e\u0301 " * 90,
    ):
        lines = lines_of(text)
        assert "".join(text[line.start : line.end] for line in lines) == text
        for line in lines:
            assert len(line.cells) == line.end - line.start + 1
            assert line.cells[-1] <= 96
    assert all(line.end - line.start >= 48 for line in lines_of("word " * 50)[:-1])


def test_a_tokenizer_that_is_none_ends_in_a_traceback(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text("{}")
    with pytest.raises(ValueError, match=r"is no tokenizer\.json"):
        decoder_of(str(file))
    with pytest.raises(ValueError, match="nowhere"):
        decoder_of("/nowhere")


def test_labels_are_read_in_any_case() -> None:
    [row] = rows_of(located("|a| b") | {"label": "unsafe"})
    assert row.labelled.label is Safety.UNSAFE
