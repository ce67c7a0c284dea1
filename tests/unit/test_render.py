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


RECORDS = {
    topics.VERDICTS: verdict(event_id=HOSTILE),
    topics.REVIEW: {
        "kind": "review",
        "verdict": verdict(event_id=HOSTILE, tenant=HOSTILE),
        "content": {
            "messages": [{"role": HOSTILE, "content": HOSTILE}],
            "context": HOSTILE,
            "link": HOSTILE,
            "reports": [{"reason": HOSTILE}],
        },
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
