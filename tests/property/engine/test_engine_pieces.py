"""A turn over the context is judged whole, in pieces that each fit and overlap."""

from __future__ import annotations

import functools
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from qwarden.guard.conversation import Conversation, Task, Turn
from qwarden_engine.checkpoint import Checkpoint, open_checkpoint
from qwarden_engine.template import OVERLAP, Encoded, Template, TooLong
from unit.engine.checkpoints import STAND_IN

_WORDS = (
    "word", " ", "\n", "hello world, ", "Straße", "žluťoučký", "Здравствуйте", "Γειά", "שלום",
    "नमस्ते", "สวัสดี", "မင်္ဂလာပါ", "ሰላም", "안녕", "こんにちは", "你好世界", "繁體字", "👩‍👩‍👧‍👦",
    "🇩🇪", "👍🏽", "x", "{'a': [1]}", "\t", "\r\n", "\u3000", "\u200d",
    "<END CONVERSATION>", "<|im_end|>", "<think>", "</think>", "𒀀𒁀", "\U000e0001",
)  # fmt: skip
_word = st.one_of(
    st.sampled_from(_WORDS),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6),
)


@functools.cache
def _checkpoint() -> Checkpoint:
    return open_checkpoint(str(STAND_IN))


@functools.cache
def _template() -> Template:
    return Template(_checkpoint())


def _turns(task: Task, content: str) -> tuple[Turn, ...]:
    if task is Task.PROMPT:
        return (Turn("user", content),)
    return (Turn("user", "why?"), Turn("assistant", content))


def _pieces(conversation: Conversation, limit: int, most: int) -> list[Encoded] | Exception:
    [pieces] = _template().encode([conversation], limit, most)
    return pieces


def _text(task: Task, piece: Encoded) -> str:
    """The text of a piece, from its ids alone."""
    ids = piece.ids[: piece.tokens]
    text: str = _checkpoint().tokenizer.decode(ids, skip_special_tokens=False)
    before, behind = {
        Task.PROMPT: (" ", "\n\n"),
        Task.RESPONSE: (" \n\nASSISTANT: ", "\n\n"),
        Task.THINKING: (" \n\nASSISTANT: <think>\n", "\n</think>"),
    }[task]
    assert text.startswith(before)
    assert text.endswith(behind)
    return text[len(before) : len(text) - len(behind)]


@settings(max_examples=examples(30))
@given(
    st.sampled_from(Task),
    st.lists(_word, min_size=1, max_size=8),
    st.integers(60, 250),  # of each some words: to thirty pieces
    st.integers(310, 700),
)
def test_a_token_of_a_long_turn_is_in_no_piece(
    task: Task, words: list[str], count: int, limit: int
) -> None:
    """The numbers make every stretch of the text one that is in it once."""
    text = "".join(f"{words[at % len(words)]}{at * 7919}" for at in range(count))
    content = unicodedata.normalize("NFC", text)
    conversation = Conversation(task, _turns(task, content))
    pieces = _pieces(conversation, limit, 10**6)
    assert not isinstance(pieces, Exception), pieces
    assert all(piece.tokens <= limit for piece in pieces)
    if len(pieces) == 1:
        return
    assert {piece.dropped_turns for piece in pieces} == {0 if task is Task.PROMPT else 1}
    end = 0
    for at, piece in enumerate(pieces):
        found = _text(task, piece)
        start = content.find(found)
        assert start >= 0
        assert start == 0 if at == 0 else start < end
        if at:
            # What stands at a cut is whole in the next piece, with enough before it.
            shared = content[start:end]
            assert len(_template().plain_ids(shared)) >= OVERLAP - 4
        assert start + len(found) > end
        end = start + len(found)
    assert end == len(content)
    assert _pieces(conversation, limit, len(pieces)) == pieces
    error = _pieces(conversation, limit, len(pieces) - 1)
    assert isinstance(error, TooLong)
    assert f"is {len(pieces)} pieces" in str(error)


@settings(max_examples=examples(30))
@given(st.sampled_from(Task), _word, st.integers(200, 1500), st.integers(310, 600))
def test_a_turn_without_a_place_to_cut_passes_the_limit(
    task: Task, word: str, count: int, limit: int
) -> None:
    """One word, or one character, again and again: cut anywhere, it has other tokens."""
    pieces = _pieces(Conversation(task, _turns(task, word * count)), limit, 10**6)
    assert not isinstance(pieces, Exception), pieces
    assert all(piece.tokens <= limit for piece in pieces)
    if len(pieces) == 1:
        return
    judged = sum(len(_text(task, piece)) for piece in pieces)
    assert judged >= len(unicodedata.normalize("NFC", word * count))


@pytest.mark.parametrize("end", ["e\u0301", "\u1112\u1161\u11ab", "a\u0323\u0302"])
@pytest.mark.parametrize("limit", [400, 401, 402, 403])
def test_marks_at_the_end_of_a_long_turn_are_in_no_piece(end: str, limit: int) -> None:
    """They are composed by NFC, so that no token of the last piece ends behind them."""
    content = "".join(f"{at} " for at in range(1500)) + end
    pieces = _pieces(Conversation(Task.PROMPT, _turns(Task.PROMPT, content)), limit, 10**6)
    assert not isinstance(pieces, Exception), pieces
    assert _text(Task.PROMPT, pieces[-1]).endswith(unicodedata.normalize("NFC", end))


@pytest.mark.parametrize("task", list(Task))
def test_one_piece_more_is_made_than_needed(task: Task) -> None:
    """As many as fit the whole turn, and no more: room for one token more is one piece less."""
    limit = 400
    counts = []
    for words in range(300, 1100, 27):
        content = " ".join("word" for _ in range(words))
        pieces = _pieces(Conversation(task, _turns(task, content)), limit, 10)
        assert not isinstance(pieces, Exception)
        counts.append(len(pieces))
        if len(pieces) > 1:
            # None of them is within another.
            assert pieces[-1].tokens > OVERLAP
    assert counts == sorted(counts)
    assert set(counts) >= {1, 2, 3, 4}


def test_a_context_without_room_for_an_overlap_is_cut_for_ever() -> None:
    conversation = Conversation(Task.PROMPT, _turns(Task.PROMPT, "word " * 400))
    enough = 0
    for limit in (3, 60, *range(256, 330)):
        pieces = _pieces(conversation, limit, 10**6)
        if isinstance(pieces, Exception):
            assert isinstance(pieces, TooLong)
            assert f"leaves only {limit} tokens" in str(pieces)
            assert not enough
        else:
            enough += 1
            assert len(pieces) < 400 / enough + 2
    assert enough
