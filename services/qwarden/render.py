"""Records as people read them in a terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

import msgspec
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.text import Text

from qwarden.contracts import headers, topics
from qwarden.contracts.dead_letter import DeadLetter, Mark, Origin, is_mark
from qwarden.contracts.escalation import Escalation
from qwarden.contracts.headers import Header
from qwarden.contracts.signal import Signal
from qwarden.contracts.verdict import Scores, Verdict, decode_verdict

_SAFETY_STYLE = {"Safe": "green", "Controversial": "yellow", "Unsafe": "red"}
_ACTION_STYLE = {"allow": "green", "disclaim": "cyan", "review": "yellow", "block": "red"}
# C0 without tab and newline, DEL and C1, and the marks that set a direction.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_WIDEST_TEXT = 2000
"""Characters of a turn that are shown; the record has them all."""


def record(topic: str, value: bytes | None, carried: Iterable[Header]) -> RenderableType:
    """One record of any topic; what has no form of its own is shown as JSON."""
    carried = list(carried)
    try:
        if topic == topics.VERDICTS:
            return verdict_line(decode_verdict(value or b""), carried)
        if topic == topics.SIGNALS:
            return signal_line(msgspec.json.decode(value or b"", type=Signal))
        if topic == topics.REVIEW:
            return escalation(msgspec.json.decode(value or b"", type=Escalation), carried)
        if topic == topics.DEAD_LETTERS:
            if is_mark(carried):
                return mark(msgspec.json.decode(value or b"", type=Mark))
            return letter(msgspec.json.decode(value or b"", type=DeadLetter))
        return Text(plain(json.dumps(json.loads(value or b"null"), ensure_ascii=False)))
    except (msgspec.DecodeError, ValueError):
        return Text(plain((value or b"").decode(errors="backslashreplace")))


def verdict_line(verdict: Verdict, carried: list[Header]) -> Text:
    """Event, task, safety, scores, categories, action, where it came from, milliseconds; then the
    policy with the rule that acted, and the verdict whose place this one takes."""
    safety = verdict.safety or "-"
    action = verdict.action.value if verdict.action else "-"
    line = Text()
    line.append(f"{plain(verdict.event_id)[:28]:<28} ")
    line.append(f"{_task(verdict):<8} ", "dim")
    line.append(f"{safety:<13} ", _SAFETY_STYLE.get(safety, "dim"))
    line.append(f"{_scores(verdict):<17} ", "dim")
    line.append(f"{', '.join(verdict.categories or []) or '-':<30} ")
    line.append(f"{action:<9}", _ACTION_STYLE.get(action, "dim"))
    line.append(f"{_basis(verdict):<19} ", "dim")
    line.append(f"{headers.header(carried, headers.CACHE) or '-':<7}", "dim")
    line.append(f"{_milliseconds(carried):>8} ms  ", "dim")
    line.append(_policy(verdict))
    if verdict.supersedes is not None:
        line.append(f", supersedes {plain(verdict.supersedes)}", "yellow")
    return line


def signal_line(signal: Signal) -> Text:
    """Session, task, what it tells, where, safety, category, action."""
    safety = signal.safety or "-"
    action = signal.action.value if signal.action else "-"
    line = Text()
    line.append(f"{plain(signal.session)[:28]:<28} ")
    line.append(f"{plain(signal.task):<8} ", "dim")
    line.append(f"{signal.kind.value:<10} ")
    line.append(f"{plain(safety):<13} ", _SAFETY_STYLE.get(safety, "dim"))
    line.append(f"{plain(signal.category or '-'):<30} ")
    line.append(f"{action:<9}", _ACTION_STYLE.get(action, "dim"))
    line.append(f"chunk {signal.seq}, token {signal.token}, character {signal.char}", "dim")
    return line


def verdict_heading() -> Text:
    """The heading of a list of verdict lines."""
    return Text(
        f"{'event':<28} {'task':<8} {'safety':<13} {'safe/contr/unsafe':<17} {'categories':<30} "
        f"{'action':<9}{'basis':<19} {'from':<7}{'took':>11}  policy, rule",
        style="bold",
    )


def escalation(record: Escalation, carried: list[Header]) -> RenderableType:
    """What a reviewer needs: the conversation, the scores, why it came."""
    verdict = record.verdict
    if record.content is None:
        return Text(
            f"close {plain(verdict.tenant)}/{plain(verdict.event_id)} {_task(verdict)} "
            f"edit {verdict.edit}: {verdict.basis.value}, whatever stands open for it is settled",
            style="dim",
        )
    said = f"{escape(_task(verdict))}: {verdict.safety or 'not judged'}"
    lines: list[RenderableType] = [
        Text.from_markup(
            f"[bold]{said}[/] {_scores(verdict)}  "
            f"{escape(', '.join(verdict.categories or []))}  basis {_basis(verdict)}"
        )
    ]
    if verdict.policy is not None:
        lines.append(Text(f"policy {_policy(verdict)}", "dim"))
    if verdict.supersedes is not None:
        lines.append(Text(plain(f"supersedes {verdict.supersedes}"), "dim"))
    for view in verdict.views or []:
        said = f"{view.name}, piece {view.piece + 1}: {view.safety} {_triple(view.scores)}"
        lines.append(Text(plain(said), "dim"))
    for message in record.content.messages:
        content = message.content
        text = content if isinstance(content, str) else "\n".join(p.text or "" for p in content)
        if message.reasoning:
            lines.append(_turn(f"{message.role}, thinking", message.reasoning))
        lines.append(_turn(message.role, text))
    for name in ("context", "link"):
        said = getattr(record.content, name)
        if said:
            lines.append(Text(f"{name}: {plain(said)}", "dim"))
    for report in record.content.reports:
        lines.append(Text(f"reported: {plain(report.reason)}", "dim"))
    title = escape(plain(f"{verdict.tenant}/{verdict.event_id}"))
    return Panel(Group(*lines), title=title, title_align="left", border_style="yellow")


def _turn(role: str, text: str) -> Text:
    return Text.assemble((f"{plain(role)}: ", "bold"), shortened(text))


def letter(dead: DeadLetter) -> Text:
    """Where a dead letter came from and why; its content is not shown."""
    said = (dead.origin, dead.error_class, dead.tenant, dead.event_id)
    return refused(*said, size=dead.content.bytes, reason=dead.reason)


def refused(
    origin: Origin, error_class: str, tenant: str, event_id: str, *, size: int, reason: str
) -> Text:
    """The same of what is told of one."""
    line = Text()
    line.append(plain(f"{origin.topic}/{origin.partition}/{origin.offset}").ljust(24))
    line.append(plain(f"{error_class:<15}"), "red")
    line.append(plain(f"{tenant or '-'}/{event_id or '-'}  "))
    line.append(f"{size:,} bytes  ")
    line.append(plain(reason), "dim")
    return line


def mark(said: Mark) -> Text:
    """What was done with a letter."""
    line = Text(f"the letter {said.partition}/{said.offset} was {said.what}", "dim")
    if said.sent_to is not None:
        to = said.sent_to
        line.append(plain(f" to {to.topic}/{to.partition}/{to.offset}"))
    line.append(plain(f" by {said.by} at {said.at:%Y-%m-%d %H:%M:%S}"))
    return line


def shortened(text: str) -> Text:
    """A text of a record, as far as a terminal has room."""
    shown = text if len(text) <= _WIDEST_TEXT else f"{text[:_WIDEST_TEXT]}… ({len(text):,})"
    return Text(plain(shown))


def plain(text: str) -> str:
    """Text of a record with its control characters written out: content may be written to clear a
    terminal, forge what stands on it, or turn its direction round."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _task(verdict: Verdict) -> str:
    return plain(verdict.task or "all")


def _scores(verdict: Verdict) -> str:
    return "-" if verdict.scores is None else _triple(verdict.scores)


def _triple(scores: Scores) -> str:
    return f"{scores.safe:.3f}/{scores.controversial:.3f}/{scores.unsafe:.3f}"


def _basis(verdict: Verdict) -> str:
    return verdict.basis.value + (f"/{verdict.cause}" if verdict.cause else "")


def _policy(verdict: Verdict) -> str:
    """As `qwarden rejudge` takes it: NAME@VERSION, then the rule."""
    used = verdict.policy
    return "-" if used is None else plain(f"{used.name}@{used.version}, {used.rule}")


def _milliseconds(carried: list[Header]) -> str:
    return headers.header(carried, headers.TOTAL_MS) or "-"
