"""Brakes on what is done without a person: a tenant's blocks, and what a review queue gets. Pure.

Each moderator counts what it does itself and holds that against its share of the fleet's limit, so
that nothing is shared and nothing is asked: a brake, not a bill. What comes again counts again, and
a moderator that begins anew begins at nothing.

Invariants, each held by `tests/property/test_quotas.py`:
- In no hour does a moderator block more for a tenant, or put more of what was judged into a queue,
  than the share that it has then; a share that shrinks counts what was done before.
- The shares of a topic's owners are together no more than the limit, but for one at least each.
- What is over a tenant's blocks goes to people, whatever their queue has; what nobody has judged is
  never allowed for a queue's sake, and nothing is blocked for it that is over the tenant's blocks.
- A frozen policy does what it says.
- What is kept does not grow with time, nor with how much is done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from qwarden.contracts.verdict import Action
from qwarden.policy.policy import Decided, Policy

_MINUTES = 60
"""An hour touches at most one minute more than it has."""
_COUNTED = 10_000
"""Tenants or queues that are counted apart at a time; those on top are counted as one, since names
that anybody makes up must not fill the memory."""
_OTHERS = "\0"
"""No tenant or queue is called so."""


@dataclass(frozen=True, slots=True)
class Share:
    """How many of a topic's partitions are judged here, of how many."""

    own: int
    partitions: int

    def of(self, limit: int) -> int:
        """What of a limit for the fleet may be done here: at least 1."""
        return max(1, limit * self.own // self.partitions)


class _LastHour:
    """How often something was done in the last hour, by the minute."""

    __slots__ = ("_minutes", "_total")

    def __init__(self) -> None:
        self._minutes: deque[tuple[int, int]] = deque()
        self._total = 0

    def until(self, minute: int) -> int:
        """How often, in this minute and the 60 before it."""
        while self._minutes and self._minutes[0][0] < minute - _MINUTES:
            self._total -= self._minutes.popleft()[1]
        return self._total

    def add(self, minute: int) -> None:
        count = 0
        if self._minutes and self._minutes[-1][0] == minute:
            count = self._minutes.pop()[1]
        self._minutes.append((minute, count + 1))
        self._total += 1


class _Counts:
    """What was done in the last hour, by name."""

    def __init__(self) -> None:
        self._hours: dict[str, _LastHour] = {}
        self._swept = 0

    def of(self, name: str, minute: int) -> _LastHour:
        if minute != self._swept:
            self._swept = minute
            self._hours = {each: hour for each, hour in self._hours.items() if hour.until(minute)}
        if name not in self._hours and len(self._hours) >= _COUNTED:
            name = _OTHERS
        return self._hours.setdefault(name, _LastHour())


class Brakes:
    """Those of one moderator."""

    def __init__(self) -> None:
        self._blocks = _Counts()
        self._queues = _Counts()

    def act(
        self,
        policy: Policy,
        tenant: str,
        decided: Decided,
        *,
        is_judged: bool,
        share: Callable[[], Share],
        now_s: float,
    ) -> Decided:
        """What is done of what the policy decided, which is then counted: `decided` itself, or
        something else where a quota is used up. `is_judged`: whether the guard has said what it is.
        `share`: of the topic that it came from. `now_s`: of a clock that does not jump.
        """
        if policy.frozen:
            return decided
        minute = int(now_s // 60)
        if decided.action is Action.BLOCK:
            if self._may_block(policy, tenant, share, minute):
                return decided
            self._queues.of(policy.fallback.queue, minute).add(minute)
            return Decided(Action.REVIEW, decided.rule, policy.fallback, decided.reason)
        if decided.handling is None:
            return decided
        queue = decided.handling.queue
        sent = self._queues.of(queue, minute)
        budget = policy.file.quotas.queues.get(queue)
        if budget is None or not is_judged or sent.until(minute) < share().of(budget.an_hour):
            sent.add(minute)
            return decided
        action = Action(budget.overflow)
        if action is Action.BLOCK and not self._may_block(policy, tenant, share, minute):
            sent.add(minute)
            return decided
        reason = None if action is Action.ALLOW else decided.reason
        return Decided(action, decided.rule, reason=reason)

    def _may_block(
        self, policy: Policy, tenant: str, share: Callable[[], Share], minute: int
    ) -> bool:
        """Whether one more block is within the tenant's quota, which then counts it."""
        limit = policy.file.quotas.blocks_an_hour
        if limit is None:
            return True
        blocked = self._blocks.of(tenant, minute)
        if blocked.until(minute) >= share().of(limit):
            return False
        blocked.add(minute)
        return True
