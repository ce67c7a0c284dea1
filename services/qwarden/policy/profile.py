"""How often the guard names the right category: what a policy should build on it."""

from __future__ import annotations

from collections.abc import Mapping

MEASURED: Mapping[str, tuple[int, int]] = {
    "Violent": (45 + 175, 57 + 201),
    "Non-violent Illegal Acts": (182 + 151, 237 + 180),
    "Sexual Content or Sexual Acts": (28 + 48, 33 + 63),
    "PII": (50 + 64, 55 + 66),
    "Suicide & Self-Harm": (36 + 17, 68 + 22),
    "Unethical Acts": (122 + 161, 148 + 185),
    "Politically Sensitive Topics": (15 + 8, 26 + 23),
    "Copyright Violation": (6 + 0, 11 + 5),
}
"""Right of all that was found unsafe, prompts and responses together, Qwen3Guard-Gen-4B (technical
report, figures 5 and 12). Jailbreak was not measured."""

ENOUGH = 0.7
"""Under this share a category alone is no ground for an action: nearly one in three is another."""

FLOOR = 0.9
"""Categories are decoded where P(Safe) is under this: the engine's default, part of the guard's
revision."""


def share_right(category: str) -> float | None:
    """How often the guard is right where it names this category; None where nobody has measured."""
    measured = MEASURED.get(category)
    return None if measured is None else measured[0] / measured[1]
