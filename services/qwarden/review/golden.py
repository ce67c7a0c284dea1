"""A golden item, whose right answer is known: as people write it, and as it is shown. Pure."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import msgspec

from qwarden.contracts.escalation import Content
from qwarden.contracts.event import ROLES, Message
from qwarden.contracts.topics import MAX_EVENT_BYTES
from qwarden.contracts.values import Name
from qwarden.contracts.verdict import (
    Action,
    Basis,
    CategoryScore,
    Facts,
    PolicyUsed,
    Scores,
    Verdict,
    encode,
)
from qwarden.guard.conversation import Task
from qwarden.guard.taxonomy import categories_of
from qwarden.policy.file import NAME
from qwarden.policy.sources import BUILT_IN
from qwarden.review.order import APPEALS, QUALITY, URGENT
from qwarden.review.person import UNDETERMINED, primary
from qwarden.review.refusals import Invalid

RULE = "controversial"
"""Of one that comes to an empty queue: as the built-in policy `default` sends them."""


class Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One golden item as people write it."""

    tenant: Name
    queue: Annotated[str, msgspec.Meta(pattern=NAME)]
    action: Literal["allow", "disclaim", "block"]
    """The right answer."""
    messages: list[Message] | None = None
    text: str | None = None
    """The short form of one user turn."""
    context: str | None = None
    link: str | None = None
    """Where platforms send these two with their events, an item without them tells what it is."""
    language: str | None = None
    category: str | None = None
    task: Literal["prompt", "response", "thinking"] | None = None
    """By default what the last turn is judged as."""
    note: Annotated[str, msgspec.Meta(max_length=4000)] | None = None
    """Why it is the right answer; reviewers never see it."""
    verdict: Verdict | None = None
    """What the guard says of this content, as `qwarden moderate` writes it. Without it the item
    shows scores that are made up, close to those of what is unclear."""


class Shown(Verdict, frozen=True, kw_only=True):
    """What a golden item shows of a verdict, with the note beside it."""

    note: str | None = None


def line_of(data: bytes) -> Line:
    """One golden item. Raises `Invalid` with a sentence, which holds nothing of its content."""
    try:
        line = msgspec.json.decode(data, type=Line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Invalid(f"not a golden item: {reason}") from None
    if line.queue in (URGENT, QUALITY, APPEALS):
        raise Invalid(f"the queue {line.queue} has no golden items; name one of a policy's")
    if line.language is not None and primary(line.language) == UNDETERMINED:
        raise Invalid("language: no language has this tag; write one such as en or pt-BR")
    if (line.text is None) == (line.messages is None):
        raise Invalid("it has messages, or text, and not both")
    content = content_of(line)
    written = encode(content)
    if len(written) > MAX_EVENT_BYTES:
        raise Invalid(
            f"the content has {len(written):,} bytes; at most {MAX_EVENT_BYTES:,} are kept"
        )
    if not content.messages or any(each.role not in ROLES for each in content.messages):
        raise Invalid(f"messages: at least one, each with a role of {', '.join(ROLES)}")
    last = content.messages[-1]
    if last.role not in ("user", "assistant") or not (last.content or last.reasoning):
        raise Invalid("the last message is what is judged: a user's or an assistant's, not empty")
    task = task_of(line)
    if (task is Task.PROMPT) != (last.role == "user"):
        raise Invalid(f"task: a {task.value} does not end with a turn of the {last.role}")
    if line.category is not None and line.category not in categories_of(task):
        raise Invalid(f"category: one of {', '.join(categories_of(task))}")
    return line


def content_of(line: Line) -> Content:
    """What is judged, and what is shown beside it."""
    return Content(
        messages=[Message(role="user", content=line.text or "")]
        if line.messages is None
        else line.messages,
        context=line.context,
        link=line.link,
    )


def task_of(line: Line) -> Task:
    """What the last turn is judged as."""
    if line.task is not None:
        return Task(line.task)
    last = content_of(line).messages[-1]
    if last.role == "user":
        return Task.PROMPT
    return Task.RESPONSE if last.content else Task.THINKING


def category_of(line: Line) -> str:
    """The one that is written, else the first that the guard named; or empty."""
    named = line.verdict.categories if line.verdict is not None else None
    return line.category or (named[0] if named else "")


_THE_GUARDS = (
    "safety", "scores", "categories", "category_scores", "refusal", "views", "guard", "dropped",
)  # fmt: skip
"""Of a verdict what the guard said, and no policy."""


def shown_of(line: Line, golden_id: str) -> Shown:
    """What the item shows of a verdict: the guard's own where it was given."""
    said = line.verdict
    category = category_of(line)
    scores = _scores(golden_id)
    made = Shown(
        verdict_id=golden_id,
        event_id=golden_id,
        edit=0,
        tenant=line.tenant,
        subject=None,
        task=task_of(line).value,
        safety="Controversial",
        scores=scores,
        categories=[category] if category else [],
        category_scores=[CategoryScore(category, scores.controversial)] if category else None,
        refusal=None if task_of(line) is Task.PROMPT else False,
        language=line.language or (said.language if said else None),
        content_hash=None,
        facts=Facts(),
        action=Action.REVIEW,
        meanwhile="hide",
        notice=None,
        basis=Basis.GUARD,
        cause=None,
        guard=None,
        policy=PolicyUsed("default", BUILT_IN["default"].version, 0, RULE),
        dropped=[],
        note=line.note,
    )
    if said is None:
        return made
    return msgspec.structs.replace(made, **{name: getattr(said, name) for name in _THE_GUARDS})


def _scores(golden_id: str) -> Scores:
    """Made up, and the same for one item: the middle one between 0.40 and 0.85, as the guard has it
    of most that it cannot tell; the rest falls to either side."""
    digits = hashlib.blake2b(golden_id.encode(), digest_size=2, person=b"qwarden.scores").digest()
    middle = round(0.40 + 0.45 * digits[0] / 255, 3)
    unsafe = round((1 - middle) * (0.2 + 0.6 * digits[1] / 255), 3)
    return Scores(round(1 - middle - unsafe, 3), middle, unsafe)
