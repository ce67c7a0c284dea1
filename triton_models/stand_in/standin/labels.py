"""The words of the answer: safety classes, categories and the output grammar."""

from __future__ import annotations

import re
from typing import Final, Literal

Safety = Literal["Safe", "Unsafe", "Controversial"]
Task = Literal["prompt", "response"]

SAFETIES: Final[tuple[Safety, ...]] = ("Safe", "Unsafe", "Controversial")
JAILBREAK: Final = "Jailbreak"
RESPONSE_CATEGORIES: Final[tuple[str, ...]] = (
    "Violent",
    "Non-violent Illegal Acts",
    "Sexual Content or Sexual Acts",
    "PII",
    "Suicide & Self-Harm",
    "Unethical Acts",
    "Politically Sensitive Topics",
    "Copyright Violation",
)
PROMPT_CATEGORIES: Final[tuple[str, ...]] = (*RESPONSE_CATEGORIES, JAILBREAK)

_CATEGORY: Final = "|".join(re.escape(name) for name in PROMPT_CATEGORIES)
_ANSWER: Final = re.compile(
    rf"Safety: (?P<safety>{'|'.join(SAFETIES)})"
    rf"\nCategories: (?P<categories>None|(?:{_CATEGORY})(?:, (?:{_CATEGORY}))*)"
    r"(?:\nRefusal: (?P<refusal>Yes|No))?"
)


def answer_text(safety: Safety, category: str | None, refusal: bool | None) -> str:
    """The text that the guard must produce; ``refusal`` is None for prompts."""
    text = f"Safety: {safety}\nCategories: {category or 'None'}"
    return text if refusal is None else f"{text}\nRefusal: {'Yes' if refusal else 'No'}"


def parse_answer(text: str, task: Task) -> tuple[Safety, list[str], bool | None] | None:
    """Safety, categories and refusal of an answer, or None where it breaks the grammar."""
    match = _ANSWER.fullmatch(text)
    if match is None or (match["refusal"] is None) != (task == "prompt"):
        return None
    safety = next(name for name in SAFETIES if name == match["safety"])
    categories = [] if match["categories"] == "None" else match["categories"].split(", ")
    allowed = PROMPT_CATEGORIES if task == "prompt" else RESPONSE_CATEGORIES
    if (safety == "Safe") != (not categories) or not set(categories) <= set(allowed):
        return None
    return safety, categories, None if match["refusal"] is None else match["refusal"] == "Yes"
