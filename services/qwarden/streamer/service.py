"""The streamer as a process: one lane, the guard of running sessions, that of whole texts."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

from qwarden.contracts import topics
from qwarden.control.port import Control
from qwarden.delivery.room import Room
from qwarden.enforcement.following import Following
from qwarden.inference.dispatch import Dispatcher
from qwarden.inference.stream_client import StreamClient
from qwarden.serving import Lane, Serving
from qwarden.settings import Settings
from qwarden.streamer.streamer import Streamer

_log = logging.getLogger(__name__)


class StreamerService(Serving):
    """One streamer. `run` returns the process's exit code.

    It has one lane: aiokafka keeps the state of its sticky assignor by class, and a second consumer
    in the process would spoil it.
    """

    def __init__(
        self,
        settings: Settings,
        streamer: Streamer,
        client: StreamClient,
        dispatcher: Dispatcher,
        control: Control,
    ) -> None:
        super().__init__(
            settings,
            settings.streamer,
            control,
            name="streamer",
            needed=(topics.CHUNKS, topics.SIGNALS, *topics.JUDGED),
        )
        limits = settings.streamer
        self.trace = streamer.trace
        self._streamer = streamer
        self._client = client
        self._dispatcher = dispatcher
        self.delivery = self.delivery_of(
            topics.CHUNKS,
            streamer.handle,
            streamer.outcomes.unpublishable,
            Room(
                records=limits.records_in_flight,
                most_bytes=limits.bytes_in_flight,
                uncommitted=limits.uncommitted_records,
            ),
            keeper=streamer,
        )
        streamer.delivery = self.delivery
        streamer.on_failure = self.part_failed
        sticky = {"partition_assignment_strategy": (StickyPartitionAssignor,)}
        self.lanes = (Lane(self.delivery, limits.group_id, limits.poll_records, sticky),)
        self.beside = (self._look,)
        self.tritons = (settings.triton.url, *settings.stream_urls)
        self.unready = self._without_guards
        client.on_change = self._guard_changed
        client.on_failure = self.part_failed
        dispatcher.held = self.in_flight
        dispatcher.on_failure = self.part_failed
        control.on_change(self._control_changed)
        self._policies = Following(streamer.tenants, control, streamer.enforce)
        self._hold_or_release()

    async def run(self) -> int:
        try:
            return await super().run()
        finally:
            await self._streamer.close()

    async def _look(self) -> None:
        self._streamer.start()

    def _guard_changed(self) -> None:
        if self._client.outage is not None:
            _log.warning("waiting for the stream guard: %s", self.in_flight())

    def _control_changed(self) -> None:
        self._policies.changed()
        self._hold_or_release()
        self.accept_losses()

    def _hold_or_release(self) -> None:
        """A halt holds the lane, and so does a policy that is nowhere; an outage of the guard fills
        its room, which pauses it."""
        reasons = [halt.reason for halt in self._control.halts().values()]
        reasons += self._policies.reasons()
        if reasons:
            self.delivery.hold("; ".join(reasons))
        else:
            self.delivery.release()

    def _without_guards(self) -> Sequence[str]:
        reasons = []
        if self._client.outage is not None:
            reasons.append(f"the stream guard is unavailable: {self._client.outage}")
        if self._dispatcher.outage is not None:
            reasons.append(
                f"the guard of whole texts is unavailable: {self._dispatcher.outage}; sessions "
                "that end in doubt wait for it"
            )
        return reasons
