"""What a person reads in a text that is written to be read by people and not by a guard.

Only what ordinary text does not hold is rewritten, so that `normalised(text) != text` says that the
text evades. Five rewritings, in this order, none of which makes work for one before it:

1. Characters that show nothing are taken out between two letters of one script, where no script
   needs them: Persian, Indic and emoji joiners, and whatever stands beside a blank, stay.
2. Letters that stand one by one (`k i l l`, `k.i.l.l`) are joined.
3. Styled letters (full width, mathematical, circled, small capitals, raised) become plain ones.
4. In words that mix Latin with Cyrillic or Greek, letters become those of the word's own script.
5. Combining marks that are noise are taken off.

The tables come from the names and decompositions of the Unicode Character Database as Python has
it, of code points that were assigned before Unicode 10, for which neither can change any more.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from itertools import pairwise

VERSION = 1
"""Raise it with every change that can give another text. Part of the engine's revision."""


def _styled(decompositions: frozenset[str], *ranges: range) -> dict[str, str]:
    """The characters that are one ASCII letter in another style, and that letter."""
    found = {}
    for character in map(chr, (code for each in ranges for code in each)):
        tag = unicodedata.decomposition(character).partition(" ")[0]
        plain = unicodedata.normalize("NFKC", character)
        if tag in decompositions and len(plain) == 1 and plain.isascii() and plain.isalpha():
            found[character] = plain
    return found


def _named(*patterns: str) -> dict[str, str]:
    """The characters of these names, with each letter of the alphabet in the name's place."""
    found = {}
    for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        for pattern in patterns:
            try:
                found[unicodedata.lookup(pattern.format(letter))] = letter.lower()
            except KeyError:  # there is no small capital X
                continue
    return found


_WIDE = _styled(frozenset({"<wide>"}), range(0xFF21, 0xFF5B))
_FANCY = {
    **_styled(frozenset({"<font>"}), range(0x2102, 0x2140), range(0x1D400, 0x1D6A4)),
    **_styled(frozenset({"<circle>", "<square>"}), range(0x24B6, 0x24EA), range(0x1F130, 0x1F14A)),
    **_named(
        "NEGATIVE CIRCLED LATIN CAPITAL LETTER {}",
        "NEGATIVE SQUARED LATIN CAPITAL LETTER {}",
        "LATIN LETTER SMALL CAPITAL {}",
    ),
}
_RAISED = _styled(
    frozenset({"<super>", "<sub>"}),
    range(0x02B0, 0x02B9),
    range(0x02E0, 0x02E4),
    range(0x1D2C, 0x1DC0),
    range(0x2071, 0x209D),
    range(0x2C7C, 0x2C7E),
)

_LOOK_ALIKES = {
    "CYRILLIC": {
        "A": "Aa",
        "VE": "B",
        "IE": "Ee",
        "DZE": "Ss",
        "BYELORUSSIAN-UKRAINIAN I": "Ii",
        "JE": "Jj",
        "KA": "Kk",
        "EM": "M",
        "EN": "H",
        "O": "Oo",
        "ER": "Pp",
        "ES": "Cc",
        "TE": "T",
        "U": "Yy",
        "HA": "Xx",
        "SHHA": "h",
        "IZHITSA": "Vv",
        "KOMI DE": "d",
        "PALOCHKA": "l",
        "QA": "Qq",
        "WE": "Ww",
    },
    "GREEK": {
        "ALPHA": "Aa",
        "BETA": "B",
        "EPSILON": "E",
        "ZETA": "Z",
        "ETA": "H",
        "IOTA": "Ii",
        "KAPPA": "Kk",
        "MU": "M",
        "NU": "Nv",
        "OMICRON": "Oo",
        "RHO": "Pp",
        "TAU": "T",
        "UPSILON": "Yu",
        "CHI": "Xx",
    },
}
"""By script: the letter's name in Unicode, and the Latin capital and small letter that it is taken
for, or the one of the two that it is taken for."""


def _taken_for(script: str) -> dict[str, str]:
    """The letters of a script that are taken for Latin ones, and these."""
    return {
        unicodedata.lookup(f"{script} {'CAPITAL' if latin.isupper() else 'SMALL'} LETTER {name}"): (
            latin
        )
        for name, letters in _LOOK_ALIKES[script].items()
        for latin in letters
    }


