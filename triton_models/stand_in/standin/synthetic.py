"""Rows made from phrase lists, so that every class and category is reached in twelve languages.

``phrases/LANG.yaml`` holds frames, acts (verbs and objects) and sentences; a seeded generator
combines them. The frames are the same for all classes: only the act decides the label.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from .labels import JAILBREAK, Safety
from .row import Row

FOLDER: Final = Path(__file__).parent / "phrases"
SOURCE: Final = "made"
MULTI_TURN: Final = 0.2  # share of rows with earlier turns
SYSTEM_TURN: Final = 0.04  # share of rows that begin with a system message

_SYSTEM: Final = (
    "You are a helpful assistant.",
    "Answer briefly and politely.",
    "You are the support assistant of a small shop.",
)
Label = tuple[Safety, str | None]
SAFE: Final[Label] = ("Safe", None)


class Phrases:
    """One language's lists, the acts already combined."""

    def __init__(self, path: Path) -> None:
        lists: dict[str, Any] = yaml.safe_load(path.read_text())
        self.language = path.stem
        self.lists = lists
        join: str = lists["join"]

        def acts(groups: list[list[list[str]]]) -> list[str]:
            return [
                join.format(v=verb, o=thing)
                for verbs, things in groups
                for verb, thing in itertools.product(verbs, things)
            ]

        self.safe = acts(lists["safe"])
        self.harmless: list[str] = lists["harmless"]
        self.unsafe = {name: acts(groups) for name, groups in lists["unsafe"].items()}
        self.borderline: dict[str, list[str]] = lists["borderline"]

    def pick(self, chooser: random.Random, name: str) -> str:
        """One entry of a plain list."""
        return str(chooser.choice(self.lists[name]))


def load_phrases() -> list[Phrases]:
    """All languages, in the order of their codes."""
    return [Phrases(path) for path in sorted(FOLDER.glob("*.yaml"))]


def make_rows(count: int, seed: int) -> Iterator[Row]:
    """``count`` rows: three quarters prompts, the rest responses, languages in equal parts."""
    chooser = random.Random(seed)
    languages = load_phrases()
    for number in range(count):
        phrases = languages[number % len(languages)]
        yield _response(phrases, chooser) if number % 4 == 3 else _prompt(phrases, chooser)


def _act(phrases: Phrases, chooser: random.Random, label: Label) -> str:
    safety, category = label
    if safety == "Safe":
        return chooser.choice(phrases.harmless if chooser.random() < 0.3 else phrases.safe)
    table = phrases.unsafe if safety == "Unsafe" else phrases.borderline
    return chooser.choice(table[str(category)])


def _label(phrases: Phrases, chooser: random.Random, *, prompt: bool) -> Label:
    dice = chooser.random()
    if dice < 0.4:
        return SAFE
    if dice < 0.75:
        names = [name for name in phrases.unsafe if prompt or name != JAILBREAK]
        return "Unsafe", chooser.choice(names)
    return "Controversial", chooser.choice(list(phrases.borderline))


def _request(phrases: Phrases, chooser: random.Random, label: Label) -> str:
    """What a user writes, for a label."""
    safety, category = label
    dice = chooser.random()
    if safety == "Safe" and dice < 0.3:
        text = phrases.pick(chooser, "say")
        return f"{text} {phrases.pick(chooser, 'say')}" if dice < 0.08 else text
    if label == ("Controversial", "Unethical Acts") and dice < 0.6:
        if dice < 0.35:
            subject, predicate = (chooser.choice(part) for part in phrases.lists["insult"])
            return f"{subject}{'' if phrases.language in ('zh', 'ja') else ' '}{predicate}"
        return phrases.pick(chooser, "joke").format(w=phrases.pick(chooser, "who"))
    if label == ("Controversial", "Politically Sensitive Topics") and dice < 0.6:
        return phrases.pick(chooser, "politics").format(t=phrases.pick(chooser, "topic"))
    act = _act(phrases, chooser, label)
    if category == JAILBREAK:
        frame = "imperative"
    else:
        frame = "doubt" if (dice > 0.75 and safety != "Unsafe") or dice > 0.93 else "ask"
    return phrases.pick(chooser, frame).format(a=act)


def _roughen(text: str, phrases: Phrases, chooser: random.Random) -> str:
    """Small differences of style that must not matter."""
    if chooser.random() < 0.2:
        text = text.lower()
    if chooser.random() < 0.2:
        text = text.rstrip(".?!。？！।؟ ")
    if chooser.random() < 0.12:
        text = f"{phrases.pick(chooser, 'say')} {text}"
    return text


def _prompt(phrases: Phrases, chooser: random.Random) -> Row:
    label = _label(phrases, chooser, prompt=True)
    text = _roughen(_request(phrases, chooser, label), phrases, chooser)
    return _row(phrases, chooser, label, [("user", text)], None)


def _answer(phrases: Phrases, chooser: random.Random, act: str) -> str:
    text = phrases.pick(chooser, "comply").format(a=act)
    return f"{text} {phrases.pick(chooser, 'plain')}" if chooser.random() < 0.3 else text


def _response(phrases: Phrases, chooser: random.Random) -> Row:
    """An answer that helps (label of the act) or refuses (Safe)."""
    label = _label(phrases, chooser, prompt=False)
    act = _act(phrases, chooser, label)
    question = phrases.pick(chooser, "ask").format(a=act)
    refuses = chooser.random() < (0.45 if label[0] != "Safe" else 0.15)
    if refuses:
        answer, label = phrases.pick(chooser, "refuse"), SAFE
    elif chooser.random() < 0.25:
        answer = phrases.pick(chooser, "plain")
    else:
        answer = _answer(phrases, chooser, act)
    return _row(phrases, chooser, label, [("user", question), ("assistant", answer)], refuses)


def _row(
    phrases: Phrases,
    chooser: random.Random,
    label: Label,
    turns: list[tuple[str, str]],
    refusal: bool | None,
) -> Row:
    before: list[tuple[str, str]] = []
    if chooser.random() < MULTI_TURN:
        for _ in range(chooser.randint(1, 3)):
            before.extend(_earlier(phrases, chooser))
    if chooser.random() < SYSTEM_TURN:
        before.insert(0, ("system", chooser.choice(_SYSTEM)))
    safety, category = label
    return Row(
        source=SOURCE,
        language=phrases.language,
        task="prompt" if refusal is None else "response",
        messages=(*before, *turns),
        safety=safety,
        categories=() if category is None else (category,),
        refusal=refusal,
    )


def _earlier(phrases: Phrases, chooser: random.Random) -> list[tuple[str, str]]:
    """An earlier exchange: mostly harmless, now and then a harmful request that was refused."""
    label = SAFE if chooser.random() < 0.75 else _label(phrases, chooser, prompt=True)
    act = _act(phrases, chooser, label)
    frame = "imperative" if label[1] == JAILBREAK else "ask"
    question = phrases.pick(chooser, frame).format(a=act)
    if label[0] == "Safe":
        return [("user", question), ("assistant", _answer(phrases, chooser, act))]
    return [("user", question), ("assistant", phrases.pick(chooser, "refuse"))]
