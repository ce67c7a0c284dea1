"""What bfloat16 changes beside float32: the likeliest safety of tokens, and latches of texts."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qwarden.guard.conversation import Conversation, Task
from qwarden.guard.debounce import RULES, Latch
from qwarden.guard.stream import Append, Part, Scored, Segment, Status
from qwarden_engine.stream.engine import Stream
from qwarden_engine.stream.settings import StreamSettings

_AT_ONCE = 8
"""Sessions of one call."""


def measure(
    name: str,
    checkpoint: Path,
    conversations: Sequence[Conversation],
    threads: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Every conversation as a session of its own, in both dtypes, under the rules of each task.
    `name`: of the checkpoint, in the results."""
    appends = [Append("bench", str(at), 0, _parts(each)) for at, each in enumerate(conversations)]
    one, other = (_scored(checkpoint, appends, dtype, threads) for dtype in ("float32", "bfloat16"))
    tokens = changed = texts = raised = latches = 0
    for some, others in zip(one, other, strict=True):
        tokens += len(some)
        changed += sum(a.safety is not b.safety for a, b in zip(some, others, strict=True))
        before, after = _latched(some), _latched(others)
        texts += len(before)
        raised += sum(each is not None for each in before.values())
        latches += sum(before[task] != after[task] for task in before)
    found = {
        "checkpoint": name,
        "sessions": len(conversations),
        "tokens": tokens,
        "changed_tokens": changed,
        "changed_tokens_share": round(changed / tokens, 5),
        "texts": texts,
        "latched_texts": raised,
        "changed_latches": latches,
        "changed_latches_share": round(latches / texts, 5),
    }
    say(f"bfloat16, {name}: {latches} of {texts} latches are others")
    return found


def _parts(conversation: Conversation) -> tuple[Part, ...]:
    *before, last = conversation.turns
    segment = Segment.THINKING if conversation.task is Task.THINKING else Segment.ANSWER
    at = max(n for n, turn in enumerate(conversation.turns) if turn.role == "user")
    history = [Part(turn.role, turn.content, end=True, history=True) for turn in before[:at]]
    if last.role == "user":
        return (*history, Part("user", last.content, end=True))
    return (
        *history,
        Part("user", before[at].content, end=True),
        Part("assistant", last.content, segment, end=True),
    )


def _scored(
    checkpoint: Path, appends: Sequence[Append], dtype: str, threads: int
) -> list[tuple[Scored, ...]]:
    settings = StreamSettings.model_validate(
        {
            "checkpoint": str(checkpoint),
            "device": "cpu",
            "dtype": dtype,
            "threads": threads,
            "kv_mib": 4096,
        }
    )
    stream = Stream.load(settings)
    found = []
    for at in range(0, len(appends), _AT_ONCE):
        for answer in stream.append(appends[at : at + _AT_ONCE]):
            if answer.status is not Status.DONE:
                raise RuntimeError(f"an append was answered {answer.status}: {answer.reason}")
            found.append(answer.scored)
    stream.close()
    del stream
    gc.collect()
    return found


def _latched(scored: Sequence[Scored]) -> dict[Task, tuple[Any, ...] | None]:
    """Of each task where it was flagged at last, and as what."""
    latches: dict[Task, Latch] = {}
    for each in scored:
        latches.setdefault(each.task, Latch(RULES[each.task])).see(each)
    found: dict[Task, tuple[Any, ...] | None] = {}
    for task, latch in latches.items():
        raised = latch.raised
        found[task] = (raised.safety, raised.category, raised.token) if raised else None
    return found
