"""What operators see: metrics, logs and traces. Never content, and never an unbounded label."""

from __future__ import annotations

import json
import logging
import sys
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from qwarden.contracts.headers import TRACEPARENT, TRACESTATE, Header

_PROPAGATOR = TraceContextTextMapPropagator()

RECORD_SPAN, BATCH_SPAN = "moderate", "moderate batch"

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Tally(Collector):
    """A counter that every record adds to: a dictionary, read when it is scraped.

    To find prometheus_client's own by its labels and add to it under its lock is 1.0 µs, as much as
    decoding an event; this is 0.14. It is for one thread.
    """

    def __init__(self, name: str, documentation: str, labels: Sequence[str]) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._counts: defaultdict[tuple[str, ...], int] = defaultdict(int)
        REGISTRY.register(self)

    def add(self, *labels: str) -> None:
        """One more of these labels, in the order of their names."""
        self._counts[labels] += 1

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        for labels, count in self._counts.items():
            family.add_metric(labels, count)
        yield family


class Spread(Collector):
    """A histogram that every record is observed in: as `Tally` is to counters. prometheus_client's
    own is 0.6 µs an observation, and this 0.1."""

    def __init__(self, name: str, documentation: str, buckets: Sequence[float]) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = buckets
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0
        REGISTRY.register(self)

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family = HistogramMetricFamily(self._name, self._documentation)
        bounds = map(floatToGoString, (*self._bounds, float("inf")))
        buckets = list(zip(bounds, accumulate(self._counts), strict=True))
        family.add_metric([], buckets, self._sum)
        yield family


