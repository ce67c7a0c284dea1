"""Moderators of a test's own, in its process and without Kafka: a guard, a door, and what each
record came to owe."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from qwarden import telemetry
from qwarden.cache.memory import MemoryCache
from qwarden.delivery.owed import Decide, Finish, Owed, decided
from qwarden.inference.dispatch import Dispatcher, Limits
from qwarden.inference.port import Guard
from qwarden.language.eld import EldDetector
from qwarden.moderator.case import Admission
from qwarden.moderator.halting import Halting
from qwarden.moderator.moderator import Moderator
from qwarden.outcomes.lookup import Lookup
from qwarden.outcomes.publication import Publication
from qwarden.outcomes.source import Record
from qwarden.policy.tenants import Tenant, Tenants
from qwarden.tracing import Trace
from unit.builders import KEY

IN_BATCHES = Limits(64, 100_000, 8, 0.001, 0.01)
ONE_BY_ONE = Limits(1, 1, 64, 0.001, 0.01)


def door_of(tenants: Iterable[Tenant]) -> Admission:
    """A door that knows these tenants and no others."""
    known = {tenant.name: tenant for tenant in tenants}
    return Admission(Tenants(known, strict=True), KEY, 900_000, EldDetector())


def moderator_of(
    guard: Guard,
    door: Admission,
    *,
    limits: Limits = IN_BATCHES,
    exact_bound: float = 0.0,
    evidence_sample: float = 0.0,
    trace: Trace | None = None,
    is_away: Callable[[], bool] = lambda: False,
) -> Moderator:
    """A moderator who asks this guard, and keeps what it says in memory alone."""
    return Moderator(
        door,
        Lookup(
            Dispatcher(guard, limits), KEY, MemoryCache(100, 60), None, None,
            exact_bound=exact_bound,
        ),
        Publication(evidence_sample=evidence_sample, consumer="c@h", max_event_bytes=900_000),
        trace or Trace(None, "test"),
        telemetry.TenantLabels(frozenset(door.tenants.known), 0),
        halting=Halting(contents=5, outcomes=100),
        guard_is_away=is_away,
    )  # fmt: skip


class Finished(Finish, Mapping[int, Owed]):
    """What each record of one batch owes that is finished. It is sent when it is first looked at,
    and then stays what it was."""

    def __init__(self) -> None:
        self._owed: dict[int, Owed | Decide] = {}
        self.one = asyncio.Event()
        """Set with the first."""

    def __call__(self, index: int, owed: Owed | Decide, /) -> None:
        assert index not in self._owed, "a record was finished twice"
        self._owed[index] = owed
        self.one.set()

    def __getitem__(self, index: int) -> Owed:
        owed = self._owed[index] = decided(self._owed[index])
        return owed

    def __iter__(self) -> Iterator[int]:
        return iter(self._owed)

    def __len__(self) -> int:
        return len(self._owed)


async def owed_by(moderator: Moderator, records: Sequence[Record]) -> list[Owed]:
    """What each of these records owes, in their order."""
    finished = Finished()
    await asyncio.wait_for(moderator.handle(records, finished), 10)
    return [finished[index] for index in range(len(records))]
