"""When certificates end. Pure."""

from __future__ import annotations

from qwarden.doctor.durations import span
from qwarden.doctor.finding import Findings

SOON_S = 30 * 86_400.0
"""A month is time to renew one by hand; the alert comes nine days later."""
NOW_S = 3 * 86_400.0
"""What ends within a weekend ends before anybody looks again."""


def judge(found: Findings, about: str, ends: float, *, now: float) -> None:
    """`ends`: the earliest end of those in one place; both in seconds since 1970."""
    left_s = ends - now
    if left_s <= 0:
        found.wrong(about, f"it ended {span(now - ends)} ago; renew it, and restart who reads it")
    elif left_s < NOW_S:
        found.wrong(about, f"it ends in {span(left_s)}; renew it now, and restart who reads it")
    elif left_s < SOON_S:
        found.note(about, f"it ends in {span(left_s)}; renew it, and restart who reads it")
    else:
        found.good(about, f"it ends in {span(left_s)}")
