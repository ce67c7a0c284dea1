"""The moderator as a process: FastStream on aiokafka, and HTTP for probes and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Coroutine, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import uvicorn
from aiokafka.errors import KafkaError
from faststream import FastStream
from faststream.asgi import AsgiFastStream, AsgiResponse, get
from faststream.kafka import KafkaBroker
from prometheus_client import make_asgi_app

from qwarden.contracts import topics
from qwarden.contracts.control import Halt
from qwarden.control.port import Control, ControlUnusable
from qwarden.delivery.consumer import Delivery
from qwarden.delivery.positions import Accepted
from qwarden.delivery.publisher import Publisher
from qwarden.delivery.room import Room
from qwarden.delivery.subscriber import subscribe
from qwarden.delivery.window import Partition
from qwarden.inference.dispatch import Dispatcher
from qwarden.kafka import message_limits, open_producer, security
from qwarden.moderator.halting import Run
from qwarden.moderator.moderator import Moderator
from qwarden.settings import Settings

_log = logging.getLogger(__name__)

_STOP_S = 3.0
"""How long the clients may take to say goodbye to a broker that may be away: with drain_s and
revoke_s under the pod's grace period."""
_LATE_S = 10.0
"""How long an acknowledgement is waited for before the service calls itself not ready."""
_HALT_SEEN_S = 10.0
"""How late a halt that is acknowledged may be read: the reader polls every second."""
_BATCH_BYTES = 65_536
"""Of the producer's batches; larger ones gain nothing here."""


