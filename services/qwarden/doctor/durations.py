"""Spans of time and counts of bytes as people read them. Pure."""

from __future__ import annotations

import math


def span(seconds: float) -> str:
    """`350 ms`, `12 s`, `4 min`, `3.5 h`, `12 days`."""
    if math.isinf(seconds):
        return "for ever"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    if seconds < 2 * 86_400:
        return f"{seconds / 3600:.3g} h"
    return f"{seconds / 86_400:.3g} days"


def mebibytes(count: float) -> str:
    return f"{count / 2**20:,.0f} MiB"
