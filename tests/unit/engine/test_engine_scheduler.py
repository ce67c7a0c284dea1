"""The engine's thread over a real network: who is answered, with what, and who is told what."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
from torch import Tensor

from qwarden.guard.answer import Answer, Assessment, Failure, Unanswered
from qwarden.guard.conversation import Conversation, Task
from qwarden.guard.row import View, row_of
from qwarden_engine import scheduler
from qwarden_engine.conviction import GOOD, LEDGER, Ledger
from qwarden_engine.gen import EngineFailed, Gen
from qwarden_engine.intake import name_of
from qwarden_engine.model import Forwarded, Past, Qwen3, Span
from qwarden_engine.pulse import PULSE, read_beat
from unit.engine.checkpoints import conversations, prompt, response, tiny

LONG = 60.0
"""Seconds after which a test that waits has failed."""

Hook = Callable[[Sequence[Span]], None]


class _Forwards:
    """Every forward of any engine: its rows' ids; `before` is called first, and may raise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, before: Hook = lambda _: None) -> None:
        self.rows: list[list[list[int]]] = []
        """Of each forward that came back."""
        self.before = before
        forward = Qwen3.forward

        def note(model: Qwen3, spans: Sequence[Span], past: Past | None = None) -> Forwarded:
            self.before(spans)
            forwarded = forward(model, spans, past)
            self.rows.append([list(span.ids) for span in spans])
            return forwarded

        monkeypatch.setattr(Qwen3, "forward", note)


