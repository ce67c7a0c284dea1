"""Whether the clocks that we compare times by agree. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from qwarden.doctor.durations import span
from qwarden.doctor.finding import Findings

NOTE_S = 1.0
"""Lag ages and leases are off by as much; nobody is wronged by a second."""
WRONG_S = 10.0
"""Deadlines are missed, leases end early, and signed tokens are near the 30 s that are forgiven."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Another clock. `ahead_s`: how far it is ahead of the one here; `within_s`: how exact that is,
    half of the time that the question took."""

    whose: str
    ahead_s: float
    within_s: float


def reading(whose: str, *, sent: float, said: float, came: float) -> Reading:
    """`sent`, `came`: by the clock here, around the question; `said`: the answer. In seconds since
    1970."""
    return Reading(whose, said - (sent + came) / 2, (came - sent) / 2)


def judge(found: Findings, at: Reading) -> None:
    off_s = abs(at.ahead_s)
    way = "ahead of" if at.ahead_s > 0 else "behind"
    said = f"it is {span(off_s)} {way} the clock here"
    surely_s = off_s - at.within_s
    if surely_s > WRONG_S:
        found.wrong(
            at.whose,
            f"{said}: deadlines, leases and the ages of records are wrong by that much; let NTP "
            "set the clock of both machines",
        )
    elif surely_s > NOTE_S:
        found.note(at.whose, f"{said}; let NTP set the clock of both machines")
    else:
        found.good(at.whose, f"it agrees with the clock here to {span(max(off_s, at.within_s))}")


def judge_records(found: Findings, topic: str, newest: float | None, *, now: float) -> None:
    """`newest`: the latest Kafka timestamp among a topic's last records, None where it is empty;
    both in seconds since 1970. A producer's clock stamps them, or the broker's."""
    if newest is None:
        found.left_out(topic, "it has no record whose timestamp could be compared")
    elif newest - now > WRONG_S:
        found.wrong(
            topic,
            f"its newest record is {span(newest - now)} in the future: the clock of its producer "
            "is ahead, or the one here behind; their ages are wrong, and deadlines with them",
        )
    elif newest - now > NOTE_S:
        found.note(topic, f"its newest record is {span(newest - now)} in the future")
    else:
        found.good(topic, f"its newest record is {span(max(0.0, now - newest))} old")
