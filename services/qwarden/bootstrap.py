"""The composition root: settings in, a service with its adapters out."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from qwarden import telemetry, tls
from qwarden.backoff import Backoff
from qwarden.cache.memory import MemoryCache
from qwarden.cache.opening import open_cache
from qwarden.cache.outage import SkippedWhenAway
from qwarden.cache.writer import CacheWriter
from qwarden.contracts.mapping import Topic
from qwarden.control.kafka import KafkaControl
from qwarden.control.port import Control
from qwarden.inference.dispatch import Dispatcher, Limits
from qwarden.inference.in_process import InProcessGuard
from qwarden.inference.in_process_stream import InProcessStream
from qwarden.inference.port import Guard
from qwarden.inference.replica import StreamLimits
from qwarden.inference.replicas import Addresses, Look
from qwarden.inference.stream_client import StreamClient
from qwarden.inference.stream_port import StreamGuard
from qwarden.inference.triton import TritonGuard
from qwarden.inference.triton_model import Tls
from qwarden.inference.triton_stream import TritonStream
from qwarden.language.eld import EldDetector
from qwarden.moderator.case import Admission
from qwarden.moderator.halting import Halting
from qwarden.moderator.moderator import Moderator
from qwarden.outcomes.lookup import Lookup
from qwarden.outcomes.publication import Publication
from qwarden.policy.document import DocumentError
from qwarden.policy.tenants import Tenants, read_tenants
from qwarden.policy.topics import read_topics
from qwarden.registry.schemas import Schemas
from qwarden.settings import Consuming, Judging, Registry, Settings, SettingsError
from qwarden.streamer import streamer as streaming
from qwarden.streamer.chunks import Door
from qwarden.streamer.streamer import Streamer
from qwarden.tracing import Trace

if TYPE_CHECKING:
    from qwarden.registry.http import HttpRegistry
    from qwarden.review.service import ReviewService

_FOLDERS = ("policies", "tenants", "topics")
"""Of QWARDEN_POLICY__PATH, each of files that are called NAME.yaml."""
_CLOSE_S = 2.0
"""How long the last writes to the cache may take when a service ends: what is not written is judged
again, and drain_s is over by then."""


def guard_of(settings: Settings) -> Guard:
    """The guard that the settings name."""
    if settings.guard.mode == "triton":
        triton = settings.triton
        return TritonGuard(
            triton.url, timeout_s=triton.timeout_s, queue_s=triton.queue_s, tls=tls_of(settings)
        )
    if settings.engine is None:
        raise SettingsError(
            "QWARDEN_ENGINE__CHECKPOINT: is not set, and guard.mode is in-process; name a "
            "directory or a hub id"
        )
    return InProcessGuard(settings.engine)


def tls_of(settings: Settings, name: str | None = None) -> Tls | None:
    """How connections to Triton are encrypted; `name`: its name where it is called by an address.
    Raises `SettingsError` for certificates that cannot be used."""
    if not settings.triton.tls:
        return None
    authority, key, certificate = tls.pem_of(settings.triton.certificates)
    return Tls(authority, key, certificate, name)


def tenants_of(settings: Settings, *, activated: bool = False) -> Tenants:
    """Policies and tenants from their files. Raises `DocumentError` with file, line and field.
    `activated`: policies without a file may be in force on the control topic."""
    path = settings.policy.path
    if path is not None and not path.is_dir():
        raise SettingsError(f"QWARDEN_POLICY__PATH: {path} is not a folder")
    if path is not None and not any((path / name).is_dir() for name in _FOLDERS):
        raise SettingsError(
            f"QWARDEN_POLICY__PATH: {path} has none of the folders {', '.join(_FOLDERS)}"
        )
    return read_tenants(
        texts_in(path, "policies"),
        texts_in(path, "tenants"),
        strict=settings.policy.strict_tenants,
        activated=activated,
    )


def topics_of(settings: Settings, tenants: Tenants) -> dict[str, Topic]:
    """The topics that are read beside `content.events`, or otherwise, from their files; `tenants`:
    as `tenants_of` gives them. Raises `DocumentError` with file, line and field."""
    return read_topics(texts_in(settings.policy.path, "topics"), tenants)


def schemas_of(settings: Settings, topics: Mapping[str, Topic]) -> Schemas | None:
    """What learns the schemas of these topics' values; None where none of them has any."""
    of = sorted(name for name, topic in topics.items() if topic.is_confluent)
    if not of:
        return None
    own = settings.registry
    if own.url is None:
        raise SettingsError(
            f"QWARDEN_REGISTRY__URL: is not set, and topics/{of[0]}.yaml says decoder: confluent; "
            "set it to the address of the schema registry"
        )
    return Schemas(registry_of(own), Backoff(own.backoff_s, own.max_backoff_s))


def registry_of(own: Registry) -> HttpRegistry:
    """The schema registry that the settings name; `own.url` must be there."""
    from qwarden.registry.http import HttpRegistry  # httpx takes longer than all else to import

    assert own.url is not None
    return HttpRegistry(
        own.url,
        timeout_s=own.timeout_s,
        username=own.username,
        password=own.password.get_secret_value() if own.password else None,
        ca_file=own.ca_file,
    )


