"""Has what is in force act in a service: its log, its metrics, and the tenants at its door."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from qwarden import telemetry
from qwarden.control.port import Control
from qwarden.metric import OTHER, FirstSeen
from qwarden.policy.in_force import Acting, acting
from qwarden.policy.tenants import Tenants

_log = logging.getLogger(__name__)

_POLICIES = 200
"""Policies with a metric label of their own; the rest are `other`. Files name some dozens."""


class Following:
    """Follows policies and freezes. `files`: the tenants as their files say. `enforce`: takes the
    tenants that act now, whole; what is asked for in one go is judged by one of them."""

    def __init__(
        self, files: Tenants, control: Control, enforce: Callable[[Tenants], None]
    ) -> None:
        self._files = files
        self._control = control
        self._enforce = enforce
        self._acting: Acting | None = None
        self._label = FirstSeen(sorted(files.policies())[:_POLICIES], most=0)
        for policy in files.policies().values():
            if self._label(policy.name) != OTHER:
                telemetry.POLICY_INFO.labels(policy.name, policy.version).set(1)

    def reasons(self) -> Sequence[str]:
        """Why nothing may be judged yet."""
        tenants = self._files if self._acting is None else self._acting.tenants
        return [
            f"the policy {name!r} of a tenant's file has no file and is not in force; activate it "
            "with: qwarden policy activate FILE"
            for name in sorted(tenants.lacking)
        ]

    def changed(self) -> None:
        """Reads what is in force; to be called whenever it may have changed."""
        stands = self._control.policies()
        before, now = self._acting, acting(self._files, stands, self._acting)
        self._acting = now
        self._enforce(now.tenants)
        frozen = [
            each for each in stands.freezes.values() if each.record is None or each.record.frozen
        ]
        telemetry.FREEZES.set(len(frozen))
        self._tell(before, now)

    def _tell(self, before: Acting | None, now: Acting) -> None:
        own = self._files.policies()
        for name, policy in now.policies.items():
            was = own[name] if before is None else before.policies[name]
            if policy.version != was.version:
                if self._label(name) != OTHER:
                    telemetry.POLICY_INFO.remove(name, was.version)
                    telemetry.POLICY_INFO.labels(name, policy.version).set(1)
                _log.info("the policy %s acts in version %s now", name, policy.version)
        unusable = {self._label(name) for name in now.faults}
        differing = {self._label(name) for name in now.differing}
        for label in {self._label(name) for name in now.policies}:
            telemetry.POLICY_UNUSABLE.labels(label).set(label in unusable)
            telemetry.POLICY_FILE_DIFFERS.labels(label).set(label in differing)
        told = {} if before is None else before.faults
        for name, fault in now.faults.items():
            if told.get(name) != fault:
                acts = now.policies[name].version
                _log.error("the policy %s acts in version %s: %s", name, acts, fault)
        known = frozenset[str]() if before is None else before.differing
        for name in sorted(now.differing - known):
            _log.warning(
                "the file of the policy %s says %s, and %s is in force: the file does not count",
                name,
                own[name].version,
                now.policies[name].version,
            )
