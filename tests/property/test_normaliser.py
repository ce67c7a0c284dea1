"""Of every text: what is read of it is read the same again, is no longer, and is told in time."""

from __future__ import annotations

import time
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from examples import examples
from qwarden.guard.normaliser import normalised

_PIECES = (
    *"kilxabcdUSATyr 09.-_*~|,\n\t",
    *"кіаебйёїфСТκιαβφλΑΒé",
    *"ｋＫ𝐤𝓲ⓛʟᴋᵏˡⁱ🅺ﬁ",
    *"杀カ살שन๑م❤👩",
    *"\u00ad\u034f\u200b\u200c\u200d\u200e\ufe0f\ufeff\u2060\U000e0061\U000e0100\u3164",
    *"\u0301\u0307\u0308\u0316\u0336\u0489\u20d2\u20e3\u1dc4",
    *"\u00a0\u3000\u2003\u00b7\u2022",
    " . ",
    "  ",
    "...",
)
_evading = st.lists(st.sampled_from(_PIECES), max_size=40).map("".join)
_texts = _evading | st.text(max_size=60)
_words = st.text("abcdefghijklmnopqrstuvwxyz", min_size=4, max_size=12)


@pytest.mark.long
@settings(max_examples=examples(1500))
@given(_texts)
@example("k.i.l l.s.t.u")
@example("s.t.u.k i l l y")
@example("a b c d-k-i-l x")
def test_a_normalised_text_is_normalised_to_another(text: str) -> None:
    once = normalised(text)
    assert normalised(once) == once


@pytest.mark.long
@settings(max_examples=examples(500))
@given(_texts)
def test_a_text_gets_longer_or_loses_all_there_is_to_judge(text: str) -> None:
    read = normalised(text)
    assert len(read) <= len(text)
    assert len(read.encode("utf-8", "surrogatepass")) <= 2 * len(
        text.encode("utf-8", "surrogatepass")
    )
    assert bool(read.strip()) == bool(text.strip())


@settings(deadline=None)
@given(_words, st.sampled_from("\u00ad\u034f\u200b\u200c\u200d\u2060\ufeff\U000e0061"))
def test_a_word_hides_behind_what_nobody_sees(word: str, unseen: str) -> None:
    assert normalised(unseen.join(word)) == word


@settings(deadline=None)
@given(_words, st.sampled_from(["𝐚", "𝒂", "ａ", "ⓐ"]))
def test_a_word_hides_in_a_style(word: str, first: str) -> None:
    styled = "".join(chr(ord(first) + ord(letter) - ord("a")) for letter in word)
    assert unicodedata.normalize("NFKC", styled) == word
    assert normalised(styled) == word


@settings(deadline=None)
@given(_words, st.sampled_from([" ", "_", "-", "*", "~", " . ", " - ", "\u00a0", "\u2022"]))
def test_a_word_hides_in_single_letters(word: str, separator: str) -> None:
    """Unless its letters are such as stand alone in lists."""
    spaced = separator.join(word)
    read = normalised(f"so: {spaced}, now")
    assert read in {f"so: {word}, now", f"so: {spaced}, now"}
    kinds = set(word)
    following = sum(ord(b) - ord(a) == 1 for a, b in pairwise(word))
    if kinds & set("aeiouy") and kinds - set("aeiouyabcde") and len(kinds) > 2 and not following:
        assert read == f"so: {word}, now"


_LONG = ("k ", "k.", " k", "k\u200b", "kі", "\u200b.", "i\u0336", "k  i ", "a b", "𝐤 ", "k . ")


@pytest.mark.parametrize("piece", [*_PIECES, *_LONG])
@pytest.mark.parametrize("around", [("", ""), ("k i l l", "x"), ("k\u200bі", "1"), ("𝐤", "é")])
def test_a_long_text_takes_time_that_grows_faster_than_its_length(
    piece: str, around: tuple[str, str]
) -> None:
    """Sixteen times the text takes some sixteen times as long; were it the square, 256 times."""
    head, tail = around

    def seconds(times: int) -> float:
        text = head + piece * times + tail
        taken = []
        for _ in range(3):
            before = time.thread_time()  # of this thread alone, however busy the machine is
            normalised(text)
            taken.append(time.thread_time() - before)
        return min(taken)

    assert seconds(16_000) <= 0.005 + 80 * seconds(1_000)
