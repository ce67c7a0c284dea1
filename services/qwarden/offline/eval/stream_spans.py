"""From places in a file's token ids to places in its texts.

A labelled file of Qwen3GuardTest's format marks the first unsafe sentence by places in `input_ids`,
the whole exchange rendered and encoded with the published checkpoints' tokenizer. A guard with
another tokenizer has other tokens; the characters are the same. So a place is carried over by
characters: the ids are decoded with the tokenizer that made them, the thought and the answer are
found in that text, and the span is cut to them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qwarden.guard.conversation import Task

Decode = Callable[[Sequence[int]], str]
"""Ids to text, special tokens included. A character of which only a part is there is U+FFFD."""

Texts = Sequence[tuple[Task, str]]
"""The thought and the answer, in the order of the exchange."""

# Of the published tokenizer, whose ids the format has.
_IM_START, _IM_END, _ASSISTANT, _THINK, _NO_THINK = 151644, 151645, 77091, 151667, 151668
_HEADER = 3
"""Tokens of an assistant's header: `<|im_start|>`, the role, a newline."""


@dataclass(frozen=True, slots=True)
class Span:
    """Code points `start` to `end` of all judged texts of a row, one behind the other.

    `is_exact`: whether it was read from the ids, and not told from their count.
    """

    start: int
    end: int
    is_exact: bool


def span_of(ids: Sequence[int], first: int, last: int, texts: Texts, decode: Decode | None) -> Span:
    """The characters of the tokens `first` to `last`, both included.

    Without `decode`, or where it does not give the texts, the ids are another tokenizer's: then a
    place among the judged tokens is taken for the same share of the characters. Raises `ValueError`
    where the span is outside of what is judged.
    """
    if not 0 <= first <= last < len(ids):
        raise ValueError(
            f"its unsafe_start_index {first} and unsafe_end_index {last} are no span of its "
            f"{len(ids)} input_ids; repair it"
        )
    if decode is not None:
        found = _spelled(ids, first, last, texts, decode)
        if found is not None:
            return found
    return _shared(ids, first, last, texts)


def _spelled(
    ids: Sequence[int], first: int, last: int, texts: Texts, decode: Decode
) -> Span | None:
    whole = decode(ids)
    pieces = _found(whole, texts)
    if pieces is None:
        return None
    start = _shared_start(whole, decode(ids[:first]))
    head = decode(ids[: last + 1])
    end = _shared_start(whole, head)
    if end < len(head):  # it ends within a character, which is its own too
        end += 1
    start, end = _judged(start, pieces), _judged(end, pieces)
    if start >= end:
        raise ValueError(
            "its unsafe span lies outside of the assistant's thought and answer; repair it"
        )
    return Span(start, end, is_exact=True)


def _shared_start(whole: str, head: str) -> int:
    """How far a decoded head is the whole's: to the end, or to a character that is cut there."""
    different = (
        at for at, (one, other) in enumerate(zip(whole, head, strict=False)) if one != other
    )
    return next(different, min(len(whole), len(head)))


@dataclass(frozen=True, slots=True)
class _Piece:
    """A text where it stands in the decoded whole: its code points `low` to `high` there are
    `places` of the judged texts, one more than there are code points."""

    low: int
    high: int
    places: Sequence[int]


def _found(whole: str, texts: Texts) -> list[_Piece] | None:
    """Where the texts stand in the whole, the last time that they do in this order."""
    pieces: list[_Piece] = []
    offsets = []
    total = 0
    for _, text in texts:
        offsets.append(total)
        total += len(text)
    behind = len(whole)
    for (_, text), offset in zip(reversed(texts), reversed(offsets), strict=True):
        skipped = len(text) - len(text.lstrip("\n"))
        wanted = text.strip("\n")
        places: Sequence[int] = range(offset + skipped, offset + skipped + len(wanted) + 1)
        at = whole.rfind(wanted, 0, behind)
        if at < 0:
            places = [offset + skipped + place for place in _composed(wanted)]
            wanted = unicodedata.normalize("NFC", wanted)
            at = whole.rfind(wanted, 0, behind)
        if at < 0:
            return None
        pieces.append(_Piece(at, at + len(wanted), places))
        behind = at
    return pieces[::-1]


def _composed(text: str) -> list[int]:
    """For each boundary of the composed text, the boundary of the text as it is."""
    places = [0]
    for end in range(1, len(text) + 1):
        length = len(unicodedata.normalize("NFC", text[:end]))
        del places[length:]
        places += [end] * (length + 1 - len(places))
    return places


def _judged(place: int, pieces: Sequence[_Piece]) -> int:
    """A place of the whole as one of the judged texts, the next where it is in none."""
    for piece in pieces:
        if place < piece.low:
            return piece.places[0]
        if place <= piece.high:
            return piece.places[place - piece.low]
    return pieces[-1].places[-1]


def _shared(ids: Sequence[int], first: int, last: int, texts: Texts) -> Span:
    low, high = _judged_ids(ids, has_thought=texts[0][0] is Task.THINKING)
    length = sum(len(text) for _, text in texts)
    if not low <= last or not first < high:
        raise ValueError(
            "its unsafe span lies outside of the assistant's thought and answer; repair it"
        )
    count = high - low
    start = round(length * max(0, first - low) / count)
    end = round(length * min(count, last + 1 - low) / count)
    return Span(min(start, length - 1), max(end, start + 1), is_exact=False)


def _judged_ids(ids: Sequence[int], *, has_thought: bool) -> tuple[int, int]:
    """From where to where in the ids the thought and the answer stand, by the special tokens of the
    published tokenizer."""
    start = 0
    for at in range(len(ids) - 1):
        if ids[at] == _IM_START and ids[at + 1] == _ASSISTANT:
            start = at + _HEADER
    mark = _THINK if has_thought else _NO_THINK
    if mark in ids[start:]:
        start = ids.index(mark, start) + 2
    end = len(ids)
    if _IM_END in ids[start:]:
        end = ids.index(_IM_END, start)
    return (start, end) if start < end else (0, len(ids))
