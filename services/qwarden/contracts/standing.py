"""Which verdict a consumer keeps of each task of an event. Pure.

- A withdrawal is final, whatever comes before or behind it.
- A higher edit replaces all of a lower one, on every task.
- Of one edit a verdict replaces what it supersedes, and what that one had superseded.
- Else the order is that of the bases, a person's first; then the higher serial; then the later one
  on the topic.

The order in which the records are given changes nothing; where each stands on the topic may.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from qwarden.contracts.verdict import Basis, Verdict

_BASES: tuple[str, ...] = ("degraded", "expired", "quota", "guard", "human")
"""The weakest first. One that a later release has is weaker than these."""


class Key(NamedTuple):
    """What consumers keep one verdict of. `task`: None for the withdrawal of a whole event, which
    is all that is kept of it."""

    tenant: str
    event_id: str
    task: str | None


def standing(verdicts: Iterable[tuple[int, Verdict]]) -> dict[Key, Verdict]:
    """The verdicts that stand, of these with their offsets on the topic. An event's have one key,
    and so stand in one partition."""
    events: dict[tuple[str, str], list[tuple[int, Verdict]]] = {}
    for offset, verdict in verdicts:
        events.setdefault((verdict.tenant, verdict.event_id), []).append((offset, verdict))
    return {
        Key(tenant, event_id, verdict.task): verdict
        for (tenant, event_id), said in events.items()
        for verdict in _of_event(said)
    }


def _of_event(said: list[tuple[int, Verdict]]) -> Iterable[Verdict]:
    withdrawals = [each for each in said if each[1].basis is Basis.WITHDRAWN]
    if withdrawals:
        return [max(withdrawals, key=_rank)[1]]
    edit = max(verdict.edit for _, verdict in said)
    tasks: dict[str | None, list[tuple[int, Verdict]]] = {}
    for offset, verdict in said:
        if verdict.edit == edit:
            tasks.setdefault(verdict.task, []).append((offset, verdict))
    return [max(_left(group), key=_rank)[1] for group in tasks.values()]


def _left(group: list[tuple[int, Verdict]]) -> list[tuple[int, Verdict]]:
    """What nothing supersedes. Ids are hashes of what they supersede, so that no two supersede each
    other; were there any, all would be left."""
    gone = {verdict.supersedes for _, verdict in group}
    return [each for each in group if each[1].verdict_id not in gone] or group


def _rank(each: tuple[int, Verdict]) -> tuple[int, int, int, str]:
    offset, verdict = each
    basis = _BASES.index(verdict.basis) if verdict.basis in _BASES else -1
    serial = verdict.policy.serial if verdict.policy is not None else 0
    return basis, serial, offset, verdict.verdict_id
