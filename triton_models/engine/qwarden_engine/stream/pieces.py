"""A text as token ids, while it comes: what has been given is never taken back.

A byte-level BPE tokenizer normalises a text to NFC, splits it into pre-tokens and encodes each
alone. So a text can be encoded from any of its pre-token boundaries on, and tokens are the same
however it is cut into appends, if two things are seen to.

Where a stretch ends is a function of the text alone. A stretch goes to the next pre-token boundary
that is one of the text as sent too: behind a character that NFC composes or reorders, that is only
behind all of its marks. A stretch of more than `RUN` code points is cut there: what would come
first in a text that ends one behind is the stretch, and else `RUN` code points are.

A stretch is given only when no text that follows can change it. The pattern of the pre-tokens looks
ahead over white space (`\\s+(?!\\S)`, `\\s*[\\r\\n]+`, `[^\\s\\p{L}\\p{N}]+[\\r\\n]*`), and marks
that follow change the character before them. So what is held starts with the pre-token of the last
character that is neither white space nor a mark; what is before it ended at a character that stays
as it is. And `RUN` code points and one more say everything of the stretch that they start.

Sources: UAX 15 (NFC), the pattern of the Qwen2 and Qwen3 tokenizers.
"""

from __future__ import annotations

import sys
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple, cast

from tokenizers import Tokenizer

RUN = 256
"""Code points of a stretch at most, and held at most. Part of the revision."""

_BLOCK = 1024
"""Code points that are encoded at once. Where a stretch is cut, what is behind it is encoded again,
so that a text without boundaries is encoded `_BLOCK` / `RUN` times."""


class Piece(NamedTuple):
    """One token. `start`, `end`: the code points of the text as sent that it is of, whole ones; the
    tokens of one character, or of what NFC makes one, all have its."""

    id: int
    start: int
    end: int


class Pieces:
    """One text, from its beginning. `cuts`: stretches of it that were cut for their length.

    `plain`: a tokenizer without added tokens, whose normaliser is NFC or none.
    """

    __slots__ = ("_at", "_beyond", "_held", "_plain", "cuts")

    def __init__(self, plain: Tokenizer) -> None:
        self._plain = plain
        self._held = ""
        self._at = 0
        self._beyond = 0
        self.cuts = 0

    @property
    def held(self) -> int:
        """Code points that wait for what follows, at most `RUN`; and those that there was no room
        for."""
        return len(self._held) + self._beyond

    def take(self, text: str, room: int = sys.maxsize) -> list[Piece]:
        """More of the text; answers the tokens that are stable now. Encodes what was held and what
        is new, and nothing before.

        It stops behind the block that gives more than `room` tokens: the rest is never encoded, and
        counts as held. A text with no room behind it (below 0) cannot go on.
        """
        return list(chain.from_iterable(self.taking(text, room)))

    def taking(self, text: str, room: int = sys.maxsize) -> Iterator[list[Piece]]:
        """`take`, a block of at most 1,024 code points at a time. Drain it, or take no more of this
        text."""
        if room < 0:
            self._beyond += len(text)
            return
        self._held += text
        count = 0
        for given in self._giving(room, ended=False):
            count += len(given)
            yield given
        if count > room:
            self._beyond, self._held = len(self._held), ""

    def end(self) -> list[Piece]:
        """The text is over; answers the tokens of what is held."""
        return list(chain.from_iterable(self._giving(sys.maxsize, ended=True)))

    def _giving(self, room: int, *, ended: bool) -> Iterator[list[Piece]]:
        # Only `taking` sees more than a block: at the end at most `RUN` code points are held.
        text, at, count = self._held, 0, 0
        while at < len(text) and count <= room:
            block = text[at : at + _BLOCK]
            given: list[Piece] = []
            taken = self._take(block, self._at + at, ended, given)
            at += taken
            count += len(given)
            yield given
            if not taken or len(block) <= RUN:  # nothing of it was cut, so no more of it is stable
                break
        self._held = text[at:]
        self._at += at

    def _take(self, block: str, at: int, ended: bool, given: list[Piece]) -> int:
        """Gives the stretches of a block that are stable; answers how far it came, in code points.

        `at`: where in the text the block starts.
        """
        read = _read(self._plain, block, at)
        stable = len(block) if ended else read.stable
        start = first = 0
        for end, behind in read.stretches:
            if end - start > RUN:
                return start + self._cut(block[start : start + RUN + 1], at + start, given)
            if end > stable and len(block) - start <= RUN:
                return start
            given += read.pieces[first:behind]
            start, first = end, behind
        return start

    def _cut(self, window: str, at: int, given: list[Piece]) -> int:
        """Gives the first stretch of `RUN` + 1 code points; answers its length."""
        read = _read(self._plain, window, at)
        end, behind = read.stretches[0]
        if end <= RUN:
            given += read.pieces[:behind]
            return end
        self.cuts += 1
        given += _read(self._plain, window[:RUN], at).pieces
        return RUN


