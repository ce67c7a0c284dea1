"""One labelled conversation."""

from __future__ import annotations

from dataclasses import dataclass

from .labels import Safety, Task


@dataclass(frozen=True, slots=True)
class Row:
    """``messages`` are (role, text) pairs, the last one is judged.

    ``thinking``: the last text is the reasoning of a model before its answer and stands between
    the think markers. ``fold`` numbers the part of the rows that it belongs to while teachers are
    trained; made rows have none.
    """

    source: str
    language: str
    task: Task
    messages: tuple[tuple[str, str], ...]
    safety: Safety
    categories: tuple[str, ...]
    refusal: bool | None = None
    thinking: bool = False
    fold: int | None = None

    @property
    def category(self) -> str | None:
        """The one that is learnt."""
        return self.categories[0] if self.categories else None
