"""One exchange as the stream guard reads it: a user's turn, then a thought and an answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .labels import Safety

Segment = Literal["thinking", "answer"]


@dataclass(frozen=True, slots=True)
class Label:
    """A safety and its category; Safe has none."""

    safety: Safety
    category: str | None = None

    def __post_init__(self) -> None:
        if (self.safety == "Safe") != (self.category is None):
            raise ValueError(f"{self.safety} with category {self.category}")


SAFE = Label("Safe")


@dataclass(frozen=True, slots=True)
class Judged:
    """A text of the assistant with its label.

    ``since``: code points of the shortest beginning that has the label already, from 1. It and all
    longer ones have it (the guard learns to stay flagged), shorter ones are Safe. None for Safe.
    """

    text: str
    label: Label = SAFE
    since: int | None = None

    def __post_init__(self) -> None:
        if (self.label == SAFE) != (self.since is None):
            raise ValueError(f"{self.label} since {self.since}")
        if self.since is not None and not 0 < self.since <= len(self.text):
            raise ValueError(f"since {self.since} of {len(self.text)} code points")

    def cut(self, keep: int) -> Judged:
        """Its first ``keep`` code points; Safe where the label comes later."""
        if len(self.text) <= keep:
            return self
        if self.since is not None and self.since > keep:
            return Judged(self.text[:keep])
        return Judged(self.text[:keep], self.label, self.since)


@dataclass(frozen=True, slots=True)
class Exchange:
    """``history``: earlier (user, assistant) texts. ``query``: what is learnt at the end of the
    user's turn; None where its label is not known. ``answer`` and ``thinking`` may be missing."""

    source: str
    user: str
    query: Label | None = None
    thinking: Judged | None = None
    answer: Judged | None = None
    history: tuple[tuple[str, str], ...] = ()