_FROM_CYRILLIC = _taken_for("CYRILLIC")
_FROM_GREEK = _taken_for("GREEK")
_TO_LATIN = _FROM_CYRILLIC | _FROM_GREEK
_TO_CYRILLIC = {latin: own for own, latin in _FROM_CYRILLIC.items()}
_TO_GREEK = {latin: own for own, latin in _FROM_GREEK.items()}

_LATIN = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02af\u1e00-\u1eff"
_CYRILLIC = "\u0400-\u0481\u048a-\u052f"
_GREEK = "\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u03ff\u1f00-\u1fff"
_MARKS = (
    "\u0300-\u034e\u0350-\u036f\u0483-\u0489\u1ab0-\u1abe\u1dc0-\u1df5\u20d0-\u20e2\u20e4-\u20f0"
    "\ufe20-\ufe2f"
)
_STYLES = _WIDE | _FANCY | _RAISED


def _ranges(characters: Iterable[str]) -> str:
    """These characters for the inside of a character class, in few ranges."""
    ranges: list[tuple[int, int]] = []
    for code in sorted(map(ord, characters)):
        if ranges and code == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], code)
        else:
            ranges.append((code, code))
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


def _members(inside: str) -> frozenset[str]:
    """The characters of the inside of a character class, as `_ranges` or a person writes it."""
    members = set[str]()
    for first, last in re.findall(r"(.)(?:-(.))?", inside, re.DOTALL):
        members.update(map(chr, range(ord(first), ord(last or first) + 1)))
    return frozenset(members)


_LETTERS = _LATIN + _CYRILLIC + _GREEK + "\u0531-\u0587" + _ranges(_STYLES)

_SELECTORS = "\ufe00-\ufe0f\U000e0100-\U000e01ef"
_UNSEEN = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\U000e0000-\U000e007f"
)
_HAN = "\u3400-\u4dbf\u4e00-\u9fff"
_HEBREW, _HANGUL = "\u05d0-\u05ea", "\uac00-\ud7a3"
_BETWEEN = (
    (_LETTERS + _MARKS + "0-9", _UNSEEN + _SELECTORS),
    (_HEBREW, _UNSEEN),
    (_HAN + _SELECTORS, _UNSEEN),  # a selector chooses the variant of a Han character
    (_HANGUL, _UNSEEN),
)
_HIDDEN = re.compile(
    f"[{_UNSEEN}{_SELECTORS}](?:"
    + "|".join(f"(?<=[{own}][{unseen}])[{unseen}]*(?=[{own}])" for own, unseen in _BETWEEN)
    + ")"
)

_HIDES = _members(_UNSEEN + _SELECTORS)

_SEPARATORS = " \t\u00a0\u2002-\u200a\u202f\u205f\u3000._*~|\u00b7\u2022\\-"
_ONE = f"[{_LETTERS}][\u0300-\u036f]*"
_SPACED = re.compile(
    f"(?<![{_LETTERS}{_MARKS}0-9]){_ONE}( ?([{_SEPARATORS}])\\2{{0,2}} ?){_ONE}(?:\\1{_ONE})*"
    f"(?:(?:\\2{{2,5}}| {{1,4}}){_ONE}(?:\\1{_ONE})+)*(?![{_LETTERS}{_MARKS}0-9])"
)
"""Words of letters with one separator between them, group 1, and something wider between words."""
_SPACED_LETTERS = 4
"""Of three most are initials: J. R. R."""


def _kind(first: int) -> str:
    """What a character may be in a run of single letters, by its first byte in UTF-8."""
    if first < 0x80:
        return " " if chr(first) in " \t._*~|-" else "a" if chr(first).isalpha() else "."
    if first in (0xC2, 0xE2):  # where there are separators and letters
        return "e"
    return "m" if first in (0xCC, 0xCD) else "a"  # U+0300 to U+037F are marks, but for some Greek


_KINDS = "".join(map(_kind, range(256))).encode()
_CONTINUING = bytes(range(0x80, 0xC0))
_RUN_OF_ASCII = re.compile(rb" a {1,5}a ")
_RUN = re.compile(rb"[ e][ae]m*[ e]{1,5}[ae]m*[ e]")

_VOWELS = frozenset("aeiouy")
_GRADES = frozenset("abcde")
_CYRILLIC_WORDS = frozenset("авикосуяэійзє")
"""The words of one letter in Russian and Ukrainian."""
_NOTES_AND_BASES = frozenset("ABCDEFGTUN")

