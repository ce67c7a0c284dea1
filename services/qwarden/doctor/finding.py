"""What a look at one thing has found, and what the whole says. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass


class Result(enum.StrEnum):
    """How it stands."""

    GOOD = "good"
    NOTE = "note"
    """It works, and somebody should know this of it."""
    WRONG = "wrong"
    """It does not work, or will not; the sentence names the fix."""
    AWAY = "away"
    """It does not answer, so that nobody knows."""
    LEFT_OUT = "left out"
    """The settings do not have it, or what it needs is away."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`check`: the name that `--only` takes; `about`: the part of it; `sentence`: what is so, and
    where it is not good also what to do."""

    check: str
    about: str
    result: Result
    sentence: str


def exit_code(findings: Iterable[Finding]) -> int:
    """3 where something does not answer, else 1 where something is wrong, else 0."""
    results = {each.result for each in findings}
    if Result.AWAY in results:
        return 3
    return 1 if Result.WRONG in results else 0


def summary(findings: Iterable[Finding]) -> str:
    """The whole in a sentence."""
    counted: dict[Result, int] = dict.fromkeys(Result, 0)
    for each in findings:
        counted[each.result] += 1
    bad = [
        f"{counted[Result.WRONG]} wrong" if counted[Result.WRONG] else "",
        f"{counted[Result.AWAY]} away" if counted[Result.AWAY] else "",
    ]
    said = ", ".join(filter(None, bad)) or "nothing is wrong"
    notes = f"; {counted[Result.NOTE]} to know of" if counted[Result.NOTE] else ""
    total = sum(counted.values()) - counted[Result.LEFT_OUT]
    return f"Of {total} things looked at: {said}{notes}."


class Findings:
    """Collects what one check finds."""

    def __init__(self, check: str) -> None:
        self._check = check
        self.all: list[Finding] = []

    def good(self, about: str, sentence: str) -> None:
        self._add(about, Result.GOOD, sentence)

    def note(self, about: str, sentence: str) -> None:
        self._add(about, Result.NOTE, sentence)

    def wrong(self, about: str, sentence: str) -> None:
        self._add(about, Result.WRONG, sentence)

    def away(self, about: str, sentence: str) -> None:
        self._add(about, Result.AWAY, sentence)

    def left_out(self, about: str, sentence: str) -> None:
        self._add(about, Result.LEFT_OUT, sentence)

    def join(self) -> None:
        """Makes one of those that say the same of several things."""
        joined: dict[tuple[Result, str], Finding] = {}
        for each in self.all:
            same = each.result, each.sentence
            before = joined.get(same)
            about = each.about if before is None else f"{before.about}, {each.about}"
            joined[same] = Finding(each.check, about, each.result, each.sentence)
        self.all = list(joined.values())

    def _add(self, about: str, result: Result, sentence: str) -> None:
        self.all.append(Finding(self._check, about, result, sentence))
