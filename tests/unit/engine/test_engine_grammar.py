"""Several tokens are read in one forward, and the answer is the one read token by token."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from qwarden.guard.answer import Safety, safety_of
from qwarden.guard.conversation import Conversation, Task
from qwarden_engine.gen import Gen
from qwarden_engine.grammar import Draft, Grammar, word_of
from qwarden_engine.jobs import Request
from qwarden_engine.model import Cache, Qwen3
from unit.engine.checkpoints import (
    STAND_IN,
    conversations,
    engine,
    random_checkpoint,
    wording,
)
from unit.engine.reference import Constrained, Reference

TOLERANCE = 4e-4
"""Of a distance of two logits, each of which may be off by half of it."""


def _drafts(gen: Gen, some: Sequence[Conversation]) -> list[Draft]:
    """Those of one micro-batch, without the engine's second look or its help for a fault."""
    request = Request([None] * len(some), lambda _: None, lambda: False)
    rows = gen._intake.rows([each.to_json() for each in some], request)
    jobs = [job for row in sorted(rows, key=lambda row: row.at) for job in row.jobs]
    assert len(jobs) == len(some)
    return gen._scheduler._judge.together(jobs)


def _equal(draft: Draft, expected: Constrained) -> None:
    assert not draft.failed
    assert draft.logits == pytest.approx(expected.logits, abs=TOLERANCE)
    assert [name for name, _ in draft.categories] == [name for name, _ in expected.categories]
    assert [chance for _, chance in draft.categories] == pytest.approx(
        [chance for _, chance in expected.categories], abs=1e-3
    )
    assert draft.refusal is expected.refusal
    assert draft.margin == pytest.approx(expected.margin, abs=TOLERANCE)


class _Random:
    """Random weights with which all branches of the grammar are taken."""

    def __init__(self, folder: Path) -> None:
        self.some = conversations()[::3]
        for seed in range(50):
            self.checkpoint = random_checkpoint(folder / str(seed), seed=seed)
            gen = engine(self.checkpoint, floor=1)
            drafts = _drafts(gen, self.some)
            gen.close()
            flagged = self.flagged(drafts)
            answers = sum(each.task is not Task.PROMPT for each in self.some)
            if len(flagged) < answers and len({len(d.categories) for d in flagged}) > 2:
                break
        else:
            raise AssertionError("no seed takes all branches")
        self.reference = Reference(self.checkpoint)

    def flagged(self, drafts: Sequence[Draft]) -> list[Draft]:
        """Those that have a refusal behind their categories."""
        return [
            draft
            for conversation, draft in zip(self.some, drafts, strict=True)
            if conversation.task is not Task.PROMPT and safety_of(draft.logits) is not Safety.SAFE
        ]

    def compared(self, **settings: Any) -> list[Draft]:
        gen = engine(self.checkpoint, **settings)
        drafts = _drafts(gen, self.some)
        for conversation, draft in zip(self.some, drafts, strict=True):
            names = gen.category_names(conversation.task)
            _equal(draft, self.reference.constrained(conversation, names, settings["floor"]))
        gen.close()
        return drafts


@pytest.fixture(scope="module")
def chance(tmp_path_factory: pytest.TempPathFactory) -> _Random:
    return _Random(tmp_path_factory.mktemp("random"))


@pytest.mark.parts
def test_a_list_is_another_one_than_token_by_token(chance: _Random) -> None:
    """Rows whose lists end at other places, beside each other; behind each end of a flagged one
    the refusal was read too early, and is taken back where the list goes on."""
    drafts = chance.compared(floor=1)
    for some in (drafts, chance.flagged(drafts)):
        assert len({len(draft.categories) for draft in some}) > 2


@pytest.mark.parts
def test_a_guessed_refusal_is_another_one_than_token_by_token(chance: _Random) -> None:
    """Without categories only what is Safe has a refusal, which costs no forward more."""
    drafts = chance.compared(floor=0)
    assert all(draft.categories == [] for draft in drafts)
    seen = set()
    for conversation, draft in zip(chance.some, drafts, strict=True):
        safe = safety_of(draft.logits) is Safety.SAFE
        assert (draft.refusal is None) == (conversation.task is Task.PROMPT or not safe)
        if conversation.task is not Task.PROMPT:
            seen.add(safe)
    assert seen == {True, False}


