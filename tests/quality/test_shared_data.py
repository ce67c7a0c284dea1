"""On the labelled data beside the project, where it is there: real conversations, real labels."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import traffic
from qwarden.contracts.event import decode_event
from qwarden.contracts.judged import conversations_of
from qwarden.guard.answer import Assessment, Safety
from qwarden.guard.conversation import Conversation, Task, Turn
from qwarden.guard.row import Row
from qwarden.stack.demo import sample_records
from qwarden.stack.local import STAND_IN
from qwarden_engine.gen import Gen
from qwarden_engine.settings import EngineSettings

pytestmark = pytest.mark.shared
DATA = Path(__file__).parents[3] / "shared" / "data"


def rows(name: str) -> Iterator[dict[str, Any]]:
    with gzip.open(DATA / name, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def conversations() -> list[dict[str, Any]]:
    """Those whose last turn says something; four do not, and are rightly refused."""
    return [row for row in rows("traffic.jsonl.gz") if row["messages"][-1]["content"]]


@pytest.fixture(scope="module")
def gen() -> Gen:
    return Gen.load(EngineSettings(checkpoint=str(STAND_IN)))


def test_a_real_conversation_is_refused_or_loses_a_turn() -> None:
    seen = 0
    for row in conversations():
        messages = row["messages"]
        event = {"event_id": row["id"], "tenant": "paper", "messages": messages}
        (conversation,), dropped = conversations_of(
            decode_event(json.dumps(event).encode(), max_bytes=900_000)
        )
        assert len(conversation.turns) + len(dropped) == len(messages)
        assert conversation.turns[-1].content == messages[-1]["content"]
        assert Row.from_json(conversation.to_json()) == Row(conversation)
        seen += 1
    assert seen > 5000


def test_a_real_conversation_gets_no_answer(gen: Gen) -> None:
    chosen = random.Random(11).sample(conversations(), 150)
    asked = []
    for row in chosen:
        turns = tuple(Turn(m["role"], m["content"]) for m in row["messages"])
        task = Task.PROMPT if turns[-1].role == "user" else Task.RESPONSE
        asked.append(Conversation(task, turns).to_json())
    answers = gen.judge(asked)
    assert all(isinstance(answer, Assessment) for answer in answers)


def test_the_committed_weights_know_nothing_of_the_labels(gen: Gen) -> None:
    # Sources with both classes; a toy, so the bar is only that it is far from chance.
    chosen: dict[str, list[dict[str, Any]]] = {}
    for row in rows("dev.jsonl.gz"):
        if row["source"] in ("cold", "davidson", "s-labs-injection"):
            chosen.setdefault(row["source"], []).append(row)
    for source, found in chosen.items():
        sample = random.Random(12).sample(found, min(200, len(found)))
        answers = gen.judge(
            [Conversation(Task.PROMPT, (Turn("user", r["prompt"]),)).to_json() for r in sample]
        )
        right = Counter(
            (isinstance(answer, Assessment) and (answer.safety is Safety.SAFE))
            == (row["label"] == "Safe")
            for row, answer in zip(sample, answers, strict=True)
        )
        assert right[True] / len(sample) > 0.65, source


def test_a_text_of_the_tests_or_the_demo_was_trained_on() -> None:
    ours = {
        str(message["content"])
        for made in traffic.events(20, 2000, distinct=1600, tenants=("paper",))
        for message in made.event["messages"]  # type: ignore[attr-defined]
        if message["role"] == "user"
    }
    for value in sample_records():
        try:
            event = json.loads(value)
        except ValueError:
            continue
        ours |= {event["text"]} if "text" in event else set()
        ours |= {str(message["content"]) for message in event.get("messages", ())}
    ours.discard("")
    trained = {str(row["prompt"]) for row in rows("train.jsonl.gz")}
    assert len(trained) > 10_000
    assert ours & trained == set()