class _Gate:
    """Holds forwards until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def __call__(self, _: Sequence[Span]) -> None:
        self.reached.set()
        assert self.opened.wait(LONG)


class _Asked:
    """A request from a thread that does not wait for it."""

    def __init__(self, gen: Gen, *some: Conversation, look: threading.Event | None = None) -> None:
        """`look`: who waits for room looks for it again before it is known that it is cancelled."""
        self.cancelled = False
        self._look = look
        self.told: list[list[Answer] | None] = []
        self._done = threading.Event()
        rows = [each.to_json() for each in some]
        gen.submit(rows, self._tell, self._is_cancelled)

    def _is_cancelled(self) -> bool:
        if self._look is not None and self.cancelled:
            assert self._look.wait(LONG)
        return self.cancelled

    def _tell(self, answers: list[Answer] | None) -> None:
        self.told.append(answers)
        self._done.set()

    def answers(self) -> list[Answer] | None:
        """What it was told, once."""
        assert self._done.wait(LONG)
        [told] = self.told
        return told


def _ids(gen: Gen, conversation: Conversation) -> list[int]:
    """What is forwarded for a conversation."""
    part = gen._intake._parts[conversation.task]
    [pieces] = gen._wording.template.encode([conversation], part.limit, 1)
    assert not isinstance(pieces, Exception)
    return [*pieces[0].ids, *part.grammar.tail]


def _same(some: list[Answer] | None, others: list[Answer] | None) -> None:
    assert some is not None
    assert others is not None
    for one, other in zip(some, others, strict=True):
        assert isinstance(one, Assessment), one
        assert isinstance(other, Assessment), other
        assert one.logits == pytest.approx(other.logits, abs=1e-4)
        assert [name for name, _ in one.categories] == [name for name, _ in other.categories]
        assert (one.refusal, one.tokens) == (other.refusal, other.tokens)


def _failure(answer: Answer, failure: Failure) -> str:
    assert isinstance(answer, Unanswered), answer
    assert answer.failure is failure
    assert answer.revision.count("@") == 1
    return answer.reason


def test_a_request_that_nobody_waits_for_is_forwarded(monkeypatch: pytest.MonkeyPatch) -> None:
    gen = tiny(second_look=False)
    gate = _Gate()
    forwards = _Forwards(monkeypatch, gate)
    first = _Asked(gen, prompt("the first one"))
    assert gate.reached.wait(LONG)
    gone = _Asked(gen, prompt("nobody waits for it"), prompt("nor for this"))
    last = _Asked(gen, prompt("the last one"))
    gone.cancelled = True
    gate.opened.set()
    assert gone.answers() is None
    for asked in (first, last):
        answers = asked.answers()
        assert answers is not None
        assert isinstance(answers[0], Assessment)
    assert [len(rows) for rows in forwards.rows] == [1, 1]
    assert gen.counts.cancelled == 1
    gen.close()


def test_who_waits_for_room_sleeps_on_where_those_before_are_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gen = tiny(token_budget=64, second_look=False)
    gate = _Gate()
    _Forwards(monkeypatch, gate)
    first = _Asked(gen, prompt("the first one"))
    assert gate.reached.wait(LONG)
    has_looked = threading.Event()
    gone = _Asked(gen, *(prompt(f"cat number {n}") for n in range(40)), look=has_looked)
    waiting: list[_Asked] = []
    submitting = threading.Thread(target=lambda: waiting.append(_Asked(gen, prompt("it waits"))))
    gone.cancelled = True
    has_room = gen._scheduler._has_room
    waits = threading.Event()

    def look() -> bool:
        (has_looked if waits.is_set() else waits).set()
        return has_room()

    monkeypatch.setattr(gen._scheduler, "_has_room", look)
    submitting.start()
    assert waits.wait(LONG)
    gate.opened.set()
    submitting.join(LONG)
    assert waiting, "it waits for room that is there"
    assert gone.answers() is None
    for asked in (first, *waiting):
        answers = asked.answers()
        assert answers is not None
        assert isinstance(answers[0], Assessment)
    gen.close()


def test_a_long_row_that_nobody_waits_for_is_forwarded_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gen = tiny(token_budget=64)
    after = prompt("word " * 500)
    expected = gen.judge([after.to_json()])
    asked: list[_Asked] = []
    given = threading.Event()

    def cancel(_: Sequence[Span]) -> None:
        assert given.wait(LONG)
        asked[0].cancelled = True

    forwards = _Forwards(monkeypatch, cancel)
    asked.append(_Asked(gen, prompt("word " * 1000)))
    given.set()
    assert asked[0].answers() is None
    forwards.before = lambda _: None
    assert gen._scheduler._waiting.tokens == 0
    assert gen.judge([after.to_json()]) == expected
    first, *others = (ids for [ids] in forwards.rows)
    assert len(first) == 64
    assert [token for ids in others for token in ids] == _ids(gen, after)
    gen.close()


def test_a_long_row_that_nobody_waits_for_keeps_its_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its keys and values are gigabytes, which micro-batches could use."""
    gen = tiny(token_budget=64, second_look=False)
    asked: list[_Asked] = []
    given = threading.Event()

    def cancel(_: Sequence[Span]) -> None:
        assert given.wait(LONG)
        asked[0].cancelled = True

    _Forwards(monkeypatch, cancel)
    asked.append(_Asked(gen, prompt("word " * 1000)))
    given.set()
    assert asked[0].answers() is None
    gen.judge([prompt("short").to_json()])
    assert gen._scheduler._judge._past is None
    gen.close()


def test_who_asks_and_raises_ends_the_engine() -> None:
    gen = tiny()

    def raises(*_: object) -> NoReturn:
        raise RuntimeError("gone")

    told = threading.Event()
    gen.submit([prompt("a").to_json()], raises)
    gen.submit([prompt("b").to_json()], lambda _: told.set(), raises)
    assert told.wait(LONG)
    assert isinstance(gen.judge([prompt("c").to_json()])[0], Assessment)
    gen.close()


def _without_memory(spans: Sequence[Span], most: int) -> None:
    if len(spans) > most:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")


