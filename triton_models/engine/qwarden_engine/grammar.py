"""What follows the safety word, decoded so that it cannot leave the grammar.

At each place where the grammar leaves a choice the likeliest of the allowed tokens is taken, and
what is not a choice is forced; where a free greedy decode keeps the grammar, it takes the same
tokens. `None` is no choice behind Unsafe and Controversial (by the template only Safe uses it).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qwarden.guard.answer import SAFETIES, Safety, Triple
from qwarden_engine.model import Cache, Qwen3
from qwarden_engine.words import Ids, Words


class NotANumber(Exception):
    """A logit that is read was not a finite number."""


@dataclass(slots=True)
class Rest:
    """What was decoded behind one row's safety word.

    `categories`: canonical names in the order of decoding, each with the probability, given the
    word before it, of an answer that goes on through this category; so it never rises along the
    list. `failed`: a logit was not a finite number, and nothing else here counts.
    """

    categories: list[tuple[str, float]] = field(default_factory=list)
    refusal: bool | None = None
    failed: bool = False


class Grammar:
    """Reads safety, categories and refusal of one task from a network.

    `columns`: where each id that is read stands among the network's logits.
    """

    def __init__(self, model: Qwen3, words: Words, columns: dict[int, int]) -> None:
        self._model = model
        self._words = words
        self._columns = columns

    def safety(self, hidden: Tensor) -> list[Triple]:
        """Logits of the three words for [R, hidden], the states behind `Safety:`."""
        firsts = [self._columns[ids[0]] for ids in self._words.safety]
        rows: list[list[float]] = self._model.logits(hidden)[:, firsts].tolist()
        return [(row[0], row[1], row[2]) for row in rows]

    def categories(self, cache: Cache, words: Sequence[Safety], rests: Sequence[Rest]) -> None:
        """Decodes the categories of every row of `cache` under its word, into `rests`.

        The cache stands behind `Safety:` and afterwards behind the last category.
        """
        listed: list[list[int]] = [[] for _ in words]
        through = [1.0 for _ in words]
        open_rows = set(range(len(words)))
        logits = self._feed(cache, [(*self._words.of(word), *self._words.intro) for word in words])
        while open_rows:
            feeds: list[Ids] = [()] * len(words)
            for row in sorted(open_rows):
                try:
                    choice, probability = self._category(logits[row], listed[row])
                except NotANumber:
                    rests[row].failed = True
                    open_rows.discard(row)
                    continue
                through[row] *= probability
                listed[row].append(choice)
                rests[row].categories.append((self._words.names[choice], through[row]))
                feeds[row] = self._words.categories[choice]
            if not open_rows:
                break
            logits = self._feed(cache, feeds)
            feeds = [()] * len(words)
            for row in sorted(open_rows):
                try:
                    goes_on, probability = self._goes_on(logits[row], listed[row])
                except NotANumber:
                    rests[row].failed = True
                    goes_on = False
                if goes_on:
                    through[row] *= probability
                    feeds[row] = self._words.separator
                else:
                    open_rows.discard(row)
            if open_rows:
                logits = self._feed(cache, feeds)

    def refusal(self, cache: Cache, rests: Sequence[Rest], safe: bool) -> None:
        """Reads Yes or No for every row of `cache`, into `rests`.

        `safe`: the rows stand behind `Safety:` and are read under Safe, None; else they stand
        behind their last category. An equal pair is No: nothing is excused by a tie.
        """
        words = self._words
        start = (*words.of(Safety.SAFE), *words.intro, *words.none) if safe else ()
        logits = self._feed(cache, [(*start, *words.refusal_intro)] * len(rests))
        for row, rest in enumerate(rests):
            yes, no = (logits[row][self._columns[ids[0]]] for ids in (words.yes, words.no))
            rest.failed |= not (math.isfinite(yes) and math.isfinite(no))
            rest.refusal = yes > no

    def _feed(self, cache: Cache, tokens: Sequence[Sequence[int]]) -> list[list[float]]:
        logits: list[list[float]] = self._model.logits(self._model.extend(cache, tokens)).tolist()
        return logits

    def _category(self, logits: Sequence[float], listed: Sequence[int]) -> tuple[int, float]:
        """The likeliest category that is not listed yet, and its share among those."""
        words = self._words
        left = [at for at in range(len(words.names)) if at not in listed]
        return _likeliest(left, [logits[self._columns[words.categories[at][0]]] for at in left])

    def _goes_on(self, logits: Sequence[float], listed: Sequence[int]) -> tuple[bool, float]:
        """Whether another category follows, and with which probability."""
        words = self._words
        if len(listed) == len(words.names):
            return False, 1.0
        stop = max(logits[self._columns[stop]] for stop in words.stop)
        at, probability = _likeliest([0, 1], [stop, logits[self._columns[words.separator[0]]]])
        return bool(at), probability


def word_of(logits: Triple) -> Safety:
    """The likelier of Controversial and Unsafe, under which categories are decoded.

    Of equal ones the more severe, as `Assessment.safety` has it.
    """
    return SAFETIES[1] if logits[1] > logits[2] else SAFETIES[2]


def _likeliest(choices: Sequence[int], logits: Sequence[float]) -> tuple[int, float]:
    """The choice with the highest logit, the first of equal ones, and its softmax share."""
    values = torch.tensor(logits, dtype=torch.float64)
    if not bool(values.isfinite().all()):
        raise NotANumber
    shares = values.softmax(0)
    best = int(values.argmax())
    return choices[best], float(shares[best])
