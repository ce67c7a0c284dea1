"""Where a file of outcomes goes on that an earlier run has begun."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from qwarden.contracts.refusal import Refused
from qwarden.moderator.case import Admission, Case
from qwarden.outcomes.source import Source


class ResumeError(ValueError):
    """What stands in the output does not go with the input; the message says what to do."""


class _Named(msgspec.Struct):
    name: str = ""
    version: str = ""
    revision: str = ""


class _Outcome(msgspec.Struct):
    """What tells whether an outcome belongs to a line of the input: a verdict or row names its
    event, a dead letter has the line's hash."""

    event_id: str = ""
    task: str | None = None
    guard: _Named | None = None
    policy: _Named | None = None
    content: dict[str, Any] | None = None


def resume(
    out: Path,
    lines: Sequence[bytes],
    revision: str,
    admission: Admission,
    tasks_of: Callable[[Case], Sequence[str | None]],
) -> int:
    """How many of `lines` have all their outcomes in `out` already; what stands behind those, a
    broken line or the first of two verdicts, is cut off.

    `revision`: of the guard that goes on. `tasks_of`: what an event's outcomes have as their
    `task`, in order. Raises `ResumeError` where an outcome is of another line, guard or policy.
    """
    if not out.exists():
        return 0
    policies = admission.tenants.policies()
    decoder = msgspec.json.Decoder(_Outcome)
    whole = 0
    done = 0
    owed: list[_Expected] = []
    with out.open("r+b") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            where = f"line {number} of {out}"
            try:
                outcome = decoder.decode(line)
            except msgspec.DecodeError:
                raise ResumeError(
                    f"{where} is not an outcome; name another file with --out"
                ) from None
            begins = not owed
            if begins and done < len(lines):
                owed = _expected(lines[done], admission, tasks_of)
            if not owed or not owed[0].is_met_by(outcome, begins):
                raise ResumeError(
                    f"{where} is not the outcome of line {done + 1} of this input; name another "
                    "file with --out"
                )
            if outcome.guard is not None and outcome.guard.revision != revision:
                raise ResumeError(
                    f"{where} was begun with the guard {outcome.guard.revision} and this one is "
                    f"{revision}; finish it with that one, or name another file with --out"
                )
            used = outcome.policy
            known = None if used is None else policies.get(used.name)
            if used is not None and known is not None and known.version != used.version:
                raise ResumeError(
                    f"{where} was begun with another version of the policy {used.name}; finish it "
                    "with that one and the same options, or name another file with --out"
                )
            owed = [] if outcome.content is not None else owed[1:]
            if not owed:
                whole = file.tell()
                done += 1
        file.truncate(whole)
    return done


class _Expected(NamedTuple):
    """An outcome that a line of input is to have: one on this event and task. A line that can have
    only a dead letter has no event here."""

    line: bytes
    event_id: str | None
    task: str | None

    def is_met_by(self, outcome: _Outcome, begins: bool) -> bool:
        """`begins`: nothing of this line was met yet, so that its dead letter may stand here."""
        if outcome.content is not None:
            sent = outcome.content.get("sha256")
            return begins and sent == hashlib.sha256(self.line).hexdigest()
        return self.event_id is not None and (outcome.event_id, outcome.task) == self[1:]


def _expected(
    line: bytes, admission: Admission, tasks_of: Callable[[Case], Sequence[str | None]]
) -> list[_Expected]:
    try:
        case = admission.admit(Source("", 0, 0, 0, None, line, ()))
    except Refused:
        return [_Expected(line, None, None)]
    return [_Expected(line, case.event.event_id, task) for task in tasks_of(case)]
