"""Exchanges drawn for training: read prompts, read answers, made ones."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from .labels import PROMPT_CATEGORIES
from .row import Row
from .rows import Sampler, group_of
from .stream_exchange import SAFE, Exchange, Judged, Label
from .stream_made import EnglishExchanges, OtherExchanges
from .stream_prefixes import key_of

KEEP: Final = 500  # code points of one text
#: Shares of the draws.
SHARES: Final = {"prompts": 28.0, "answers": 14.0, "english": 50.0, "languages": 8.0}
ANSWERED: Final = 0.5  # share of the read prompts that get an ordinary answer or a refusal
ECHOED: Final = 0.25  # of those that are Safe, share whose answer is another Safe text
AS_THOUGHT: Final = 0.12  # share of the read answers that become a thought
ORDINARY: Final = frozenset({"s-labs-injection", "neuralchemy-injection", "self-instruct-seed"})


def label(row: Row) -> Label:
    """The label of a row."""
    if row.category is None:
        return SAFE
    if row.category not in PROMPT_CATEGORIES:
        raise ValueError(f"no category {row.category}")
    return Label(row.safety, row.category)


def shortened(row: Row) -> Row:
    """The row, its answer cut to ``KEEP``: of a running text only the beginning is known."""
    *before, (role, text) = row.messages
    return replace(row, messages=(*before, (role, text[:KEEP])))


def of_answer(row: Row, since: int | None) -> Exchange:
    """A read answer; ``since`` as in ``Judged``. What its request deserves is not known."""
    return Exchange(
        source=row.source,
        user=row.messages[-2][1][:KEEP],
        answer=Judged(row.messages[-1][1], label(row), since),
    )


class StreamSampler:
    """Draws exchanges without end.

    ``rows`` are those that were read and ``made`` prompts; ``since`` the results of
    ``stream_prefixes`` by key: harmful answers without one are not drawn.
    """

    def __init__(
        self, rows: Iterable[Row], made: Iterable[Row], since: Mapping[str, int], seed: int
    ) -> None:
        self._random = random.Random(seed)
        prompts: list[Row] = []
        self._answers: dict[tuple[str, str], list[Exchange]] = defaultdict(list)
        for row in rows:
            if row.task == "prompt":
                prompts.append(row)
                continue
            short = shortened(row)
            at = None if row.safety == "Safe" else since.get(key_of(short))
            if row.safety == "Safe" or at is not None:
                self._answers[group_of(row)].append(of_answer(short, at))
        self._ordinary = [
            row.messages[-1][1]
            for row in prompts
            if row.safety == "Safe" and row.source in ORDINARY
        ]
        prompts.extend(row for row in made if row.task == "prompt")
        self._prompts = Sampler(prompts, seed)
        self._english = EnglishExchanges(self._random, self._ordinary)
        self._languages = OtherExchanges(self._random)
        self._shares = {
            name: share for name, share in SHARES.items() if name != "answers" or self._answers
        }

    def draw(self, count: int) -> list[Exchange]:
        """The next ``count`` exchanges, cut to length."""
        names = self._random.choices(list(self._shares), list(self._shares.values()), k=count)
        prompts = iter(self._prompts.draw(2 * names.count("prompts") + 8))
        return [_cut(self._one(name, prompts)) for name in names]

    def _one(self, name: str, prompts: Iterable[Row]) -> Exchange:
        if name == "english":
            return self._english.exchange()
        if name == "languages":
            return self._languages.exchange()
        if name == "answers":
            group = self._random.choice(list(self._answers))
            return self._maybe_thought(self._random.choice(self._answers[group]))
        return self._prompt(next(row for row in prompts if row.task == "prompt"))

    def _maybe_thought(self, exchange: Exchange) -> Exchange:
        if self._random.random() < AS_THOUGHT:
            return replace(exchange, thinking=exchange.answer, answer=None)
        return exchange

    def _prompt(self, row: Row) -> Exchange:
        turns = [text for role, text in row.messages if role != "system"]
        history = tuple(zip(turns[:-1:2], turns[1:-1:2], strict=True))
        made = label(row)
        answer: str | None = None
        if self._random.random() < ANSWERED:
            answer = self._reply(row, made)
        return Exchange(
            source=row.source,
            user=turns[-1],
            query=made,
            answer=Judged(answer) if answer else None,
            history=history,
        )

    def _reply(self, row: Row, made: Label) -> str | None:
        """A Safe answer to a prompt, in its language where there are lists for it."""
        if self._ordinary and made == SAFE and self._random.random() < ECHOED:
            count = self._random.randint(1, 4)
            return "\n".join(self._random.choices(self._ordinary, k=count))
        refuses = made != SAFE and self._random.random() < 0.75
        if row.language in ("en", "mul"):
            return self._english.refusal() if refuses else self._english.answer()
        language = row.language
        return self._languages.refusal(language) if refuses else self._languages.answer(language)


def _cut(exchange: Exchange) -> Exchange:
    """Long texts cut at their ends; what is judged no longer than twice ``KEEP``."""
    thinking, answer = exchange.thinking, exchange.answer
    return replace(
        exchange,
        user=exchange.user[: 3 * KEEP],
        thinking=None if thinking is None else thinking.cut(2 * KEEP),
        answer=None if answer is None else answer.cut(2 * KEEP),
        history=tuple(
            (user[: KEEP // 2], text[: KEEP // 2]) for user, text in exchange.history[-2:]
        ),
    )
