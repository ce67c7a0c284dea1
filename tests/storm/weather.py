"""Who is hit, when, and how: the storm's plan, by its seed. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

Hit = Literal["kill", "freeze"]


@dataclass(frozen=True, slots=True)
class Strike:
    """`at_s`: seconds from the storm's beginning. `freeze_s`: over the session timeout, so that
    the group takes the partitions away from one who still believes to have them."""

    at_s: float
    member: int
    hit: Hit
    freeze_s: float = 0.0


def plan(
    seed: int, *, members: int, hits_a_member: int, apart_s: float, session_s: float
) -> list[Strike]:
    """Every member is hit `hits_a_member` times, in rounds, so that none is hit again before it is
    back: the rounds' order, the moments around `apart_s` and the kind are random."""
    dice = random.Random(seed)
    strikes: list[Strike] = []
    at = 2 * apart_s
    for _ in range(hits_a_member):
        order = list(range(members))
        dice.shuffle(order)
        if strikes and members > 1 and order[0] == strikes[-1].member:
            order.append(order.pop(0))
        for member in order:
            hit: Hit = dice.choice(("kill", "freeze"))
            freeze = session_s + dice.uniform(1, 3) if hit == "freeze" else 0.0
            strikes.append(Strike(at, member, hit, freeze))
            at += apart_s * dice.uniform(0.5, 1.5)
    return strikes
