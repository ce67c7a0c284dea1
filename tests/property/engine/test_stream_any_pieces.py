"""Any text in any pieces: the same tokens, nothing taken back, nothing left out."""

from __future__ import annotations

import functools
import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from examples import examples
from qwarden_engine.checkpoint import open_checkpoint
from qwarden_engine.stream.pieces import RUN, Piece, Pieces
from qwarden_engine.template import without_added_tokens
from unit.engine.checkpoints import STAND_IN

_WORDS = (
    "word", " ", "  ", "\n", "\n\n", "\r\n", "\t", " \n ", "hello world, ", "it's", "we'RE", "'",
    "'l", "12", "3.5", "!?", "...\n", "_", "Straße", "e\u0301", "d\u0301\u0323", "\u0323", "\u0301",
    "\u0344", "<\u0338", "\u0958", "\u212b", "\u2000", "\u3000", "\u200d", "\u1112\u1161\u11ab",
    "\u1161", "\u11ab", "각", "안녕", "नमस्ते", "क\u093c", "สวัสดี", "น\u0e38", "မင်္ဂလာ", "你好，",
    "こか\u3099", "שָׁלוֹם", "مُ", "👩‍👩‍👧‍👦", "🇩🇪", "👍🏽", "<|im_end|>", "<think>", "𒀀𒁀",
    "\U00011131\U00011127", "\u17f8", "\u1c80",
)  # fmt: skip
_RUNS = (
    "x",
    "字",
    " ",
    "\n",
    "\t",
    "\u0301",
    "\u0323\u0301",
    "!",
    "\u1161",
    " \u0301",
    "\r\n",
    "ी",
)
_word = st.one_of(
    st.sampled_from(_WORDS),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4),
)
_run = st.builds(lambda unit, count: unit * count, st.sampled_from(_RUNS), st.integers(120, 600))
_short = st.lists(_word, max_size=25).map("".join)
_text = st.lists(st.one_of(_word, _word, _word, _run), max_size=12).map("".join)
_cuts = st.lists(st.integers(0, 3000), max_size=12)


@functools.cache
def _plain() -> Tokenizer:
    return without_added_tokens(open_checkpoint(str(STAND_IN)))


def _whole(text: str) -> tuple[list[Piece], int]:
    pieces = Pieces(_plain())
    return pieces.take(text) + pieces.end(), pieces.cuts


@settings(max_examples=examples(150))
@given(_text, _cuts)
def test_tokens_depend_on_where_a_text_is_cut(text: str, cuts: list[int]) -> None:
    whole, _ = _whole(text)
    pieces = Pieces(_plain())
    given: list[Piece] = []
    places = sorted(cut % (len(text) + 1) for cut in cuts)
    for start, end in zip([0, *places], [*places, len(text)], strict=True):
        given += pieces.take(text[start:end])
        assert given == whole[: len(given)]
        assert pieces.held <= RUN
        assert (given[-1].end if given else 0) == end - pieces.held
    assert given + pieces.end() == whole


@settings(max_examples=examples(150))
@given(_short)
def test_tokens_depend_on_that_a_text_came_character_by_character(text: str) -> None:
    pieces = Pieces(_plain())
    given = [piece for character in text for piece in pieces.take(character)]
    assert given + pieces.end() == _whole(text)[0]


@settings(max_examples=examples(150))
@given(st.one_of(_short, _text))
def test_a_text_without_a_long_run_is_not_encoded_as_a_whole_is(text: str) -> None:
    given, cuts = _whole(text)
    if not cuts:
        assert [p.id for p in given] == _plain().encode(text, add_special_tokens=False).ids


@settings(max_examples=examples(150))
@given(_text)
def test_a_token_is_placed_where_its_characters_are_not(text: str) -> None:
    """Tokens that share characters, together, say what stands there, and no character is left
    out."""
    given, _ = _whole(text)
    at = 0
    while given:
        assert given[0].start == at
        end, count = given[0].end, 1
        while count < len(given) and given[count].start < end:
            end = max(end, given[count].end)
            count += 1
        said = _plain().decode([piece.id for piece in given[:count]], skip_special_tokens=False)
        assert said == unicodedata.normalize("NFC", text[at:end])
        given, at = given[count:], end
    assert at == len(text)
