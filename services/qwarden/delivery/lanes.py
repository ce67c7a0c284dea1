"""Which records are handled now, and which wait on the backlog's lane. Pure.

In one partition new content lies behind old, and no window reaches past a backlog of 200,000 or a
tenant that floods. So what should not be handled now is put on another topic with its origin, and
is done here when that is acknowledged.

Invariants, each held by `tests/property/test_lanes.py`:
- A record that is older than its tenant's fresh horizon is relayed; so is one for which its
  tenant's quota has no tokens left.
- In any stretch of time a tenant is admitted at most its burst, a minute's tokens, and what its
  rate gives in that stretch, and one record on top. Only what is admitted counts.
- A tenant within its quota is never relayed for another's sake.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from qwarden.contracts import topics


def lane_of(topic: str) -> str | None:
    """The lane whose verdicts a topic's records get: `interactive`, `backlog`, or `stream`; None
    where none comes of them, since they are verdicts themselves."""
    if topic in (topics.REVIEW, topics.EVIDENCE):
        return None
    return {topics.BACKLOG: "backlog", topics.CHUNKS: "stream"}.get(topic, "interactive")


class Relay(enum.StrEnum):
    """Why a record waits on the backlog. Bounded: it is a metric's label."""

    STALE = "stale"
    QUOTA = "quota"
    OUTAGE = "outage"


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at_s: float


class Quotas:
    """What tenants may still send to the guard from the interactive lane of one process, in
    tokens; a bucket for each tenant that has a quota."""

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}

    def admits(self, tenant: str, tokens: int, *, a_minute: int, now_s: float) -> bool:
        """Whether a record of so many tokens goes in, which is then counted. One that is larger
        than the whole bucket goes in too, and is paid off. `now_s`: of a clock that does not jump.
        """
        bucket = self._buckets.get(tenant)
        if bucket is None:
            bucket = self._buckets[tenant] = _Bucket(a_minute, now_s)
        refilled = bucket.tokens + (now_s - bucket.at_s) * a_minute / 60
        bucket.tokens, bucket.at_s = min(a_minute, refilled), now_s
        if bucket.tokens <= 0:
            return False
        bucket.tokens -= tokens
        return True


def estimated_tokens(size: int) -> int:
    """Of so many bytes of text: Qwen's tokenizer takes some four bytes of English a token."""
    return size // 4 + 1


def is_stale(*, age_s: float, fresh_s: float) -> bool:
    """Whether a record that was published so long ago lets newer ones go first."""
    return age_s > fresh_s
