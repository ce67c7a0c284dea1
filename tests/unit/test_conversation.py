"""Conversations: what the template would drop, or no server can read, is refused by a sentence."""

from __future__ import annotations

from typing import Any

import pytest

from qwarden.guard.conversation import Conversation, Task, Turn, is_unicode, refusal_of
from qwarden.guard.row import Row, View, row_of, views_of

ASKED, TOLD = Turn("user", "Why?"), Turn("assistant", "So.")


@pytest.mark.parametrize(
    ("task", "turns", "why"),
    [
        (Task.PROMPT, (), "a conversation without turns cannot be judged"),
        (Task.PROMPT, (Turn("system", "x"),), "the guard has no role 'system'"),
        (Task.PROMPT, (Turn("user", 7),), "the content of a turn must be a string"),  # type: ignore[arg-type]
        (Task.PROMPT, (Turn("user", "\ud800"),), "the content holds half of a surrogate pair"),
        (Task.RESPONSE, (TOLD,), "the first turn must be a user turn"),
        (Task.PROMPT, (ASKED, TOLD), "task prompt judges a last turn of another role than"),
        (Task.RESPONSE, (ASKED,), "task response judges a last turn of another role than"),
        (Task.THINKING, (ASKED, ASKED), "task thinking judges a last turn of another role than"),
        (Task.PROMPT, (Turn("user", ""),), "the last turn is empty"),
    ],
)
def test_a_turn_that_the_template_drops_is_judged(
    task: Task, turns: tuple[Turn, ...], why: str
) -> None:
    assert (refusal_of(task, turns) or "").startswith(why)


@pytest.mark.parametrize(
    ("task", "turns"),
    [
        (Task.PROMPT, (ASKED,)),
        (Task.PROMPT, (ASKED, TOLD, ASKED)),
        (Task.RESPONSE, (ASKED, TOLD)),
        (Task.THINKING, (ASKED, TOLD)),
        (Task.RESPONSE, (Turn("user", ""), TOLD)),
    ],
)
def test_what_the_template_renders_is_refused(task: Task, turns: tuple[Turn, ...]) -> None:
    assert refusal_of(task, turns) is None


def test_a_text_that_no_server_can_read_is_sent() -> None:
    assert [is_unicode(text) for text in ("a", "é", "\U0001f600", "\ud83d", "a\udc00")] == [
        True, True, True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"{", "a conversation is JSON, and this is not"),
        (b"[" * 100_000, "a conversation is JSON, and this is not"),
        (b"7", "a conversation is {"),
        (b'{"task":"joke","messages":[]}', "a conversation is {"),
        (b'{"task":"prompt","messages":[]}', "a conversation without turns"),
        (b'{"task":"prompt","messages":[{"role":"user","content":"a"}],"exact":1}', "exact is"),
        (b'{"task":"prompt","messages":[{"role":"user","content":"a"}],"views":["raw"]}', "views"),
        (b'{"task":"prompt","messages":[{"role":"user","content":"a"}],"views":7}', "views is a"),
        (b'{"task":"prompt","messages":[{"role":"user","content":"\\ud800"}]}', "the content"),
    ],
)
def test_a_row_that_is_none_ends_the_engine(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match="^" + why.replace("{", r"\{")):
        Row.from_json(data)


def test_what_was_sent_is_not_judged() -> None:
    assert views_of(["normalised", "as_sent", "normalised"]) == (View.AS_SENT, View.NORMALISED)
    with pytest.raises(ValueError, match="views must hold as_sent"):
        views_of(["normalised"])


def test_a_row_loses_what_it_asks_for_on_its_way() -> None:
    conversation = Conversation(Task.PROMPT, (ASKED,))
    for views in ((View.AS_SENT,), tuple(View)):
        for exact in (False, True):
            sent: Any = row_of(conversation.to_json(), views, exact=exact)
            assert Row.from_json(sent) == Row(conversation, views, exact)
