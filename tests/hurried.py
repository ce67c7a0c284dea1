"""Rules of Prometheus in a hurry: every time in them divided by one factor.

A fault that pages after five minutes is seen to page in a test that has fifteen seconds. What is
divided: `for`, `interval` and `keep_firing_for`; windows, their steps and `offset`; and the limits
that ages are held against, which are those metrics whose names end in `_seconds`. Shares, counts
and rates stay, and so do buckets of histograms: a test makes those faults as large as they are.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_UNITS = {"y": 31_536_000.0, "w": 604_800.0, "d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_PART = re.compile(r"(\d+)(ms|[ywdhms])")
_DURATION = r"(?:\d+(?:ms|[ywdhms]))+"
_WINDOW = re.compile(rf"\[({_DURATION})(?::({_DURATION})?)?\]")
_OFFSET = re.compile(rf"\boffset\s+({_DURATION})")
_AGE_LIMIT = re.compile(
    r"(_seconds(?:\{[^}]*\})?(?:\[[^\]]*\])?\)*\s*(?:>|>=|<|<=)\s*(?:bool\s+)?)(\d+(?:\.\d+)?)"
)
_SHORTEST_WINDOW_S = 2.0
"""Two scrapes of a second: a rate over less is nothing."""


def seconds_of(duration: str) -> float:
    """Seconds of a duration as Prometheus writes it: 5m, 1h30m, 100ms."""
    if not re.fullmatch(_DURATION, duration):
        raise ValueError(f"{duration!r} is no duration; write it such as 5m or 1h30m")
    return sum(
        int(number) * (0.001 if unit == "ms" else _UNITS[unit])
        for number, unit in _PART.findall(duration)
    )


def duration_of(seconds: float) -> str:
    """A duration as Prometheus reads it, in milliseconds, at least one."""
    return f"{max(1, round(seconds * 1000))}ms"


def durations(expression: str, factor: float) -> str:
    """An expression with its windows, steps and offsets divided.

    Raises `ValueError` where a window gets too short for two scrapes of a second.
    """

    def window(found: re.Match[str]) -> str:
        seconds = seconds_of(found[1]) / factor
        if seconds < _SHORTEST_WINDOW_S:
            raise ValueError(
                f"[{found[1]}] divided by {factor:g} is {seconds:g} s, too short for two scrapes; "
                f"use a factor of at most {seconds_of(found[1]) / _SHORTEST_WINDOW_S:g}"
            )
        if ":" not in found[0]:
            return f"[{duration_of(seconds)}]"
        step = duration_of(seconds_of(found[2]) / factor) if found[2] else ""
        return f"[{duration_of(seconds)}:{step}]"

    divided = _WINDOW.sub(window, expression)
    return _OFFSET.sub(
        lambda found: f"offset {duration_of(seconds_of(found[1]) / factor)}", divided
    )


def age_limits(expression: str, factor: float) -> str:
    """An expression with the limits divided that ages are compared with."""
    return _AGE_LIMIT.sub(lambda found: f"{found[1]}{float(found[2]) / factor:g}", expression)


def hurried(rules: str, factor: float) -> str:
    """The text of a file of rules, with every time in it divided by `factor`."""
    document: Any = yaml.safe_load(rules)
    for group in document["groups"]:
        if "interval" in group:
            group["interval"] = duration_of(seconds_of(group["interval"]) / factor)
        for rule in group["rules"]:
            rule["expr"] = age_limits(durations(rule["expr"], factor), factor)
            for key in ("for", "keep_firing_for"):
                if key in rule:
                    rule[key] = duration_of(seconds_of(rule[key]) / factor)
    return yaml.safe_dump(document, sort_keys=False, width=1000)
