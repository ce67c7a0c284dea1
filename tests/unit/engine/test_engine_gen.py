from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from qwarden.guard.answer import Answer, Assessment, Failure, Unanswered
from qwarden.guard.conversation import Conversation, Task, Turn
from qwarden_engine.gen import Gen
from qwarden_engine.model import Qwen3
from unit.engine.checkpoints import (
    copy_to,
    edit,
    engine,
    prompt,
    response,
    stand_in,
    store,
    tensors_of,
)


def _unanswered(answer: Answer, failure: Failure) -> str:
    assert isinstance(answer, Unanswered), answer
    assert answer.failure is failure
    assert answer.revision == stand_in().revision or "@" in answer.revision
    return answer.reason


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"{}", "a conversation is"),
        (b"", "a conversation is"),
        (b"[]", "a conversation is"),
        (b"\xff", "a conversation is"),
        (b"[" * 100_000, "a conversation is"),
        (b'{"task":"\\ud800","messages":[]}', "a conversation is"),
        (b'{"task":"prompt","messages":[]}', "without turns"),
        (b'{"task":"prompt","messages":[{"role":"user","content":"\\ud800"}]}', "surrogate"),
        (b'{"task":"prompt","messages":[{"role":"\\ud800","content":"a"}]}', "no role"),
        (b'{"task":"prompt","messages":[{"role":"user","content":["a"]}]}', "must be a string"),
        (b'{"task":"prompt","messages":[{"role":"system","content":"a"}]}', "no role 'system'"),
        (b'{"task":"response","messages":[{"role":"user","content":"a"}]}', "last turn"),
    ],
)
def test_a_bad_row_fails_the_rows_beside_it(row: bytes, reason: str) -> None:
    gen = stand_in()
    before, bad, after = gen.judge([prompt("one").to_json(), row, response("a", "b").to_json()])
    assert isinstance(before, Assessment)
    assert isinstance(after, Assessment)
    text = _unanswered(bad, Failure.REFUSED)
    assert reason in text
    assert text.encode()  # it travels as UTF-8
    assert {before.revision, bad.revision, after.revision} == {gen.revision}


def test_no_rows_are_an_error() -> None:
    assert stand_in().judge([]) == []


def test_answers_come_in_another_order_than_their_rows() -> None:
    gen = stand_in()
    rows = [
        prompt("a").to_json(),
        response("a", "b " * 50).to_json(),
        prompt("a b c " * 30).to_json(),
        response("a", "b").to_json(),
    ]
    tokens = [answer.tokens for answer in gen.judge(rows) if isinstance(answer, Assessment)]
    alone = [gen.judge([row])[0] for row in rows]
    assert tokens == [answer.tokens for answer in alone if isinstance(answer, Assessment)]
    assert len(set(tokens)) == 4


def test_too_long_is_found_in_a_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    gen = stand_in()

    def never(*_: object) -> torch.Tensor:
        raise AssertionError("a forward was run")

    monkeypatch.setattr(Qwen3, "prefill", never)
    limit = gen.limit(Task.PROMPT)
    [answer] = gen.judge([prompt("word " * (limit + 1)).to_json()])
    reason = _unanswered(answer, Failure.TOO_LONG)
    assert f"at most {limit} " in reason


def test_a_row_at_the_limit_runs_out_of_the_context(tmp_path: Path) -> None:
    """Template, the longest conversation and the longest answer are within the context."""
    guard = copy_to(tmp_path)
    edit(guard / "config.json", lambda body: body.update(max_position_embeddings=400))
    gen = engine(guard)
    limit = gen.limit(Task.PROMPT)
    assert 0 < limit < 400
    tokens = 0
    for words in range(limit - 5, limit + 5):
        [answer] = gen.judge([prompt("word " * words).to_json()])
        if isinstance(answer, Unanswered):
            assert answer.failure is Failure.TOO_LONG
            break
        tokens = answer.tokens
    assert tokens == limit


def test_dropped_turns_are_not_counted(tmp_path: Path) -> None:
    guard = copy_to(tmp_path)
    edit(guard / "config.json", lambda body: body.update(max_position_embeddings=400))
    gen = engine(guard)
    old = (Turn("user", "word " * 300), Turn("assistant", "yes"))
    last = Turn("user", "And how do I bake bread?")
    whole, alone = gen.judge(
        [Conversation(Task.PROMPT, (*old, last)).to_json(), prompt(last.content).to_json()]
    )
    assert isinstance(whole, Assessment)
    assert isinstance(alone, Assessment)
    assert (whole.dropped_turns, alone.dropped_turns) == (2, 0)
    assert whole.logits == pytest.approx(alone.logits, abs=1e-4)


def test_not_a_number_is_an_answer(tmp_path: Path) -> None:
    """One row's network output is broken; the rows beside it are answered."""
    guard = copy_to(tmp_path)
    tensors = tensors_of(guard / "model.safetensors")
    [token] = stand_in()._template.plain_ids("\u00a7")[:1]
    tensors["model.embed_tokens.weight"][token] = float("nan")
    store(tensors, guard / "model.safetensors")
    gen = engine(guard)
    fine, broken, refused = gen.judge(
        [prompt("hello").to_json(), prompt("\u00a7").to_json(), response("\u00a7", "no").to_json()]
    )
    assert isinstance(fine, Assessment)
    for answer in (broken, refused):
        assert "not a number" in _unanswered(answer, Failure.NO_ANSWER)


