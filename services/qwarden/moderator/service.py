"""The moderator as a process: FastStream on aiokafka, and HTTP for probes and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from aiokafka.errors import KafkaError
from faststream import FastStream
from faststream.asgi import AsgiFastStream, AsgiResponse, get
from faststream.kafka import KafkaBroker
from prometheus_client import make_asgi_app

from qwarden.contracts import topics
from qwarden.delivery.consumer import Delivery
from qwarden.delivery.subscriber import producer_of, subscribe
from qwarden.inference.dispatch import Dispatcher
from qwarden.kafka import admin, security
from qwarden.moderator.moderator import Moderator
from qwarden.settings import Settings

_log = logging.getLogger(__name__)


class ModeratorService:
    """One moderator. `run` returns the process's exit code."""

    def __init__(self, settings: Settings, moderator: Moderator, dispatcher: Dispatcher) -> None:
        self._settings = settings
        self._dispatcher = dispatcher
        self._end = asyncio.Event()
        self._guard_known = False
        self._guard_unusable = False
        self._delivery = Delivery(
            moderator.handle,
            polls_in_flight=settings.moderator.polls_in_flight,
            bytes_in_flight=settings.moderator.bytes_in_flight,
            commit_interval_s=settings.moderator.commit_interval_s,
            revoke_s=settings.moderator.revoke_s,
            on_failure=self.stop,
        )
        dispatcher.held = self._delivery.held

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
        return 3 if self._delivery.failure or self._guard_unusable else 0

    def stop(self) -> None:
        """Asks `run` to finish what is in flight and return."""
        self._end.set()

    async def _consume(self) -> None:
        """Waits for the broker, consumes until the end is asked for, drains, leaves the group."""
        if not await self._topics_are_there():
            return
        kafka = self._settings.kafka
        most = self._settings.moderator.max_event_bytes + topics.CONTENT_OVERHEAD_BYTES
        broker = KafkaBroker(
            kafka.bootstrap_servers,
            security=security(kafka),
            client_id="qwarden-moderator",
            request_timeout_ms=kafka.request_timeout_ms,
            enable_idempotence=True,
            acks="all",
            linger_ms=5,
            max_batch_size=65536,
            max_request_size=most + topics.CONTENT_OVERHEAD_BYTES,
            logger=_log,
            log_level=logging.DEBUG,
            allow_auto_create_topics=False,
        )
        subscriber = subscribe(
            broker,
            topics.CONTENT,
            self._delivery,
            group_id=kafka.group_id,
            max_records=self._settings.moderator.poll_records,
            connection={
                "session_timeout_ms": kafka.session_timeout_ms,
                "heartbeat_interval_ms": kafka.session_timeout_ms // 3,
                "max_poll_interval_ms": kafka.max_poll_interval_ms,
                "max_partition_fetch_bytes": most,
                "fetch_max_wait_ms": 50,
            },
        )
        app = FastStream(broker, logger=_log)
        await app.start()
        assert subscriber.consumer is not None
        self._delivery.start(subscriber.consumer, producer_of(broker))
        await self._end.wait()
        await self._delivery.drain(self._settings.moderator.drain_s)
        await app.stop()

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
            self._guard_unusable = True
            self.stop()
            return
        self._guard_known = True
        _log.info("the guard is %s", revision)

    async def _topics_are_there(self) -> bool:
        """Waits for a broker that is away and for topics that a Job has yet to make; False where
        the end was asked for before."""
        said = ""
        while not self._end.is_set():
            try:
                async with admin(self._settings.kafka) as client:
                    missing = sorted(set(topics.ALL) - set(await client.list_topics()))
                if not missing:
                    return True
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
        return False

    async def _healthz(self, scope: Any) -> AsgiResponse:
        """Alive: this loop turns, and delivery has not failed. An outage is waited out, alive."""
        if self._delivery.failure is not None:
            return _text(503, "delivery failed; the process ends")
        return _text(200, "alive")

    async def _readyz(self, scope: Any) -> AsgiResponse:
        """Ready: what it cannot do without is there. Never Redis; having no partitions is fine."""
        reasons = [stopped.sentence(*where) for where, stopped in self._delivery.lost.items()]
        if not self._delivery.joined:
            reasons.append("the consumer group has not assigned anything yet")
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


def _text(status: int, body: str) -> AsgiResponse:
    return AsgiResponse(
        body.encode() + b"\n", status_code=status, headers={"content-type": "text/plain"}
    )
