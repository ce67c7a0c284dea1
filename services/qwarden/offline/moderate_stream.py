"""A JSONL of events judged token by token, without Kafka: one row a line, in order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from qwarden.contracts.dead_letter import Origin, dead_letter
from qwarden.contracts.refusal import ErrorClass, Refused
from qwarden.contracts.verdict import Guard, Scores
from qwarden.guard.conversation import Task
from qwarden.guard.debounce import Latch, Rule
from qwarden.guard.stream import Part, Scored
from qwarden.moderator.case import Admission, Case
from qwarden.offline.moderate import ResumeError
from qwarden.offline.stream_reading import ExchangeReader, Read, in_order, parts_of
from qwarden.outcomes.said import guard_of, scores_of
from qwarden.outcomes.source import Source


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
    """What the guard says at the end of the user's turn."""

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
    which made a Controversial one Unsafe; null where none did. `safety` and `category`: those of
    the flag, after its rise; Safe without one, and null where there are no tokens. `cause`: why it
    was not judged to its end (`too_long`, `no_answer`), or at all (`withdrawn`), else null.
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
    rules = case.policy.rules
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
    rules = case.policy.rules
    prompt = thinking = None
    if (said := read.prompt) is not None:
        prompt = Prompt(str(said.safety), scores_of(said.scores), _category(said))
    if read.thinking:
        thinking = Thinking(_tokens(read.thinking), *_flag(rules[Task.THINKING], read.thinking))
    flagged_at, risen_at, safety, category = _flag(rules[Task.RESPONSE], read.response)
    return Row(
        event_id=case.event.event_id,
        tenant=case.event.tenant,
        prompt=prompt,
        thinking=thinking,
        tokens=_tokens(read.response),
        flagged_at=flagged_at,
        risen_at=risen_at,
        safety=safety,
        category=category,
        cause="no_answer" if read.failure else "too_long" if read.closed else None,
        reason=read.failure or None,
        guard=guard_of(read.revision) if read.revision else None,
        policy=PolicyUsed(case.policy.name, case.policy.version),
        dropped=case.dropped,
    )


def _tokens(scored: Iterable[Scored]) -> tuple[Token, ...]:
    return tuple(
        Token(each.start, each.end, scores_of(each.scores), _category(each)) for each in scored
    )


def _category(scored: Scored) -> str | None:
    return scored.categories[0][0] if scored.categories else None


def _flag(
    rule: Rule, scored: Sequence[Scored]
) -> tuple[int | None, int | None, str | None, str | None]:
    """Where a flag was raised and where it rose, and its safety and category at last."""
    latch = Latch(rule)
    flagged_at = risen_at = None
    for each in scored:
        raised = latch.see(each)
        if raised is not None and raised.kind == "flag":
            flagged_at = raised.token
        elif raised is not None:
            risen_at = raised.token
    if latch.raised is None:
        return None, None, "Safe" if scored else None, None
    return flagged_at, risen_at, str(latch.raised.safety), latch.raised.category


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


class _Revised(msgspec.Struct):
    revision: str = ""


class _Known(msgspec.Struct):
    """What tells whose a row is: one of an event names it, a dead letter has its line's hash."""

    event_id: str = ""
    guard: _Revised | None = None
    policy: PolicyUsed | None = None
    content: dict[str, Any] | None = None


def resume(
    out: Path, lines: Sequence[bytes], revision: str, policies: dict[str, str], admission: Admission
) -> int:
    """How many of `lines` have their row in `out` already; a broken one at its end is cut off.

    `policies`: name to version. Raises `ResumeError` for a row of another line, guard or policy.
    """
    if not out.exists():
        return 0
    decoder = msgspec.json.Decoder(_Known)
    whole = done = 0
    with out.open("r+b") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            where = f"line {number} of {out}"
            try:
                row = decoder.decode(line)
            except msgspec.DecodeError:
                raise ResumeError(f"{where} is not a row; name another file with --out") from None
            if done == len(lines) or not _is_of(row, lines[done], admission):
                raise ResumeError(
                    f"{where} is not the row of line {done + 1} of this input; name another file "
                    "with --out"
                )
            if row.guard is not None and row.guard.revision != revision:
                raise ResumeError(
                    f"{where} was begun with the guard {row.guard.revision} and this one is "
                    f"{revision}; finish it with that one, or name another file with --out"
                )
            used = row.policy
            if used is not None and policies.get(used.name, used.version) != used.version:
                raise ResumeError(
                    f"{where} was begun with another version of the policy {used.name}; finish it "
                    "with that one, or name another file with --out"
                )
            whole = file.tell()
            done += 1
        file.truncate(whole)
    return done


def _is_of(row: _Known, line: bytes, admission: Admission) -> bool:
    if row.content is not None:
        return bool(row.content.get("sha256") == hashlib.sha256(line).hexdigest())
    try:
        case = admission.admit(Source("", 0, 0, 0, None, line, ()))
    except Refused:
        return False
    return case.event.event_id == row.event_id