class _Full:
    """Runs out of memory above so many rows a batch, as torch says it on a CPU."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._prefill = Qwen3.prefill
        self.batches: list[int] = []

    def __call__(self, model: Qwen3, cache: Any, *rest: Any) -> torch.Tensor:
        if cache.rows > self._rows:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        self.batches.append(cache.rows)
        return self._prefill(model, cache, *rest)


def _with_memory_for(monkeypatch: pytest.MonkeyPatch, rows: int) -> _Full:
    full = _Full(rows)

    def prefill(model: Qwen3, *rest: Any) -> torch.Tensor:
        return full(model, *rest)

    monkeypatch.setattr(Qwen3, "prefill", prefill)
    return full


def test_a_batch_that_memory_cannot_hold_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    gen = stand_in()
    rows = [prompt(f"text {at}").to_json() for at in range(9)]
    expected = gen.judge(rows)
    full = _with_memory_for(monkeypatch, 2)
    for answer, other in zip(gen.judge(rows), expected, strict=True):
        assert isinstance(answer, Assessment)
        assert isinstance(other, Assessment)
        assert answer.logits == pytest.approx(other.logits, abs=1e-4)
    assert sum(full.batches) == 9


def test_a_row_that_memory_cannot_hold_alone_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_memory_for(monkeypatch, 0)
    [answer] = stand_in().judge([prompt("hello").to_json()])
    assert "out of memory" in _unanswered(answer, Failure.NO_ANSWER)


def test_another_fault_of_the_network_is_taken_for_one_of_the_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> torch.Tensor:
        raise RuntimeError("a kernel is missing")

    monkeypatch.setattr(Qwen3, "prefill", broken)
    with pytest.raises(RuntimeError, match="a kernel is missing"):
        stand_in().judge([prompt("hello").to_json()])


def test_batches_pass_the_token_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    prefill = Qwen3.prefill

    def note(model: Qwen3, cache: Any, ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append((ids.shape[0], ids.shape[1]))
        return prefill(model, cache, ids, *rest)

    gen = engine(token_budget=300)
    monkeypatch.setattr(Qwen3, "prefill", note)
    rows = [prompt("word " * (1 + at * 17 % 90)).to_json() for at in range(40)]
    rows.append(prompt("word " * 900).to_json())
    assert all(isinstance(answer, Assessment) for answer in gen.judge(rows))
    assert sum(count for count, _ in seen) == len(rows)
    assert any(count > 1 for count, _ in seen)
    for count, width in seen:
        assert count == 1 or count * width <= 300


def test_categories_are_decoded_above_the_floor() -> None:
    rows = [prompt("How do I bake bread?").to_json(), response("Hi", "Hello!").to_json()]
    for answer in engine(floor=0).judge(rows):
        assert isinstance(answer, Assessment)
        assert answer.categories == ()
    for answer in engine(floor=1).judge(rows):
        assert isinstance(answer, Assessment)
        assert answer.categories
        chances = [chance for _, chance in answer.categories]
        assert chances == sorted(chances, reverse=True)
        assert all(0 < chance <= 1 for chance in chances)


def test_the_floor_changes_safety_or_refusal() -> None:
    rows = [prompt("How do I bake bread?").to_json(), response("Hi", "Hello!").to_json()]
    rows += [response("How to kill?", "I cannot help with that.").to_json()]
    for one, other in zip(engine(floor=0).judge(rows), engine(floor=1).judge(rows), strict=True):
        assert isinstance(one, Assessment)
        assert isinstance(other, Assessment)
        assert one.logits == pytest.approx(other.logits, abs=1e-4)
        assert one.safety == other.safety
        if one.safety == "Safe":
            assert one.refusal is other.refusal


def test_threads_get_each_others_answers() -> None:
    gen = stand_in()
    rows = [prompt("word " * (1 + at)).to_json() for at in range(4)]
    expected = gen.judge(rows)
    got: dict[int, Answer] = {}

    def ask(at: int) -> None:
        got[at] = gen.judge([rows[at]])[0]

    threads = [threading.Thread(target=ask, args=(at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for at, answer in enumerate(expected):
        other = got[at]
        assert isinstance(answer, Assessment)
        assert isinstance(other, Assessment)
        assert other.logits == pytest.approx(answer.logits, abs=1e-4)
        assert other.tokens == answer.tokens


def test_the_floor_keeps_the_revision() -> None:
    assert engine(floor=0.5).revision != stand_in().revision
    assert engine().revision == stand_in().revision


def test_progress_says_nothing() -> None:
    said: list[str] = []
    settings = stand_in()._settings
    gen = Gen.load(settings, said.append)
    assert gen.revision in said[-1]
    assert len(said) > 3