class _Read(NamedTuple):
    """What a tokenizer makes of a text that starts at a stretch and ends where it ends.

    `stretches`: for each its end in code points of this text, and how many pieces come before that.
    `stable`: code points before the first that what follows can change.
    """

    pieces: list[Piece]
    stretches: list[tuple[int, int]]
    stable: int


def _read(plain: Tokenizer, text: str, at: int) -> _Read:
    normal, lows, highs = _normalised(plain, text)
    encoding = plain.encode(normal, add_special_tokens=False)
    words = cast(list[int], encoding.word_ids)  # None is for added tokens, and there are none
    offsets = encoding.offsets
    pieces: list[Piece] = []
    stretches: list[tuple[int, int]] = []
    last = 0
    for token, word, (start, end) in zip(encoding.ids, words, offsets, strict=True):
        if word != last:
            last = word
            if lows[start] == highs[start]:
                stretches.append((lows[start], len(pieces)))
        pieces.append(Piece(token, at + lows[start], at + highs[end]))
    stretches.append((len(text), len(pieces)))
    return _Read(pieces, stretches, _stable(text, words, offsets, lows))


def _stable(
    text: str, words: Sequence[int], offsets: Sequence[tuple[int, int]], lows: Sequence[int]
) -> int:
    base = len(text) - 1
    while base >= 0 and (text[base].isspace() or _continues(text[base])):
        base -= 1
    if base < 0:
        return 0
    token = bisect_right(offsets, bisect_left(lows, base), key=lambda offset: offset[1])
    return lows[offsets[bisect_left(words, words[token])][0]]


def _normalised(plain: Tokenizer, text: str) -> tuple[str, Sequence[int], Sequence[int]]:
    """The text as the tokenizer normalises it, and for each boundary between its characters, the
    last boundary of the text as sent at or before it and the first at or behind it: different ones
    inside of what was changed.

    The tokenizer's own alignment is not used: it gives a composed character its base alone, and
    reordered marks each other's places.
    """
    same = range(len(text) + 1)
    if text.isascii() or plain.normalizer is None:
        return text, same, same
    normalise = plain.normalizer.normalize_str
    if normalise(text) == text:
        return text, same, same
    normal: list[str] = []
    lows: list[int] = []
    highs: list[int] = []
    start = 0
    while start < len(text):
        end = start + 1
        while end < len(text) and _continues(text[end]):
            end += 1
        sent = text[start:end]
        made = normalise(sent)
        normal.append(made)
        if made == sent:
            lows += range(start, end)
            highs += range(start, end)
        else:
            lows += [start] * len(made)
            highs += [start] + [end] * (len(made) - 1)
        start = end
    lows.append(start)
    highs.append(start)
    return "".join(normal), lows, highs


def _continues(character: str) -> bool:
    """Whether NFC may join it to, or move it among, what is before it: a mark, or a vowel or final
    consonant of Hangul."""
    return unicodedata.category(character)[0] == "M" or "\u1160" <= character <= "\u11ff"
