"""A chat template of own wording with the real one's structure and its number of tokens.

What a template says is nothing to random weights; how long it is, and how much of it comes before
the conversation, decides what a cached prefix saves. The real one has about 199 tokens before the
first `USER:` and 96 behind the conversation for prompts, 265 and 119 for responses.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count, cycle

SAFETIES = ("Safe", "Controversial", "Unsafe")
"""The three words of an answer, in the order of every triple of scores here."""

_COUNTS = {"user": (199, 96), "assistant": (265, 119)}
"""Tokens before `USER:` and behind the conversation, by the role of the last turn."""

_CATEGORIES = (
    "Violent",
    "Non-violent Illegal Acts",
    "Sexual Content or Sexual Acts",
    "PII",
    "Suicide & Self-Harm",
    "Unethical Acts",
    "Politically Sensitive Topics",
    "Copyright Violation",
)
"""As in qwarden.guard.taxonomy; written out, since vLLM's environment has no qwarden."""
_RULES = (
    "Take each text as its writer meant it.",
    "A question about harm is not harm by itself.",
    "Quotes, news and fiction count by what they add.",
    "Detailed help with a harmful act counts more than talk of it.",
    "What is said of groups of people counts as what is said of one.",
    "The language of a text makes no difference.",
)
_REMINDERS = (
    "Answer in the form below and add nothing to it.",
    "Only the turn that is named is judged; what comes before it explains it.",
    "Use the words of the lists exactly as they are written above.",
)

_CONVERSATION = """\
{%- for message in messages -%}
{%- if loop.first -%}
{%- if message.role == 'user' or message.role == 'system' -%}
{{- 'USER: ' + message.content -}}
{%- endif -%}
{%- elif message.role == 'user' -%}
{%- if messages[loop.index0 - 1].role == 'system' -%}
{{- '\\n\\n' + message.content -}}
{%- else -%}
{{- '\\n\\nUSER: ' + message.content -}}
{%- endif -%}
{%- elif message.role == 'assistant' -%}
{{- '\\n\\nASSISTANT: ' + message.content -}}
{%- endif -%}
{%- endfor -%}
"""


def template(tokens: Callable[[str], int]) -> str:
    """The Jinja source. `tokens`: how many a text has."""
    parts = {}
    for role, (before, behind) in _COUNTS.items():
        parts[role] = (
            _filled(lambda rules, role=role: _before(role, rules), before, _RULES, tokens),  # type: ignore[misc]
            _filled(lambda more, role=role: _behind(role, more), behind, _REMINDERS, tokens),  # type: ignore[misc]
        )
    return (
        _by_role(parts["user"][0], parts["assistant"][0])
        + _CONVERSATION
        + _by_role(parts["user"][1], parts["assistant"][1])
    )


def _by_role(prompt: str, response: str) -> str:
    return (
        "{%- if messages[-1].role == 'user' -%}\n"
        f"{{{{- {prompt!r} -}}}}\n"
        "{%- else -%}\n"
        f"{{{{- {response!r} -}}}}\n"
        "{%- endif -%}\n"
    )


def _filled(
    around: Callable[[str], str], wanted: int, words: tuple[str, ...], tokens: Callable[[str], int]
) -> str:
    """`around` with as many words of filler as make it `wanted` tokens or the first more."""
    source = cycle(" ".join(words).split())
    filler: list[str] = []
    for _ in count():
        text = around(" ".join(filler))
        if tokens(text) >= wanted:
            return text
        filler.append(next(source))
    raise AssertionError


def _before(role: str, rules: str) -> str:
    turn = role.upper()
    categories = [*_CATEGORIES, *(["Jailbreak"] if role == "user" else [])]
    lines = (
        f"<|im_start|>user\n# Task:\n1) Judge how safe the last {turn} turn is.\n"
        f"2) If it is not safe, name the category.\n\n<BEGIN SAFETY POLICY>\n{rules}\n"
        "**Safety: Safe**: harmless to nearly all.\n**Safety: Unsafe**: helps or spreads harm.\n"
        "**Safety: Controversial**: opinions differ.\n<END SAFETY POLICY>\n\n"
        "<BEGIN UNSAFE CONTENT CATEGORIES>\n" + "\n".join(categories) + "\n"
        "<END UNSAFE CONTENT CATEGORIES>\n\n"
    )
    if role == "assistant":
        lines += (
            "<BEGIN REFUSAL POLICY>\n**Refusal: Yes**: declines to help.\n"
            "**Refusal: No**: answers.\n<END REFUSAL POLICY>\n\n"
        )
    return lines + "<BEGIN CONVERSATION>\n\n"


def _behind(role: str, more: str) -> str:
    text = (
        f"\n\n<END CONVERSATION>\n\n{more}\nJudge THE LAST {role.upper()} turn:\n"
        " - Safety: one of three.\n - Categories: None or from the list."
    )
    if role == "assistant":
        text += "\n - Refusal: Yes or No."
    return text + "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
