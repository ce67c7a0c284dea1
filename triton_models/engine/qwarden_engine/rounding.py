"""What other rows in a micro-batch move a row's logits by, measured where the engine runs.

The order of a sum can depend on how many rows are beside: in cuBLAS's products it does, in oneDNN's
and in this engine's attention on a CPU it does not. No constant holds for both, nor for random and
trained weights, so it is measured at every start.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from qwarden_engine.grammar import Draft
from qwarden_engine.jobs import Job
from qwarden_engine.judge import Judge

ROOM = 4.0
"""Times what is seen in a few rows that a margin may move in any row."""


def near(judge: Judge, jobs: Sequence[Job], full: Sequence[Draft]) -> float:
    """The margin under which a row can get another answer in another micro-batch, in logits: 0
    where no batch moves any. `jobs`: what fills one; `full`: their drafts from it."""
    alone = [judge.together([job])[0] for job in jobs]
    few = judge.together(jobs[: -(-len(jobs) // 8)])
    return ROOM * max(max(map(_moved, beside, alone)) for beside in (full, few))


def _moved(one: Draft, other: Draft) -> float:
    """The most that a difference of two logits differs, as far as the choices tell it."""
    names, others = ([name for name, _ in draft.categories] for draft in (one, other))
    if (names, one.refusal) != (others, other.refusal):
        # The one margin had to go down to zero and the other up from it.
        return one.margin + other.margin
    moved = [a - b for a, b in zip(one.logits, other.logits, strict=True)]
    return max(abs(one.margin - other.margin), *(abs(a - b) for a, b in combinations(moved, 2)))
