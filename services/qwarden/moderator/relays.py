"""Which records of the fresh lane wait on the backlog, and how they come there."""

from __future__ import annotations

from collections.abc import Collection

from qwarden import telemetry
from qwarden.delivery.lanes import Quotas, Relay, estimated_tokens, is_stale
from qwarden.delivery.owed import Owed, size_of
from qwarden.moderator.case import Case
from qwarden.outcomes.owing import owed_by_relay
from qwarden.telemetry import TenantLabels


class Relays:
    """Those of one process. `topics`: of the fresh lane; nothing else is relayed, and nothing of a
    tenant whose file says so."""

    def __init__(self, topics: Collection[str], labels: TenantLabels) -> None:
        self.backlog_bytes: int | None = None
        """What the backlog's topic takes at most, once a broker has said it."""
        self._topics = topics
        self._labels = labels
        self._quotas = Quotas()

    def of_late(self, case: Case, topic: str, *, age_s: float, now_s: float) -> Owed | None:
        """What a record owes that lets fresher ones go first, or whose tenant's quota is used up;
        None for the others. `topic`: from which it came, `age_s` ago; `now_s`: of a clock that does
        not jump."""
        if not self._may_wait(case, topic):
            return None
        tenant = case.tenant
        if is_stale(age_s=age_s, fresh_s=tenant.fresh_horizon_s):
            owed = self._relayed(case, Relay.STALE)
            if owed is not None:
                return owed
        if tenant.tokens_a_minute is not None and not self._quotas.admits(
            tenant.name,
            estimated_tokens(len(case.source.value or b"")),
            a_minute=tenant.tokens_a_minute,
            now_s=now_s,
        ):
            return self._relayed(case, Relay.QUOTA)
        return None

    def in_outage(self, case: Case, topic: str) -> Owed | None:
        """What a record owes that waits for the guard while others do not."""
        return self._relayed(case, Relay.OUTAGE) if self._may_wait(case, topic) else None

    def _may_wait(self, case: Case, topic: str) -> bool:
        return topic in self._topics and case.tenant.relay

    def _relayed(self, case: Case, why: Relay) -> Owed | None:
        """The record on the backlog's lane; None for one that the topic does not take with its
        origin, such as a large one of somebody else's topic: it is judged in place, or waits there.
        It would end as a dead letter, and that it is late is no reason for one."""
        owed = owed_by_relay(case.source)
        if self.backlog_bytes is not None and size_of(owed[0]) > self.backlog_bytes:
            return None
        telemetry.EVENTS.add("relayed")
        telemetry.RELAYED.labels(why.value, self._labels(case.event.tenant)).inc()
        return owed