def test_a_batch_that_memory_cannot_hold_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is forwarded in smaller ones, from then on too, and no row twice."""
    gen = tiny(second_look=False)
    some = [prompt(f"text {at}") for at in range(9)]
    rows = [each.to_json() for each in some]
    expected = gen.judge(rows)
    budget = gen._scheduler._budget
    forwards = _Forwards(monkeypatch, lambda spans: _without_memory(spans, 2))
    _same(gen.judge(rows), expected)
    assert gen.counts.out_of_memory > 0
    assert gen._scheduler._budget < budget
    done = [ids for batch in forwards.rows for ids in batch]
    assert sorted(done) == sorted(_ids(gen, each) for each in some)
    before = gen.counts.out_of_memory
    _same(gen.judge(rows), expected)
    assert gen.counts.out_of_memory == before
    gen.close()


def _at_most(tokens: int) -> Hook:
    """Memory for forwards of so many tokens."""

    def full(spans: Sequence[Span]) -> None:
        if sum(len(span.ids) for span in spans) > tokens:
            _without_memory(spans, 0)

    return full


@pytest.mark.parametrize(
    ("words", "most"), [(400, 130), (2000, 130), (2000, 300)], ids=["alone", "in slices", "halved"]
)
def test_a_row_that_memory_can_hold_in_smaller_slices_has_no_answer(
    monkeypatch: pytest.MonkeyPatch, words: int, most: int
) -> None:
    gen = tiny(token_budget=512, second_look=False)
    some = [prompt("hello"), prompt("word " * words), response("a", "b")]
    rows = [each.to_json() for each in some]
    expected = gen.judge(rows)
    forwards = _Forwards(monkeypatch, _at_most(most))
    _same(gen.judge(rows), expected)
    done = [token for batch in forwards.rows for ids in batch for token in ids]
    assert sorted(done) == sorted(token for each in some for token in _ids(gen, each))
    assert gen._scheduler._waiting.tokens == gen._scheduler._waiting.long == 0
    gen.close()


def test_a_last_slice_that_memory_cannot_decode_cannot_be_run_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gen = tiny(floor=1.0, token_budget=512, second_look=False)
    row = prompt("word " * 900).to_json()
    expected = gen.judge([row])
    extend = Qwen3.extend
    left = [1]

    def once(model: Qwen3, *args: Any) -> Tensor:
        if left:
            left.pop()
            raise MemoryError
        return extend(model, *args)

    monkeypatch.setattr(Qwen3, "extend", once)
    _same(gen.judge([row]), expected)
    assert gen.counts.out_of_memory == 1
    assert gen._scheduler._judge._past is None
    gen.close()


def test_an_engine_that_ran_out_of_memory_once_is_slow_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its budget and its slices come back step by step, and then the same bits."""
    monkeypatch.setattr(scheduler, "STEP_UP", 3)
    gen = tiny(token_budget=512, second_look=False)
    row = prompt("word " * 2000).to_json()
    expected = gen.judge([row])
    budget, slicing = gen._scheduler._budget, gen._scheduler._waiting.slicing
    forwards = _Forwards(monkeypatch, _at_most(100))
    gen.judge([row])
    assert gen._scheduler._budget < budget
    forwards.before = lambda _: None
    for _ in range(12):
        gen.judge([prompt("short").to_json()])
    assert (gen._scheduler._budget, gen._scheduler._waiting.slicing) == (budget, slicing)
    assert gen.judge([row]) == expected
    gen.close()


@pytest.mark.parametrize("words", [400, 2000], ids=["alone", "in slices"])
def test_a_row_that_memory_cannot_hold_in_any_slices_raises(
    monkeypatch: pytest.MonkeyPatch, words: int
) -> None:
    """It has no answer; the rows before and behind it have."""
    gen = tiny(token_budget=512, second_look=False)

    small = [prompt("hello"), response("a", "b")]
    rows = [small[0].to_json(), prompt("word " * words).to_json(), small[1].to_json()]
    expected = gen.judge([rows[0], rows[2]])
    _Forwards(monkeypatch, _at_most(60))
    before, large, after = gen.judge(rows)
    _same([before, after], expected)
    assert "out of memory for a row of" in _failure(large, Failure.NO_ANSWER)
    assert gen._scheduler._waiting.tokens == 0
    gen.close()


