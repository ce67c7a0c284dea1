"""Labelled conversations: reading the files, shares of each source, and what a text becomes.

A file is JSON Lines, plain or gzip (``.gz``), one object a line with the fields

=============  ==================================================================================
``id``         text, free
``source``     text: the name of the data set; measures are reported by it
``lang``       text: a language code, ``mul`` for mixed
``task``       ``prompt`` (judge the user's text) or ``response`` (judge the answer to it)
``prompt``     text: what the user wrote
``response``   text for ``response``, else null
``label``      ``Safe``, ``Controversial`` or ``Unsafe``
``categories`` list of category names; the first is learnt; empty for Safe
``refusal``    optional, true or false; without it a phrase list guesses
=============  ==================================================================================

Further fields are ignored.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from .english import KINDS, English
from .escapes import wrap
from .labels import PROMPT_CATEGORIES, RESPONSE_CATEGORIES, SAFETIES
from .row import Row

#: Characters of one text that are kept, and the share of texts cut at the larger number instead.
KEEP: Final = 800
KEEP_LONG: Final = 2_400
LONG_SHARE: Final = 0.06

_REFUSAL: Final = re.compile(
    r"\b(i'?m sorry,? but|i can(?:'|no)t (?:assist|help|fulfil|provide|comply|do that|support)"
    r"|i can'?t (?:assist|help|fulfil|provide|comply)|i (?:am|'m) (?:not able|unable) to"
    r"|i (?:will|must|have to) (?:not|decline|refuse)|i won'?t"
    r"|cannot (?:assist|help|fulfil|provide|comply)"
    r"|not (?:appropriate|ethical|able) (?:for me )?to|against my (?:programming|guidelines))",
    re.IGNORECASE,
)


def guess_refusal(text: str) -> bool:
    """Whether an English answer opens with a refusal."""
    return _REFUSAL.search(text[:250].replace("\u2019", "'")) is not None


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of one file; a line that breaks the format raises ValueError with its number."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield _row(json.loads(line))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path.name}, line {number}: {error!r}") from error


def _row(fields: dict[str, object]) -> Row:
    task = fields["task"]
    label = fields["label"]
    named = fields["categories"]
    if task not in ("prompt", "response") or label not in SAFETIES or not isinstance(named, list):
        raise ValueError("task, label or categories")
    unknown = set(named) - set(PROMPT_CATEGORIES if task == "prompt" else RESPONSE_CATEGORIES)
    if unknown or (label == "Safe") != (not named):
        raise ValueError(f"categories {named} with label {label}, of a {task}")
    messages = [("user", _text(fields, "prompt"))]
    given = fields.get("refusal")
    if given is not None and not isinstance(given, bool):
        raise ValueError(f"refusal is {given!r}, neither true, false nor null")
    refusal: bool | None = None
    if task == "response":
        answer = _text(fields, "response")
        messages.append(("assistant", answer))
        refusal = guess_refusal(answer) if given is None else given
    elif fields.get("response") is not None:
        raise ValueError("response is not null, of a prompt")
    return Row(
        source=_text(fields, "source"),
        language=_text(fields, "lang"),
        task="prompt" if task == "prompt" else "response",
        messages=tuple(messages),
        safety=next(name for name in SAFETIES if name == label),
        categories=tuple(named),
        refusal=refusal,
    )


def _text(fields: dict[str, object], name: str) -> str:
    value = fields[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}, not a text")
    value.encode()  # raises for a lone surrogate, which no tokenizer takes
    return value


def shorten(text: str, keep: int) -> str:
    """The first two thirds and the last third of ``keep`` characters of a longer text."""
    if len(text) <= keep:
        return text
    return f"{text[: keep * 2 // 3]} … {text[-keep // 3 :]}"


def held_out(row: Row, parts: int) -> bool:
    """Whether a row belongs to the one of ``parts`` parts that is kept from training."""
    return zlib.crc32(repr(row.messages).encode()) % parts == 0


#: Share of the training steps of each group of rows, before normalising. A group is a source
#: (or several) with a class; what no line names gets ``OTHER`` for each source and class.
OTHER: Final = 1.0
SHARES: Final[dict[tuple[str, str], float]] = {
    ("davidson", "Safe"): 2.5,
    ("davidson", "Controversial"): 3.5,
    ("davidson", "Unsafe"): 2.0,
    ("cold", "Safe"): 6.0,
    ("cold", "Unsafe"): 6.0,
    ("s-labs-injection", "Safe"): 6.0,
    ("s-labs-injection", "Unsafe"): 6.0,
    ("neuralchemy-injection", "Safe"): 2.0,
    ("neuralchemy-injection", "Unsafe"): 2.0,
    ("yanismiraoui-injection", "Unsafe"): 1.2,
    ("inthewild-jailbreak", "Unsafe"): 1.0,
    ("gptfuzz-template", "Unsafe"): 0.2,
    ("self-instruct-seed", "Safe"): 2.0,
    ("cvalues", "Safe"): 1.2,
    ("gptfuzz", "Safe"): 3.5,
    ("gptfuzz", "Unsafe"): 3.0,
    # more Unsafe than Safe: unsafe replies were missed far more often than flagged wrongly
    ("diasafety", "Safe"): 6.5,
    ("diasafety", "Unsafe"): 8.0,
    # a little more than their number asks for: plain harmful requests were missed
    ("harmful", "Violent"): 2.0,
    ("harmful", "Non-violent Illegal Acts"): 4.0,
    ("harmful", "Sexual Content or Sexual Acts"): 2.0,
    ("harmful", "PII"): 1.8,
    ("harmful", "Suicide & Self-Harm"): 0.8,
    ("harmful", "Unethical Acts"): 4.7,
    ("harmful", "Politically Sensitive Topics"): 1.6,
    ("harmful", "Copyright Violation"): 1.0,
    ("long", "Safe"): 1.5,
    ("long", "Unsafe"): 1.5,
    ("made", "prompt"): 9.0,
    ("made", "response"): 3.0,
    # ordinary and whole together are 29 % of all, for few false alarms
    ("english", "ordinary"): 26.0,
    ("english", "whole"): 18.0,
    ("english", "framed"): 3.0,
    ("english", "harmful"): 11.0,
    ("english", "malware"): 5.0,  # a third of the requests for malware was missed
    ("english", "response"): 5.0,
}
ESCAPED: Final = 0.06  # share of rows whose judged text gets a wrapper
THINKING: Final = 0.12  # share of responses that become reasoning
_HARMFUL: Final = frozenset({"adversarialqa", "ailuminate", "catqa", "harmbench", "harmfulqa"})
#: Sources of ordinary sentences and requests, joined to long ones.
_ORDINARY: Final = frozenset({"s-labs-injection", "neuralchemy-injection", "self-instruct-seed"})


def group_of(row: Row) -> tuple[str, str]:
    """The group whose share a row belongs to."""
    if row.source == "made":
        return "made", row.task
    if row.source in _HARMFUL and row.category is not None:
        return "harmful", row.category
    return row.source.split("/")[0], row.safety


class Sampler:
    """Draws rows without end by the shares of their groups, each group in shuffled rounds.

    English rows are made as they are drawn. Some rows get a template escape around the judged
    text, some responses become reasoning; the label stays.
    """

    def __init__(self, rows: Iterable[Row], seed: int) -> None:
        self._random = random.Random(seed)
        self._groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in rows:
            self._groups[group_of(row)].append(row)
        self._ordinary = [
            row
            for rows_of in self._groups.values()
            for row in rows_of
            if row.safety == "Safe" and row.source in _ORDINARY
        ]
        self._harmful = [
            row for key, rows_of in self._groups.items() if key[0] == "harmful" for row in rows_of
        ]
        texts = [text for row in self._ordinary for _, text in row.messages]
        self._english = English(self._random, texts)
        self._names = [*self._groups, *(("english", kind) for kind in KINDS)]
        if self._ordinary:
            self._names.append(("long", "Safe"))
        if self._ordinary and self._harmful:
            self._names.append(("long", "Unsafe"))
        self._weights = [SHARES.get(name, OTHER) for name in self._names]
        self._rounds: dict[tuple[str, str], list[Row]] = {name: [] for name in self._groups}

    def draw(self, count: int) -> list[Row]:
        """The next ``count`` rows, cut to length."""
        names = self._random.choices(self._names, self._weights, k=count)
        return [self._vary(self._cut(self._one(name))) for name in names]

    def _one(self, name: tuple[str, str]) -> Row:
        if name == ("long", "Safe"):
            return replace(self._join(None), fold=None)
        if name == ("long", "Unsafe"):
            return replace(self._join(self._random.choice(self._harmful)), fold=None)
        if name[0] == "english":
            return self._english.row(name[1])
        left = self._rounds[name]
        if not left:
            left.extend(self._groups[name])
            self._random.shuffle(left)
        return left.pop()

    def _join(self, harmful: Row | None) -> Row:
        """Several ordinary texts as one; with a harmful one among them it keeps that label."""
        picked = self._random.choices(self._ordinary, k=self._random.randint(2, 6))
        texts = [row.messages[0][1] for row in picked]
        if harmful is not None:
            texts = texts[:3]
            texts.insert(self._random.randint(0, len(texts)), harmful.messages[0][1])
        if self._random.random() < 0.5:
            texts.insert(0, self._english.sentences())
        joined = self._random.choice(["\n", "\n\n", " ", ". "]).join(texts)
        base = harmful if harmful is not None else picked[0]
        return replace(base, messages=(("user", joined),))

    def _vary(self, row: Row) -> Row:
        *before, (role, last) = row.messages
        if row.task == "response" and self._random.random() < THINKING:
            thought = self._english.thought(last)
            return replace(row, messages=(*before, (role, thought)), thinking=True)
        if self._random.random() < ESCAPED:
            return replace(row, messages=(*before, (role, wrap(last, self._random))))
        return row

    def _cut(self, row: Row) -> Row:
        keep = KEEP_LONG if self._random.random() < LONG_SHARE else KEEP
        *before, (role, last) = row.messages
        short = [(name, shorten(text, keep // 2)) for name, text in before]
        return replace(row, messages=(*short, (role, shorten(last, keep))))


def texts_for_tokenizer(rows: Sequence[Row], seed: int, each: int = 20_000) -> Iterator[str]:
    """Texts for the vocabulary: at most ``each`` rows of a group, made rows most of all."""
    by_group: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        by_group[group_of(row)].append(row)
    chooser = random.Random(seed)
    for group in by_group.values():
        for row in group if len(group) <= each else chooser.sample(group, each):
            for _, text in row.messages:
                yield shorten(text, KEEP)