_STYLED = frozenset(_STYLES)
_LETTER = re.compile(f"[{_LETTERS}]")
_WORD = re.compile(f"[{_LETTERS}{_MARKS}]+")
_EAST_ASIAN = re.compile(f"[\\u3040-\\u30ff{_HAN}{_HANGUL}]")
_STYLED_LETTERS = 3
"""One or two are symbols: 𝑥, ℝ."""
_RAISED_LETTERS = 4
"""One more than in the French Mˡˡᵉ."""


def _script(first: int) -> str:
    """What a character may be in a word of two scripts, by its first byte in UTF-8: of Latin, of
    another one, or of neither."""
    if first < 0x80:
        return "l" if chr(first).isalpha() else "."
    if first in (*range(0xC3, 0xCB), 0xE1):  # U+1E00 is Latin, U+1F00 Greek
        return "l"
    return "o" if first in range(0xCD, 0xD5) else "."


_SCRIPTS = "".join(map(_script, range(256))).encode()
_CONTINUING_OR_MARKS = _CONTINUING + b"\xcc"
_IS_LATIN = re.compile(f"[{_LATIN}]")
_IS_CYRILLIC = re.compile(f"[{_CYRILLIC}]")
_IS_GREEK = re.compile(f"[{_GREEK}]")
_ORDINARY_MIX = re.compile(r"[A-Z]+(?:[α-ω][A-Z]?|[а-яёіїєґў]{1,3})")
"""TNFα, NFκB; a Russian ending of an abbreviation: SMSка."""

_MARKED = re.compile(f"[{_LETTERS}][{_MARKS}]+")
_MARK = re.compile(f"[{_MARKS}]")
_MARK_SET = _members(_MARKS)
_TRACES = re.compile(f"[{_ranges(c for c in _HIDES | _STYLED | _MARK_SET if ord(c) < 0x10000)}]")
_TRACES_ABOVE = re.compile("[\U0001d400-\U0001d6a3\U0001f130-\U0001f189\U000e0000-\U000e01ef]")
_STACK = 3
"""Marks on one letter that no composed character takes in. Two there are in Lithuanian accents and
in transliterations."""
_LONGEST_STACK = 5
"""More marks are noise unseen: to normalise many takes time that grows with their square."""
_NOISY_LETTERS = 3
"""One more than in the Yoruba ẹ̀ṣẹ̀."""


def normalised(text: str) -> str:
    """The text as a person reads it; the text itself where nothing in it evades.

    Idempotent, never longer than the text, and in time that grows with its length.
    """
    plain = text
    held = frozenset(text) if _has_traces(text) else frozenset()
    if held & _HIDES:
        plain = _HIDDEN.sub("", plain)
    if _may_be_spaced(plain):
        plain = _joined(plain)
    if held & _STYLED:
        plain = _unstyled(plain)
    if held & _MARK_SET or _may_mix(plain):
        plain = _of_one_script(plain)
    if held & _MARK_SET:
        plain = _WORD.sub(_without_noise, plain)
    return plain


def _has_traces(text: str) -> bool:
    """Whether characters are there that hide, that are styled, or that are marks. Two searches,
    since one for characters of both kinds takes ten times as long."""
    return not text.isascii() and bool(_TRACES.search(text) or _TRACES_ABOVE.search(text))


def _may_be_spaced(text: str) -> bool:
    """Whether letters may stand one by one: what a run of four always holds, looked for in kinds
    of characters, since that takes a tenth of the time of the run's own expression."""
    if text.isascii():
        return _RUN_OF_ASCII.search(text.encode().translate(_KINDS)) is not None
    return (
        _RUN.search(
            text.replace("\u3000", " ")
            .encode("utf-8", "surrogatepass")
            .translate(_KINDS, _CONTINUING)
        )
        is not None
    )


def _may_mix(text: str) -> bool:
    """Whether a Latin letter may stand beside a Cyrillic or Greek one, usual marks left out."""
    if text.isascii():
        return False
    scripts = text.encode("utf-8", "surrogatepass").translate(_SCRIPTS, _CONTINUING_OR_MARKS)
    return b"lo" in scripts or b"ol" in scripts


