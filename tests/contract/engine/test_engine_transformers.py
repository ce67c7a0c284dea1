"""The engine gives the answers that `transformers` gives with the same checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from qwarden.guard.answer import Answer, Assessment
from qwarden.guard.conversation import Conversation, Task
from qwarden_engine.gen import Gen
from unit.engine.checkpoints import (
    STAND_IN,
    conversations,
    engine,
    prompt,
    random_checkpoint,
    response,
    stand_in,
)
from unit.engine.reference import Reference

pytestmark = pytest.mark.parts  # transformers is slow

_ANSWER = re.compile(
    r"Safety: (Safe|Unsafe|Controversial)\nCategories: ([^\n]+)(?:\nRefusal: (Yes|No))?"
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Of `transformers` too: others compute on the same cores, and threads then wait for each
    other, at each of many steps."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(STAND_IN)


def _compare(gen: Gen, reference: Reference, some: list[Conversation], floor: float) -> int:
    """Compares every row; returns how many had several categories."""
    answers = gen.judge([each.to_json() for each in some])
    several = 0
    for conversation, answer in zip(some, answers, strict=True):
        assert isinstance(answer, Assessment), answer
        names = gen.category_names(conversation.task)
        expected = reference.constrained(conversation, names, floor)
        assert answer.logits == pytest.approx(expected.logits, abs=2e-4), conversation
        listed = [name for name, _ in expected.categories]
        assert [name for name, _ in answer.categories] == listed, conversation
        assert answer.refusal is expected.refusal, conversation
        several += len(listed) > 1
    return several


@pytest.mark.parametrize(("tied", "shards"), [(True, False), (False, True)])
def test_another_network_than_the_checkpoints_is_computed(
    tmp_path: Path, tied: bool, shards: bool
) -> None:
    """Random weights, so that every branch of the grammar is taken, lists included."""
    checkpoint = random_checkpoint(tmp_path, tied=tied, shards=shards)
    several = _compare(
        engine(checkpoint, token_budget=700), Reference(checkpoint), conversations()[::2], 0.9
    )
    assert several > 0


def test_stand_in_answers_another_thing_than_a_constrained_decode(
    reference: Reference,
) -> None:
    _compare(stand_in(), reference, conversations()[::5], 0.9)


def test_stand_in_answers_another_thing_than_a_free_greedy_decode(
    reference: Reference,
) -> None:
    """Rows whose free decode leaves the grammar are listed apart; a guard keeps it on most."""
    gen, some = stand_in(), conversations()[1::4]
    left, compared = [], 0
    for conversation, answer in zip(some, gen.judge([c.to_json() for c in some]), strict=True):
        assert isinstance(answer, Assessment)
        text = reference.generate(conversation)
        match = _ANSWER.fullmatch(text)
        names = gen.category_names(conversation.task)
        listed = match[2].split(", ") if match else []
        fits = match is not None and (match[3] is None) == (conversation.task is Task.PROMPT)
        fits = fits and (
            listed == ["None"]
            if match and match[1] == "Safe"
            else set(listed) <= set(names) and len(set(listed)) == len(listed)
        )
        if not fits or match is None:
            left.append(text)
            continue
        compared += 1
        assert answer.safety == match[1], conversation
        if match[1] != "Safe":
            assert [name for name, _ in answer.categories] == listed, conversation
        if conversation.task is not Task.PROMPT:
            assert answer.refusal is (match[3] == "Yes"), conversation
    print(f"{compared} compared, {len(left)} left the grammar: {left[:5]}")
    assert compared >= len(some) // 2


def test_a_row_gets_another_answer_in_a_batch_than_alone() -> None:
    rows = [c.to_json() for c in conversations()[::2]]
    rows += [prompt("word " * 700).to_json(), response("x", "long " * 500).to_json()]
    gen = stand_in()
    together = gen.judge(rows)
    for row, answer in zip(rows, together, strict=True):
        [alone] = gen.judge([row])
        assert isinstance(answer, Assessment)
        assert isinstance(alone, Assessment)
        assert answer.logits == pytest.approx(alone.logits, abs=1e-4)
        assert answer.scores == pytest.approx(alone.scores, abs=1e-4)
        assert [n for n, _ in answer.categories] == [n for n, _ in alone.categories]
        assert [p for _, p in answer.categories] == pytest.approx(
            [p for _, p in alone.categories], abs=1e-4
        )
        assert (answer.refusal, answer.tokens) == (alone.refusal, alone.tokens)


_LONG = [
    prompt("one two three " * 200).to_json(),
    prompt("one two three " * 195).to_json(),
    response("why? " * 25, "because. " * 150).to_json(),
]


def _in_slices(tokens: int) -> list[Answer]:
    """In a budget that the longest row is within, and without the second look, for which a start
    forwards a full micro-batch row by row: of 8,192 tokens that was all of 16 s."""
    gen = engine(slice_tokens=tokens, token_budget=1024, second_look=False)
    answers = gen.judge(_LONG)
    gen.close()
    return answers


@pytest.fixture(scope="module")
def unsliced() -> list[Answer]:
    return _in_slices(1024)


@pytest.mark.parametrize("slice_tokens", [64, 512])
def test_slices_change_the_answer_of_a_long_row(slice_tokens: int, unsliced: list[Answer]) -> None:
    """Also where a slice is as small as can be, and beside shorter rows."""
    for one, other in zip(_in_slices(slice_tokens), unsliced, strict=True):
        assert isinstance(one, Assessment)
        assert isinstance(other, Assessment)
        assert one.tokens == other.tokens
        assert one.logits == pytest.approx(other.logits, abs=1e-4)
        assert [n for n, _ in one.categories] == [n for n, _ in other.categories]
        assert one.refusal is other.refusal
    assert max(one.tokens for one in unsliced if isinstance(one, Assessment)) > 512