def _odds(draft: Draft) -> float:
    """Of Safe, as a logit."""
    safe, *others = draft.logits
    return safe - math.log(sum(map(math.exp, others)))


@pytest.mark.parts
def test_a_row_at_the_floor_has_no_near_tie(chance: _Random) -> None:
    """Where P(Safe) is close to the floor, whether categories are decoded hangs on a hair."""
    whole = chance.compared(floor=0.5)
    odds = [_odds(draft) for draft in whole]
    at = min(range(len(odds)), key=lambda row: abs(odds[row]))
    for nearness in (-0.01, 0.01):
        drafts = chance.compared(floor=1 / (1 + math.exp(-odds[at] - nearness)))
        assert drafts[at].margin <= 0.01 + TOLERANCE
        assert bool(drafts[at].categories) == (nearness > 0)


@pytest.mark.parts
def test_the_longest_answer_runs_out_of_room(
    chance: _Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every category there is, one behind the other, beside rows that end at once."""
    some = [chance.some[at] for at in (0, 5, 6, 12, 20, -1)]

    def always(
        self: Grammar, _: Draft, __: Sequence[float], listed: Sequence[int]
    ) -> tuple[bool, float]:
        return len(listed) < len(self._words.names), 1.0

    monkeypatch.setattr(Grammar, "_goes_on", always)
    gen = engine(chance.checkpoint, floor=1)
    for draft, conversation in zip(_drafts(gen, some), some, strict=True):
        names = gen.category_names(conversation.task)
        expected = chance.reference.constrained(conversation, names, 1, all_of=True)
        assert sorted(name for name, _ in draft.categories) == sorted(names)
        assert [name for name, _ in draft.categories] == [name for name, _ in expected.categories]
        assert draft.refusal is expected.refusal
    gen.close()


@pytest.mark.parts
def test_refusal_is_read_where_nobody_wants_it(chance: _Random) -> None:
    gen = engine(chance.checkpoint, floor=1, refusal=False)
    with_it = engine(chance.checkpoint, floor=1)
    pairs = zip(_drafts(gen, chance.some), _drafts(with_it, chance.some), strict=True)
    for draft, other in pairs:
        assert draft.refusal is None
        assert draft.logits == pytest.approx(other.logits, abs=TOLERANCE)
        assert [name for name, _ in draft.categories] == [name for name, _ in other.categories]
    for task in Task:
        assert gen._intake._parts[task].grammar.guessed == 0
    gen.close()
    with_it.close()


@dataclass
class _Fed:
    """A cache that holds nothing but how long each row is."""

    lengths: list[int]

    def rewind(self, tokens: Sequence[int]) -> None:
        self.lengths = [old - new for old, new in zip(self.lengths, tokens, strict=True)]
        assert min(self.lengths) >= 0


@dataclass
class _Script:
    """A network that says what a test wants. `says`: the logit of an id for a row, given the text
    before it, and -5 where it is None."""

    ids: list[int]
    says: Callable[[int, tuple[int, ...], int], float | None]
    text: list[list[int]] = field(default_factory=list)

    def extend(self, cache: _Fed, tokens: Sequence[Sequence[int]], ends: Sequence[int]) -> Tensor:
        states = []
        for row, (new, end) in enumerate(zip(tokens, ends, strict=True)):
            assert 0 <= end <= len(new)
            text = self.text[row][: cache.lengths[row]]
            states.append([self._states(row, [*text, *new[:n]]) for n in (end, len(new))])
            self.text[row] = [*text, *new]
            cache.lengths[row] = len(self.text[row])
        return torch.tensor(states)

    def logits(self, states: Tensor) -> Tensor:
        return states

    def _states(self, row: int, text: list[int]) -> list[float]:
        said = (self.says(row, tuple(text), each) for each in self.ids)
        return [-5.0 if each is None else each for each in said]


def _scripted(
    task: Task, logits: Sequence[tuple[float, float, float]], script: _Script, floor: float = 1
) -> list[Draft]:
    words = wording(STAND_IN).words[task]
    script.ids = list(words.read)
    script.text = [[] for _ in logits]
    columns = {token: at for at, token in enumerate(script.ids)}
    grammar = Grammar(cast(Qwen3, script), task, words, columns, floor=floor, refusal=True)
    drafts = [Draft(each) for each in logits]
    grammar.decode(cast(Cache, _Fed([0] * len(logits))), drafts)
    return drafts


def _ends(text: tuple[int, ...], ids: Sequence[int]) -> bool:
    return text[len(text) - len(ids) :] == tuple(ids)


UNSAFE = (0.0, 1.0, 2.0)


def test_a_row_that_fails_in_its_list_takes_the_others_with_it() -> None:
    """Behind its second category a row says no number; the others go on and end as they would."""
    words = wording(STAND_IN).words[Task.PROMPT]
    comma, stop = words.separator[0], words.stop[0]

    def says(row: int, text: tuple[int, ...], token: int) -> float | None:
        listed = text.count(comma)
        if row == 1 and listed == 1:
            return math.nan
        if token == comma:
            return 3.0 if listed < row + 1 else 0.0
        if token == stop:
            return 1.0
        order = [words.categories[at][0] for at in (2, 0, 1, 4, 3)]
        return 9.0 - order.index(token) if token in order else None

    drafts = _scripted(Task.PROMPT, [UNSAFE] * 4, _Script([], says))
    assert [draft.failed for draft in drafts] == [False, True, False, False]
    for row in (0, 2, 3):
        names = [words.names[at] for at in (2, 0, 1, 4, 3)][: row + 2]
        assert [name for name, _ in drafts[row].categories] == names
        assert drafts[row].margin == 1.0


@pytest.mark.parametrize("token", ["separator", "yes", "no"])
def test_no_number_at_the_end_is_an_answer(token: str) -> None:
    words = wording(STAND_IN).words[Task.RESPONSE]
    bad = getattr(words, token)[0]

    def says(row: int, text: tuple[int, ...], each: int) -> float | None:
        if row == 1 and each == bad:
            return math.inf
        return 2.0 if each == words.stop[0] else None

    drafts = _scripted(Task.RESPONSE, [UNSAFE] * 3, _Script([], says))
    assert [draft.failed for draft in drafts] == [False, True, False]
    assert drafts[0].refusal is False


@pytest.mark.parametrize(
    ("yes", "no", "refusal"), [(1.0, 0.5, True), (0.5, 1.0, False), (1.0, 1.0, False)]
)
def test_a_tie_excuses_an_answer(yes: float, no: float, refusal: bool) -> None:
    """An equal pair is no refusal; and a list with an equal pair ends."""
    words = wording(STAND_IN).words[Task.RESPONSE]

    def says(_: int, text: tuple[int, ...], token: int) -> float | None:
        if _ends(text, words.refusal_intro):
            return {words.yes[0]: yes, words.no[0]: no}.get(token)
        if token in (words.separator[0], words.stop[0]):
            return 4.0
        return 3.0 if token == words.categories[3][0] else None

    [draft] = _scripted(Task.RESPONSE, [UNSAFE], _Script([], says))
    assert draft.refusal is refusal
    assert [name for name, _ in draft.categories] == [words.names[3]]
    assert draft.margin == 0.0


def test_the_text_before_a_choice_is_not_an_answers() -> None:
    """What the network has read before each choice is what it would have written itself."""
    words = wording(STAND_IN).words[Task.RESPONSE]
    script = _Script(
        [], lambda _, text, token: 2.0 if token == words.separator[0] else float(-token)
    )
    logits = [(0.0, 2.0, 1.0), (0.0, 1.0, 2.0), (5.0, 1.0, 2.0)]
    drafts = _scripted(Task.RESPONSE, logits, script)
    for triple, draft, text in zip(logits, drafts, script.text, strict=True):
        listed = [words.names.index(name) for name, _ in draft.categories]
        assert sorted(listed) == list(range(len(words.names)))
        expected = [*words.of(word_of(triple)), *words.intro, *words.categories[listed[0]]]
        for at in listed[1:]:
            expected += [*words.separator, *words.categories[at]]
        if safety_of(triple) is not Safety.SAFE:
            expected += words.refusal_intro
        assert text == expected
        shares = [share for _, share in draft.categories]
        assert shares == sorted(shares, reverse=True)