def texts_in(path: Path | None, folder: str) -> dict[str, str]:
    """The files of one of the folders of QWARDEN_POLICY__PATH, by name without `.yaml`. Raises
    `DocumentError`."""
    if path is None or not (path / folder).is_dir():
        return {}
    texts = {}
    # A ConfigMap's volume has hidden folders beside the files.
    for file in sorted(each for each in (path / folder).iterdir() if each.name[0] != "."):
        if file.suffix != ".yaml":
            raise DocumentError(f"{folder}/{file.name}:1: is not read; a file is called NAME.yaml")
        try:
            texts[file.stem] = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise DocumentError(f"{folder}/{file.name}:1: is not UTF-8: {error}") from None
    return texts


def control_of(settings: Settings, *, keeps_overrides: bool = True) -> Control:
    """What is in force for the whole fleet. `keeps_overrides`: with what people decided of content,
    which a service needs that judges whole contents."""
    return KafkaControl(settings.kafka, keeps_overrides=keeps_overrides)


def admission_of(
    settings: Settings,
    tenants: Tenants,
    topics: Mapping[str, Topic] | None = None,
    schemas: Schemas | None = None,
) -> Admission:
    """The door. Without `topics` every record is an event as it is, as in a file of events."""
    return Admission(
        tenants,
        settings.keys(),
        settings.moderator.max_event_bytes,
        EldDetector(),
        topics or {},
        schemas.readers if schemas else {},
    )


@asynccontextmanager
async def door(
    settings: Settings, tenants: Tenants | None = None
) -> AsyncIterator[tuple[Admission, Schemas | None]]:
    """The door of all topics, as the moderator has it, and what learns the schemas of their values,
    closed at the end. `tenants` stand in for the settings' own. Raises as `tenants_of`, `topics_of`
    and `schemas_of` do."""
    tenants = tenants or tenants_of(settings, activated=True)
    topics = topics_of(settings, tenants)
    schemas = schemas_of(settings, topics)
    try:
        yield admission_of(settings, tenants, topics, schemas), schemas
    finally:
        if schemas is not None:
            await schemas.close()


def _trace_of(settings: Settings, service: str) -> Trace:
    own = settings.telemetry
    return Trace(own.otlp_endpoint, f"qwarden-{service}", own.trace_ratio)


def _publication_of(limits: Judging, group_id: str) -> Publication:
    return Publication(
        evidence_sample=limits.evidence_sample,
        consumer=f"{group_id}@{socket.gethostname()}",
        max_event_bytes=limits.max_event_bytes,
    )


def _labels_of(limits: Consuming, tenants: Tenants) -> telemetry.TenantLabels:
    return telemetry.TenantLabels(frozenset(tenants.known), limits.tenant_labels)


def limits_of(settings: Settings) -> Limits:
    """How the guard of whole texts is asked."""
    triton = settings.triton
    return Limits(
        rows_a_request=triton.rows_a_request,
        bytes_a_request=triton.bytes_a_request,
        requests_in_flight=triton.requests_in_flight,
        backoff_s=triton.backoff_s,
        max_backoff_s=triton.max_backoff_s,
        suspects_in_flight=triton.suspects_in_flight,
        probe_s=triton.probe_s,
        alone_s=triton.alone_s,
        alone_1000_tokens_s=triton.alone_1000_tokens_s,
    )


@asynccontextmanager
async def judging(
    settings: Settings, guard: Guard, memory_entries: int
) -> AsyncIterator[tuple[Lookup, Dispatcher]]:
    """What finds assessments of whole texts, closed at the end."""
    async with AsyncExitStack() as stack:
        stack.push_async_callback(guard.close)
        dispatcher = Dispatcher(guard, limits_of(settings))
        stack.push_async_callback(dispatcher.close)
        shared = writer = None
        if settings.redis.url is not None:
            redis = open_cache(
                settings.redis.url.get_secret_value(),
                ttl_s=settings.redis.ttl_s,
                timeout_s=settings.redis.timeout_s,
                pause_s=settings.redis.pause_s,
                certificates=settings.redis.certificates,
            )
            shared = SkippedWhenAway(redis, pause_s=settings.redis.pause_s)
            stack.push_async_callback(shared.close)
            writer = CacheWriter(shared, waiting=settings.redis.waiting, batch=settings.redis.batch)
            stack.push_async_callback(writer.close, _CLOSE_S)
        memory = MemoryCache(memory_entries, settings.redis.ttl_s)
        yield (
            Lookup(
                dispatcher,
                settings.keys(),
                memory,
                shared,
                writer,
                exact_bound=settings.guard.exact_bound,
            ),
            dispatcher,
        )


