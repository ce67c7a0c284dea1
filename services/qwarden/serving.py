"""What every service that consumes is as a process: FastStream on aiokafka, and probes. Each says
what its lanes are, what runs beside them, and why it is not ready."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from aiokafka.errors import KafkaError
from faststream import FastStream
from faststream.kafka import KafkaBroker

from qwarden import __version__, certificates, telemetry
from qwarden.contracts import topics
from qwarden.control.port import Control, ControlUnusable
from qwarden.delivery.consumer import Delivery, Handler
from qwarden.delivery.group_watch import GroupWatch
from qwarden.delivery.keeper import Keeper
from qwarden.delivery.positions import Accepted
from qwarden.delivery.publisher import Publisher
from qwarden.delivery.room import Room
from qwarden.delivery.subscriber import subscribe
from qwarden.delivery.underway import Refuse
from qwarden.delivery.window import Partition
from qwarden.kafka import message_limits, open_producer, security, tokens
from qwarden.probes import App, Reasons, probing
from qwarden.settings import Consuming, Settings
from qwarden.tracing import OFF

_log = logging.getLogger(__name__)

_STOP_S = 3.0
"""How long the clients may take to say goodbye to a broker that may be away: with drain_s and
revoke_s under the pod's grace period."""
_RETRY_S = 1.0
"""How often a broker that is away, or lacks topics, is asked again."""
_TELL_S = 2.0
"""How often a process tells as metrics whether it is ready: several times between two scrapes."""


Part = Callable[[], Coroutine[Any, Any, None]]
"""What runs beside the lanes, until the service ends or sooner."""


@dataclass(frozen=True, slots=True)
class Lane:
    """One consumer of the service: its delivery, its group, how many records a poll has at most,
    and what else its `AIOKafkaConsumer` is told."""

    delivery: Delivery
    group_id: str
    poll_records: int
    connection: Mapping[str, Any] = field(default_factory=dict)


