"""Texts of the contest: seeded, ordinary, no two alike, of a wanted number of tokens."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from statistics import NormalDist

from contest.rendering import Messages

PROMPTS = 0.6
"""The share of prompts; the others are responses."""

SHORT, LONG = 50, 2_000
"""Tokens of a conversation without its template."""

_MEDIAN, _SIGMA, _LEAST, _MOST = 60.0, 0.9, 5, 1_000
"""Of traffic: lengths are log-normal, so that most are short and some are very long."""

KINDS = {
    "short": f"{SHORT} tokens",
    "traffic": f"log-normal lengths, median {_MEDIAN:.0f} tokens, sigma {_SIGMA}, "
    f"{_LEAST} to {_MOST}",
    "long": f"{LONG} tokens",
}

_ASKED = 0.3
"""The share of a response's tokens that its question has."""

_WHO = (
    "my sister", "the new gardener", "an old friend", "our teacher", "the baker", "a neighbour",
    "the whole class", "my uncle", "a tired driver", "the librarian", "two students", "the coach",
)  # fmt: skip
_DID = (
    "repaired", "painted", "looked for", "talked about", "photographed", "measured", "sold",
    "borrowed", "cleaned", "described", "carried", "planted", "sketched", "wrapped", "counted",
)  # fmt: skip
_WHICH = (
    "small", "blue", "heavy", "wooden", "forgotten", "shiny", "round", "broken", "warm", "narrow",
    "curious", "expensive", "paper", "wet", "silver", "plain",
)  # fmt: skip
_WHAT = (
    "bicycle", "kettle", "garden gate", "violin", "map", "lamp", "bookshelf", "umbrella", "clock",
    "tent", "picnic basket", "carpet", "letter", "sailing boat", "pair of boots", "window",
)  # fmt: skip
_WHERE = (
    "behind the house", "at the station", "near the lake", "in the kitchen", "on the third floor",
    "across the street", "at the market", "by the river", "under the bridge", "in the old barn",
)  # fmt: skip
_WHEN = (
    "last Sunday", "early in the morning", "after the rain", "in 1987", "before lunch",
    "during the holidays", "at about 18:30", "every other week", "late in autumn",
)  # fmt: skip
_FORMS = (
    "{when} {who} {did} the {which} {what} {where}.",
    "Why has {who} {did} a {which} {what} {where}, {when}?",
    "I heard that {who} {did} {number} {what}s {where}; is that true?",
    "It was {when}, and the {which} {what} that {who} {did} stood {where}.",
    "Please tell me how {who} {did} the {what}, step by step, {when}.",
    "{where}, {when}: a {which} {what}, {number} euros, {did} by {who}.",
)
_ELSEWHERE = (
    "Wie repariere ich am besten {number} alte Lampen?",
    "¿Cuántas sillas caben en una sala de {number} metros?",
    "Pouvez-vous m'aider à ranger {number} livres ?",
    "怎么保养{number}年的自行车？",
    "Как почистить {number} старых монет?",
    "駅まで{number}分ですか。",
)


class Texts:
    """Makes conversations. `tokens`: how many a text has."""

    def __init__(self, seed: str, tokens: Callable[[str], int]) -> None:
        self._rng = random.Random(seed)
        self._tokens = tokens
        self._seen: set[str] = set()

    def conversations(self, kind: str, count: int) -> list[Messages]:
        """`count` conversations in a mixed order, with the lengths spread evenly."""
        prompts = round(count * PROMPTS)
        made = self.of(kind, "user", prompts) + self.of(kind, "assistant", count - prompts)
        self._rng.shuffle(made)
        return made

    def of(self, kind: str, role: str, count: int) -> list[Messages]:
        """`count` conversations whose last turn has this role."""
        made = []
        for at in range(count):
            length = self._length(kind, at, count)
            asked = length if role == "user" else max(3, round(length * _ASKED))
            messages = [{"role": "user", "content": self._text(asked)}]
            if role == "assistant":
                messages.append({"role": "assistant", "content": self._text(length - asked)})
            made.append(messages)
        return made

    def _length(self, kind: str, at: int, count: int) -> int:
        if kind != "traffic":
            return SHORT if kind == "short" else LONG
        share = (at + self._rng.uniform(0.02, 0.98)) / count
        length = _MEDIAN * math.exp(_SIGMA * NormalDist().inv_cdf(share))
        return round(min(max(length, _LEAST), _MOST))

    def _text(self, wanted: int) -> str:
        """A text of about `wanted` tokens that was not made before."""
        while True:
            text = self._sentences(max(2, wanted))
            if text not in self._seen:
                self._seen.add(text)
                return text

    def _sentences(self, wanted: int) -> str:
        if wanted < 9:
            pick = self._rng.choice
            return f"{pick(_WHICH)} {pick(_WHAT)} {self._rng.randint(2, 9_999)}".capitalize()
        sentences: list[str] = []
        total = 0
        while total < wanted:
            sentences.append(self._sentence())
            total += self._tokens(" " + sentences[-1])
        words = " ".join(sentences).split(" ")
        # Cut at the last words, by halves of what is too much.
        low, high = 1, len(words)
        while low < high:
            middle = (low + high + 1) // 2
            if self._tokens(" " + " ".join(words[:middle])) <= wanted:
                low = middle
            else:
                high = middle - 1
        return " ".join(words[:low])

    def _sentence(self) -> str:
        pick = self._rng.choice
        if self._rng.random() < 0.1:
            return pick(_ELSEWHERE).format(number=self._rng.randint(2, 9_999))
        sentence = pick(_FORMS).format(
            who=pick(_WHO),
            did=pick(_DID),
            which=pick(_WHICH),
            what=pick(_WHAT),
            where=pick(_WHERE),
            when=pick(_WHEN),
            number=self._rng.randint(2, 9_999),
        )
        return sentence[0].upper() + sentence[1:]