def _joined(text: str) -> str:
    """Runs of single letters as words; a list or an initialism stays."""
    parts = []
    taken = at = 0
    while run := _SPACED.search(text, at):
        letters = _LETTER.findall(run[0])
        if len(letters) < _SPACED_LETTERS or _is_list(letters, run[1]):
            at = run.start() + run[0].rindex(letters[-1])  # it may be the first of another run
            continue
        words = re.findall(f"{_ONE}(?:{re.escape(run[1])}{_ONE})*", run[0])
        parts += [text[taken : run.start()], " ".join(w.replace(run[1], "") for w in words)]
        taken = at = run.end()
    return "".join([*parts, text[taken:]])


def _is_list(letters: list[str], separator: str) -> bool:
    """Whether single letters are what they are in ordinary text, and no word."""
    capitals = all(letter.isupper() for letter in letters)
    if separator == ". " or (separator == "." and any(map(str.isupper, letters[1:]))):
        return True  # т. е. и т. д., U.S.S.R.
    small = [letter.lower() for letter in letters]
    distinct = frozenset(small)
    if len(distinct) < 3 or distinct <= _GRADES or distinct <= _CYRILLIC_WORDS:
        return True
    if capitals and _NOTES_AND_BASES.issuperset(letters):
        return True
    following = sum(ord(b[0]) - ord(a[0]) == 1 for a, b in pairwise(small))
    if 2 * following > len(small) - 1:  # i j k l
        return True
    ascii_only = all(letter.isascii() for letter in letters)
    return ascii_only and (distinct <= _VOWELS or not distinct & _VOWELS)


def _unstyled(text: str) -> str:
    """Styled letters as plain ones where a word has several. Wide letters are ordinary in text that
    has as many East Asian characters."""
    fancy = _FANCY
    if sum(map(text.count, _WIDE)) > sum(1 for _ in _EAST_ASIAN.finditer(text)):
        fancy = _FANCY | _WIDE
    for word in _WORD.findall(text):
        if not word.isascii() and (
            sum(letter in fancy for letter in word) >= _STYLED_LETTERS
            or sum(letter in _RAISED for letter in word) >= _RAISED_LETTERS
        ):
            return text.translate(_table(fancy | _RAISED))
    return text


def _table(letters: Mapping[str, str]) -> dict[int, str]:
    return {ord(one): other for one, other in letters.items()}


def _of_one_script(text: str) -> str:
    """Words of two scripts in one, where every letter of the other looks like one of it."""
    native_cyrillic = any(c not in _FROM_CYRILLIC for c in _IS_CYRILLIC.findall(text))
    native_greek = any(c not in _FROM_GREEK for c in _IS_GREEK.findall(text))

    def of_one(found: re.Match[str]) -> str:
        word = found[0]
        if word.isascii() or _ORDINARY_MIX.fullmatch(word):
            return word
        latin = _IS_LATIN.findall(word)
        cyrillic = _IS_CYRILLIC.findall(word)
        greek = _IS_GREEK.findall(word)
        if not latin or not (cyrillic or greek):
            return word
        if len(latin) + len(cyrillic) + len(greek) < (4 if greek else 3):
            return word
        others = cyrillic + greek
        own, native = (_TO_GREEK, native_greek) if greek else (_TO_CYRILLIC, native_cyrillic)
        to_own = not (cyrillic and greek) and all(letter in own for letter in latin)
        to_latin = all(letter in _TO_LATIN for letter in others)
        if to_latin and not (to_own and native):
            return word.translate(_table(_TO_LATIN))
        if to_own and (to_latin or len(latin) < len(others)):
            return word.translate(_table(own))
        return word

    return _WORD.sub(of_one, text)


def _without_noise(found: re.Match[str]) -> str:
    """A word without its marks where they are more than any language writes."""
    word = found[0]
    if word.isascii():
        return word
    stacks = [_stack(each) for each in _MARKED.findall(word)]
    if not stacks:
        return word
    bare = _MARK.sub("", word)
    noisy = sum(height > 0 for height in stacks)
    if max(stacks) >= _STACK or (noisy >= _NOISY_LETTERS and 3 * noisy >= 2 * len(bare)):
        return bare
    return word


def _stack(marked: str) -> int:
    """Marks of one letter that no composed character takes in."""
    if len(marked) > 1 + _LONGEST_STACK:
        return _LONGEST_STACK
    return len(unicodedata.normalize("NFC", marked)) - 1
