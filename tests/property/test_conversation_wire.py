"""The form in which a conversation travels: what is read is what was written."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwarden.guard.conversation import Conversation, Task, Turn

_text = st.text(max_size=12) | st.sampled_from(["<|im_end|>", '"', "\\", "\0\x1f\x7f", "\u2028🍞"])
_conversations = st.builds(
    Conversation,
    st.sampled_from(Task),
    st.lists(st.builds(Turn, st.sampled_from(["user", "assistant"]), _text), max_size=4).map(tuple),
)


@settings(deadline=None)
@given(_conversations)
def test_the_engine_does_not_read_another_text_than_was_sent(conversation: Conversation) -> None:
    assert Conversation.from_json(conversation.to_json()) == conversation


@settings(deadline=None)
@given(_conversations, _conversations)
def test_the_cache_does_not_take_one_conversation_for_another(
    first: Conversation, second: Conversation
) -> None:
    assert (first.to_json() == second.to_json()) == (first == second)


def test_half_a_surrogate_pair_is_not_written_as_something_else() -> None:
    with pytest.raises(UnicodeEncodeError):
        Conversation(Task.PROMPT, (Turn("user", "\ud800"),)).to_json()


@settings(deadline=None)
@given(st.binary(max_size=40) | st.sampled_from([b"[" * 100_000, b"[]", b'{"task":"prompt"}']))
def test_no_row_stops_the_engine(data: bytes) -> None:
    with pytest.raises(ValueError, match="a conversation is"):
        Conversation.from_json(data)
