"""Text that comes in pieces is encoded as if it had come at once, and no slower for what came."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from tokenizers import Tokenizer

from qwarden_engine.checkpoint import open_checkpoint
from qwarden_engine.stream import pieces as module
from qwarden_engine.stream.pieces import RUN, Piece, Pieces
from qwarden_engine.template import without_added_tokens
from unit.engine.checkpoints import STAND_IN


@functools.cache
def _plain() -> Tokenizer:
    return without_added_tokens(open_checkpoint(str(STAND_IN)))


def _whole(text: str) -> list[int]:
    ids: list[int] = _plain().encode(text, add_special_tokens=False).ids
    return ids


def _given(texts: Sequence[str]) -> list[Piece]:
    pieces = Pieces(_plain())
    given = [piece for text in texts for piece in pieces.take(text)]
    return given + pieces.end()


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("it'", "s"),
        ("it'r", "e"),
        ("I'L", "L"),
        ("a ", " b"),
        ("a \n", "\nb"),
        ("a  ", "\n"),
        ("a\r", "\nb"),
        ("why?", "\n\nx"),
        ("why?\n", "\nx"),
        ("!", "a"),
        (" ", "!"),
        ("\t", "a"),
        ("e", "\u0301"),
        ("'s", "\u0301"),
        ("d\u0301", "\u0323"),
        ("<", "\u0338"),
        ("\u1112", "\u1161\u11ab"),
        ("\u1112\u1161", "\u11ab"),
        ("\uac00", "\u11a8"),
        ("น", "ั"),
        ("क", "\u093c"),
        ("👩", "\u200d👩"),
        ("1", "2"),
    ],
)
def test_what_follows_changes_a_token_that_was_given(first: str, then: str) -> None:
    pieces = Pieces(_plain())
    given = pieces.take(first)
    given += pieces.take(then)
    given += pieces.end()
    assert [piece.id for piece in given] == _whole(first + then)
    assert given == _given([first + then])


def _texts(alphabet: str, length: int) -> Iterator[str]:
    for count in range(1, length + 1):
        for characters in itertools.product(alphabet, repeat=count):
            yield "".join(characters)


def _cuts(text: str) -> Iterator[list[str]]:
    """Into two and three parts, none of them empty."""
    for count in (1, 2):
        for ends in itertools.combinations(range(1, len(text)), count):
            yield [text[at:end] for at, end in itertools.pairwise([0, *ends, len(text)])]


@pytest.mark.parametrize(
    "alphabet",
    ["'s \n1!", "d\u0301\u0323 a'", "\u1112\u1161\u11ab '\u0301", "<\u0338\u2000\u0958e\u0344"],
    ids=["blanks", "marks", "hangul", "changed"],
)
def test_some_short_text_breaks_the_holding(alphabet: str) -> None:
    """All texts of four characters, in all ways to cut them once or twice."""
    for text in _texts(alphabet, 4):
        whole = _given([text])
        assert [piece.id for piece in whole] == _whole(text), ascii(text)
        for cut in _cuts(text):
            assert _given(cut) == whole, ascii(cut)


@pytest.mark.parametrize("alphabet", ["a \n!", "d\u0301\u0323 "], ids=["runs", "marks"])
def test_some_text_breaks_the_cut_of_a_run(alphabet: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where a stretch has three code points at most, so that most texts are cut."""
    monkeypatch.setattr(module, "RUN", 3)
    monkeypatch.setattr(module, "_BLOCK", 7)
    for text in _texts(alphabet, 5):
        whole = _given([text])
        for cut in _cuts(text):
            assert _given(cut) == whole, ascii(cut)
        assert _given(list(text)) == whole, ascii(text)


@pytest.mark.parametrize(
    "character", ["x", "字", "!", " ", "\n", "\t", "\u0301", "\u0e35", "\u1161"]
)
def test_a_run_without_a_boundary_is_held_for_ever(character: str) -> None:
    """It is cut every 256 code points from its start, and counted."""
    pieces = Pieces(_plain())
    given = []
    for at in range(600):
        given += pieces.take(character)
        assert pieces.held <= RUN
        assert not given or given[-1].end == at + 1 - pieces.held
    given += pieces.end()
    assert pieces.cuts == 2
    parts = (character * RUN, character * RUN, character * (600 - 2 * RUN))
    assert [piece.id for piece in given] == [token for part in parts for token in _whole(part)]
    assert given == _given([character * 600])


