"""Which rule flags as much as it can within a budget of false alarms, on labelled rows. Pure."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from qwarden.guard.answer import Safety
from qwarden.guard.conversation import Task
from qwarden.guard.debounce import RULES, Consecutive, Rule, Threshold
from qwarden.guard.stream import Scored
from qwarden.offline.eval.metrics import Flags, Floats, Ints, ratio

PS: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
RUNS: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
ANSWER_RUNS: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64)
"""The probabilities and lengths of runs (tokens) that are tried: close together where a step
changes much, and no further than a run that most texts are too short for."""


@dataclass(frozen=True, slots=True)
class Text:
    """One labelled text: of each token P(Controversial) + P(Unsafe), and whether its likeliest
    safety is another than Safe. `is_unsafe`: labelled Unsafe or Controversial."""

    id: str
    is_unsafe: bool
    not_safe: Floats
    flags: Flags


def text_of(id_: str, label: Safety, scored: Sequence[Scored]) -> Text:
    return Text(
        id_,
        label is not Safety.SAFE,
        np.array([1 - each.scores[0] for each in scored], dtype=np.float64),
        np.array([each.safety is not Safety.SAFE for each in scored], dtype=np.bool_),
    )


@dataclass(frozen=True, slots=True)
class Trade:
    """What a rule does on labelled texts. `false_alarms`: Safe texts that it flags, of `safe`;
    `found`: others that it flags, of `unsafe`. `median`: at which token, from 1, it flags the
    median of those."""

    rule: Rule
    safe: int
    false_alarms: int
    unsafe: int
    found: int
    median: float | None

    @property
    def false_alarm_rate(self) -> float | None:
        return ratio(self.false_alarms, self.safe)

    @property
    def recall(self) -> float | None:
        return ratio(self.found, self.unsafe)


@dataclass(frozen=True, slots=True)
class Choice:
    """What is found for one task. `chosen`: None where no rule stays within the budget and finds
    anything. `frontier`:
    the rules that no other beats in both figures. `held_out`: rules that were chosen on one half of
    the texts, measured on the other, both ways; None where a half has none within the budget.
    `interval`: of the chosen one's share of false alarms, 95 %."""

    task: Task
    budget: float
    safe: int
    unsafe: int
    default: Trade
    chosen: Trade | None
    frontier: tuple[Trade, ...]
    held_out: Trade | None
    interval: tuple[float, float] | None

    @property
    def needed(self) -> int:
        """Safe texts of which none is flagged that would show the budget to be kept (95 %)."""
        return safe_texts_needed(self.budget)


def choice_of(task: Task, texts: Sequence[Text], budget: float) -> Choice:
    """Searches the rules of one task: a threshold and a run for thoughts, a run for answers.

    Raises `ValueError` where the texts do not hold both kinds.
    """
    safe = sum(not text.is_unsafe for text in texts)
    if not safe or safe == len(texts):
        raise ValueError(
            f"to choose a rule for {task} takes texts labelled Safe and others, and the file has "
            f"{safe} and {len(texts) - safe}; add what is missing"
        )
    trades = trades_of(task, texts)
    chosen = _best(trades, budget)
    return Choice(
        task,
        budget,
        safe,
        len(texts) - safe,
        _default(task, texts),
        chosen,
        _frontier(trades),
        _held_out(task, texts, budget),
        None if chosen is None else binomial_interval(chosen.false_alarms, chosen.safe),
    )


def trades_of(task: Task, texts: Sequence[Text]) -> list[Trade]:
    """What each rule of the grid does."""
    if task is not Task.THINKING:
        reached = [_reached(text.flags, ANSWER_RUNS) for text in texts]
        return _traded([Consecutive(run) for run in ANSWER_RUNS], texts, reached)
    trades: list[Trade] = []
    for p in PS:
        reached = [_reached(text.not_safe >= p, RUNS) for text in texts]
        trades += _traded([Threshold(p, run) for run in RUNS], texts, reached)
    return trades


