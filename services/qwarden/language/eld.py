"""The adapter over `eldc` (Efficient Language Detector in C): 60 languages by their n-grams."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version

import eldc

from qwarden.guard.language import UNKNOWN, Language
from qwarden.language.port import CHARACTERS

_KEPT = 4096
"""Answers kept, with at most `CHARACTERS` each of their texts: under 16 MiB. For copies that come
in a wave: any other text is detected anew, which costs about what asking Redis costs (ADR 18)."""

_SCORE = 0.7
_LEAD = 0.12
"""What is under either is `und`. Measured (docs/languages.md): all of the short texts that are left
are right, and most languages that the library does not know score under 0.7."""

_RULES = 1
"""Of this module: raise it with every change of what it answers."""

_ADDRESS = re.compile(r"(?<![!-~])[!-~]*?(?:://|@)[!-~]*")
"""Of the web or of mail, or a name behind an `@`: in no language, and it looks like English."""


class EldDetector:
    """Detects in the calling thread: 5 to 16 µs a text (bench/results/language.json)."""

    def __init__(self) -> None:
        eldc.init()
        self._library = eldc.instance()
        self._library.set_scores(2)
        self._kept = lru_cache(_KEPT)(self._look)
        self.version = f"eldc-{version('eldc')}.{_RULES}-{CHARACTERS}"

    def detect(self, texts: Sequence[str]) -> list[Language]:
        return [self._kept(text[:CHARACTERS]) for text in texts]

    def _look(self, text: str) -> Language:
        if "@" in text or "://" in text:
            text = _ADDRESS.sub(" ", text)
        if "\0" in text:  # where a text ends in C
            text = text.replace("\0", " ")
        try:
            found = self._library.detect_details(text)
        except UnicodeEncodeError:  # half of a surrogate pair
            found = self._library.detect_details(text.encode("utf-8", "replace").decode())
        scores: list[float] = [*found.scores.values(), 0.0, 0.0]
        best, second = scores[:2]
        # Scores are 1 - exp(-evidence a n-gram), near 1 for languages that share a script: what
        # tells them apart is the share of the second one's distance to 1 that the best has covered.
        lead = (best - second) / (1 - second) if second < 1 else 0.0
        if best < _SCORE or lead < _LEAD:
            return UNKNOWN
        return Language(found.language, round(lead, 3))
