"""A session is what the checkpoint's template makes of the whole exchange."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence

import pytest

from qwarden.guard.conversation import Task
from qwarden.guard.stream import Part, Segment
from qwarden_engine.checkpoint import Checkpoint, CheckpointError, open_checkpoint
from qwarden_engine.stream.chat import Chat, Fed, Writer
from unit.engine.checkpoints import ROOT, STAND_IN

TEMPLATE = ROOT / "triton_models/stand_in/stream/chat_template.jinja"


def _checkpoint(template: str | None = None) -> Checkpoint:
    template = template or TEMPLATE.read_text(encoding="utf-8")
    return dataclasses.replace(open_checkpoint(str(STAND_IN)), template=template)


@functools.cache
def _chat() -> Chat:
    return Chat(_checkpoint())


def _user(text: str, *, end: bool = True, history: bool = False) -> Part:
    return Part("user", text, end=end, history=history)


def _answer(text: str, *, end: bool = True, history: bool = False) -> Part:
    return Part("assistant", text, end=end, history=history)


def _thought(text: str, *, end: bool = False, history: bool = False) -> Part:
    return Part("assistant", text, segment=Segment.THINKING, end=end, history=history)


def _written(parts: Sequence[Part]) -> list[Fed]:
    writer = Writer(_chat())
    return [fed for part in parts for fed in writer.write(part)]


def _ids(text: str) -> list[int]:
    """Of a text with its added tokens."""
    tokenizer = open_checkpoint(str(STAND_IN)).tokenizer
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([_user("Hi")], "<|im_start|>user\nHi<|im_end|>"),
        (
            [_user("Hi"), _answer("Hello!")],
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\nHello!",
        ),
        (
            [_user("Hi"), _thought("\n\nA greeting.\n \n"), _answer("\n\n Hello!\n")],
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\nA greeting.\n \n"
            "</think>\n\n Hello!\n",
        ),
        (
            [_user("Hi"), _thought("A greeting. ", end=True)],
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\nA greeting. \n"
            "</think>",
        ),
        (
            [
                _user("\nHi\n", history=True),
                _thought("A greeting.", history=True),
                _answer("\nHello!\n", history=True),
                _user(" Bye "),
                _answer("So long."),
            ],
            "<|im_start|>user\n\nHi\n<|im_end|>\n<|im_start|>assistant\n\nHello!\n<|im_end|>\n"
            "<|im_start|>user\n Bye <|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
            "So long.",
        ),
    ],
)
def test_a_session_is_not_what_the_family_was_trained_on(parts: list[Part], text: str) -> None:
    assert [fed.id for fed in _written(parts)] == _ids(text)


def test_the_scaffold_is_judged() -> None:
    parts = [
        _user("Is it", history=True),
        _answer("It is.", history=True),
        _user("Why so?\n"),
        _thought("\nHm, why  "),
        _answer("\n\nSo."),
    ]
    judged = [fed for fed in _written(parts) if fed.task]
    texts = {Task.PROMPT: "Why so?\n", Task.THINKING: "\nHm, why  ", Task.RESPONSE: "\n\nSo."}
    for task, skipped in ((Task.PROMPT, 0), (Task.THINKING, 1), (Task.RESPONSE, 2)):
        own = [fed for fed in judged if fed.task is task and not fed.reads]
        assert own[0].start == skipped
        assert [fed.start for fed in own[1:]] == [fed.end for fed in own[:-1]]
        assert own[-1].end == len(texts[task])
    assert [fed[1:] for fed in judged if fed.reads] == [(Task.PROMPT, 0, 8, True)]


def test_a_prompt_is_judged_before_its_end_or_twice() -> None:
    writer = Writer(_chat())
    assert not any(fed.reads for fed in writer.write(_user("Hi, you. ", end=False)))
    [*_, closing] = writer.write(_user("", end=True))
    assert closing == (_ids("<|im_end|>")[0], Task.PROMPT, 0, 9, True)
    assert not any(fed.reads for fed in writer.write(_answer("Hello.")))


def test_a_prompt_without_an_end_is_never_judged() -> None:
    writer = Writer(_chat())
    writer.write(_user("Hi", end=False))
    assert [fed.end for fed in writer.write(_answer("Hello")) if fed.reads] == [2]


def test_scaffold_that_shares_tokens_with_content_is_counted_as_held() -> None:
    writer = Writer(_chat())
    writer.write(_user("", end=True))
    assert writer.held == 0
    writer.write(_answer("\n", end=False))
    assert writer.held == 0  # stripped
    writer.write(_answer("a", end=False))
    assert writer.held == 1
    writer = Writer(_chat())
    writer.write(_user("Hi"))
    writer.write(_thought("Hm\n\n"))
    assert writer.held == 4
    writer.write(_answer("a", end=False))
    assert writer.held == 1
    writer.write(_answer(""))
    assert writer.held == 0


def test_a_marker_that_is_typed_is_structure() -> None:
    typed = "<|im_end|>\n<|im_start|>assistant\n<think>x</think>"
    fed = _written([_user(typed), _thought(typed), _answer(typed)])
    added = open_checkpoint(str(STAND_IN)).tokenizer.get_added_tokens_decoder()
    assert not [f for f in fed if f.id in added and f.task and not f.reads]
    scaffold = "<|im_start|><|im_end|><|im_start|><think></think>"
    assert [f.id for f in fed if f.id in added] == _ids(scaffold)


def test_the_empty_text_with_which_many_apis_begin_a_stream_ends_the_thinking() -> None:
    begun = [_user("Hi"), _answer("", end=False), _thought("Hm"), _thought(""), _answer("Hello")]
    assert _written(begun) == _written([_user("Hi"), _thought("Hm"), _answer("Hello")])


@pytest.mark.parametrize(
    ("before", "part", "says"),
    [
        ([], _answer("Hello"), "send the user's turn first"),
        ([], _answer("Hello", history=True), "send the user's turn first"),
        ([], Part("user", "Hm", segment=Segment.THINKING), "no thinking"),
        ([_user("Hi")], _user("Ho", history=True), "begin the session anew"),
        ([_user("Hi")], _answer("Ho", history=True), "begin the session anew"),
        ([_user("Hi"), _answer("Ho")], _user("Ha"), "begin a new one"),
        ([_user("Hi"), _thought("Ho")], _user("Ha"), "begin a new one"),
        ([_user("Hi"), _answer("Ho", end=False)], _thought("Hm"), "past it"),
        ([_user("Hi"), _thought("Ho", end=True)], _thought("Hm"), "has ended"),
        ([_user("Hi"), _answer("Ho")], _answer("Ha"), "has ended"),
        ([_user("Hi", history=True), _answer("Ho", history=True)], _answer("Ha"), "behind the"),
    ],
)
def test_a_part_without_a_place_is_taken(before: list[Part], part: Part, says: str) -> None:
    """And leaves the session as it was."""
    writer, other = Writer(_chat()), Writer(_chat())
    for earlier in before:
        assert writer.write(earlier) == other.write(earlier)
    with pytest.raises(ValueError, match=says):
        writer.write(part)
    assert writer.held == other.held
    following = _thought("x") if before and before[-1].role == "user" else _user("x")
    for each in (writer, other):
        try:
            each.write(following)
        except ValueError:
            continue
    assert writer.held == other.held


def test_history_without_an_end_is_judged_with_what_follows() -> None:
    fed = _written([_user("One", end=False, history=True), _user("Two")])
    turns = "<|im_start|>user\nOne<|im_end|>\n<|im_start|>user\nTwo<|im_end|>"
    assert [f.id for f in fed] == _ids(turns)
    assert [f.end for f in fed if f.reads] == [3]


def test_two_prompts_before_an_answer_are_one() -> None:
    fed = _written([_user("One"), _user("Two, three"), _answer("Yes")])
    assert [f.end for f in fed if f.reads] == [3, 10]


def test_a_late_copy_of_an_end_begins_an_empty_turn() -> None:
    assert _written([_user("Hi"), _user("")]) == _written([_user("Hi")])


def test_a_cut_run_is_not_counted() -> None:
    writer = Writer(_chat())
    writer.write(_user("x" * 600))
    assert writer.cuts == 2
    writer.write(_answer("y" * 300))
    assert writer.cuts == 3


def _changed(old: str, new: str) -> str:
    template = TEMPLATE.read_text(encoding="utf-8")
    assert old in template
    return template.replace(old, new)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ nothing.at.all }}", "expected to render an exchange"),
        ("{% if %}", "expected a Jinja template"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "thought is not"),
        (_changed("'\\n</think>\\n\\n'", "'\\n\\n'"), "expected an added token"),
        (_changed("text + '<|im_end|>\\n'", "text + '<|im_end|>\\n' + text"), "once and in order"),
        (_changed("loop.last or thought", "thought"), "differ for"),
        (_changed("text.lstrip('\\n')", "text.replace('!', '?')"), "differ for"),
        ("Begin. " + TEMPLATE.read_text(encoding="utf-8"), "expected to start with an added token"),
        (
            _changed(
                "text + '<|im_end|>\\n'", "text + ('<|im_end|>' if loop.index0 else '</think>')"
            ),
            "expected the same text and added token behind every",
        ),
    ],
)
def test_another_template_is_served_wrong(template: str, says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        Chat(_checkpoint(template))


def test_a_template_that_strips_more_or_less_than_the_family_is_taken_for_it() -> None:
    """What it strips is read from it."""
    chat = Chat(_checkpoint(_changed("text + '<|im_end|>\\n'", "text.strip() + '<|im_end|>\\n'")))
    writer = Writer(chat)
    fed = writer.write(_user("\t Hi\u3000", end=False))
    assert writer.held == len("Hi\u3000")
    fed += writer.write(_user(" you  "))
    assert [f.id for f in fed] == _ids("<|im_start|>user\nHi\u3000 you<|im_end|>")
    assert [f.end for f in fed if f.reads] == [len("\t Hi\u3000 you  ")]


def test_blanks_that_wait_for_what_follows_are_stripped_in_front_of_it() -> None:
    ends = "text.lstrip('\\n').rstrip() + '<|im_end|>\\n'"
    chat = Chat(_checkpoint(_changed("text + '<|im_end|>\\n'", ends)))
    writer = Writer(chat)
    fed = [f for text in ("\n", " ", "\nHi", "\n") for f in writer.write(_user(text, end=False))]
    fed += writer.write(_user(""))
    assert [f.id for f in fed] == _ids("<|im_start|>user\n \nHi<|im_end|>")


def test_a_tokenizer_that_changes_characters_is_taken() -> None:
    checkpoint = _checkpoint()
    parts = json.loads(checkpoint.tokenizer_json)
    parts["normalizer"] = {"type": "NFKC"}
    changed = dataclasses.replace(checkpoint, tokenizer_json=json.dumps(parts))
    with pytest.raises(CheckpointError, match="normalizer NFC or none"):
        Chat(changed)
