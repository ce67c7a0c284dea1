"""Content as people see it before they ask for it: how much there is, and none of what it says.
Pure.

Invariants, each held by `tests/property/test_masking.py`:
- No letter, digit, mark or symbol of the content is left.
- Every text keeps its length, its spaces and line ends, and its punctuation.
- What is beside the texts stays: roles, times, and the names of fields, which platforms choose.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Any

from qwarden.contracts import escalation
from qwarden.contracts.event import Part

MASK = "•"

_KEPT = frozenset({"Cc", "Zs", "Zl", "Zp", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po"})
"""Line ends and tabs, spaces, punctuation. Not what joins or formats: of emoji and of vowels that
are marks it shows the shape."""


class _Masks(dict[int, str]):
    """Remembers each character that was met: a hundred of them make up most texts."""

    def __missing__(self, point: int) -> str:
        character = chr(point)
        self[point] = said = character if unicodedata.category(character) in _KEPT else MASK
        return said


_MASKS = _Masks()


@dataclass(frozen=True, slots=True)
class Message:
    """A turn: its parts are joined."""

    role: str
    content: str
    reasoning: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What a user reported the content for."""

    reason: str
    at: str | None


@dataclass(frozen=True, slots=True)
class Content:
    """Masked: every letter, digit and symbol is a bullet; lengths, lines and punctuation stay."""

    is_masked: bool
    messages: list[Message]
    context: str | None
    link: str | None
    reports: list[Report]
    metadata: dict[str, Any]


def masked_text(text: str) -> str:
    """As long as `text`."""
    return text.translate(_MASKS)


def shown(content: escalation.Content) -> Content:
    """All of it."""
    return Content(
        is_masked=False,
        messages=[
            Message(each.role, _joined(each.content), each.reasoning) for each in content.messages
        ],
        context=content.context,
        link=content.link,
        reports=[
            Report(each.reason, None if each.at is None else each.at.isoformat())
            for each in content.reports
        ],
        metadata=content.metadata,
    )


def masked(content: escalation.Content) -> Content:
    """The same without what it says."""
    whole = shown(content)
    return Content(
        is_masked=True,
        messages=[
            Message(each.role, masked_text(each.content), _masked(each.reasoning))
            for each in whole.messages
        ],
        context=_masked(whole.context),
        link=_masked(whole.link),
        reports=[Report(masked_text(each.reason), each.at) for each in whole.reports],
        metadata={name: masked_value(value) for name, value in whole.metadata.items()},
    )


def _joined(content: str | list[Part]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part.text or "" for part in content)


def _masked(text: str | None) -> str | None:
    return None if text is None else masked_text(text)


def masked_value(value: Any) -> Any:
    """A JSON value with all texts and numbers in it masked; names of fields stay."""
    if isinstance(value, dict):
        return {name: masked_value(each) for name, each in value.items()}
    if isinstance(value, list):
        return [masked_value(each) for each in value]
    if value is None or isinstance(value, bool):
        return value
    return masked_text(str(value))
