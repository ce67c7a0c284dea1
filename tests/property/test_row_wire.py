"""The form in which a row travels: what is read is what was written."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwarden.guard.conversation import Conversation, Task, Turn, refusal_of
from qwarden.guard.row import Row, View, row_of, views_of

_text = st.text(max_size=12) | st.sampled_from(["<|im_end|>", '"', "\\", "\0\x1f\x7f", "\u2028🍞"])
_conversations = st.builds(
    Conversation,
    st.sampled_from(Task),
    st.lists(st.builds(Turn, st.sampled_from(["user", "assistant"]), _text), max_size=4).map(tuple),
)
_views = st.sets(st.sampled_from(View)).map(lambda named: views_of({View.AS_SENT, *named}))
_rows = st.builds(Row, _conversations, _views, st.booleans())


def _written(row: Row) -> bytes:
    return row_of(row.conversation.to_json(), row.views, exact=row.exact)


@settings(deadline=None)
@given(_rows)
def test_the_engine_does_not_read_another_row_than_was_sent(row: Row) -> None:
    data = _written(row)
    assert Conversation.from_body(json.loads(data)) == row.conversation
    reason = refusal_of(row.conversation.task, row.conversation.turns)
    if reason is None:
        assert Row.from_json(data) == row
    else:
        with pytest.raises(ValueError) as raised:
            Row.from_json(data)
        assert str(raised.value) == reason


@settings(deadline=None)
@given(_rows, _rows)
def test_one_row_is_not_taken_for_another(first: Row, second: Row) -> None:
    assert (_written(first) == _written(second)) == (first == second)


@settings(deadline=None)
@given(_conversations)
def test_a_row_without_wishes_is_not_the_bare_conversation(conversation: Conversation) -> None:
    written = conversation.to_json()
    assert row_of(written, (View.AS_SENT,)) == written


def test_half_a_surrogate_pair_is_not_written_as_something_else() -> None:
    with pytest.raises(UnicodeEncodeError):
        Conversation(Task.PROMPT, (Turn("user", "\ud800"),)).to_json()


NOT_ROWS = [b"[" * 100_000, b"[]", b"null", b'"task"', b'{"task":"prompt"}', b'{"task":[]}']


@settings(deadline=None)
@given(st.binary(max_size=40) | st.sampled_from(NOT_ROWS))
def test_no_row_stops_the_engine(data: bytes) -> None:
    with pytest.raises(ValueError, match="a conversation is"):
        Row.from_json(data)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "Expecting value: line 1 column 1"),
        (b'{"task":"prompt",}', "line 1 column 18"),
        (b"\xff", "can't decode byte 0xff in position 0"),
    ],
)
def test_broken_json_is_refused_without_a_place(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=f"a conversation is JSON, and this is not .*{why}"):
        Row.from_json(data)


GOOD = '{"task":"prompt","messages":[{"role":"user","content":"a"}]'


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('"views":[]', "views must hold as_sent"),
        ('"views":["markers_broken"]', "views must hold as_sent"),
        ('"views":["as_sent","other"]', "views is a list of as_sent, markers_broken"),
        ('"views":"as_sent"', "views is a list of"),
        ('"views":null', "views is a list of"),
        ('"views":[["as_sent"]]', "views is a list of"),
        ('"views":7', "views is a list of"),
        ('"exact":1', "^exact is true or false$"),
        ('"exact":null', "exact is true or false"),
    ],
)
def test_a_wish_that_is_not_understood_is_passed_over(more: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Row.from_json(f"{GOOD},{more}}}".encode())


@pytest.mark.parametrize("where", ['"role":', '"role":"user","content":', '"content":"a","role":'])
def test_no_depth_stops_the_engine(where: str) -> None:
    for depth in (*range(800, 1010), 5000):
        nested = "[" * depth + "]" * depth
        data = '{"task":"prompt","messages":[{' + where + nested + "}]}"
        with pytest.raises(ValueError):
            Row.from_json(data.encode())


@pytest.mark.parametrize(
    "names", [["markers_broken", "as_sent"], ["as_sent", "markers_broken"] * 2]
)
def test_the_order_of_the_names_makes_another_row(names: list[str]) -> None:
    assert views_of(names) == (View.AS_SENT, View.MARKERS_BROKEN)
