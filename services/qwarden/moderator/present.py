"""What acts at present on a case: its policy as freezes have it, what people have decided of equal
content, and what a quota leaves of an action."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import msgspec

from qwarden import telemetry
from qwarden.contracts.verdict import Action, Basis
from qwarden.control.overrides import Overridden
from qwarden.moderator.case import Case
from qwarden.moderator.verdicts import Brake
from qwarden.policy.policy import Decided, Policy
from qwarden.policy.quotas import Brakes, Share
from qwarden.policy.tenants import Tenants
from qwarden.telemetry import TenantLabels


class Present:
    """As `tenants` and what follows the control table say it. For files, of which nothing does,
    nobody has decided anything and no quota holds."""

    def __init__(self, tenants: Tenants, labels: TenantLabels) -> None:
        self.tenants = tenants
        """Those whose policies act. What is asked already keeps its policy, so that one says what
        is asked and what is done; a freeze acts on that too."""
        self.override_of: Callable[[str, str], Overridden | None] = lambda tenant, content: None
        """What a person decided of a tenant's content, by its hash."""
        self.share: Callable[[str], Share] | None = None
        """How much of a topic is judged here; where that is None no quota holds."""
        self._brakes = Brakes()
        self._labels = labels

    def of(self, case: Case) -> Case:
        """The case as the freezes and the overrides of now have it."""
        if case.policy is None:
            return case
        policy = self.tenants.freezes.acting(case.tenant.name, case.policy)
        overrides = self._overrides_of(case)
        if policy is case.policy and overrides == case.overrides:
            return case
        return msgspec.structs.replace(case, policy=policy, overrides=overrides)

    def brake(self, case: Case, lane: str) -> Brake | None:
        """What quotas leave of what is done about a case that came by this topic."""
        if self.share is None or case.policy is None:
            return None
        return partial(self._braked, case.policy, case.tenant.name, partial(self.share, lane))

    def _braked(
        self,
        policy: Policy,
        tenant: str,
        share: Callable[[], Share],
        decided: Decided,
        basis: Basis,
    ) -> Decided:
        done = self._brakes.act(
            policy,
            tenant,
            decided,
            is_judged=basis is Basis.GUARD,
            share=share,
            now_s=time.monotonic(),
        )
        if done is not decided:
            used_up = "blocks" if decided.action is Action.BLOCK else "queue"
            telemetry.QUOTA.add(used_up, self._labels(tenant))
        return done

    def _overrides_of(self, case: Case) -> tuple[Overridden | None, ...]:
        # Asked four times for each event, and mostly for nothing: 0.1 µs as it is, and 0.3 where a
        # tuple is made first.
        tenant, asked = case.event.tenant, case.questions
        for each in asked:
            if self.override_of(tenant, each.content_hash.hex()) is not None:
                return tuple([self.override_of(tenant, q.content_hash.hex()) for q in asked])
        return ()
