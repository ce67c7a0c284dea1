"""In what order people get items, and until when somebody has to look. Pure.

An item's place is fixed when it arrives: `due = arrived + SLA / (harm × reach factor)`. So the next
one is the first of an index, and nothing has to be weighed anew while time passes.
The queue `urgent` comes before all others: first what people have sent there, then what was raised.

Invariants, each held by `tests/property/test_review_order.py`:
- Nothing starves. In its queue only what arrived before an item's due time can come before it,
  ever; so a queue that is worked off faster than more harmful content arrives serves each item
  within a bound that is known when it arrives.
- More harm, more reach, a shorter SLA or an earlier arrival never make an item later.
- No item is due after its SLA is over.
"""

from __future__ import annotations

import math

URGENT, QUALITY, APPEALS = "urgent", "quality", "appeals"
"""Queues of ours, that no policy names: nothing that only checks somebody is ever in the first."""

LEAST_HARM, MOST_HARM = 1, 10
"""What rules may say of how bad it is to be late."""
MOST_REACH_FACTOR = 10.0
"""That of a thousand million people: beyond it nobody waits less."""


def reach_factor(reach: int) -> float:
    """How much sooner content is looked at that this many people see: from 1 to 10."""
    return min(MOST_REACH_FACTOR, 1.0 + math.log10(1.0 + max(0, reach)))


def due_of(arrived_at: float, sla_s: float, harm: int, reach: int) -> float:
    """What claims are ordered by. Times in seconds since 1970; harm from 1 to 10."""
    return arrived_at + sla_s / (harm * reach_factor(reach))
