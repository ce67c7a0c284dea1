"""Traces: from the producer's span through ours to Triton's own, with no content in any of them.

A record is traced where its producer's trace is sampled; of those that come without a trace, a
share begins one, which ones being a function of where they stand, so that every service and every
delivery decides alike. Of a traced record there are, in its trace:

    the producer's span
      queue wait          from Kafka's timestamp to the poll
      moderate            from the poll until it is decided
        cache             the read of the shared cache that its batch made
        guard             the request that had its row; a link leads to that request's own span
        publish           from the first send of what it owes to the last acknowledgement

What is done for many at once is a trace of its own with a link to each record's: `moderate batch`,
and `guard request`, whose context goes to Triton with the request. What we publish for a record
carries on the context of its `moderate`. Spans are made where a traced record is, and nowhere else.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any, Protocol

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from qwarden.contracts import topics
from qwarden.contracts.headers import ORIGIN, TRACEPARENT, TRACESTATE, Header, header, parsed_origin

_PROPAGATOR = TraceContextTextMapPropagator()

RECORD_SPAN, BATCH_SPAN, QUEUE_SPAN = "moderate", "moderate batch", "queue wait"
CACHE_SPAN, GUARD_SPAN, REQUEST_SPAN = "cache", "guard", "guard request"
STREAM_REQUEST_SPAN, PUBLISH_SPAN = "stream guard request", "publish"

_SAMPLED = frozenset(b"%x" % digit for digit in range(1, 16, 2)) | {b"B", b"D", b"F"}
"""How the flags of a traceparent end where it is sampled (W3C Trace Context, 3.2.2.5)."""
_GOLDEN = 2_654_435_769
"""The golden ratio's share of 32 bits."""
_32_BITS = 0xFFFFFFFF
_LINKS = 128
"""A span's links at most; the SDK keeps no more (OTEL_SPAN_LINK_COUNT_LIMIT)."""


class Looked(Protocol):
    """How an answer was found: where, the seconds of the shared cache's read, of the wait for a
    request and of the request, when that was over (of the clock that does not jump; 0 where nothing
    was asked), and the request's span."""

    @property
    def place(self) -> str: ...
    @property
    def read_s(self) -> float: ...
    @property
    def queue_s(self) -> float: ...
    @property
    def model_s(self) -> float: ...
    @property
    def ended(self) -> float: ...
    @property
    def span(self) -> SpanContext | None: ...


class _Ids(RandomIdGenerator):
    """Random ids, but for a span whose own are given beforehand."""

    def __init__(self) -> None:
        self.given: SpanContext | None = None

    def generate_trace_id(self) -> int:
        return super().generate_trace_id() if self.given is None else self.given.trace_id

    def generate_span_id(self) -> int:
        return super().generate_span_id() if self.given is None else self.given.span_id


