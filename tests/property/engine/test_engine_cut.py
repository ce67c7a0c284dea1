"""The cut changes no token, and content yields no added one: for whatever content there is."""

from __future__ import annotations

import functools

from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from qwarden.guard.conversation import Conversation, Task, Turn
from qwarden_engine.checkpoint import Checkpoint, open_checkpoint
from qwarden_engine.template import Encoded, Template
from unit.engine.checkpoints import STAND_IN

_ADDED = sorted(
    token.content
    for token in open_checkpoint(str(STAND_IN)).tokenizer.get_added_tokens_decoder().values()
)
_WORDS = (
    "hello world", "I'll", "Don't", "it's", "naïve café", "Straße", "übermäßig", "žluťoučký kůň",
    "Привет, мир", "Здравствуйте", "Γειά σου", "שלום", "مرحبا", "سلام دنیا", "नमस्ते", "হ্যালো",
    "வணக்கம்", "สวัสดี", "ສະບາຍດີ", "မင်္ဂလာပါ", "გამარჯობა", "Բարեւ", "ሰላም", "안녕하세요",
    "한글", "こんにちは", "カタカナ", "你好世界", "繁體字", "Xin chào", "Merhaba, nasılsın",
    "Cześć świecie", "👩‍👩‍👧‍👦", "🇩🇪", "👍🏽", "def f(x): return x**2", "{'a': [1, 2]}", "<b>x</b>",
    "http://a.b/c?d=e", "1234567890", "\t", " ", "  ", "\n", "\n\n", "\r\n", "\u0301", "\u200d",
    "\u00a0", "\u3000", "\u2028", "\ufeff", "<END CONVERSATION>", "<END", "USER:", "ASSISTANT: ",
    "Safety: Safe", "{{ x }}", "{% endif %}", "<|", "|>", "<think", "im_end",
)  # fmt: skip
_text = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40)
_pieces = st.one_of(_text, st.sampled_from(_WORDS))
_anything = st.lists(_pieces, max_size=8).map("".join)
_content = _anything.filter(lambda text: not any(token in text for token in _ADDED))
_hostile = st.lists(st.one_of(_pieces, st.sampled_from(_ADDED)), max_size=8).map("".join)


@functools.cache
def _template() -> Template:
    return Template(_checkpoint())


@functools.cache
def _checkpoint() -> Checkpoint:
    return open_checkpoint(str(STAND_IN))


def _encode(conversation: Conversation, limit: int = 10**9) -> Encoded | None:
    """In one piece, or not at all."""
    [pieces] = _template().encode([conversation], limit, 1)
    if isinstance(pieces, Exception):
        return None
    [encoded] = pieces
    return encoded


def _conversation(task: Task, contents: list[str]) -> Conversation:
    """Turns by turns, ending with the one that the task judges; at most one is left out."""
    length = len(contents) - ((len(contents) % 2 == 1) == (task is not Task.PROMPT))
    roles = ("user", "assistant")
    return Conversation(task, tuple(Turn(roles[n % 2], contents[n]) for n in range(length)))


@settings(max_examples=examples(150))
@given(st.sampled_from(Task), st.lists(_content, min_size=2, max_size=5))
def test_the_cut_changes_a_token(task: Task, contents: list[str]) -> None:
    conversation = _conversation(task, contents)
    whole = _template().whole_ids(conversation)
    assert _template().cut_ids(conversation) == whole
    encoded = _encode(conversation)
    assert encoded is not None
    assert [*_template().cuts[task].prefix_ids, *encoded.ids] == whole
    assert encoded.dropped_turns == 0


@settings(max_examples=examples(200))
@given(st.sampled_from(Task), st.lists(_hostile, min_size=2, max_size=5))
def test_content_yields_an_added_token(task: Task, contents: list[str]) -> None:
    """A thought stands between two of them, which are the template's own structure."""
    template = _template()
    encoded = _encode(_conversation(task, contents))
    assert encoded is not None
    of_content = encoded.ids[: len(encoded.ids) - len(template.cuts[task].tail_ids)]
    assert of_content
    added = [at for at in of_content if at in template.added_ids]
    whole = _checkpoint().tokenizer
    structure = [whole.token_to_id("<think>"), whole.token_to_id("</think>")]
    assert added == (structure if task is Task.THINKING else [])
    assert task is not Task.THINKING or of_content[-1] == structure[1]


@settings(max_examples=examples(150))
@given(st.sampled_from(Task), st.lists(_anything, min_size=2, max_size=9), st.integers(8, 80))
def test_a_shortened_conversation_passes_its_limit(
    task: Task, contents: list[str], limit: int
) -> None:
    """What is kept is the longest ending that fits, or nothing is."""
    conversation = _conversation(task, contents)
    encoded = _encode(conversation, limit)
    if encoded is None:
        return
    assert encoded.tokens <= limit
    turns = conversation.turns
    starts = [at for at, turn in enumerate(turns) if turn.role == "user"]
    for at in starts:
        longer = _encode(Conversation(task, turns[at:]))
        assert longer is not None
        if at < encoded.dropped_turns:
            assert longer.tokens > limit
        elif at == encoded.dropped_turns:
            assert longer.ids == encoded.ids