@pytest.mark.parametrize("error", [RuntimeError, AssertionError])
@pytest.mark.parametrize("words", [1, 2000], ids=["short", "in slices"])
def test_a_fault_on_one_row_fails_the_rows_beside_it(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception], words: int
) -> None:
    gen = tiny(token_budget=1024, second_look=False)
    faulty = prompt("this one " * words)
    start = _ids(gen, faulty)[:50]

    def fails(spans: Sequence[Span]) -> None:
        if any(list(span.ids[: len(start)]) == start for span in spans):
            raise error("a kernel is missing")

    some = [*conversations()[::9], faulty, *conversations()[4::9]]
    rows = [each.to_json() for each in some]
    expected = gen.judge(rows)
    _Forwards(monkeypatch, fails)
    answers = gen.judge(rows)
    at = some.index(faulty)
    reason = _failure(answers.pop(at), Failure.NO_ANSWER)
    assert "failed on it alone" in reason
    assert "a kernel is missing" in reason
    expected.pop(at)
    _same(answers, expected)
    gen.close()


@pytest.mark.parametrize("error", [RuntimeError, IndexError])
def test_a_fault_of_the_engine_is_taken_for_one_of_the_row(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """All who wait are told, none with an answer; who asks later is judged if it can be."""
    gen = tiny(second_look=False)
    rows = [each.to_json() for each in conversations()[:5]]
    expected = gen.judge(rows)
    gate = _Gate()

    def broken(spans: Sequence[Span]) -> None:
        gate(spans)
        raise error("the device is gone")

    forwards = _Forwards(monkeypatch, broken)
    first = _Asked(gen, prompt("a"))
    assert gate.reached.wait(LONG)
    second = _Asked(gen, *conversations()[:30])
    gate.opened.set()
    assert first.answers() is None
    assert second.answers() is None
    with pytest.raises(EngineFailed):
        gen.judge(rows)
    assert gen._scheduler._waiting.tokens == 0
    forwards.before = lambda _: None
    _same(gen.judge(rows), expected)
    gen.close()


def _blocked(monkeypatch: pytest.MonkeyPatch, gen: Gen) -> threading.Event:
    """Set once somebody waits for the engine, whose own thread is held elsewhere."""
    waits = threading.Event()
    condition = gen._scheduler._changed
    wait = condition.wait

    def note(timeout: float | None = None) -> bool:
        waits.set()
        return wait(timeout)

    monkeypatch.setattr(condition, "wait", note)
    return waits


class _Full:
    """An engine with one row in a forward that is held, and two budgets of others waiting."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gen = tiny(token_budget=64, second_look=False)
        self.gate = _Gate()
        _Forwards(monkeypatch, self.gate)
        self.under_way = _Asked(self.gen, prompt("under way"))
        assert self.gate.reached.wait(LONG)
        self.waits = _blocked(monkeypatch, self.gen)
        self.waiting: list[_Asked] = []
        while self.gen._scheduler._waiting.tokens < 2 * 64:
            self.waiting.append(_Asked(self.gen, prompt("some more words")))


def test_a_queue_grows_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks while two budgets wait is held, and let in when there is room."""
    full = _Full(monkeypatch)
    gen, gate, waits = full.gen, full.gate, full.waits
    assert not waits.is_set()
    let_in = threading.Event()
    late: list[_Asked] = []

    def ask() -> None:
        late.append(_Asked(gen, prompt("late")))
        let_in.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    assert waits.wait(LONG)
    assert not let_in.is_set()
    gate.opened.set()
    assert let_in.wait(LONG)
    thread.join(LONG)
    for asked in (full.under_way, *full.waiting, *late):
        answers = asked.answers()
        assert answers is not None
        assert isinstance(answers[0], Assessment)
    gen.close()


def test_who_waits_for_an_engine_that_ends_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    full = _Full(monkeypatch)
    gen, gate, waits = full.gen, full.gate, full.waits
    late: list[_Asked] = []
    asker = threading.Thread(target=lambda: late.append(_Asked(gen, prompt("late"))), daemon=True)
    asker.start()
    assert waits.wait(LONG)
    closer = threading.Thread(target=gen.close, daemon=True)
    closer.start()
    asker.join(LONG)
    assert late[0].answers() is None
    assert closer.is_alive()
    gate.opened.set()
    closer.join(LONG)
    assert not closer.is_alive()
    answers = full.under_way.answers()
    assert answers is not None
    assert isinstance(answers[0], Assessment)
    assert [asked.answers() for asked in full.waiting] == [None] * len(full.waiting)
    with pytest.raises(EngineFailed):
        gen.judge([prompt("after the end").to_json()])
    gen.close()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_near_tie_has_another_answer_in_a_batch_than_alone(dtype: str) -> None:
    """Bit for bit: it is judged once more, in the shape in which it would be alone."""
    gen = tiny(dtype=dtype)
    some = [each.to_json() for each in conversations()[::7]]
    alone = [gen.judge([row])[0] for row in some]
    assert gen.counts.near_ties == 0
    gen._scheduler._bound = math.inf
    assert gen.judge(some) == alone
    assert gen.counts.near_ties == len(some)
    assert gen.counts.jobs == 3 * len(some)
    gen.close()


def test_rows_without_a_near_tie_are_judged_twice() -> None:
    gen = tiny(second_look=False)
    some = conversations()[::2]
    gen.judge([each.to_json() for each in some])
    assert gen.counts.near_ties == 0
    assert gen.counts.jobs == len(some)
    gen.close()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_exact_row_is_judged_beside_others(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    gen = tiny(dtype=dtype, second_look=False)
    some = conversations()[::8]
    rows = [
        row_of(each.to_json(), [View.AS_SENT], exact=at % 3 == 0) for at, each in enumerate(some)
    ]
    alone = [gen.judge([each.to_json()])[0] for each in some]
    forwards = _Forwards(monkeypatch)
    answers = gen.judge(rows)
    assert answers[::3] == alone[::3]
    for conversation in some[::3]:
        assert [_ids(gen, conversation)] in forwards.rows
    assert sum(map(len, forwards.rows)) == len(some)
    assert max(map(len, forwards.rows)) > 1
    gen.close()


def _died(folder: Path, *groups: list[str]) -> None:
    """What a life leaves that ended in the last of these forwards, after the others came back."""
    ledger = Ledger(folder / LEDGER)
    for rows in groups[:-1]:
        ledger.starts(rows)
        ledger.came_back()
    ledger.starts(groups[-1])
    ledger.close()


def test_a_row_that_ends_the_process_is_forwarded_a_third_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    killer, fine = prompt("killer").to_json(), prompt("fine").to_json()
    _died(tmp_path, [name_of(killer), name_of(fine)])
    _died(tmp_path, [name_of(fine)], [name_of(killer)])
    _died(tmp_path, [GOOD], [name_of(killer)])
    gen = tiny(state=tmp_path, second_look=False)
    forwards = _Forwards(monkeypatch)
    [answer] = gen.judge([killer])
    assert "ended the engine's process" in _failure(answer, Failure.CRASHED)
    assert forwards.rows == []
    before, answer, after = gen.judge([fine, killer, prompt("fine too").to_json()])
    _failure(answer, Failure.CRASHED)
    assert isinstance(before, Assessment)
    assert isinstance(after, Assessment)
    assert [len(rows) for rows in forwards.rows] == [2]
    assert gen.counts.crashed == 2
    gen.close()


def test_a_row_that_was_running_at_a_death_stands_beside_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Until it has come back; its pieces and views, all of them."""
    some = [prompt(text) for text in ("a", "b <think>", "c", "d")]
    rows = [row_of(each.to_json(), list(View)) for each in some]
    _died(tmp_path, [name_of(rows[0]), name_of(rows[1])])
    gen = tiny(state=tmp_path, second_look=False)
    forwards = _Forwards(monkeypatch)
    assert all(isinstance(answer, Assessment) for answer in gen.judge(rows))
    assert sorted(map(len, forwards.rows)) == [1, 1, 1, 2]
    assert [_ids(gen, some[0])] in forwards.rows
    assert [_ids(gen, some[1])] in forwards.rows
    assert gen._scheduler._ledger.record.suspects == {}
    forwards.rows.clear()
    gen.judge(rows)
    assert [len(batch) for batch in forwards.rows] == [5]
    gen.close()


def test_a_row_is_tried_again_before_the_known_good_one_came_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    row = prompt("it stood alone at a death")
    _died(tmp_path, [name_of(row.to_json())])
    gen = tiny(state=tmp_path, second_look=False)
    forwards = _Forwards(monkeypatch)
    for _ in range(2):
        assert isinstance(gen.judge([row.to_json()])[0], Assessment)
    good = gen._scheduler._good.ids
    assert forwards.rows == [[good], [_ids(gen, row)], [_ids(gen, row)]]
    assert gen._scheduler._ledger.record.suspects == {}
    gen.close()


def test_a_death_would_name_no_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """While rows are forwarded, the files say so, and which; afterwards they say that none is."""
    gen = tiny(state=tmp_path, second_look=False, token_budget=256)
    rows = [prompt("one").to_json(), response("why?", "two").to_json()]
    long = prompt("word " * 600).to_json()
    seen: list[set[str]] = []

    def look(_: Sequence[Span]) -> None:
        beat = read_beat(tmp_path / PULSE)
        assert beat is not None
        assert beat.running
        copy = tmp_path / "copy"
        copy.write_bytes((tmp_path / LEDGER).read_bytes())
        next_life = Ledger(copy)
        next_life.close()
        seen.append(set(next_life.record.suspects))

    _Forwards(monkeypatch, look)
    assert all(isinstance(answer, Assessment) for answer in gen.judge(rows))
    assert seen == [{name_of(row) for row in rows}]
    seen.clear()
    assert isinstance(gen.judge([long])[0], Assessment)
    assert len(seen) > 2
    assert set(map(frozenset, seen)) == {frozenset([name_of(long)])}
    beat = read_beat(tmp_path / PULSE)
    assert beat is not None
    assert not beat.running
    assert beat.count == 1 + gen.counts.forwards  # with the one at the start
    gen.close()
    after = Ledger(tmp_path / LEDGER)
    after.close()
    assert after.record.suspects == {}


def test_the_first_full_batch_of_a_slow_guard_is_taken_for_silence(tmp_path: Path) -> None:
    gen = tiny(state=tmp_path, second_look=False)
    beat = read_beat(tmp_path / PULSE)
    assert beat is not None
    assert beat.slice_s > 0
    assert not beat.running
    gen.close()


def test_the_wait_of_a_long_row_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    gen = tiny(second_look=False, token_budget=64)
    gate = _Gate()
    _Forwards(monkeypatch, gate)
    first = _Asked(gen, prompt("the first one"))
    assert gate.reached.wait(LONG)
    waited = gen.counts.queue_seconds
    long = _Asked(gen, prompt("word " * 500))
    gate.opened.set()
    assert first.answers() is not None
    alone = gen.counts.queue_seconds
    assert long.answers() is not None
    assert gen.counts.queue_seconds > alone >= waited
    gen.close()


def test_the_padding_of_rows_that_go_on_is_not_counted() -> None:
    """To the longest of them, and the room that an answer did not take."""
    gen = tiny(floor=1.0, second_look=False)
    some = [prompt("word " * 80), prompt("word " * 100)]
    each = []
    for conversation in some:
        before = gen.counts.padding
        gen.judge([conversation.to_json()])
        each.append(gen.counts.padding - before)
    room = gen._intake._parts[Task.PROMPT].grammar.room
    assert all(0 <= padding < room for padding in each)
    before = gen.counts.padding
    gen.judge([conversation.to_json() for conversation in some])
    short, long = (len(_ids(gen, conversation)) for conversation in some)
    assert gen.counts.padding - before == sum(each) + long - short
    gen.close()


def test_a_request_is_told_twice_or_never() -> None:
    """Many threads at once, with rows that need no forward, and rows that nobody waits for."""
    gen = tiny(token_budget=128)
    asked: list[_Asked] = []
    lock = threading.Lock()
    refused = Conversation(Task.PROMPT, ())

    def ask(at: int) -> None:
        for more in range(10):
            some = [prompt(f"{at} and {more}"), refused][(at + more) % 2 :]
            one = _Asked(gen, *some)
            one.cancelled = more % 4 == 3
            with lock:
                asked.append(one)

    threads = [threading.Thread(target=ask, args=(at,), daemon=True) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    for one in asked:
        answers = one.answers()
        assert one.cancelled or answers is not None
    assert len(asked) == 80
    assert gen._scheduler._requests == set()
    gen.close()
    assert all(len(one.told) == 1 for one in asked)
