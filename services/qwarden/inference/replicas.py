"""The replicas of the stream guard: which addresses there are, and whose a session is.

A session stays with its owner by rendezvous hash. Where the owner changes, since a replica came,
went, or has been away for long, the new one does not know the session and asks for its transcript.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Sequence

from qwarden import telemetry
from qwarden.inference.rendezvous import owner_of
from qwarden.inference.replica import Replica

_log = logging.getLogger(__name__)

_NONE_YET_S = 1.0
"""How soon it is looked again where there is none: at the start of a fleet, whose guard may come
later."""

Look = Callable[[], Awaitable[frozenset[str]]]
"""The addresses that there are now, host:port; empty where none is known."""


class Addresses:
    """Addresses from names, each host:port, where a name may stand for many: a headless service has
    one for each of its pods. A name that does not resolve keeps what it stood for before."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._found: dict[str, frozenset[str]] = {}

    async def __call__(self) -> frozenset[str]:
        for name in self._names:
            try:
                self._found[name] = await _resolved(name)
            except OSError as error:
                _log.warning("the stream guard's address %s is not known now: %s", name, error)
        return frozenset().union(*self._found.values())

    def host_of(self, address: str) -> str:
        """Of the name that stands for an address: what a certificate there is made out to."""
        for name, addresses in self._found.items():
            if address in addresses:
                return name.rpartition(":")[0].strip("[]")
        return address.rpartition(":")[0].strip("[]")


async def _resolved(name: str) -> frozenset[str]:
    host, _, port = name.rpartition(":")
    found = await asyncio.get_running_loop().getaddrinfo(
        host.strip("[]"), port, type=socket.SOCK_STREAM
    )
    # One server often has an address of either kind, and would be taken for two.
    families = {family for family, *_ in found}
    family = socket.AF_INET if socket.AF_INET in families else socket.AF_INET6
    hosts = {address[0] for each, *_, address in found if each is family}
    return frozenset(f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}" for host in hosts)


class Replicas:
    """One `Replica` for each address, made by `open_replica`; looked for anew every `look_s`.

    `leave_s`: how long a replica may be away before the others get its sessions, and what waits for
    it. `on_change` is called when `outage` begins or ends.
    """

    def __init__(
        self,
        look: Look,
        open_replica: Callable[[str], Replica],
        *,
        look_s: float,
        leave_s: float,
    ) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self.on_failure: Callable[[BaseException], None] = lambda error: None
        self._look = look
        self._open_replica = open_replica
        self._look_s = look_s
        self._leave_s = leave_s
        self._all: dict[str, Replica] = {}
        self._owners: frozenset[str] = frozenset()
        """Those that sessions are sent to: all, less those that have been away for long."""
        self._there = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._outage: str | None = None

    @property
    def outage(self) -> str | None:
        """Why no replica answers, or None while any does."""
        return self._outage

    async def there(self) -> None:
        """Waits until any address is known."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_on(), name="stream-replicas")
            self._looking.add_done_callback(self._ended)
        await self._there.wait()

    def owner(self, tenant: str, session: str) -> Replica:
        """Whose a session is now, where any address is known."""
        return self._all[owner_of(tenant, session, self._owners)]

    async def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        tasks = [*self._leaving, *([self._looking] if self._looking is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(replica.close() for replica in self._all.values()))

    async def _look_on(self) -> None:
        while True:
            found = await self._look()
            if found and found != self._all.keys():
                self._changed_to(found)
            elif not self._all:
                self._judge_outage()
            await asyncio.sleep(self._look_s if self._all else min(self._look_s, _NONE_YET_S))

    def _changed_to(self, addresses: frozenset[str]) -> None:
        gone = [self._all.pop(address) for address in self._all.keys() - addresses]
        for address in addresses - self._all.keys():
            replica = self._all[address] = self._open_replica(address)
            replica.on_change = self._replica_changed
            replica.on_failure = self._failed
        _log.info("the stream guard is at %s", ", ".join(sorted(self._all)))
        self._replica_changed()
        self._there.set()
        for replica in gone:
            task = asyncio.create_task(replica.leave(), name="stream-replica-leaves")
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
            task.add_done_callback(self._ended)

    def _replica_changed(self) -> None:
        """One came, went, fell out or is back: settles anew who owns sessions."""
        now = time.monotonic()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        owners = set()
        for address, replica in self._all.items():
            left_s = (
                self._leave_s if replica.away_since is None
                else replica.away_since + self._leave_s - now
            )  # fmt: skip
            if left_s > 0:
                owners.add(address)
            if replica.away_since is not None and left_s > 0:
                self._timers[address] = asyncio.get_running_loop().call_later(
                    left_s, self._replica_changed
                )
        # Where all have been away for long, each keeps its own.
        was, self._owners = self._owners, frozenset(owners or self._all)
        for address in (was - self._owners) & self._all.keys():
            _log.warning("the sessions of the stream guard at %s go to others", address)
            self._all[address].hand_back()
        self._judge_outage()

    def _judge_outage(self) -> None:
        was = self._outage
        reasons = [replica.outage for replica in self._all.values()]
        if not reasons:
            self._outage = "no address of the stream guard is known"
        else:
            self._outage = None if None in reasons else reasons[0]
        away = sum(reason is not None for reason in reasons)
        telemetry.STREAM_REPLICAS.labels("away").set(away)
        telemetry.STREAM_REPLICAS.labels("answering").set(len(reasons) - away)
        telemetry.BREAKER_OPEN.labels("stream_guard").set(self._outage is not None)
        if (was is None) is not (self._outage is None):
            self.on_change()

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        self.on_failure(error)
