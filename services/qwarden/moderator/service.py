"""The moderator as a process: two lanes, one guard, and the halts of the fleet."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from aiokafka.errors import KafkaError

from qwarden.contracts import topics
from qwarden.contracts.control import Halt
from qwarden.control.port import Control
from qwarden.delivery.consumer import Delivery
from qwarden.delivery.room import Room
from qwarden.delivery.window import Partition
from qwarden.enforcement.following import Following
from qwarden.inference.dispatch import Dispatcher
from qwarden.kafka import partitions_of
from qwarden.moderator.halting import Run
from qwarden.moderator.moderator import Moderator
from qwarden.policy.quotas import Share
from qwarden.serving import Lane, Serving
from qwarden.settings import Settings

_log = logging.getLogger(__name__)

_RETRY_S = 1.0
"""How often a broker is asked how many partitions the topics have, until it has said it: until then
each moderator takes a quota for its own alone."""


class ModeratorService(Serving):
    """One moderator. `run` returns the process's exit code."""

    def __init__(
        self, settings: Settings, moderator: Moderator, dispatcher: Dispatcher, control: Control
    ) -> None:
        super().__init__(
            settings,
            settings.moderator,
            control,
            name="moderator",
            needed=(*moderator.topics, topics.BACKLOG, *topics.JUDGED),
        )
        limits, kafka = settings.moderator, settings.kafka
        self.trace = moderator.trace
        self._dispatcher = dispatcher
        self._run_seen: Run | None = None
        """A run that halts, until the halt is read like everybody's, or a person's resume."""
        self._resumed_at: int | None = None
        """When that run was seen, as `Control.resumed_at` says it."""
        self._guard_known = False
        # What may be in flight is the process's: each topic of the fresh lane has its part of it.
        share = len(moderator.topics)
        records = max(limits.records_in_flight // share, limits.poll_records)
        self._fresh = [
            self._delivery(topic, moderator, records, share) for topic in moderator.topics
        ]
        self._interactive = self._fresh[0]
        self._backlog = self._delivery(topics.BACKLOG, moderator, limits.backlog_records)
        self.lanes = (
            *(Lane(each, kafka.group_of(each.topic), limits.poll_records) for each in self._fresh),
            Lane(self._backlog, kafka.group_of(topics.BACKLOG), limits.backlog_records),
        )
        self._partitions: Mapping[str, int] = {}
        """How many each lane's topic has, once a broker has said it."""
        self.beside = (self._learn_revision, self._learn_partitions)
        self.tritons = (settings.triton.url,)
        self.unready = self._without_guard
        dispatcher.held = self.in_flight
        dispatcher.on_change = self._guard_changed
        dispatcher.on_failure = self.part_failed
        control.on_change(self._control_changed)
        moderator.on_run = self._halt
        moderator.present.share = self._share
        moderator.present.override_of = control.override_of
        self._moderator = moderator
        self._policies = Following(moderator.tenants, control, moderator.enforce)
        self._hold_or_release()

    def _delivery(self, topic: str, moderator: Moderator, records: int, share: int = 1) -> Delivery:
        limits = self._settings.moderator
        room = Room(
            records=records,
            most_bytes=limits.bytes_in_flight // share,
            uncommitted=limits.uncommitted_records,
        )
        return self.delivery_of(topic, moderator.handle, moderator.outcomes.unpublishable, room)

    def limits_learned(self, limits: Mapping[str, int]) -> None:
        self._moderator.relays.backlog_bytes = limits[topics.BACKLOG]

    def _guard_changed(self) -> None:
        self._hold_or_release()
        if self._dispatcher.outage is not None:
            self._moderator.guard_went_away()

    def _control_changed(self) -> None:
        if self._is_resumed(self._resumed_at):
            self._run_seen = None
        self._policies.changed()
        self._hold_or_release()
        self.accept_losses()

    def _hold_or_release(self) -> None:
        """A halt holds all lanes, and so does a policy that is nowhere; an outage of the guard
        holds only the backlog, which waits on its topic: the others fill their rooms and pause, or
        their policies answer instead."""
        halts = [halt.reason for halt in self._control.halts().values()]
        if self._run_seen is not None:
            halts.append(self._run_seen.reason)
        if halts:
            self._moderator.halt()
        else:
            self._moderator.resume()
        halts += self._policies.reasons()
        away = [] if self._dispatcher.outage is None else ["the guard is away"]
        lanes = [*((each, halts) for each in self._fresh), (self._backlog, halts + away)]
        for lane, reasons in lanes:
            if reasons:
                lane.hold("; ".join(reasons))
            else:
                lane.release()

    def _halt(self, run: Run) -> None:
        """Holds at once here; everybody else follows when the record is read."""
        _log.critical("the fleet is halted: %s", run.reason)
        self._run_seen = run
        self._resumed_at = self._control.resumed_at()
        self._hold_or_release()
        by = f"{self._settings.kafka.group_id}@{socket.gethostname()}"
        halt = Halt(reason=run.reason, at=datetime.now(UTC), by=by)
        self.spawn(self._write(run, halt, self._resumed_at))

    async def _write(self, run: Run, halt: Halt, resumed_at: int | None) -> None:
        """From then on what is read decides: the halt, or that a person has withdrawn it since.

        Another moderator's halt of the same run may be read and resumed while this one is on its
        way; it would halt the fleet once more for what was mended.
        """
        await self._control.write(halt, unless=lambda: self._is_resumed(resumed_at))
        if self._is_resumed(resumed_at) and self._control.halts().get(halt.key()) == halt:
            _log.warning("the halt came after a resume, and is withdrawn")
            await self._control.withdraw(halt.key())
        if self._run_seen is run:
            self._run_seen = None
        self._hold_or_release()

    def _is_resumed(self, before: int | None) -> bool:
        """Whether a resume was read since `resumed_at` was `before`."""
        return self._control.resumed_at() != before

    async def _learn_revision(self) -> None:
        try:
            revision = await self._dispatcher.revision()
        except Exception as error:  # of the checkpoint: waiting does not mend it
            self.unusable("the guard", error)
            return
        self._guard_known = True
        _log.info("the guard is %s", revision)

    async def _learn_partitions(self) -> None:
        """Again and again, since a topic may get more."""
        wanted = [lane.delivery.topic for lane in self.lanes]
        while True:
            # A broker that is away is everybody's trouble, and what was known of it stands.
            with contextlib.suppress(KafkaError, OSError):
                self._partitions = {
                    topic: len(await partitions_of(self._settings.kafka, topic)) for topic in wanted
                }
            await asyncio.sleep(self._settings.moderator.look_s if self._partitions else _RETRY_S)

    def _share(self, topic: str) -> Share:
        """Which part of a lane's topic is judged here: all of it, until it is known."""
        partitions = self._partitions.get(topic)
        if partitions is None:
            return Share(1, 1)
        (delivery,) = (each.delivery for each in self.lanes if each.delivery.topic == topic)
        assigned = [delivery.epoch_of(Partition(topic, each)) for each in range(partitions)]
        return Share(partitions - assigned.count(None), partitions)

    def _without_guard(self) -> Sequence[str]:
        away = self._moderator.registry_outage
        return (*self._guard_reasons(), *(() if away is None else (away,)))

    def _guard_reasons(self) -> Sequence[str]:
        if self._dispatcher.outage is not None:
            return (f"the guard is unavailable: {self._dispatcher.outage}",)
        return () if self._guard_known else ("the guard has not answered yet",)
