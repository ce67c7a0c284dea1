"""The categories of Qwen3Guard-Gen, under the names that verdicts and policies use.

Source: Qwen3Guard README and model cards, 2025-10; the template's own strings for Gen. A
checkpoint's `profile.yaml` maps its strings to these names.
"""

from __future__ import annotations

from qwarden.guard.conversation import Task

CATEGORIES: tuple[str, ...] = (
    "Violent",
    "Non-violent Illegal Acts",
    "Sexual Content or Sexual Acts",
    "PII",
    "Suicide & Self-Harm",
    "Unethical Acts",
    "Politically Sensitive Topics",
    "Copyright Violation",
    "Jailbreak",
)

_PROMPT_ONLY = frozenset({"Jailbreak"})


def categories_of(task: Task) -> tuple[str, ...]:
    """The categories that the guard can answer for a task: nine for prompts, eight else."""
    if task is Task.PROMPT:
        return CATEGORIES
    return tuple(name for name in CATEGORIES if name not in _PROMPT_ONLY)
