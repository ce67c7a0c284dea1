"""A JSONL of events judged token by token, without Kafka: one row a line, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from qwarden.contracts.dead_letter import Origin, dead_letter
from qwarden.contracts.refusal import ErrorClass, Refused
from qwarden.contracts.verdict import Guard, Scores
from qwarden.guard.conversation import Task
from qwarden.guard.debounce import Latch, Rule
from qwarden.guard.stream import Part, Scored
from qwarden.moderator.case import Admission, Case
from qwarden.offline.stream_reading import ExchangeReader, Read, in_order, parts_of
from qwarden.outcomes.said import guard_of, scores_of
from qwarden.outcomes.source import Source
from qwarden.streamer.verdicts import word_of


class PolicyUsed(msgspec.Struct, frozen=True):
    """The policy whose rules say which tokens are a flag."""

    name: str
    version: str


class Token(msgspec.Struct, frozen=True):
    """A token of a text: the characters that it covers, and what the guard says there. `category`:
    the likeliest, null where the likeliest safety is Safe."""

    start: int
    end: int
    scores: Scores
    category: str | None


class Prompt(msgspec.Struct, frozen=True):
    """What the guard says at the end of the user's turn, under the policy's rule."""

    safety: str
    scores: Scores
    category: str | None


class Thinking(msgspec.Struct, frozen=True):
    """As the same fields of a row, of the thought."""

    tokens: tuple[Token, ...]
    flagged_at: int | None
    risen_at: int | None
    safety: str | None
    category: str | None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of one event.

    `tokens`: of the last assistant's turn, its thought apart in `thinking`; empty where the last
    turn is a user's. `flagged_at`: which of the tokens raised the flag, from 0, and `risen_at`
    which made a Controversial one Unsafe; null where none did. `safety` and `category`: what the
    streamer says of such a session before another guard has looked: those of the flag, after its
    rise; without one those of the last token under the policy's rule; null where there are no
    tokens, and without a flag where it was not judged to its end. `cause`: why it was not
    (`too_long`, `no_answer`), or not at all (`withdrawn`), else null.
    """

    event_id: str
    tenant: str
    prompt: Prompt | None = None
    thinking: Thinking | None = None
    tokens: tuple[Token, ...] = ()
    flagged_at: int | None = None
    risen_at: int | None = None
    safety: str | None = None
    category: str | None = None
    cause: str | None = None
    reason: str | None = None
    guard: Guard | None = None
    policy: PolicyUsed | None = None
    dropped: tuple[str, ...] = ()


Drawn = Callable[[str, Case, Read], object]
"""Is told of each event that was judged: a name for its picture, the event, what the guard says."""


async def moderate_stream(
    reader: ExchangeReader,
    admission: Admission,
    lines: Sequence[bytes],
    *,
    name: str,
    first: int,
    write: Callable[[bytes], object],
    done: Callable[[int], object],
    drawn: Drawn | None = None,
) -> None:
    """Writes a row for each line, in order: what is said of its event, or a dead letter that says
    why there is nothing. `first`: the number of the first line, from 0."""

    async def judge(item: tuple[int, bytes]) -> tuple[msgspec.Struct, Case | None, Read | None]:
        offset, line = item
        source = Source(name, 0, offset, 0, None, line, ())
        try:
            case = admission.admit(source)
            if case.policy is None:
                return Row(event_id=case.event.event_id, tenant=case.event.tenant,
                           cause="withdrawn"), None, None  # fmt: skip
            read = await reader.read(exchange_of(case))
            if read.refused:
                raise _refusal(case, ErrorClass.GUARD_REFUSED, read.refused)
        except Refused as refused:
            return _letter(refused, source, admission.max_event_bytes), None, None
        return row_of(case, read), case, read

    async for (offset, _), (row, case, read) in in_order(enumerate(lines, first), judge):
        write(msgspec.json.encode(row) + b"\n")
        if drawn is not None and case is not None and read is not None and not read.failure:
            drawn(f"{offset + 1:06}", case, read)
        done(1)


