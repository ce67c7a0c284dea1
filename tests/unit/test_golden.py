"""A golden item: what cannot be one, and what it shows of a verdict that nobody gave."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qwarden.contracts.topics import MAX_EVENT_BYTES
from qwarden.contracts.verdict import encode
from qwarden.guard.conversation import Task
from qwarden.review.golden import Line, category_of, content_of, line_of, shown_of, task_of
from qwarden.review.person import UNDETERMINED, primary
from qwarden.review.refusals import Invalid
from unit.builders import verdict

QUESTION = {"role": "user", "content": "How do I bake bread?"}
ANSWER = {"role": "assistant", "content": "Mix flour and water."}
THOUGHT = {"role": "assistant", "content": "", "reasoning": "They want bread."}


def written(**fields: Any) -> bytes:
    body = {"tenant": "demo", "queue": "general", "action": "allow", "text": "x"} | fields
    return json.dumps({name: value for name, value in body.items() if value is not ...}).encode()


def line(*messages: dict[str, str], **fields: Any) -> Line:
    return line_of(written(text=..., messages=list(messages), **fields))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"{", "not a golden item"),
        (b"\xff", "not a golden item"),
        (b'{"messages":[{"mood":' + b"[" * 100_000, "nested too deeply"),
        (written(colour="red"), "not a golden item"),
        (written(action="review"), "not a golden item"),
        *((written(queue=name), f"{name} has no") for name in ("urgent", "quality", "appeals")),
        (written(language="und"), "no language has this tag"),
        (written(language="???"), "no language has this tag"),
        (written(messages=[QUESTION]), "messages, or text, and not both"),
        (written(text=...), "messages, or text, and not both"),
        (written(text="x" * MAX_EVENT_BYTES), "at most 900,000 are kept"),
        (written(text=..., messages=[]), "at least one, each with a role of"),
        (written(text=..., messages=[{"role": "judge", "content": "x"}]), "each with a role of"),
        (written(text=..., messages=[QUESTION, {"role": "tool", "content": "x"}]), "not empty"),
        (written(text=""), "a user's or an assistant's, not empty"),
        (written(task="response"), "a response does not end with a turn of the user"),
        (
            written(text=..., messages=[QUESTION, ANSWER], task="prompt"),
            "a prompt does not end with a turn of the assistant",
        ),
        (written(category="Rude"), "category: one of Violent"),
        (
            written(text=..., messages=[QUESTION, ANSWER], category="Jailbreak"),
            "category: one of Violent",
        ),
    ],
)
def test_what_cannot_be_judged_is_given_to_people(data: bytes, sentence: str) -> None:
    with pytest.raises(Invalid, match=sentence):
        line_of(data)


def test_the_largest_content_that_is_kept_is_refused() -> None:
    beside = len(encode(content_of(line_of(written())))) - 1
    room = MAX_EVENT_BYTES - beside
    assert line_of(written(text="x" * room)).text == "x" * room
    with pytest.raises(Invalid, match="has 900,001 bytes"):
        line_of(written(text="x" * (room + 1)))


@pytest.mark.parametrize(
    ("messages", "task"),
    [
        ([QUESTION], Task.PROMPT),
        ([QUESTION, ANSWER], Task.RESPONSE),
        ([QUESTION, THOUGHT], Task.THINKING),
    ],
)
def test_a_golden_item_is_judged_as_another_turn_than_its_last(
    messages: list[dict[str, str]], task: Task
) -> None:
    assert task_of(line(*messages)) is task
    shown = shown_of(line(*messages), "a" * 32)
    assert (shown.task, shown.refusal) == (task.value, None if task is Task.PROMPT else False)
    thought = line(QUESTION, ANSWER | {"reasoning": "r"}, task="thinking")
    assert task_of(thought) is Task.THINKING


def test_what_the_guard_said_of_a_golden_item_is_made_up() -> None:
    scores = {"safe": 0.1, "controversial": 0.2, "unsafe": 0.7}
    said = json.loads(encode(verdict("b" * 32, safety="Unsafe", scores=scores, language="de",
                                     categories=["PII", "Violent"], basis="human")))  # fmt: skip
    given = line_of(written(verdict=said, note="why"))
    shown = shown_of(given, "a" * 32)
    assert (shown.safety, shown.categories) == ("Unsafe", ["PII", "Violent"])
    assert shown.scores is not None and shown.scores.unsafe == 0.7
    assert (shown.language, shown.note, category_of(given)) == ("de", "why", "PII")
    assert (shown.verdict_id, shown.basis, shown.action) == ("a" * 32, "guard", "review")
    own = line_of(written(verdict=said, language="fr", category="Violent"))
    assert (shown_of(own, "a" * 32).language, category_of(own)) == ("fr", "Violent")
    nothing = line_of(written(verdict=said | {"categories": []}))
    assert category_of(nothing) == ""


def test_scores_that_are_made_up_tell_which_items_are_golden() -> None:
    """They are as the guard has them of what is unclear, and one item's are always the same."""
    given = line_of(written(category="PII"))
    shown = [shown_of(given, f"{number:032x}") for number in range(200)]
    for each in shown:
        scores = each.scores
        assert scores is not None and each.category_scores is not None
        assert 0.40 <= scores.controversial <= 0.85
        assert min(scores.safe, scores.unsafe) > 0
        assert round(scores.safe + scores.controversial + scores.unsafe, 3) == 1
        assert each.category_scores[0].score == scores.controversial
        assert each.categories == ["PII"]
    assert len({each.scores for each in shown}) > 150
    assert shown_of(given, "0" * 32) == shown[0]
    bare = shown_of(line_of(written()), "a" * 32)
    assert (bare.categories, bare.category_scores) == ([], None)


@pytest.mark.parametrize(
    ("tag", "subtag"),
    [
        ("pt-BR", "pt"),
        ("EN", "en"),
        ("und", UNDETERMINED),
        ("", UNDETERMINED),
        (None, UNDETERMINED),
    ],
)
def test_content_in_a_dialect_is_given_to_nobody(tag: str | None, subtag: str) -> None:
    assert primary(tag) == subtag
