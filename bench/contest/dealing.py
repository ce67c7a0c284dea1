"""A floor that a set share of rows lies under, and rounds that each hold that share exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from contest.rendering import Messages

SHARE = 0.2
"""Of the rows get categories: the whole answer of ordinary traffic, some of it doubtful."""


@dataclass(frozen=True, slots=True)
class Dealt:
    """`floor`: under it lies P(Safe) of the share. `rounds`: rows of each round. `surplus`: rows
    that were left out since more than the share are not Safe, of all that were made."""

    floor: float
    rounds: list[list[Messages]]
    surplus: int


def deal(
    rows: Sequence[Messages], safe: Sequence[float], rounds: int, size: int, prompts: int
) -> Dealt | None:
    """Deals `rounds` rounds of `size` rows, `prompts` of them prompts, or None where the rows do
    not give that many. `safe`: P(Safe) of each row.

    Rows over the floor are all Safe (at least a half), since a response that is not Safe has its
    refusal read behind its categories.
    """
    order = sorted(range(len(rows)), key=lambda at: safe[at])
    low = round(size * SHARE) * rounds
    under, over = order[:low], [at for at in order[low:] if safe[at] > 0.5]
    if not over or not under:
        return None
    # By task in turn, so that every round gets as many doubtful prompts as any other.
    under.sort(key=lambda at: _is_prompt(rows[at]))
    dealt = [under[number::rounds] for number in range(rounds)]
    spare = {True: [at for at in over if _is_prompt(rows[at])]}
    spare[False] = [at for at in over if not _is_prompt(rows[at])]
    for chosen in dealt:
        for task, wanted in ((True, prompts), (False, size - prompts)):
            lacks = wanted - sum(_is_prompt(rows[at]) is task for at in chosen)
            if lacks < 0 or lacks > len(spare[task]):
                return None
            for _ in range(lacks):
                chosen.append(spare[task].pop(len(spare[task]) // 2))
    floor = (safe[order[low - 1]] + min(safe[at] for at in over)) / 2
    return Dealt(
        floor,
        [[rows[at] for at in sorted(chosen)] for chosen in dealt],
        len(order) - low - len(over),
    )


def _is_prompt(messages: Messages) -> bool:
    return messages[-1]["role"] == "user"