def draw(folder: Path, name: str, case: Case, read: Read) -> None:
    """Writes a picture of one event. Needs matplotlib."""
    from qwarden.offline.score_sheet import draw_sheet, section_of

    assert case.policy is not None
    rules = case.policy.flags
    parts = exchange_of(case)
    asked = next(part for part in reversed(parts) if part.role == "user")
    prompt = () if read.prompt is None else (read.prompt,)
    sections = [section_of(Task.PROMPT, asked.text, prompt, rules[Task.PROMPT])]
    texts = text_of(case)
    for task, scored in ((Task.THINKING, read.thinking), (Task.RESPONSE, read.response)):
        if task in texts:
            sections.append(section_of(task, texts[task], scored, rules[task]))
    under = f"tenant {case.event.tenant}, policy {case.policy.name}; judged by {read.revision}"
    draw_sheet(case.event.event_id, under, sections, folder / f"{name}.png")


def exchange_of(case: Case) -> tuple[Part, ...]:
    """What the guard is sent of an event. Raises `Refused`."""
    conversations = {question.task: question.conversation for question in case.questions}
    asked = conversations.get(Task.PROMPT)
    try:
        if asked is not None:
            return parts_of(asked.turns)
        texts = text_of(case)
        [*turns, _] = next(iter(conversations.values())).turns
        return parts_of(turns, texts.get(Task.THINKING, ""), texts.get(Task.RESPONSE, ""))
    except ValueError as error:
        raise _refusal(case, ErrorClass.CONVERSATION, str(error)) from None


def text_of(case: Case) -> dict[Task, str]:
    """The text of each task that is judged."""
    return {question.task: question.conversation.turns[-1].content for question in case.questions}


def row_of(case: Case, read: Read) -> Row:
    """The row of a judged event."""
    assert case.policy is not None
    rules = case.policy.flags
    cause = "no_answer" if read.failure else "too_long" if read.closed else None
    prompt = thinking = None
    if read.prompt is not None:
        said = _said(rules[Task.PROMPT], [read.prompt], None)
        prompt = Prompt(str(said.safety), scores_of(read.prompt.scores), said.category)
    if read.thinking:
        said = _said(rules[Task.THINKING], read.thinking, cause)
        thinking = Thinking(
            _tokens(read.thinking), said.flagged_at, said.risen_at, said.safety, said.category
        )
    said = _said(rules[Task.RESPONSE], read.response, cause)
    return Row(
        event_id=case.event.event_id,
        tenant=case.event.tenant,
        prompt=prompt,
        thinking=thinking,
        tokens=_tokens(read.response),
        flagged_at=said.flagged_at,
        risen_at=said.risen_at,
        safety=said.safety,
        category=said.category,
        cause=cause,
        reason=read.failure or None,
        guard=guard_of(read.revision) if read.revision else None,
        policy=PolicyUsed(case.policy.name, case.policy.version),
        dropped=case.dropped,
    )


def _tokens(scored: Iterable[Scored]) -> tuple[Token, ...]:
    return tuple(
        Token(
            each.start,
            each.end,
            scores_of(each.scores),
            each.categories[0][0] if each.categories else None,
        )
        for each in scored
    )


class _Said(NamedTuple):
    """What the tokens of a task come to, as the streamer says it of a session, and where a flag
    was raised and rose."""

    flagged_at: int | None = None
    risen_at: int | None = None
    safety: str | None = None
    category: str | None = None


def _said(rule: Rule, scored: Sequence[Scored], cause: str | None) -> _Said:
    """`cause`: why the text was not judged to its end: then only a flag says anything of it."""
    latch = Latch(rule)
    at: dict[str, int] = {}
    for each in scored:
        raised = latch.see(each)
        if raised is not None:
            at[raised.kind] = raised.token
    word = word_of(latch)
    if word is None or (cause is not None and not word.is_flag):
        return _Said()
    return _Said(at.get("flag"), at.get("rise"), str(word.safety), word.category)


def _refusal(case: Case, error_class: ErrorClass, reason: str) -> Refused:
    event = case.event
    return Refused(error_class, reason, event_id=event.event_id, tenant=event.tenant)


def _letter(refused: Refused, source: Source, max_bytes: int) -> msgspec.Struct:
    return dead_letter(
        refused,
        origin=Origin(source.topic, source.partition, source.offset, source.timestamp),
        key=None,
        value=source.value,
        headers=(),
        consumer="qwarden moderate --stream",
        max_bytes=max_bytes,
    )


def tasks_of(_: Case) -> tuple[None]:
    """The task of each outcome of an event: it has one row, which is of all its tasks."""
    return (None,)
