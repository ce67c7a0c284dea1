from __future__ import annotations

from pathlib import Path

import pytest

from qwarden.guard.conversation import Conversation, Task, Turn
from qwarden_engine.checkpoint import open_checkpoint
from qwarden_engine.template import Encoded, Template, TooLong
from unit.engine.checkpoints import STAND_IN, copy_to, prompt, response

LIMIT = 60


@pytest.fixture(scope="module")
def template() -> Template:
    return Template(open_checkpoint(str(STAND_IN)))


def _encode(template: Template, conversation: Conversation, limit: int = LIMIT) -> Encoded:
    [encoded] = template.encode([conversation], limit)
    assert isinstance(encoded, Encoded), encoded
    return encoded


def _turns(count: int, words: int = 10) -> tuple[Turn, ...]:
    roles = ("user", "assistant")
    return tuple(Turn(roles[at % 2], f"turn {at} " + "word " * words) for at in range(count))


def test_tail_that_merges_with_the_content_changes_tokens(tmp_path: Path) -> None:
    """A tail that starts in letters right behind the content is encoded with it."""
    guard = copy_to(tmp_path)
    file = guard / "chat_template.jinja"
    text = file.read_text(encoding="utf-8")
    changed = text.replace("'\\n\\n<END CONVERSATION>\\n\\n'", "'END of it'")
    assert changed != text
    file.write_text(changed, encoding="utf-8")
    joined = Template(open_checkpoint(str(guard)))
    for task in Task:
        assert joined.cuts[task].joined.startswith("END of it")
        assert joined.cuts[task].tail_ids
    for content in ("hello", "send", "a\n", "\u0301"):
        conversation = prompt(content)
        assert joined.cut_ids(conversation) == joined.whole_ids(conversation.turns)
        encoded = _encode(joined, conversation)
        ids = [*joined.cuts[Task.PROMPT].prefix_ids, *encoded.ids]
        assert ids == joined.whole_ids(conversation.turns)
        assert 0 < encoded.tokens < 10


def test_the_stand_ins_cut_is_not_constant(template: Template) -> None:
    for task in Task:
        cut = template.cuts[task]
        assert cut.joined == ""
        assert cut.prefix.endswith("USER:")
        assert cut.tail.startswith("<END CONVERSATION>")


@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize("count", range(7, 13))
def test_newest_turns_are_dropped_first(template: Template, task: Task, count: int) -> None:
    count += (count % 2 == 0) == (task is Task.PROMPT)
    turns = _turns(count)
    encoded = _encode(template, Conversation(task, turns))
    dropped = encoded.dropped_turns
    assert 0 < dropped < count
    assert encoded.tokens <= LIMIT
    assert turns[dropped].role == "user"
    rest = _encode(template, Conversation(task, turns[dropped:]))
    assert (encoded.ids, rest.dropped_turns) == (rest.ids, 0)
    [longer] = template.encode([Conversation(task, turns[dropped - 2 :])], LIMIT)
    assert isinstance(longer, Encoded)
    assert longer.dropped_turns == 2  # two turns more would have been too many


def test_turns_of_one_role_in_a_row_are_dropped_together(template: Template) -> None:
    turns = (*_turns(2, 60), Turn("user", "one"), Turn("user", "two"))
    encoded = _encode(template, Conversation(Task.PROMPT, turns))
    assert encoded.dropped_turns == 2
    assert encoded.ids == _encode(template, Conversation(Task.PROMPT, turns[2:])).ids


def test_a_response_that_fits_is_judged_without_its_question(template: Template) -> None:
    conversation = Conversation(Task.RESPONSE, (*_turns(2, 60), *response("why?", "so").turns))
    encoded = _encode(template, conversation)
    assert encoded.dropped_turns == 2
    assert encoded.ids == _encode(template, response("why?", "so")).ids


def test_a_response_to_a_question_that_is_too_long_is_not_judged(template: Template) -> None:
    encoded = _encode(template, response("why " * 200, "so"))
    assert encoded.dropped_turns == 1
    assert encoded.ids == _encode(template, response("", "so")).ids


@pytest.mark.parametrize(
    "conversation",
    [
        prompt("word " * 100),
        response("why?", "word " * 100),
        Conversation(Task.PROMPT, (*_turns(2), Turn("user", "word " * 100))),
    ],
)
def test_a_last_turn_over_the_limit_is_cut_in_silence(
    template: Template, conversation: Conversation
) -> None:
    [error] = template.encode([conversation], LIMIT)
    assert isinstance(error, TooLong)
    smallest = conversation.turns[-1:]
    if conversation.task is Task.RESPONSE:
        smallest = (Turn("user", ""), *smallest)
    tokens = _encode(template, Conversation(conversation.task, smallest), 10_000).tokens
    assert f"has {tokens} tokens and the guard takes at most {LIMIT} " in str(error)


def test_the_limit_is_off_by_one(template: Template) -> None:
    tokens = _encode(template, prompt("word " * 40), 10_000).tokens
    assert _encode(template, prompt("word " * 40), tokens).tokens == tokens
    [error] = template.encode([prompt("word " * 40)], tokens - 1)
    assert isinstance(error, TooLong)


def test_one_row_that_the_template_refuses_takes_the_others_with_it(tmp_path: Path) -> None:
    guard = copy_to(tmp_path)
    file = guard / "chat_template.jinja"
    check = (
        "{%- if 'forbidden' in messages[0].content -%}"
        "{{- raise_exception('not this word') -}}{%- endif -%}"
    )
    file.write_text(check + file.read_text(encoding="utf-8"), encoding="utf-8")
    some = [prompt("fine"), prompt("forbidden"), prompt("fine too")]
    first, second, third = Template(open_checkpoint(str(guard))).encode(some, LIMIT)
    assert isinstance(first, Encoded)
    assert isinstance(third, Encoded)
    assert "not this word" in str(second)


def test_a_template_reaches_python(tmp_path: Path) -> None:
    """A checkpoint is data: its template runs in a sandbox."""
    from qwarden_engine.checkpoint import CheckpointError

    guard = copy_to(tmp_path)
    file = guard / "chat_template.jinja"
    escape = "{{- messages.__class__.__mro__ -}}"
    file.write_text(escape + file.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(CheckpointError, match="unsafe"):
        Template(open_checkpoint(str(guard)))
