"""When tokens that are not Safe become a flag. Pure: no clock, one token after the other.

One token alone says little: the scores of a running text jump. A rule says how many in a row it
takes, and a `Latch` holds what it has found, as the model is trained to: once flagged, flagged.

Invariants, each held by `tests/property/test_debounce.py`:
- What is raised is never taken back: at most one flag, and after a Controversial one at most one
  rise, to Unsafe. Both are functions of the tokens up to them alone.
- A token is flagged that its rule counts as not Safe, with that token's category and no other's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qwarden.guard.answer import Safety, Triple
from qwarden.guard.conversation import Task
from qwarden.guard.stream import Scored


def _counts(run: int) -> None:
    if run < 1:
        raise ValueError(f"a run is of at least one token, not {run}")


@dataclass(frozen=True, slots=True)
class Consecutive:
    """`run` tokens in a row whose likeliest safety is not Safe; Controversial and Unsafe mixed
    count. With 2 it is the report's own rule for answers (arXiv 2510.14276). With 1
    every token flags by itself, which is right where there is one alone: at a prompt's end."""

    run: int = 2

    def __post_init__(self) -> None:
        _counts(self.run)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Two tokens in a row of the same safety, as the published evaluation script counts them.

    The script looks at the whole text and prefers an Unsafe pair to a Controversial one before it.
    Here the Controversial pair is flagged when it comes, and the Unsafe one is its rise: what a
    latch has raised at the end of the text is what the script says of it.
    """


@dataclass(frozen=True, slots=True)
class Threshold:
    """`run` tokens in a row with P(Controversial) + P(Unsafe) of at least `p`.

    Such a token is Controversial or Unsafe, whichever is likelier, also where Safe is likelier than
    either; it has no category then. Not measured on any data: two tokens in a row flag 22 % of
    safe thoughts at 0.6B, so that thoughts need a longer run.
    """

    p: float = 0.5
    run: int = 8

    def __post_init__(self) -> None:
        _counts(self.run)
        if not 0 < self.p <= 1:
            raise ValueError(f"p is a probability over 0 and at most 1, not {self.p:g}")


Rule = Consecutive | Evaluation | Threshold

RULES: dict[Task, Rule] = {
    Task.PROMPT: Consecutive(1),
    Task.RESPONSE: Consecutive(2),
    Task.THINKING: Threshold(0.5, 8),
}
"""What holds for a task where a policy says nothing else."""


@dataclass(frozen=True, slots=True)
class Raised:
    """A flag, or the rise of one: from `token` on (from 0, in its task) the text is `safety`.

    `category`: the likeliest at that token, None where it has none. `start`, `end`: the code points
    of the task's text that the token covers. `scores`: P of Safe, Controversial, Unsafe at it.
    """

    kind: Literal["flag", "rise"]
    safety: Safety
    category: str | None
    token: int
    start: int
    end: int
    scores: Triple


class Latch:
    """The tokens of one task of one session, one after the other, under one rule.

    `raised`: the strongest so far. `tokens`: how many were seen. `last`: the last of them.
    """

    __slots__ = ("_before", "_not_safe", "_rule", "_unsafe", "last", "raised", "tokens")

    def __init__(self, rule: Rule) -> None:
        self.raised: Raised | None = None
        self.tokens = 0
        self.last: Scored | None = None
        self._rule = rule
        self._before = Safety.SAFE
        self._not_safe = 0
        """Tokens in a row, up to the last, that count towards a flag; `_unsafe`: towards a rise."""
        self._unsafe = 0

    def see(self, scored: Scored) -> Raised | None:
        """What this token raises, if anything.

        Raises `ValueError` where its logits are not finite, which the wire cannot carry.
        """
        token = self.tokens
        self.tokens += 1
        self.last = scored
        if self.raised is not None and self.raised.safety is Safety.UNSAFE:
            return None
        safety, unsafe = _read(self._rule, scored)
        run = 2 if isinstance(self._rule, Evaluation) else self._rule.run
        other = isinstance(self._rule, Evaluation) and safety is not self._before
        self._before = safety
        if safety is Safety.SAFE:
            self._not_safe = 0
        else:
            self._not_safe = 1 if other else self._not_safe + 1
        self._unsafe = self._unsafe + 1 if unsafe else 0
        if self._unsafe >= run:
            return self._raise(Safety.UNSAFE, token, scored)
        if self.raised is None and self._not_safe >= run:
            return self._raise(safety, token, scored)
        return None

    @property
    def last_safety(self) -> Safety | None:
        """What the last token is under the rule; None before there is one."""
        return None if self.last is None else _read(self._rule, self.last)[0]

    @property
    def ends_in_doubt(self) -> bool:
        """If the text ended here: its last token is not Safe and nothing was raised, since the
        run was too short."""
        return self.raised is None and self.last_safety not in (None, Safety.SAFE)

    def _raise(self, safety: Safety, token: int, scored: Scored) -> Raised:
        self.raised = Raised(
            "flag" if self.raised is None else "rise",
            safety,
            scored.categories[0][0] if scored.categories else None,
            token,
            scored.start,
            scored.end,
            scored.scores,
        )
        return self.raised


def _read(rule: Rule, scored: Scored) -> tuple[Safety, bool]:
    """What a token is under a rule, and whether it counts towards Unsafe."""
    safety = scored.safety
    if not isinstance(rule, Threshold):
        return safety, safety is Safety.UNSAFE
    _, controversial, unsafe = scored.scores
    if controversial + unsafe < rule.p:
        return Safety.SAFE, False
    likelier = Safety.UNSAFE if unsafe >= controversial else Safety.CONTROVERSIAL
    return likelier, unsafe >= rule.p