class Serving:
    """One process of a service. `lanes`, `beside` and `unready` are to be set before `run`.

    `name`: as its command. `needed`: topics without which it waits. `beside`: what runs from the
    start on. `tritons`: those that it asks, each host:port. `unready`: the service's own reasons
    why it is not ready. `unwell`: those why it is not alive. `app`: what is served beside the
    probes, if anything is. `trace`: where publications are traced.
    """

    def __init__(
        self,
        settings: Settings,
        limits: Consuming,
        control: Control,
        *,
        name: str,
        needed: Sequence[str],
    ) -> None:
        self.lanes: Sequence[Lane] = ()
        self.beside: Sequence[Part] = ()
        self.tritons: Sequence[str] = ()
        self.unready: Reasons = tuple
        self.unwell: Reasons = tuple
        self.app: App | None = None
        self.trace = OFF
        self._settings = settings
        self._limits = limits
        self._control = control
        self._name = name
        self._needed = needed
        self._end = asyncio.Event()
        self._failed = False
        self._parts: set[asyncio.Task[None]] = set()
        """Those that run: a loop keeps no task by itself."""
        self._publisher: Publisher | None = None
        self._waits_for: str | None = None
        """What of Kafka's it waits for before it can begin: a broker, or topics."""
        self._is_away = False
        """Whether that is a broker."""

    async def run(self) -> int:
        """Serves until SIGTERM or SIGINT (0), or until it cannot go on (3)."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        http = self._settings.http
        try:
            listening = socket.create_server((http.host, http.port))
        except OSError as error:
            _log.critical(
                "cannot listen on %s:%s (%s); set QWARDEN_HTTP__PORT to a free port",
                http.host,
                http.port,
                error.strerror,
            )
            return 3
        server = probing(self._name, self.not_alive, self.not_ready, self.app, stop_s=_STOP_S)
        serving = asyncio.create_task(server.serve([listening]), name="http")
        telemetry.BUILD_INFO.labels(__version__).set(1)
        watch = GroupWatch(
            self._settings.kafka,
            {lane.delivery.topic: lane.group_id for lane in self.lanes},
            every_s=self._settings.telemetry.group_look_s,
        )
        looking: list[Part] = [
            *self.beside,
            watch.run,
            partial(self._tell, watch),
            partial(certificates.watch, self._settings, self.tritons),
        ]
        beside = [self.spawn(each()) for each in looking]
        consuming = asyncio.create_task(self._consume(), name="consume")
        await asyncio.wait((serving, consuming), return_when=asyncio.FIRST_COMPLETED)
        self._end.set()
        server.should_exit = True
        for each in beside:
            each.cancel()
        ended = asyncio.ensure_future(_within(_STOP_S, watch.close()))
        try:
            await asyncio.gather(serving, consuming)
        except KafkaError as error:  # no outage, those are waited for: no right to a topic, say
            _log.critical("Kafka refuses to serve this %s: %r", self._name, error)
            return 3
        except ControlUnusable as error:
            _log.critical("%s", error)
            return 3
        finally:
            await ended
        return 3 if self._failed or any(lane.delivery.failure for lane in self.lanes) else 0

    def stop(self) -> None:
        """Asks `run` to finish what is in flight and return."""
        self._end.set()

    def spawn(self, running: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs a part of the service beside its lanes. One that fails ends the process: nobody
        would miss it."""
        task = asyncio.create_task(running)
        self._parts.add(task)
        task.add_done_callback(self._part_ended)
        return task

    def part_failed(self, error: BaseException) -> None:
        """A part cannot go on: the process ends."""
        _log.critical("a part of the %s failed, the process ends: %r", self._name, error)
        self._failed = True
        self.stop()

    def _part_ended(self, task: asyncio.Task[None]) -> None:
        self._parts.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.part_failed(error)

    def unusable(self, what: str, error: Exception) -> None:
        """Something that no waiting mends: the process ends."""
        _log.critical("%s cannot be used: %s", what, error)
        self._failed = True
        self.stop()

    def accept_losses(self) -> None:
        """Has the lanes go on where people have accepted a loss."""
        for lane in self.lanes:
            lane.delivery.accept_losses(
                {
                    Partition(loss.topic, loss.partition): Accepted(loss.committed, loss.resume_at)
                    for loss in self._control.accepted_losses().values()
                    if (loss.topic, loss.group) == (lane.delivery.topic, lane.group_id)
                }
            )

    def delivery_of(
        self,
        topic: str,
        handler: Handler,
        refuse: Refuse,
        room: Room,
        keeper: Keeper | None = None,
    ) -> Delivery:
        """One of the service's, under its limits."""
        limits = self._limits
        return Delivery(
            topic,
            handler,
            refuse,
            room=room,
            commit_interval_s=limits.commit_interval_s,
            commit_records=limits.commit_records,
            revoke_s=limits.revoke_s,
            look_s=limits.look_s,
            on_failure=self.stop,
            keeper=keeper,
        )

    def in_flight(self) -> str:
        """Which records are in flight, for a log line."""
        return " ".join(lane.delivery.in_flight() for lane in self.lanes)

    def not_alive(self) -> list[str]:
        """Why it is not alive: a poll loop does not turn, or something has failed. That it answers
        says that the event loop turns; an outage is waited out, alive."""
        deliveries = [lane.delivery for lane in self.lanes]
        if any(each.failure is not None for each in deliveries):
            return ["delivery failed; the process ends"]
        hung = [
            f"{each.topic} has not been polled for {each.idle_s:.0f} s"
            for each in deliveries
            if each.idle_s > self._limits.hung_s
        ]
        return [*hung, *self.unwell()]

    def not_ready(self) -> list[str]:
        """Why it is not ready: what it cannot do without is not there. Never Redis; having no
        partitions is fine."""
        deliveries = [lane.delivery for lane in self.lanes]
        reasons = [
            stopped.sentence(*where) for each in deliveries for where, stopped in each.lost.items()
        ]
        reasons += [
            f"{topic}/{partition} is not read on from offset {at}, and there are records; look at "
            "that one: a header whose name is not UTF-8 cannot be read"
            for each in deliveries
            for (topic, partition), at in each.stuck.items()
        ]
        if self._waits_for is not None:
            reasons.append(self._waits_for)
        elif not all(each.joined for each in deliveries):
            reasons.append("the consumer group has not assigned anything yet")
        elif not all(each.is_connected for each in deliveries):
            reasons.append("no broker is connected")
        if self._publisher is not None and self._publisher.outage is not None:
            reasons.append(f"nothing can be published: {self._publisher.outage}")
        if deliveries and deliveries[0].held is not None:
            reasons.append(f"nothing is judged: {deliveries[0].held}")
        reasons += self.unready()
        if self._end.is_set():
            reasons.append("stopping")
        return reasons

    def limits_learned(self, limits: Mapping[str, int]) -> None:
        """Told of what each topic takes at most, in bytes, before the first record is taken."""

    async def _consume(self) -> None:
        """Waits for the broker, consumes until the end is asked for, drains, leaves the group."""
        limits = await self._message_limits()
        if limits is None:
            return
        self.limits_learned(limits)
        kafka = self._settings.kafka
        most = self._limits.max_event_bytes + topics.CONTENT_OVERHEAD_BYTES
        publisher = Publisher(
            partial(open_producer, kafka, limits.values()),
            limits=limits,
            close_s=self._limits.publisher_close_s,
            on_failure=self.part_failed,
            trace=self.trace,
        )
        broker = KafkaBroker(
            kafka.bootstrap_servers,
            security=security(kafka),
            sasl_oauth_token_provider=tokens(kafka),
            client_id=f"qwarden-{self._name}",
            request_timeout_ms=kafka.request_timeout_ms,
            consumer_only=True,
            logger=_log,
            log_level=logging.DEBUG,
            allow_auto_create_topics=False,
        )
        connection = {
            "session_timeout_ms": kafka.session_timeout_ms,
            # As Kafka advises: two may be lost before the group goes on without this member.
            "heartbeat_interval_ms": kafka.session_timeout_ms // 3,
            "max_poll_interval_ms": kafka.max_poll_interval_ms,
            "max_partition_fetch_bytes": most,
            # A broker that has nothing answers so soon: a partition that is paused or resumed waits
            # for the request that is underway (aiokafka's default is 500).
            "fetch_max_wait_ms": 50,
            # New partitions are seen this late; aiokafka's default is five minutes.
            "metadata_max_age_ms": 30_000,
        }
        if not await self._unless_ended(self._control.start()):
            await _within(_STOP_S, self._control.close())
            return
        publisher.start()
        self._publisher = publisher
        for lane in self.lanes:
            subscribe(
                broker,
                lane.delivery,
                group_id=lane.group_id,
                max_records=lane.poll_records,
                connection={**connection, **lane.connection},
            )
            lane.delivery.start(publisher)
        app = FastStream(broker, logger=_log)
        if await self._unless_ended(app.start()):
            await self._end.wait()
        drain_s = self._limits.drain_s
        await asyncio.gather(*(lane.delivery.drain(drain_s) for lane in self.lanes))
        await _within(_STOP_S, app.stop(), publisher.close(), self._control.close())

    async def _unless_ended(self, waiting: Coroutine[Any, Any, None]) -> bool:
        """Waits for it, or for the end that is asked for before; whether it came to its own."""
        task, ending = asyncio.create_task(waiting), asyncio.create_task(self._end.wait())
        await asyncio.wait((task, ending), return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if task.done():
            task.result()
            return True
        task.cancel()
        await asyncio.wait((task,))
        return False

    async def _message_limits(self) -> dict[str, int] | None:
        """Waits for a broker that is away and for topics that a Job has yet to make; None where
        the end was asked for before."""
        while not self._end.is_set():
            is_away = False
            try:
                limits = await message_limits(self._settings.kafka, self._needed)
                missing = sorted(set(self._needed) - limits.keys())
                if not missing:
                    self._waits_for, self._is_away = None, False
                    return limits
                reason = lacking(missing)
            except (KafkaError, OSError) as error:
                is_away = True
                reason = f"Kafka at {self._settings.kafka.bootstrap_servers} is away: {error}"
            if reason != self._waits_for:
                _log.warning("waiting: %s", reason)
            self._waits_for, self._is_away = reason, is_away
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RETRY_S):
                    await self._end.wait()
        return None

    async def _tell(self, watch: GroupWatch) -> None:
        """Tells as metrics whether this process is ready, until it is cancelled, and whether Kafka
        is there: a producer repeats for ever what a broker that is away does not acknowledge, and
        one that has nothing to send does not miss it."""
        try:
            while True:
                telemetry.READY.set(not self.not_ready())
                outage = None if self._publisher is None else self._publisher.outage
                is_away = self._is_away or watch.away is not None or outage is not None
                telemetry.PUBLISH_UP.set(self._publisher is not None and not is_away)
                telemetry.BREAKER_OPEN.labels("kafka").set(is_away)
                await asyncio.sleep(_TELL_S)
        finally:
            telemetry.READY.set(0)


def lacking(missing: Sequence[str]) -> str:
    """Why a service waits for topics, and who makes them."""
    own = [name for name in missing if name in topics.ALL]
    theirs = [name for name in missing if name not in topics.ALL]
    reasons = []
    if own:
        reasons.append(
            f"the topics {', '.join(own)} are missing; make them with: qwarden topics create"
        )
    if theirs:
        files = ", ".join(f"topics/{name}.yaml" for name in theirs)
        reasons.append(
            f"the topics {', '.join(theirs)} are missing, which {files} in QWARDEN_POLICY__PATH "
            "name; have their owner make them, or remove the files and restart"
        )
    return "; ".join(reasons)


async def _within(budget_s: float, *ending: Coroutine[Any, Any, None]) -> None:
    """Ends things, together, within a budget. In a task each: aiokafka lets the cancellation of its
    own tasks out of `stop` where it is between two tries."""
    tasks = [asyncio.create_task(each) for each in ending]
    done, late = await asyncio.wait(tasks, timeout=budget_s)
    for task in late:
        task.cancel()
    if late:
        _log.warning("not everything was closed within %s s", budget_s)
    for task in done:
        if not task.cancelled() and task.exception() is not None:
            _log.warning("closing: %r", task.exception())
