"""The port to a detector of languages. Every adapter passes
`tests/contract/test_language_port.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from qwarden.guard.language import Language

CHARACTERS = 1000
"""From its start so much of a text is looked at: `eldc` 0.4.0 reads no more than 1,000 bytes itself
(from its source), and to rewrite more for it would cost time and change no answer."""


class Detector(Protocol):
    """Tells languages from texts, by the text alone: the same text, the same language."""

    @property
    def version(self) -> str:
        """Names all that its answers depend on beside the text: part of a verdict's id."""
        ...

    def detect(self, texts: Sequence[str]) -> list[Language]:
        """The language of each text, in their order, with a confidence. `und` where a text has
        none, or where the detector is not sure: never a guess. Takes any text."""
        ...
