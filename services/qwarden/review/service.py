"""The review service as a process: two lanes into the database, the API, and what runs beside."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import socket
from collections.abc import Sequence
from functools import partial

from qwarden import telemetry
from qwarden.backoff import Backoff
from qwarden.contracts import topics
from qwarden.control.port import Control
from qwarden.delivery.consumer import Delivery
from qwarden.delivery.room import Room
from qwarden.enforcement.following import Following
from qwarden.policy.tenants import Freezes, Tenants
from qwarden.review.consuming import Consuming
from qwarden.review.failing import where
from qwarden.review.gauging import gauges
from qwarden.review.http.app import app_of
from qwarden.review.http.auth import Door
from qwarden.review.http.live import Live
from qwarden.review.http.served import Served
from qwarden.review.publishing import Publishing
from qwarden.review.store import duties
from qwarden.review.store.database import Database, is_outage
from qwarden.review.store.migrating import TooNew
from qwarden.review.sweeping import Duty, Work, seals, sweeps
from qwarden.serving import Lane, Serving
from qwarden.settings import Settings
from qwarden.tracing import Trace

_log = logging.getLogger(__name__)

_BACKOFF = Backoff(0.2, 5.0)
_PUBLISH_S = 0.25
"""How often it is looked whether a decision is due: it has waited half a minute, and an override
has 10 s to reach everybody."""
_LOOK_S = 1.0
"""How often leases and times that have ended are looked for, rows of the log are sealed, and pages
that are open are told: as late as people hardly notice."""
_GAUGES_S = 5.0
"""How often what waits is counted: a scrape comes every 15 s or so, and counting reads indexes."""
_OFF_DUTY_S = 2.0
"""A database that takes longer is away: the duties end by themselves then."""
_PREPARED = "the database is not prepared yet"


class ReviewService(Serving):
    """One review service. `run` returns the process's exit code. `tenants`: as their files say."""

    def __init__(
        self,
        settings: Settings,
        tenants: Tenants,
        database: Database,
        control: Control,
        trace: Trace,
    ) -> None:
        limits = settings.review
        super().__init__(settings, limits, control, name="review-service", needed=topics.REVIEWED)
        self.trace = trace
        self._database = database
        self._tenants = tenants
        self._prepared = asyncio.Event()
        self._holder = secrets.token_hex(16)
        """This process's name on duty."""
        self._away: str | None = None
        consuming = Consuming(
            database,
            limits,
            trace,
            consumer=f"{limits.group_id}@{socket.gethostname()}",
            held=self._database_changed,
        )
        self._deliveries = [
            self._delivery(topic, consuming) for topic in (topics.REVIEW, topics.EVIDENCE)
        ]
        groups = (limits.group_id, f"{limits.group_id}-evidence")
        self.lanes = [
            Lane(delivery, group, limits.poll_records)
            for delivery, group in zip(self._deliveries, groups, strict=True)
        ]
        served = Served(settings, database, lambda: self._tenants)
        self._live = Live(served)
        self._door = Door(settings)
        self.app = app_of(served, self._door, self._live, is_prepared=self._prepared.is_set)
        duty = partial(Duty, database, holder=self._holder, now=served.clock)
        self._publishing = Publishing(database, settings.kafka, limits, self._holder)
        self._work = (
            Work("sweep", _LOOK_S, sweeps(duty(name="sweep"), limits, self._freezes)),
            Work("seal", _LOOK_S, seals(duty(name="seal"))),
            Work("publisher", _PUBLISH_S, self._publish, lambda: self._publishing.published),
            Work("live view", _LOOK_S, self._live.look),
            Work("gauges", _GAUGES_S, gauges(database, served.clock)),
        )
        self.beside = (self._prepare, *(partial(self._when_prepared, each) for each in self._work))
        self.unwell = self._hanging
        control.on_change(self._control_changed)
        self._policies = Following(tenants, control, self._enforce)
        self._hold_or_release()

    async def close(self) -> None:
        """Lets go of the outbox's producer, of the duties and of the issuer of sign-ins."""
        await self._publishing.close()
        await self._off_duty()
        await self._door.close()

    def stop(self) -> None:
        self._live.end()
        super().stop()

    def _delivery(self, topic: str, consuming: Consuming) -> Delivery:
        limits = self._settings.review
        room = Room(
            records=limits.records_in_flight // 2,
            most_bytes=limits.bytes_in_flight // 2,
            uncommitted=limits.uncommitted_records,
        )
        return self.delivery_of(topic, consuming.handle, consuming.outcomes.unpublishable, room)

    async def _prepare(self) -> None:
        """Brings the database to this version's schema, and waits for one that is away."""
        failures = 0
        while not self._prepared.is_set():
            try:
                await self._database.migrate()
            except TooNew as error:
                self.unusable("the database", error)
                return
            except Exception as error:
                if not is_outage(error):
                    _log.critical("the database cannot be prepared: %s", where(error))
                    self.part_failed(RuntimeError("the database cannot be prepared"))
                    return
                failures += 1
                if failures == 1:
                    _log.warning("waiting for the database: %s", type(error).__name__)
                await asyncio.sleep(_BACKOFF.wait_s(failures, random.random()))
                continue
            self._prepared.set()
            self._hold_or_release()

    async def _off_duty(self) -> None:
        """Whoever goes on need not wait until this process is late."""
        if not self._prepared.is_set():
            return
        try:
            async with asyncio.timeout(_OFF_DUTY_S), self._database.writing() as tx:
                await duties.release(tx, self._holder)
        except Exception as error:
            if not is_outage(error):
                raise
            _log.warning("still on duty until it is late: %s", type(error).__name__)

    async def _when_prepared(self, work: Work) -> None:
        await self._prepared.wait()
        await work.run()

    async def _publish(self) -> None:
        before = self._publishing.published
        try:
            await self._publishing.round()
        finally:
            telemetry.REVIEW_PUBLISHED.inc(self._publishing.published - before)

    def _database_changed(self, away: str | None) -> None:
        self._away = away
        self._hold_or_release()

    def _control_changed(self) -> None:
        self._policies.changed()
        self.accept_losses()

    def _enforce(self, tenants: Tenants) -> None:
        self._tenants = tenants

    def _hold_or_release(self) -> None:
        """A halt stops those who judge; people go on."""
        reason = _PREPARED if not self._prepared.is_set() else self._away
        for delivery in self._deliveries:
            if reason is not None:
                delivery.hold(reason)
            else:
                delivery.release()

    def _freezes(self) -> Freezes | None:
        """Those that stand; None before the control topic was read, which comes before the first
        record."""
        is_read = all(each.joined for each in self._deliveries)
        return self._tenants.freezes if is_read else None

    def _hanging(self) -> Sequence[str]:
        return [each.hangs for each in self._work if each.hangs is not None]
