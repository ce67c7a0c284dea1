"""Safety, categories and refusal, read so that an answer cannot leave the grammar.

At each place where the grammar leaves a choice the likeliest of the allowed tokens is taken, and
what is not a choice is forced; where a free greedy decode keeps the grammar, it takes the same
tokens. `None` is no choice behind Unsafe and Controversial (by the template only Safe uses it).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from qwarden.guard.answer import SAFETIES, Safety, Triple, safety_of, scores_of
from qwarden.guard.conversation import Task
from qwarden_engine.model import Cache, Qwen3
from qwarden_engine.words import Ids, Words


class NotANumber(Exception):
    """A logit that is read was not a finite number."""


@dataclass(slots=True)
class Draft:
    """What is known of one row so far.

    `categories`: canonical names in the order of decoding, each with the probability, given the
    word before it, of an answer that goes on through this category; so it never rises along the
    list. `margin`: the smallest distance in logits between what was chosen and what was not, over
    all choices that the answer depends on. `failed`: a logit was not a finite number, and nothing
    else here counts.
    """

    logits: Triple = (0.0, 0.0, 0.0)
    categories: list[tuple[str, float]] = field(default_factory=list)
    refusal: bool | None = None
    margin: float = math.inf
    failed: bool = False

    def chose(self, margin: float) -> None:
        self.margin = min(self.margin, margin)


class Grammar:
    """Reads the answers of one task from a network.

    `columns`: where each id that is read stands among the network's logits. `floor`: categories
    are decoded where P(Safe) is under it. `refusal`: whether it is read, for a task that has it.
    """

    def __init__(
        self,
        model: Qwen3,
        task: Task,
        words: Words,
        columns: dict[int, int],
        *,
        floor: float,
        refusal: bool,
    ) -> None:
        self._model = model
        self._words = words
        self._columns = columns
        self._floor = floor
        self._has_refusal = refusal and task is not Task.PROMPT
        # Most answers are Safe: their refusal is read in the same forward as their safety, behind
        # the rest of a safe answer. Where the answer is another one these tokens are for nothing.
        self._guess: Ids = ()
        if self._has_refusal:
            safe = words.of(Safety.SAFE)
            self._guess = (*safe, *words.intro, *words.none, *words.refusal_intro)

    @property
    def tail(self) -> Ids:
        """What is forced behind a conversation."""
        return (*self._words.forced, *self._guess)

    @property
    def reads(self) -> tuple[int, ...]:
        """Where in the tail states are read, from its end: -1 is its last token."""
        return (-1 - len(self._guess), -1) if self._guess else (-1,)

    @property
    def guessed(self) -> int:
        """Tokens of the tail that count for a safe answer only."""
        return len(self._guess)

    @property
    def room(self) -> int:
        """The most slots that a row can need behind `Safety:`."""
        return self._words.room + len(self._words.refusal_intro)

    def drafts(self, states: Tensor) -> list[Draft]:
        """The first drafts, from the states that were read: [rows × reads, hidden]."""
        reads = len(self.reads)
        logits: list[list[float]] = self._model.logits(states).tolist()
        firsts = [self._columns[ids[0]] for ids in self._words.safety]
        drafts = []
        for at in range(0, len(logits), reads):
            safe, controversial, unsafe = (logits[at][column] for column in firsts)
            draft = Draft((safe, controversial, unsafe))
            draft.failed = not all(map(math.isfinite, draft.logits))
            if not draft.failed:
                ordered = sorted(draft.logits)
                draft.chose(ordered[2] - ordered[1])
                self._chose_floor(draft)
                if self._has_refusal and safety_of(draft.logits) is Safety.SAFE:
                    self._refuse(draft, logits[at + 1])
            drafts.append(draft)
        return drafts

    def wants_categories(self, draft: Draft) -> bool:
        return not draft.failed and scores_of(draft.logits)[0] < self._floor

    def decode(self, cache: Cache, drafts: Sequence[Draft]) -> None:
        """Decodes the categories of every row of `cache` under its word, into its draft; and of
        what is flagged also the refusal. The cache stands behind `Safety:`."""
        words = self._words
        word = [word_of(draft.logits) for draft in drafts]
        flagged = [
            self._has_refusal and safety_of(draft.logits) is not Safety.SAFE for draft in drafts
        ]
        listed: list[list[int]] = [[] for _ in drafts]
        through = [1.0] * len(drafts)
        going_on = set(range(len(drafts)))
        feeds: list[Ids] = [(*words.of(each), *words.intro) for each in word]
        while going_on:
            logits = self._feed(cache, feeds, [len(feed) for feed in feeds])
            feeds = [()] * len(drafts)
            for row in sorted(going_on):
                try:
                    choice, share = self._category(drafts[row], logits[row][-1], listed[row])
                except NotANumber:
                    drafts[row].failed = True
                    going_on.discard(row)
                    continue
                through[row] *= share
                listed[row].append(choice)
                drafts[row].categories.append((words.names[choice], through[row]))
                # Most lists end here: what follows then is read in the same step.
                feeds[row] = words.categories[choice] + (
                    words.refusal_intro if flagged[row] else ()
                )
            if not going_on:
                return
            ends = [
                len(words.categories[some[-1]]) if feed else 0
                for some, feed in zip(listed, feeds, strict=True)
            ]
            logits = self._feed(cache, feeds, ends)
            too_far = [0] * len(drafts)
            for row in sorted(going_on):
                draft = drafts[row]
                goes_on, share = self._goes_on(draft, logits[row][0], listed[row])
                if goes_on:
                    through[row] *= share
                    too_far[row] = len(feeds[row]) - ends[row]
                    feeds[row] = words.separator
                    continue
                going_on.discard(row)
                if flagged[row]:
                    self._refuse(draft, logits[row][1])
                feeds[row] = ()
            cache.rewind(too_far)

    def _feed(
        self, cache: Cache, tokens: Sequence[Sequence[int]], ends: Sequence[int]
    ) -> list[list[list[float]]]:
        """Logits of each row behind its first `ends` new tokens, and behind all of them."""
        states = self._model.extend(cache, tokens, ends)
        logits: list[list[list[float]]] = self._model.logits(states).tolist()
        return logits

    def _chose_floor(self, draft: Draft) -> None:
        """How near P(Safe) is to the floor, in logits, and which word it is decoded under."""
        safe, controversial, unsafe = draft.logits
        if 0 < self._floor < 1:
            other = max(controversial, unsafe)
            other += math.log1p(math.exp(-abs(controversial - unsafe)))
            draft.chose(abs(safe - other - math.log(self._floor / (1 - self._floor))))
        if self.wants_categories(draft):
            draft.chose(abs(controversial - unsafe))

    def _refuse(self, draft: Draft, logits: Sequence[float]) -> None:
        """An equal pair is No: nothing is excused by a tie."""
        words = self._words
        yes, no = (logits[self._columns[ids[0]]] for ids in (words.yes, words.no))
        draft.failed |= not (math.isfinite(yes) and math.isfinite(no))
        draft.refusal = yes > no
        draft.chose(abs(yes - no))

    def _category(
        self, draft: Draft, logits: Sequence[float], listed: Sequence[int]
    ) -> tuple[int, float]:
        """The likeliest category that is not listed yet, and its share among those."""
        words = self._words
        left = [at for at in range(len(words.names)) if at not in listed]
        values = [logits[self._columns[words.categories[at][0]]] for at in left]
        best, share = _likeliest(draft, values)
        return left[best], share

    def _goes_on(
        self, draft: Draft, logits: Sequence[float], listed: Sequence[int]
    ) -> tuple[bool, float]:
        """Whether another category follows, and with which probability."""
        words = self._words
        if len(listed) == len(words.names):
            return False, 1.0
        stops = [logits[self._columns[stop]] for stop in words.stop]
        try:
            if not all(map(math.isfinite, stops)):
                raise NotANumber
            best, share = _likeliest(draft, [max(stops), logits[self._columns[words.separator[0]]]])
        except NotANumber:
            draft.failed = True
            return False, 1.0
        return bool(best), share


def word_of(logits: Triple) -> Safety:
    """The likelier of Controversial and Unsafe, under which categories are decoded.

    Of equal ones the more severe, as `safety_of` has it.
    """
    return SAFETIES[1] if logits[1] > logits[2] else SAFETIES[2]


def _likeliest(draft: Draft, logits: Sequence[float]) -> tuple[int, float]:
    """The highest logit's place, the first of equal ones, and its softmax share."""
    if not all(map(math.isfinite, logits)):
        raise NotANumber
    best = max(range(len(logits)), key=lambda at: (logits[at], -at))
    top = logits[best]
    draft.chose(min((top - v for at, v in enumerate(logits) if at != best), default=math.inf))
    return best, 1 / sum(math.exp(value - top) for value in logits)