class Trace:
    """OpenTelemetry context through Kafka headers (W3C traceparent), and the spans of a service.

    Without an endpoint no span is made and the context is passed on as it came, so that the
    producer's and the consumer's spans still join. `ratio`: of the records without a trace.
    """

    def __init__(self, endpoint: str | None, service: str, ratio: float = 0.0) -> None:
        self._tracer = None
        self._provider: TracerProvider | None = None
        self._ids = _Ids()
        self._below = int(ratio * (1 << 32))
        if endpoint is not None:
            # Which records are traced is decided here, by record: of the others no span is made.
            self._provider = TracerProvider(
                resource=Resource({"service.name": service}), id_generator=self._ids
            )
            self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
            self._tracer = self._provider.get_tracer("qwarden")

    @property
    def is_on(self) -> bool:
        return self._tracer is not None

    def of(self, record: Any) -> SpanContext | None:
        """The span that a traced record's hang on: its producer's, or, where it begins a trace, its
        own queue wait; None for the others. `record`: as a poll gives it, or a `Source`."""
        return None if self._tracer is None else self._hangs_on(record.headers, record)

    def _hangs_on(self, headers: Sequence[Header], record: Any) -> SpanContext | None:
        for name, data in headers:
            if name == TRACEPARENT and data:
                return _sent(headers)
        return self._begun(record)

    def _begun(self, record: Any) -> SpanContext | None:
        if not self._below:
            return None
        place = None
        if record.topic == topics.BACKLOG:
            place = parsed_origin(header(record.headers, ORIGIN))
        topic, partition, offset = place or (record.topic, record.partition, record.offset)
        # Offsets that follow each other are spread evenly by it (Knuth, 6.4), in a fifth of the
        # time of a digest.
        if (offset * _GOLDEN + partition * _GOLDEN // 3) & _32_BITS >= self._below:
            return None
        digest = blake2b(f"{topic}/{partition}/{offset}".encode(), digest_size=24).digest()
        return SpanContext(
            int.from_bytes(digest[:16], "big"),
            int.from_bytes(digest[16:], "big"),
            is_remote=True,
            trace_flags=TraceFlags(TraceFlags.SAMPLED),
        )

    @contextmanager
    def batch(self, records: Sequence[Any]) -> Iterator[None]:
        """Over the judging of a poll's records, which are of one topic: a lane. A span with a link
        to each that is traced, and the wait of each of these in its topic."""
        traced = self._waited(records) if self._tracer is not None else []
        if self._tracer is None or not traced:
            yield
            return
        span = self._tracer.start_span(
            BATCH_SPAN,
            kind=SpanKind.CONSUMER,
            links=[Link(each) for each in traced[:_LINKS]],
            attributes={
                "messaging.system": "kafka",
                "messaging.destination.name": records[0].topic,
                "messaging.batch.message_count": len(records),
                "qwarden.partitions": len({record.partition for record in records}),
                "qwarden.traced": len(traced),
            },
        )
        try:
            yield
        except BaseException as error:
            # Its type alone: an error's own words can quote content.
            span.set_status(trace.StatusCode.ERROR, type(error).__name__)
            raise
        finally:
            span.end()

    def _waited(self, records: Sequence[Any]) -> list[SpanContext]:
        """Makes the `queue wait` of each traced record; what they hang on."""
        traced = []
        polled_ns = time.time_ns()
        for record in records:
            context = self.of(record)
            if context is None:
                continue
            traced.append(context)
            begins = _sent(record.headers) is None
            self._span(
                QUEUE_SPAN,
                None if begins else context,
                min(record.timestamp * 1_000_000, polled_ns),
                polled_ns,
                kind=SpanKind.CONSUMER,
                own=context if begins else None,
                attributes=_where(record),
            )
        return traced

    def forward(
        self,
        carried: Sequence[Header],
        source: Any,
        outcome: str,
        *,
        polled: float | None = None,
        found: Sequence[Looked] = (),
    ) -> list[Header]:
        """The trace headers for what is published in answer to a record, whose span ends here.
        `polled`: when it came, of the clock that does not jump; `found`: its answers."""
        context = (
            [pair for pair in carried if pair[0] in (TRACEPARENT, TRACESTATE) and pair[1]]
            if carried
            else []
        )
        if self._tracer is None:
            return context
        parent = self._hangs_on(carried, source)
        if parent is None:
            return context
        now, now_ns = time.monotonic(), time.time_ns()
        began_ns = source.timestamp * 1_000_000
        if polled is not None:
            began_ns = now_ns - int((now - polled) * 1e9)
        span = self._span(
            RECORD_SPAN,
            parent,
            min(began_ns, now_ns),
            now_ns,
            kind=SpanKind.CONSUMER,
            attributes={**_where(source), "qwarden.outcome": outcome},
        )
        for each in found:
            self._looked(span, each, now, now_ns)
        out: dict[str, str] = {}
        _PROPAGATOR.inject(out, trace.set_span_in_context(trace.NonRecordingSpan(span)))
        return [(name, value.encode()) for name, value in out.items()]

    def _looked(self, parent: SpanContext, found: Looked, now: float, now_ns: int) -> None:
        if not found.ended:
            return
        ended_ns = now_ns - int((now - found.ended) * 1e9)
        asked_ns = ended_ns - int(found.model_s * 1e9)
        waited_ns = asked_ns - int(found.queue_s * 1e9)
        place = {"qwarden.cache": found.place}
        if found.read_s:
            read_ns = waited_ns - int(found.read_s * 1e9)
            self._span(CACHE_SPAN, parent, read_ns, waited_ns, attributes=place)
        if found.model_s:
            links = () if found.span is None else (Link(found.span),)
            wait = {"qwarden.wait_ms": round(found.queue_s * 1000, 3)}
            self._span(GUARD_SPAN, parent, asked_ns, ended_ns, links=links, attributes=place | wait)

    @contextmanager
    def request(
        self, name: str, traced: Sequence[SpanContext], rows: int
    ) -> Iterator[SpanContext | None]:
        """Over one request to a guard for so many rows, of which some are of `traced` records; its
        span's context, which `carried` gives on inside. No span where none is."""
        if self._tracer is None or not traced:
            yield None
            return
        span = self._tracer.start_span(
            name,
            kind=SpanKind.CLIENT,
            links=[Link(each) for each in traced[:_LINKS]],
            attributes={"qwarden.rows": rows, "qwarden.traced": len(traced)},
        )
        try:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                yield span.get_span_context()
        except BaseException as error:
            span.set_status(trace.StatusCode.ERROR, type(error).__name__)
            raise
        finally:
            span.end()

    def published(self, headers: Sequence[Header], messages: int, since: float) -> None:
        """What a record owes is acknowledged: so many messages with these headers, sent at `since`
        (of the clock that does not jump)."""
        if self._tracer is None:
            return
        parent = _sent(headers)
        if parent is not None:
            now_ns = time.time_ns()
            self._span(
                PUBLISH_SPAN,
                parent,
                now_ns - int((time.monotonic() - since) * 1e9),
                now_ns,
                kind=SpanKind.PRODUCER,
                attributes={"messaging.system": "kafka", "messaging.batch.message_count": messages},
            )

    def _span(
        self,
        name: str,
        parent: SpanContext | None,
        start_ns: int,
        end_ns: int,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        own: SpanContext | None = None,
        links: Sequence[Link] = (),
        attributes: dict[str, Any],
    ) -> SpanContext:
        """A span that is over. `own`: its ids, where they are known beforehand."""
        assert self._tracer is not None
        start_ns = max(0, start_ns)  # Kafka's -1 of a record without a time does not fit OTLP
        context = trace.set_span_in_context(
            trace.INVALID_SPAN if parent is None else trace.NonRecordingSpan(parent)
        )
        self._ids.given = own
        try:
            span = self._tracer.start_span(
                name,
                context=context,
                kind=kind,
                start_time=start_ns,
                links=links,
                attributes=attributes,
            )
        finally:
            self._ids.given = None
        span.end(max(start_ns, end_ns))
        return span.get_span_context()

    def close(self) -> None:
        """Sends the spans that wait."""
        if self._provider is not None:
            self._provider.shutdown()


OFF = Trace(None, "")
"""Makes none, and passes on what comes."""


def carried() -> tuple[tuple[str, str], ...]:
    """The context of the request under way, as headers of a call; nothing where none is traced."""
    if not trace.get_current_span().get_span_context().is_valid:
        return ()
    out: dict[str, str] = {}
    _PROPAGATOR.inject(out)
    return tuple(out.items())


def _sent(headers: Sequence[Header]) -> SpanContext | None:
    """The sampled context that headers carry, None where they carry none that can be read."""
    carrier = {}
    for name, data in headers:
        if data and name in (TRACEPARENT, TRACESTATE):
            # To read the context as a whole takes 5 µs, and this 0.2.
            if name == TRACEPARENT and data[-1:] not in _SAMPLED:
                return None
            carrier[name] = data.decode(errors="replace")
    if TRACEPARENT not in carrier:
        return None
    context = trace.get_current_span(_PROPAGATOR.extract(carrier)).get_span_context()
    return context if context.is_valid and context.trace_flags.sampled else None


def _where(record: Any) -> dict[str, Any]:
    return {
        "messaging.system": "kafka",
        "messaging.destination.name": record.topic,
        "messaging.destination.partition.id": str(record.partition),
        "messaging.kafka.offset": record.offset,
    }