def test_the_count_of_a_run_goes_on_from_the_run_before() -> None:
    parts = [
        "begin " + "x" * 255,
        "x" * 45 + " " + "y" * 255,
        "y." + "\n" * 255,
        "\nend",
    ]
    pieces = Pieces(_plain())
    given = pieces.take("".join(parts)) + pieces.end()
    assert [piece.id for piece in given] == [token for part in parts for token in _whole(part)]
    assert pieces.cuts == 3


def test_a_run_as_long_as_is_allowed_is_cut() -> None:
    for run in ("x" * RUN, "!" * RUN, " " * RUN + "\n", "a" + "\u0301" * (RUN - 1)):
        text = f"1{run}1"
        pieces = Pieces(_plain())
        given = pieces.take(text) + pieces.end()
        assert [piece.id for piece in given] == _whole(text)
        assert pieces.cuts == (len(run) > RUN)


def test_marks_are_given_to_another_character_than_their_own() -> None:
    text = "xe\u0301\u0302y d\u0301\u0323z \u0958क \u1112\u1161\u11ab\u1100\u1173\u11af."
    given = _given([text])
    e, d, qa, han, geul = 1, text.index("d"), text.index("\u0958"), text.index("\u1112"), -4
    spans = {text[piece.start : piece.end] for piece in given}
    assert text[e : e + 3] in spans
    assert text[d : d + 3] in spans
    assert any(text[qa] in span and "क" not in span for span in spans)
    assert text[han : han + 3] in {s.strip() for s in spans}
    assert text[geul:-1] in spans


def test_a_held_character_is_given_before_its_marks() -> None:
    pieces = Pieces(_plain())
    assert pieces.take("The cafe") != []
    assert pieces.held == len(" cafe")
    assert pieces.take("\u0301") == []
    assert pieces.held == len(" cafe\u0301")
    given = pieces.take(" is")
    assert (given[0].start, given[-1].end) == (len("The"), len("The cafe\u0301"))
    assert pieces.held == len(" is")


class _Counting:
    """The tokenizer, and how many characters it was given."""

    def __init__(self) -> None:
        self.normalizer = _plain().normalizer
        self.characters = 0

    def encode(self, text: str, **kwargs: Any) -> Any:
        self.characters += len(text)
        return _plain().encode(text, **kwargs)


@pytest.mark.parametrize(
    "sentence",
    ["It's 12 o'clock,\r\nand the café was full. ", "สวัสดีชาวโลก", "ne\u0301 d\u0323\u0301 "],
)
def test_an_append_costs_more_the_longer_the_text_is(sentence: str) -> None:
    """What is encoded at one sentence is the same at every sentence to 8,192 tokens."""
    tokenizer: Any = _Counting()
    pieces = Pieces(tokenizer)
    tokens, costs = 0, []
    while tokens < 8_192:
        before = tokenizer.characters
        for character in sentence:
            tokens += len(pieces.take(character))
        costs.append(tokenizer.characters - before)
    assert len(set(costs[1:])) == 1
    assert costs[-1] <= 16 * len(sentence)


@pytest.mark.parametrize(
    "unit", ["x", " ", "\n", "\u0301", " \u0301", "\n" + " " * 300, "a" * 255 + "!"]
)
def test_a_long_text_in_one_append_costs_the_square_of_its_length(unit: str) -> None:
    tokenizer: Any = _Counting()
    text = (unit * 40_000)[:40_000]
    pieces = Pieces(tokenizer)
    given = pieces.take(text) + pieces.end()
    assert given[-1].end == len(text)
    assert tokenizer.characters <= 10 * len(text)


def test_a_text_of_many_blocks_is_not_encoded_as_a_whole_is() -> None:
    sentence = "It's 12 o'clock,\r\n \nand the cafe\u0301 was full of नमस्ते. "
    text = "".join(sentence[at % 7 :] for at in range(200))
    given = _given([text])
    assert [piece.id for piece in given] == _whole(text)
    assert given == _given([text[:4_321], text[4_321:]])


def test_a_character_of_several_tokens_has_a_place_for_each() -> None:
    text = "é𒀀字"
    given = _given([text])
    assert {(p.start, p.end) for p in given} == {(0, 1), (1, 2), (2, 3)}
    assert len(given) > 3