EVENTS = Tally(
    "qwarden_events_total",
    "Records decided, degraded where any verdict is; a record that comes again counts again.",
    ["outcome"],
)
VERDICTS = Tally(
    "qwarden_verdicts_total",
    "Verdicts decided; a record that comes again counts again. category: the likeliest, or none.",
    ["tenant", "task", "safety", "action", "category"],
)
QUOTA = Tally(
    "qwarden_quota_verdicts_total",
    "Verdicts that a quota made others than their policy says, by what was used up: blocks, queue.",
    ["quota", "tenant"],
)
DEAD_LETTERS = Counter(
    "qwarden_dead_letters_total", "Records that can never be judged.", ["error_class", "tenant"]
)
TENANTS_DISPLACED = Counter(
    "qwarden_displaced_tenants_total",
    "Records that name another tenant than their topic's settings, which stand.",
    ["topic"],
)
QUEUE_SECONDS = Spread(
    "qwarden_queue_seconds", "From Kafka's timestamp of a record to its poll.", buckets=_SECONDS
)
CACHE_SECONDS = Histogram(
    "qwarden_cache_seconds", "One read of the shared cache, for a batch.", buckets=_SECONDS
)
MODEL_SECONDS = Histogram(
    "qwarden_model_seconds", "One request to the guard, for a batch.", buckets=_SECONDS
)
TOTAL_SECONDS = Spread(
    "qwarden_total_seconds", "From a record's poll to all that it owes acknowledged.",
    buckets=_SECONDS,
)  # fmt: skip
GUARD_ROWS = Histogram(
    "qwarden_guard_request_rows", "Conversations in one request to the guard.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)  # fmt: skip
IN_FLIGHT = Gauge("qwarden_in_flight_records", "Records delivered and not done.", ["topic"])
LOOKUPS = Counter(
    "qwarden_cache_lookups_total",
    "Where an assessment came from: memory, redis, joined (one in flight), or miss.",
    ["result"],
)
EXACT = Counter(
    "qwarden_exact_lookups_total",
    "Answers so near a number of a policy's that they were asked for once more, alone: where that "
    "one came from, as above.",
    ["result"],
)
CACHE_WRITES = Counter(
    "qwarden_cache_writes_total", "Assessments written to the shared cache, or dropped.", ["result"]
)
LAG = Gauge(
    "qwarden_lag_records", "Records between the watermark and the end of the topic.", ["topic"]
)
OLDEST_SECONDS = Gauge(
    "qwarden_oldest_uncommitted_seconds",
    "Age of the oldest record that is not committed; 0 when idle.",
    ["topic"],
)
COMMITS = Counter("qwarden_commits_total", "Commits of offsets.", ["topic", "result"])
RELAYED = Counter(
    "qwarden_relayed_total",
    "Records put on the backlog's lane: stale, quota, outage.",
    ["reason", "tenant"],
)
REREAD = Counter(
    "qwarden_reread_records_total",
    "Records read again at an assignment, below what was committed.",
    ["topic"],
)
PARTITIONS = Gauge(
    "qwarden_partitions",
    "Partitions by state: assigned, paused, stopped (lost), stuck.",
    ["topic", "state"],
)
CHUNKS = Tally(
    "qwarden_chunks_total",
    "Chunks by what became of them: applied, gap (waits), duplicate, late, refused, skipped; one "
    "that comes again counts again.",
    ["outcome"],
)
SESSIONS_OPEN = Gauge("qwarden_sessions_open", "Sessions that are open.")
SESSIONS_CLOSED = Tally(
    "qwarden_sessions_closed_total",
    "Sessions that are over, by cause: end, age, gap, refused, lost, no_answer; again where their "
    "end is read again.",
    ["cause"],
)
SIGNALS = Tally("qwarden_signals_total", "Signals sent, by kind and task.", ["kind", "task"])
SIGNAL_SECONDS = Spread(
    "qwarden_signal_seconds", "From a chunk's poll to its signals acknowledged.", buckets=_SECONDS
)
PUBLISH_UP = Gauge("qwarden_publish_up", "1 while outcomes can be published.")
GUARD_UP = Gauge("qwarden_guard_up", "1 while the guard answers.")
HALTS = Gauge("qwarden_halts", "Halts in force on moderation.control.")
GUARD_REQUESTS_ALLOWED = Gauge(
    "qwarden_guard_requests_allowed",
    "Requests to the guard that may be in flight: the setting, or fewer while it is busy.",
)
GUARD_PROBES = Counter(
    "qwarden_guard_probes_total",
    "Known good conversations, asked in an outage and after a failure: answered or failed.",
    ["result"],
)
ROWS_GIVEN_UP = Counter(
    "qwarden_guard_rows_given_up_total",
    "Rows that failed alone while the known good conversation was answered: no_answer.",
)
STREAM_APPENDS = Tally(
    "qwarden_stream_appends_total",
    "Appends to sessions of the stream guard: done, replay (its transcript was asked for), full, "
    "closed, refused or given_up.",
    ["result"],
)
STREAM_REPLAYS = Counter(
    "qwarden_stream_replays_total", "Transcripts that were sent again and judged."
)
STREAM_REPLAYED_TOKENS = Counter(
    "qwarden_stream_replayed_tokens_total", "Tokens of these, told from their bytes."
)
STREAM_REQUEST_APPENDS = Histogram(
    "qwarden_stream_request_appends", "Appends in one request to the stream guard.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)  # fmt: skip
STREAM_REQUEST_SECONDS = Histogram(
    "qwarden_stream_request_seconds", "One request to the stream guard.", buckets=_SECONDS
)
STREAM_REPLICAS = Gauge(
    "qwarden_stream_replicas",
    "Replicas of the stream guard by state: answering, away; with none answering, sessions wait.",
    ["state"],
)
POLICY_INFO = Gauge("qwarden_policy_info", "Policies in force.", ["policy", "version"])
POLICY_UNUSABLE = Gauge(
    "qwarden_policy_unusable",
    "1 while the version that is in force cannot be used here, so that another one acts.",
    ["policy"],
)
POLICY_FILE_DIFFERS = Gauge(
    "qwarden_policy_file_differs",
    "1 while this service's file of a policy says something else than what is in force.",
    ["policy"],
)
OVERRIDES = Gauge(
    "qwarden_overrides", "Overrides that stand here: contents about which a person has decided."
)
FREEZES = Gauge(
    "qwarden_freezes", "Freezes in force on moderation.control; that of every tenant is one."
)

REVIEW_TAKEN = Counter(
    "qwarden_review_taken_total",
    "What came of records: items opened and closed, escalations joined, verdicts kept; again where "
    "a record comes again and changes something.",
    ["what"],
)
REVIEW_ITEMS = Gauge(
    "qwarden_review_items", "Open items by queue and state: open, held, breached.",
    ["queue", "state"],
)  # fmt: skip
REVIEW_OVERDUE_SECONDS = Gauge(
    "qwarden_review_overdue_seconds",
    "How long the open item of a queue is past its SLA that is so the longest; 0 where none is.",
    ["queue"],
)
REVIEW_UNSERVED = Gauge(
    "qwarden_review_unserved_items",
    "Open items that nobody can be given, by why: language (nobody has it), or their kind (appeal, "
    "disagreement: all who could have it have decided what it is about; review: all of those have "
    "skipped it).",
    ["why"],
)
REVIEW_OUTBOX_SECONDS = Gauge(
    "qwarden_review_outbox_oldest_seconds",
    "How long the decision waits to be published that is due the longest; 0 where none is.",
)
REVIEW_UNSEALED = Gauge(
    "qwarden_review_unsealed_rows", "Rows of the audit log that have no place in the chain yet."
)
REVIEW_CLAIMS = Counter("qwarden_review_claims_total", "Leases begun by claims.")
REVIEW_DECISIONS = Counter(
    "qwarden_review_decisions_total",
    "Items decided by action, and by whom: person, tool, bulk.",
    ["action", "by"],
)
REVIEW_TAKEN_BACK = Counter("qwarden_review_taken_back_total", "Decisions taken back.")
REVIEW_LEASES_EXPIRED = Counter(
    "qwarden_review_leases_expired_total", "Leases whose holders gave no sign of life."
)
REVIEW_BREACHES = Counter("qwarden_review_breaches_total", "Items that nobody decided in time.")
REVIEW_PUBLISHED = Counter(
    "qwarden_review_published_total", "Messages of the outbox that a broker has acknowledged."
)
REVIEW_REQUESTS = Tally(
    "qwarden_review_requests_total", "Requests to the review service.", ["method", "status"]
)
REVIEW_REQUEST_SECONDS = Spread(
    "qwarden_review_request_seconds", "One of these, but for live views.", buckets=_SECONDS
)
REVIEW_FAILING = Gauge(
    "qwarden_review_failing",
    "1 while rounds of a work beside the API fail: sweep, seal, publisher, live view, gauges.",
    ["work"],
)
REVIEW_LIVE = Gauge("qwarden_review_live_views", "Pages that follow the queue as it changes.")


class TenantLabels:
    """Tenants as label values: those that settings name, and the first `most` others."""

    def __init__(self, known: frozenset[str], most: int) -> None:
        self._seen = set(known)
        self._room = len(known) + most

    def __call__(self, tenant: str) -> str:
        if tenant in self._seen:
            return tenant
        if len(self._seen) >= self._room:
            return "other"
        self._seen.add(tenant)
        return tenant


class JsonFormatter(logging.Formatter):
    """A log line as one JSON object: time, level, logger, message, and an error's own lines."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def log_as_json(level: str) -> None:
    """Sends all logs to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # aiokafka tells at INFO of every heartbeat and metadata change.
    logging.getLogger("aiokafka").setLevel(logging.WARNING)
    # Alembic tells of each of its own plugins.
    logging.getLogger("alembic").setLevel(logging.WARNING)


class Trace:
    """OpenTelemetry context through Kafka headers (W3C traceparent), and a span for each batch.

    A record that a sampled trace sent gets a span of its own here, and what we publish for it
    carries that span's context. Without an endpoint no span is made and the context is passed on
    as it came, so that the producer's and the consumer's spans still join.
    """

    def __init__(self, endpoint: str | None, service: str) -> None:
        self._tracer = None
        self._provider: TracerProvider | None = None
        if endpoint is not None:
            self._provider = TracerProvider(resource=Resource({"service.name": service}))
            self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
            self._tracer = self._provider.get_tracer("qwarden")

    @contextmanager
    def batch(self, records: Sequence[Any]) -> Iterator[None]:
        """A span over the judging of a poll's records, which are of one topic: a lane."""
        if self._tracer is None or not records:
            yield
            return
        span = self._tracer.start_span(
            BATCH_SPAN,
            kind=trace.SpanKind.CONSUMER,
            attributes={
                "messaging.system": "kafka",
                "messaging.destination.name": records[0].topic,
                "messaging.batch.message_count": len(records),
                "qwarden.partitions": len({record.partition for record in records}),
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

    def forward(self, carried: Sequence[Header], source: Any, outcome: str) -> list[Header]:
        """The trace headers for what is published in answer to a record."""
        if not carried:
            return []
        context = [pair for pair in carried if pair[0] in (TRACEPARENT, TRACESTATE) and pair[1]]
        if self._tracer is None or not context:
            return context
        carrier = {name: data.decode(errors="replace") for name, data in context}
        parent = _PROPAGATOR.extract(carrier)
        if not trace.get_current_span(parent).get_span_context().trace_flags.sampled:
            return context
        span = self._tracer.start_span(
            RECORD_SPAN,
            context=parent,
            kind=trace.SpanKind.CONSUMER,
            start_time=source.timestamp * 1_000_000,
            attributes={
                "messaging.system": "kafka",
                "messaging.destination.name": source.topic,
                "messaging.destination.partition.id": str(source.partition),
                "messaging.kafka.offset": source.offset,
                "qwarden.outcome": outcome,
            },
        )
        span.end()
        out: dict[str, str] = {}
        _PROPAGATOR.inject(out, trace.set_span_in_context(span))
        return [(name, value.encode()) for name, value in out.items()]

    def close(self) -> None:
        """Sends the spans that wait."""
        if self._provider is not None:
            self._provider.shutdown()