def _reached(counts: Flags, runs: Sequence[int]) -> Ints:
    """At which token, from 0, each length of run is reached first; -1 where it never is."""
    place = np.arange(len(counts))
    broken = np.maximum.accumulate(np.where(counts, -1, place)) if len(counts) else place
    longest = np.maximum.accumulate(place - broken) if len(counts) else place
    found: Ints = np.searchsorted(longest, np.array(runs))
    return np.where(found == len(counts), -1, found)


def _traded(rules: Sequence[Rule], texts: Sequence[Text], reached: Sequence[Ints]) -> list[Trade]:
    at = np.array(reached).reshape(len(texts), len(rules))
    unsafe = np.array([text.is_unsafe for text in texts], dtype=np.bool_)
    trades = []
    for column, rule in enumerate(rules):
        flagged = at[:, column] >= 0
        hits = at[unsafe & flagged, column]
        trades.append(
            Trade(
                rule,
                int((~unsafe).sum()),
                int((flagged & ~unsafe).sum()),
                int(unsafe.sum()),
                len(hits),
                float(np.median(hits)) + 1 if len(hits) else None,
            )
        )
    return trades


def _default(task: Task, texts: Sequence[Text]) -> Trade:
    rule = RULES[task]
    if isinstance(rule, Threshold):
        reached = [_reached(text.not_safe >= rule.p, [rule.run]) for text in texts]
    else:
        assert isinstance(rule, Consecutive)
        reached = [_reached(text.flags, [rule.run]) for text in texts]
    return _traded([rule], texts, reached)[0]


def _best(trades: Iterable[Trade], budget: float) -> Trade | None:
    """Of those within the budget the one that finds most; of equal ones that with the fewest false
    alarms, then the soonest."""
    within = [
        trade for trade in trades if trade.found and trade.false_alarms <= budget * trade.safe
    ]
    return max(
        within,
        key=lambda trade: (trade.found, -trade.false_alarms, -(trade.median or 0)),
        default=None,
    )


def _frontier(trades: Sequence[Trade]) -> tuple[Trade, ...]:
    kept: list[Trade] = []
    ordered = sorted(trades, key=lambda each: (each.false_alarms, -each.found, each.median or 0))
    for trade in ordered:
        if trade.found and (not kept or trade.found > kept[-1].found):
            kept.append(trade)
    return tuple(kept)


def _held_out(task: Task, texts: Sequence[Text], budget: float) -> Trade | None:
    halves: tuple[list[Text], list[Text]] = ([], [])
    for text in texts:
        halves[hashlib.sha256(text.id.encode()).digest()[0] % 2].append(text)
    measured = []
    for one, other in (halves, halves[::-1]):
        chosen = _best(trades_of(task, one), budget) if one and other else None
        if chosen is None:
            return None
        measured += [each for each in trades_of(task, other) if each.rule == chosen.rule]
    return Trade(
        measured[0].rule,
        sum(each.safe for each in measured),
        sum(each.false_alarms for each in measured),
        sum(each.unsafe for each in measured),
        sum(each.found for each in measured),
        None,
    )


def safe_texts_needed(budget: float) -> int:
    """The least n for which (1 - budget) ** n is at most 0.05."""
    return math.ceil(math.log(0.05) / math.log1p(-budget)) if 0 < budget < 1 else 0


def binomial_interval(hits: int, of: int) -> tuple[float, float]:
    """The exact (Clopper-Pearson) 95 % interval of a share."""
    low = 0.0 if hits == 0 else _solve(lambda p: 1 - _at_most(hits - 1, of, p) - 0.025)
    high = 1.0 if hits == of else _solve(lambda p: 0.025 - _at_most(hits, of, p))
    return low, high


def _solve(grows: Callable[[float], float]) -> float:
    """Where a growing function of a share is 0."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if grows(middle) > 0 else (middle, high)
    return (low + high) / 2


def _at_most(hits: int, of: int, p: float) -> float:
    """The chance of at most so many hits."""
    return sum(
        math.exp(
            math.lgamma(of + 1) - math.lgamma(k + 1) - math.lgamma(of - k + 1)
            + k * math.log(p) + (of - k) * math.log1p(-p)
        )
        for k in range(hits + 1)
    )  # fmt: skip