class ModeratorService:
    """One moderator. `run` returns the process's exit code."""

    def __init__(
        self, settings: Settings, moderator: Moderator, dispatcher: Dispatcher, control: Control
    ) -> None:
        self._settings = settings
        self._dispatcher = dispatcher
        self._control = control
        self._run_seen: Run | None = None
        """A run that halts, until the halt is read like everybody's."""
        self._halt_read = asyncio.Event()
        self._writing_halt: asyncio.Task[None] | None = None
        self._end = asyncio.Event()
        self._guard_known = False
        self._failed = False
        self._interactive = self._delivery(
            topics.CONTENT, moderator, settings.moderator.records_in_flight
        )
        self._backlog = self._delivery(
            topics.BACKLOG, moderator, settings.moderator.backlog_records
        )
        self._lanes = (self._interactive, self._backlog)
        self._publisher: Publisher | None = None
        dispatcher.held = self._in_flight
        dispatcher.on_change = self._guard_changed
        dispatcher.on_failure = self._part_failed
        control.on_change(self._control_changed)
        moderator.on_run = self._halt
        self._moderator = moderator

    def _delivery(self, topic: str, moderator: Moderator, records: int) -> Delivery:
        limits = self._settings.moderator
        return Delivery(
            topic,
            moderator.handle,
            moderator.unpublishable,
            room=Room(
                records=records,
                most_bytes=limits.bytes_in_flight,
                uncommitted=limits.uncommitted_records,
            ),
            commit_interval_s=limits.commit_interval_s,
            commit_records=limits.commit_records,
            revoke_s=limits.revoke_s,
            look_s=limits.look_s,
            on_failure=self.stop,
        )

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
        server = _HttpServer(self._http_config())
        serving = asyncio.create_task(server.serve([listening]), name="http")
        learning = asyncio.create_task(self._learn_revision(), name="guard-revision")
        consuming = asyncio.create_task(self._consume(), name="consume")
        await asyncio.wait((serving, consuming), return_when=asyncio.FIRST_COMPLETED)
        self._end.set()
        server.should_exit = True
        learning.cancel()
        try:
            await asyncio.gather(serving, consuming)
        except KafkaError as error:  # no outage, those are waited for: no right to a topic, say
            _log.critical("Kafka refuses to serve this moderator: %r", error)
            return 3
        except ControlUnusable as error:
            _log.critical("%s", error)
            return 3
        return 3 if self._failed or any(lane.failure for lane in self._lanes) else 0

    def stop(self) -> None:
        """Asks `run` to finish what is in flight and return."""
        self._end.set()

    async def _consume(self) -> None:
        """Waits for the broker, consumes until the end is asked for, drains, leaves the group."""
        limits = await self._message_limits()
        if limits is None:
            return
        kafka = self._settings.kafka
        most = self._settings.moderator.max_event_bytes + topics.CONTENT_OVERHEAD_BYTES
        publisher = self._publisher = Publisher(
            partial(
                open_producer,
                kafka,
                max_batch_bytes=min(_BATCH_BYTES, *limits.values()),
                max_message_bytes=max(limits.values()),
            ),
            limits=limits,
            close_s=self._settings.moderator.publisher_close_s,
            on_failure=self._part_failed,
        )
        broker = KafkaBroker(
            kafka.bootstrap_servers,
            security=security(kafka),
            client_id="qwarden-moderator",
            request_timeout_ms=kafka.request_timeout_ms,
            consumer_only=True,
            logger=_log,
            log_level=logging.DEBUG,
            allow_auto_create_topics=False,
        )
        connection = {
            "session_timeout_ms": kafka.session_timeout_ms,
            "heartbeat_interval_ms": kafka.session_timeout_ms // 3,
            "max_poll_interval_ms": kafka.max_poll_interval_ms,
            "max_partition_fetch_bytes": most,
            "fetch_max_wait_ms": 50,
            # New partitions are seen this late; aiokafka's default is five minutes.
            "metadata_max_age_ms": 30_000,
        }
        most_records = {
            topics.CONTENT: self._settings.moderator.poll_records,
            topics.BACKLOG: self._settings.moderator.backlog_records,
        }
        if not await self._unless_ended(self._control.start()):
            await _within(_STOP_S, self._control.close())
            return
        publisher.start()
        for lane in self._lanes:
            subscribe(
                broker,
                lane,
                group_id=kafka.groups[lane.topic],
                max_records=most_records[lane.topic],
                connection=connection,
            )
            lane.start(publisher)
        app = FastStream(broker, logger=_log)
        if await self._unless_ended(app.start()):
            await self._end.wait()
        drain_s = self._settings.moderator.drain_s
        await asyncio.gather(*(lane.drain(drain_s) for lane in self._lanes))
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

    def _guard_changed(self) -> None:
        self._hold_or_release()
        if self._dispatcher.outage is not None:
            self._moderator.guard_went_away()

    def _control_changed(self) -> None:
        if self._control.halts():
            self._halt_read.set()
        self._hold_or_release()
        groups = self._settings.kafka.groups
        for lane in self._lanes:
            lane.accept_losses(
                {
                    Partition(loss.topic, loss.partition): Accepted(loss.committed, loss.resume_at)
                    for loss in self._control.accepted_losses().values()
                    if (loss.topic, loss.group) == (lane.topic, groups[lane.topic])
                }
            )

    def _hold_or_release(self) -> None:
        """A halt holds both lanes; an outage of the guard only the backlog, which waits on its
        topic: the other one fills its room and pauses, or its policies answer instead."""
        halts = [halt.reason for halt in self._control.halts().values()]
        if self._run_seen is not None:
            halts.append(self._run_seen.reason)
        if halts:
            self._moderator.halt()
        else:
            self._moderator.resume()
        away = [] if self._dispatcher.outage is None else ["the guard is away"]
        for lane, reasons in ((self._interactive, halts), (self._backlog, halts + away)):
            if reasons:
                lane.hold("; ".join(reasons))
            else:
                lane.release()

    def _halt(self, run: Run) -> None:
        """Holds at once here; everybody else follows when the record is read."""
        _log.critical("the fleet is halted: %s", run.reason)
        self._run_seen = run
        self._halt_read.clear()
        self._hold_or_release()
        by = f"{self._settings.kafka.group_id}@{socket.gethostname()}"
        halt = Halt(reason=run.reason, at=datetime.now(UTC), by=by)
        self._writing_halt = asyncio.create_task(self._write(halt), name="halt")
        self._writing_halt.add_done_callback(self._ended)

    async def _write(self, halt: Halt) -> None:
        """From then on what is read decides: the halt, or that a person has withdrawn it since."""
        await self._control.write(halt)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._halt_read.wait(), _HALT_SEEN_S)
        self._run_seen = None
        self._hold_or_release()

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._part_failed(error)

    def _in_flight(self) -> str:
        return " ".join(lane.in_flight() for lane in self._lanes)

    def _part_failed(self, error: BaseException) -> None:
        _log.critical("a part of the moderator failed, the process ends: %r", error)
        self._failed = True
        self.stop()

    def _http_config(self) -> uvicorn.Config:
        routes = AsgiFastStream(
            logger=_log,
            asgi_routes=[
                ("/healthz", get(self._healthz)),
                ("/readyz", get(self._readyz)),
                ("/metrics", make_asgi_app()),
            ],
        )
        return uvicorn.Config(
            routes,
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
        )

    async def _learn_revision(self) -> None:
        try:
            revision = await self._dispatcher.revision()
        except Exception as error:  # of the checkpoint: waiting does not mend it
            _log.critical("the guard cannot be used: %s", error)
            self._failed = True
            self.stop()
            return
        self._guard_known = True
        _log.info("the guard is %s", revision)

    async def _message_limits(self) -> dict[str, int] | None:
        """Waits for a broker that is away and for topics that a Job has yet to make; None where
        the end was asked for before."""
        said = ""
        while not self._end.is_set():
            try:
                limits = await message_limits(self._settings.kafka, topics.ALL)
                missing = sorted(set(topics.ALL) - limits.keys())
                if not missing:
                    return limits
                reason = (
                    f"the topics {', '.join(missing)} are missing; make them with: "
                    "qwarden topics create"
                )
            except (KafkaError, OSError) as error:
                reason = f"Kafka at {self._settings.kafka.bootstrap_servers} is away: {error}"
            if reason != said:
                _log.warning("waiting: %s", reason)
                said = reason
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._end.wait(), 1.0)
        return None

    async def _healthz(self, scope: Any) -> AsgiResponse:
        """Alive: the event loop turns, since it answers; the poll loops turn; nothing has failed.
        An outage is waited out, alive."""
        if any(lane.failure is not None for lane in self._lanes):
            return _text(503, "delivery failed; the process ends")
        for lane in self._lanes:
            if lane.idle_s > self._settings.moderator.hung_s:
                return _text(503, f"{lane.topic} has not been polled for {lane.idle_s:.0f} s")
        return _text(200, "alive")

    async def _readyz(self, scope: Any) -> AsgiResponse:
        """Ready: what it cannot do without is there. Never Redis; having no partitions is fine."""
        reasons = [
            stopped.sentence(*where) for lane in self._lanes for where, stopped in lane.lost.items()
        ]
        reasons += [
            f"{topic}/{partition} is not read on from offset {at}, and there are records; look at "
            "that one: a header whose name is not UTF-8 cannot be read"
            for lane in self._lanes
            for (topic, partition), at in lane.stuck.items()
        ]
        if not all(lane.joined for lane in self._lanes):
            reasons.append("the consumer group has not assigned anything yet")
        elif not all(lane.is_connected for lane in self._lanes):
            reasons.append("no broker is connected")
        if self._publisher is not None:
            if self._publisher.outage is not None:
                reasons.append(f"nothing can be published: {self._publisher.outage}")
            elif self._publisher.waits_s > _LATE_S:
                reasons.append(f"no acknowledgement for {self._publisher.waits_s:.0f} s")
        if self._interactive.held is not None:
            reasons.append(f"nothing is judged: {self._interactive.held}")
        if self._dispatcher.outage is not None:
            reasons.append(f"the guard is unavailable: {self._dispatcher.outage}")
        elif not self._guard_known:
            reasons.append("the guard has not answered yet")
        if self._end.is_set():
            reasons.append("stopping")
        return _text(503 if reasons else 200, "\n".join(reasons) or "ready")


class _HttpServer(uvicorn.Server):
    """Leaves signals to the service: uvicorn's own handling ends the process before the drain."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


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


def _text(status: int, body: str) -> AsgiResponse:
    return AsgiResponse(
        body.encode() + b"\n", status_code=status, headers={"content-type": "text/plain"}
    )