def stream_client_of(
    settings: Settings,
    guard_at: Callable[[str], StreamGuard] | None = None,
    look: Look | None = None,
) -> StreamClient:
    """The client of the stream guard that the settings name. `guard_at` and `look` stand in for
    the settings' own, for tests."""
    own = settings.stream_guard
    in_process = settings.guard.mode == "in-process"
    if in_process and settings.stream is None and guard_at is None:
        raise SettingsError(
            "QWARDEN_STREAM__CHECKPOINT: is not set, and guard.mode is in-process; name a "
            "directory or a hub id of a Stream checkpoint"
        )

    addresses = Addresses(settings.stream_urls)
    tls_of(settings)  # wrong certificates are said at the start, not when an address is known

    def at(address: str) -> StreamGuard:
        if in_process and settings.stream is not None:
            return InProcessStream(settings.stream)
        encrypted = tls_of(settings, addresses.host_of(address))
        return TritonStream(address, timeout_s=own.timeout_s, queue_s=own.queue_s, tls=encrypted)

    async def here() -> frozenset[str]:
        return frozenset({"in-process"})

    return StreamClient(
        guard_at or at,
        look or (here if in_process else addresses),
        StreamLimits(
            appends_a_request=own.appends_a_request,
            requests_in_flight=own.requests_in_flight,
            replay_tokens_a_second=own.replay_tokens_a_second,
            leave_s=own.leave_s,
            backoff_s=own.backoff_s,
            max_backoff_s=own.max_backoff_s,
            probe_s=own.probe_s,
            alone_s=own.alone_s,
            alone_1000_tokens_s=own.alone_1000_tokens_s,
        ),
        look_s=own.look_s,
    )


@asynccontextmanager
async def streamer(
    settings: Settings, client: StreamClient | None = None, guard: Guard | None = None
) -> AsyncIterator[tuple[Streamer, StreamClient, Dispatcher]]:
    """A streamer with all that it needs, closed at the end. `client` and `guard` stand in for the
    settings' own, for tests."""
    tenants = tenants_of(settings, activated=True)
    limits = settings.streamer
    async with AsyncExitStack() as stack:
        lookup, dispatcher = await stack.enter_async_context(
            judging(settings, guard or guard_of(settings), limits.memory_entries)
        )
        client = client or stream_client_of(settings)
        stack.push_async_callback(client.close)
        trace = dispatcher.trace = client.trace = _trace_of(settings, "streamer")
        stack.callback(trace.close)
        yield (
            Streamer(
                Door(tenants, settings.keys(), limits.max_event_bytes, EldDetector()),
                client,
                lookup,
                _publication_of(limits, limits.group_id),
                trace=trace,
                tenant_labels=_labels_of(limits, tenants),
                limits=streaming.Limits(
                    gap_s=limits.gap_s,
                    max_age_s=limits.max_age_s,
                    remembered=limits.sessions_remembered,
                ),
            ),
            client,
            dispatcher,
        )


@asynccontextmanager
async def moderator(
    settings: Settings, guard: Guard | None = None, tenants: Tenants | None = None
) -> AsyncIterator[tuple[Moderator, Dispatcher]]:
    """A moderator with all that it needs, closed at the end. `guard` and `tenants` stand in for
    the settings' own, for benchmarks and for files."""
    limits = settings.moderator
    async with AsyncExitStack() as stack:
        admission, schemas = await stack.enter_async_context(door(settings, tenants))
        lookup, dispatcher = await stack.enter_async_context(
            judging(settings, guard or guard_of(settings), limits.memory_entries)
        )
        trace = dispatcher.trace = _trace_of(settings, "moderator")
        stack.callback(trace.close)
        yield (
            Moderator(
                admission,
                lookup,
                _publication_of(limits, settings.kafka.group_id),
                trace,
                _labels_of(limits, admission.tenants),
                halting=Halting(contents=limits.halt_contents, outcomes=limits.halt_outcomes),
                # Also while what it was asked before still waits: a guard that comes and goes would
                # be asked more and more, where policies answer in its place meanwhile.
                guard_is_away=lambda: (
                    dispatcher.outage is not None or dispatcher.waiting > limits.records_in_flight
                ),
                schemas=schemas,
            ),
            dispatcher,
        )


@asynccontextmanager
async def review(settings: Settings) -> AsyncIterator[ReviewService]:
    """A review service with all that it needs, closed at the end."""
    # SQLAlchemy and FastAPI take longer than all else to import, and no other service needs them.
    from qwarden.review.service import ReviewService
    from qwarden.review.store.database import Database

    url = settings.review.database_url
    if url is None:
        raise SettingsError(
            "QWARDEN_REVIEW__DATABASE_URL: is not set; write postgresql://USER:PASSWORD@HOST/NAME, "
            "or sqlite:///FILE for one process alone"
        )
    tenants = tenants_of(settings, activated=True)
    async with AsyncExitStack() as stack:
        database = Database.open(
            url.get_secret_value(),
            settings.review.connections,
            settings.review.database_certificates,
        )
        stack.push_async_callback(database.close)
        trace = _trace_of(settings, "review-service")
        stack.callback(trace.close)
        service = ReviewService(
            settings, tenants, database, control_of(settings, keeps_overrides=False), trace
        )
        stack.push_async_callback(service.close)
        yield service
