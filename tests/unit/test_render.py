"""What a terminal shows of records that somebody else wrote."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from qwarden import render
from qwarden.contracts import topics

HOSTILE = "\x1b[2J\x1b]0;pwned\x07 \x9b31m \u202eabc\u2066"


def shown(topic: str, value: bytes) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=False, width=200)
    console.print(render.record(topic, value, []))
    return out.getvalue()


def verdict(**more: object) -> dict[str, object]:
    plain: dict[str, object] = dict.fromkeys(
        ("subject", "task", "safety", "scores", "categories", "category_scores", "refusal",
         "language", "content_hash", "cause", "guard", "policy")
    )  # fmt: skip
    return plain | {
        "verdict_id": "0" * 32, "event_id": "e", "edit": 0, "tenant": "t", "facts": {},
        "action": "review", "basis": "guard", "dropped": [],
    } | more  # fmt: skip


SCORES = {"safe": 0.125, "controversial": 0.25, "unsafe": 0.625}

RECORDS = {
    topics.VERDICTS: verdict(event_id=HOSTILE, task=HOSTILE),
    topics.REVIEW: {
        "kind": "review",
        "verdict": verdict(
            event_id=HOSTILE,
            tenant=HOSTILE,
            task=HOSTILE,
            views=[{"name": HOSTILE, "piece": 0, "safety": HOSTILE, "scores": SCORES}],
        ),
        "content": {
            "messages": [{"role": HOSTILE, "content": HOSTILE, "reasoning": HOSTILE}],
            "context": HOSTILE,
            "link": HOSTILE,
            "reports": [{"reason": HOSTILE}],
        },
    },
    topics.SIGNALS: {
        "tenant": HOSTILE,
        "session": HOSTILE,
        "task": HOSTILE,
        "kind": "flag",
        "seq": 2,
        "token": 3,
        "char": 9,
        "safety": HOSTILE,
        "category": HOSTILE,
        "cause": None,
        "action": "block",
        "guard": None,
        "policy": None,
    },
    topics.DEAD_LETTERS: {
        "origin": {"topic": "content.events", "partition": 0, "offset": 1, "timestamp": 0},
        "key": HOSTILE,
        "headers": [],
        "event_id": HOSTILE,
        "tenant": HOSTILE,
        "error_class": "not_json",
        "reason": HOSTILE,
        "attempts": 1,
        "consumer": "c",
        "content": {
            "encoding": "utf-8",
            "value": "",
            "truncated": False,
            "bytes": 0,
            "sha256": "",
        },
    },
    topics.EVIDENCE: {"anything": HOSTILE},
}


@pytest.mark.parametrize("topic", RECORDS)
def test_a_record_clears_or_forges_the_terminal(topic: str) -> None:
    text = shown(topic, json.dumps(RECORDS[topic], ensure_ascii=False).encode())
    assert "\\u001b[2J" in text
    assert not set(text) & set("\x1b\x07\x9b\u202e\u2066")


def test_a_record_of_another_form_ends_the_tail() -> None:
    for topic in topics.ALL:
        for value in (b"", b"null", b"{}", b"\xff\xfe", b'{"verdict": 1}'):
            assert shown(topic, value) is not None


def test_markup_in_a_text_is_taken_for_ours() -> None:
    record = {
        "kind": "review",
        "verdict": verdict(tenant="[red]", event_id="[/red]"),
        "content": {"messages": [{"role": "user", "content": "[bold]not ours[/bold]"}]},
    }
    text = shown(topics.REVIEW, json.dumps(record).encode())
    assert "[bold]not ours[/bold]" in text
    assert "[red]/[/red]" in text


def test_the_two_verdicts_of_a_record_look_alike() -> None:
    for task in ("response", "thinking"):
        assert task in shown(topics.VERDICTS, json.dumps(verdict(task=task)).encode())
        close = {"kind": "close", "verdict": verdict(task=task), "content": None}
        assert task in shown(topics.REVIEW, json.dumps(close).encode())


def test_a_reviewer_does_not_see_the_reasoning_or_the_views() -> None:
    view = {"name": "markers_broken", "piece": 1, "safety": "Unsafe", "scores": SCORES}
    turn = {"role": "assistant", "content": "the answer", "reasoning": "the thought"}
    record = {
        "kind": "review",
        "verdict": verdict(task="thinking", views=[view]),
        "content": {"messages": [turn]},
    }
    text = shown(topics.REVIEW, json.dumps(record).encode())
    assert text.index("assistant, thinking: the thought") < text.index("assistant: the answer")
    assert "markers_broken, piece 2: Unsafe 0.125/0.250/0.625" in text


def test_what_an_undo_is_given_is_not_on_the_terminal() -> None:
    """`qwarden rejudge` asks for the policy's version and the rule."""
    used = {"name": "forum", "version": "3f2a9c01b7de", "serial": 7, "rule": "insults\x1b"}
    undone = verdict(policy=used, supersedes="ab" * 16)
    review = {"kind": "review", "verdict": undone, "content": {"messages": []}}
    for topic, value in ((topics.VERDICTS, undone), (topics.REVIEW, review)):
        text = " ".join(shown(topic, json.dumps(value).encode()).split())
        assert "forum@3f2a9c01b7de, insults\\u001b" in text
        assert f"supersedes {'ab' * 16}" in text
