"""What operators see: metrics and logs. Never content, and never an unbounded label.

docs/metrics.md is written from what stands here (`python -m qwarden.catalogue`).
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from qwarden.contracts.refusal import ErrorClass
from qwarden.contracts.signal import SignalKind
from qwarden.contracts.verdict import Action, Basis
from qwarden.guard.answer import Safety
from qwarden.guard.conversation import Task
from qwarden.guard.language import COMMON
from qwarden.guard.taxonomy import CATEGORIES
from qwarden.metric import (
    OTHER,
    FirstSeen,
    Label,
    counter,
    gauge,
    histogram,
    spread,
    tally,
)

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_LONG_SECONDS = (*_SECONDS[5:], 900, 3600, 21_600)
"""From a record's timestamp: the backlog's may have waited for hours."""
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Up to the most that a request's setting takes."""

_MODERATOR, _STREAMER, _REVIEW = ("moderator",), ("streamer",), ("review-service",)
_JUDGES = (*_MODERATOR, *_STREAMER)
_ALL = (*_JUDGES, *_REVIEW)

_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
_UNJUDGED = ("no_answer", "too_long", "incomplete", "outage")

_TENANT = Label("tenant", bound="tenants with a file, the first tenant_labels others, `other`")
_TOPIC = Label("topic", bound="the topics that the service reads")
_GROUP = Label("group", bound="the service's consumer groups, one a topic")
_TASK = Label("task", (*Task, "none"))
_QUEUE = Label("queue", bound="urgent, appeals, quality, the first 100 others, `other`")
_PLACE = Label("result", ("memory", "redis", "joined", "miss"))
_POLICY = Label("policy", bound="the first 200 policies that have a file, `other`")

# What every service is, and how its groups stand.

BUILD_INFO = gauge(
    "qwarden_build_info",
    "1, with the version that runs.",
    Label("version", bound="one a process"),
    of=_ALL,
)
READY = gauge(
    "qwarden_ready",
    "1 while the process has all that it cannot do without, as /readyz says with the reasons.",
    of=_ALL,
    unit="0 or 1",
)
GROUP_LAG_RECORDS = gauge(
    "qwarden_group_lag_records",
    "Offsets from what the whole group has committed to the topic's end, over all partitions, also "
    "those of a consumer that is dead or was never there. Every process says it of the same "
    "group: take the maximum. It vanishes while the broker does not say it.",
    _GROUP,
    _TOPIC,
    of=_ALL,
    unit="records",
)
GROUP_LAG_SECONDS = gauge(
    "qwarden_group_lag_seconds",
    "Age, by Kafka's timestamp, of the oldest record that the whole group has not committed; 0 "
    "where there is none. Where that record cannot be read, how long its partition is stuck.",
    _GROUP,
    _TOPIC,
    of=_ALL,
)
GROUP_STUCK_SECONDS = gauge(
    "qwarden_group_stuck_seconds",
    "How long the committed offset of a partition that has lag has not moved, as far as this "
    "process has seen: of the partition that stands still the longest.",
    _GROUP,
    _TOPIC,
    of=_ALL,
)
TOPIC_RETENTION_SECONDS = gauge(
    "qwarden_topic_retention_seconds",
    "How long the topic keeps its records, as the broker has it now; +Inf without a limit of time.",
    _TOPIC,
    of=_ALL,
)
GROUP_LOOKS = counter(
    "qwarden_group_looks_total",
    "Questions to the broker of how a group stands. While they fail the four series above are "
    "missing, and this one grows.",
    _GROUP,
    Label("result", ("done", "failed")),
    of=_ALL,
)
RECORDS = tally(
    "qwarden_records_total",
    "Records delivered, done (all that they owe acknowledged), and let_go (delivered, and left to "
    "the partition's next owner): what is delivered and neither done nor let go is in flight.",
    _TOPIC,
    Label("result", ("delivered", "done", "let_go")),
    of=_ALL,
)
BREAKER_OPEN = gauge(
    "qwarden_breaker_open",
    "1 while work waits for it, or goes on without it (redis). kafka: no broker can be reached, or "
    "nothing that is published is acknowledged.",
    Label("dependency", ("guard", "stream_guard", "redis", "kafka")),
    of=_ALL,
    unit="0 or 1",
)
CERTIFICATE_NOT_AFTER_SECONDS = gauge(
    "qwarden_certificate_not_after_seconds",
    "When a certificate ends, as a Unix time. Of several in a file the first to end; of a file "
    "that was renewed while the process runs the one before, which it goes on with. Missing where "
    "the file cannot be read. Of Triton over TLS the first to end that its replicas show.",
    Label("file", bound="the files in the settings, `the certificate of` each Triton's address"),
    of=_ALL,
    unit="seconds since 1970",
)
QUEUE_SECONDS = spread(
    "qwarden_queue_seconds",
    "From Kafka's timestamp of a record to its poll.",
    buckets=_SECONDS,
    of=(*_MODERATOR, *_REVIEW),
)
TOTAL_SECONDS = spread(
    "qwarden_total_seconds",
    "From a record's poll to all that it owes acknowledged.",
    buckets=_SECONDS,
    of=_ALL,
)
IN_FLIGHT = gauge(
    "qwarden_in_flight_records", "Records delivered and not done.", _TOPIC, of=_ALL, unit="records"
)
OLDEST_SECONDS = gauge(
    "qwarden_oldest_uncommitted_seconds",
    "Age of the oldest record that this process has and has not committed; 0 when idle. What a "
    "dead consumer has left is in qwarden_group_lag_seconds alone.",
    _TOPIC,
    of=_ALL,
)
COMMITS = counter(
    "qwarden_commits_total",
    "Commits of offsets.",
    _TOPIC,
    Label("result", ("done", "failed")),
    of=_ALL,
)
REREAD = counter(
    "qwarden_reread_records_total",
    "Records read again at an assignment, below what was committed.",
    _TOPIC,
    of=_STREAMER,
)
PARTITIONS = gauge(
    "qwarden_partitions",
    "Partitions by state: assigned, paused, stopped (lost), stuck.",
    _TOPIC,
    Label("state", ("assigned", "paused", "stopped", "stuck")),
    of=_ALL,
)
PUBLISH_UP = gauge(
    "qwarden_publish_up", "1 while outcomes can be published.", of=_ALL, unit="0 or 1"
)
HALTS = gauge("qwarden_halts", "Halts in force on moderation.control.", of=_ALL)
FREEZES = gauge(
    "qwarden_freezes",
    "Freezes in force on moderation.control; that of every tenant is one.",
    of=_ALL,
)
POLICY_INFO = gauge(
    "qwarden_policy_info",
    "1 for each policy in force.",
    _POLICY,
    Label("version", bound="one a policy of these, that in force"),
    of=_ALL,
)
POLICY_UNUSABLE = gauge(
    "qwarden_policy_unusable",
    "1 while the version that is in force cannot be used here, so that another one acts.",
    _POLICY,
    of=_ALL,
    unit="0 or 1",
)
POLICY_FILE_DIFFERS = gauge(
    "qwarden_policy_file_differs",
    "1 while this service's file of a policy says something else than what is in force.",
    _POLICY,
    of=_ALL,
    unit="0 or 1",
)

# What became of content.

EVENTS = tally(
    "qwarden_events_total",
    "Records decided, degraded where any verdict is, and verdicts of sessions; what comes again "
    "counts again, and what no broker takes as a dead letter too.",
    Label("outcome", (*Basis, "dead_letter", "relayed")),
    of=_ALL,
)
VERDICTS = tally(
    "qwarden_verdicts_total",
    "Verdicts decided; a record that comes again counts again. category: the likeliest, or none.",
    _TENANT,
    _TASK,
    Label("safety", (*Safety, "none")),
    Label("action", (*Action, "none")),
    Label("category", (*CATEGORIES, "none", OTHER)),
    of=_JUDGES,
)
LANGUAGES = tally(
    "qwarden_languages_total",
    "Verdicts by the language that was told; und: nobody could tell it; none: nobody was asked.",
    Label("language", (*sorted(COMMON), "und", "none", OTHER)),
    of=_JUDGES,
)
UNJUDGED = tally(
    "qwarden_unjudged_total",
    "Verdicts that the policy's own key gave since there is no answer: no_answer (none that could "
    "be read), too_long, incomplete, outage, or past their deadline (none).",
    Label("cause", (*_UNJUDGED, "none", OTHER)),
    of=_JUDGES,
)
VERDICT_SECONDS = spread(
    "qwarden_verdict_seconds",
    "From a record's Kafka timestamp to all that it owes acknowledged.",
    Label("lane", ("interactive", "backlog", "stream")),
    buckets=_LONG_SECONDS,
    of=_JUDGES,
)
QUOTA = tally(
    "qwarden_quota_verdicts_total",
    "Verdicts that a quota made others than their policy says, by what was used up: blocks, queue.",
    Label("quota", ("blocks", "queue")),
    _TENANT,
    of=_MODERATOR,
)
DEAD_LETTERS = counter(
    "qwarden_dead_letters_total",
    "Records that can never be judged.",
    Label("error_class", tuple(ErrorClass)),
    _TENANT,
    of=_ALL,
)
TENANTS_DISPLACED = counter(
    "qwarden_displaced_tenants_total",
    "Records that name another tenant than their topic's settings, which stand.",
    _TOPIC,
    of=_MODERATOR,
)
RELAYED = counter(
    "qwarden_relayed_total",
    "Records put on the backlog's lane: stale, quota, outage.",
    Label("reason", ("stale", "quota", "outage")),
    _TENANT,
    of=_MODERATOR,
)
OVERRIDES = gauge(
    "qwarden_overrides",
    "Overrides that stand here: contents about which a person has decided.",
    of=_JUDGES,
)

# The cache.

LOOKUPS = counter(
    "qwarden_cache_lookups_total",
    "Where an assessment came from: memory, redis, joined (one in flight), or miss.",
    _PLACE,
    of=_JUDGES,
)
EXACT = counter(
    "qwarden_exact_lookups_total",
    "Answers so near a number of a policy's that they were asked for once more, alone: where that "
    "one came from, as above.",
    _PLACE,
    of=_JUDGES,
)
CACHE_WRITES = counter(
    "qwarden_cache_writes_total",
    "Assessments written to the shared cache, or dropped.",
    Label("result", ("kept", "dropped")),
    of=_JUDGES,
)
CACHE_SECONDS = histogram(
    "qwarden_cache_seconds",
    "One read of the shared cache, for a batch.",
    buckets=_SECONDS,
    of=_JUDGES,
)

# The guard, as its clients see it.

GUARD_UP = gauge("qwarden_guard_up", "1 while the guard answers.", of=_JUDGES, unit="0 or 1")
GUARD_REQUESTS_ALLOWED = gauge(
    "qwarden_guard_requests_allowed",
    "Requests to the guard that may be in flight: the setting, or fewer while it is busy.",
    of=_JUDGES,
)
GUARD_PROBES = counter(
    "qwarden_guard_probes_total",
    "Known good conversations, asked in an outage and after a failure: answered or failed.",
    Label("result", ("answered", "failed")),
    of=_JUDGES,
)
ROWS_GIVEN_UP = counter(
    "qwarden_guard_rows_given_up_total",
    "Rows that failed alone while the known good conversation was answered: no_answer.",
    of=_JUDGES,
)
GUARD_ROWS = histogram(
    "qwarden_guard_request_rows",
    "Conversations in one request to the guard.",
    buckets=_ROWS,
    of=_JUDGES,
)
MODEL_SECONDS = histogram(
    "qwarden_model_seconds",
    "One request to the guard, for a batch.",
    buckets=_SECONDS,
    of=_JUDGES,
)

# Running sessions.

CHUNKS = tally(
    "qwarden_chunks_total",
    "Chunks by what became of them: applied, gap (waits), duplicate, late, refused, skipped; one "
    "that comes again counts again.",
    Label("outcome", ("applied", "gap", "duplicate", "late", "refused", "skipped")),
    of=_STREAMER,
)
SESSIONS_OPEN = gauge("qwarden_sessions_open", "Sessions that are open.", of=_STREAMER)
SESSIONS_CLOSED = tally(
    "qwarden_sessions_closed_total",
    "Sessions that are over, by cause; again where their end is read again.",
    Label("cause", ("end", "age", "gap", "refused", "unread", "lost", "no_answer")),
    of=_STREAMER,
)
SIGNALS = tally(
    "qwarden_signals_total",
    "Signals sent, by kind and task.",
    Label("kind", tuple(SignalKind)),
    _TASK,
    of=_STREAMER,
)
SIGNAL_SECONDS = spread(
    "qwarden_signal_seconds",
    "From a chunk's poll to its signals acknowledged.",
    buckets=_SECONDS,
    of=_STREAMER,
)
STREAM_APPENDS = tally(
    "qwarden_stream_appends_total",
    "Appends to sessions of the stream guard: done, replay (its transcript was asked for), full, "
    "closed, refused or given_up.",
    Label("result", ("done", "replay", "full", "closed", "refused", "given_up")),
    of=_STREAMER,
)
STREAM_REPLAYS = counter(
    "qwarden_stream_replays_total", "Transcripts that were sent again and judged.", of=_STREAMER
)
STREAM_REPLAYED_TOKENS = counter(
    "qwarden_stream_replayed_tokens_total",
    "Tokens of these, told from their bytes.",
    of=_STREAMER,
)
STREAM_REQUEST_APPENDS = histogram(
    "qwarden_stream_request_appends",
    "Appends in one request to the stream guard.",
    buckets=_ROWS,
    of=_STREAMER,
)
STREAM_REQUEST_SECONDS = histogram(
    "qwarden_stream_request_seconds",
    "One request to the stream guard.",
    buckets=_SECONDS,
    of=_STREAMER,
)
STREAM_REPLICAS = gauge(
    "qwarden_stream_replicas",
    "Replicas of the stream guard by state: answering, away; with none answering, sessions wait.",
    Label("state", ("answering", "away")),
    of=_STREAMER,
)

# People's work.

REVIEW_TAKEN = counter(
    "qwarden_review_taken_total",
    "What came of records: items opened and closed, escalations joined, verdicts kept; again where "
    "a record comes again and changes something.",
    Label("what", ("opened", "joined", "closed", "kept")),
    of=_REVIEW,
)
REVIEW_ITEMS = gauge(
    "qwarden_review_items",
    "Open items by queue and state: open, held, breached. Missing while the database is away.",
    _QUEUE,
    Label("state", ("open", "held", "breached")),
    of=_REVIEW,
)
REVIEW_OVERDUE_SECONDS = gauge(
    "qwarden_review_overdue_seconds",
    "How long the open item of a queue is past its SLA that is so the longest; 0 where none is. "
    "Missing while the database is away.",
    _QUEUE,
    of=_REVIEW,
)
REVIEW_UNSERVED = gauge(
    "qwarden_review_unserved_items",
    "Open items that nobody can be given, by why: language (nobody has it), or their kind (appeal, "
    "disagreement: all who could have it have decided what it is about; review: all of those have "
    "skipped it). Missing while the database is away.",
    Label("why", ("language", "appeal", "disagreement", "review")),
    of=_REVIEW,
)
REVIEW_OUTBOX_SECONDS = gauge(
    "qwarden_review_outbox_oldest_seconds",
    "How long the decision waits to be published that is due the longest; 0 where none is. NaN "
    "while the database is away.",
    of=_REVIEW,
)
REVIEW_UNSEALED = gauge(
    "qwarden_review_unsealed_rows",
    "Rows of the audit log that have no place in the chain yet. NaN while the database is away.",
    of=_REVIEW,
)
REVIEW_CLAIMS = counter("qwarden_review_claims_total", "Leases begun by claims.", of=_REVIEW)
REVIEW_DECISIONS = counter(
    "qwarden_review_decisions_total",
    "Items decided by action, and by whom: person, tool, bulk.",
    Label("action", tuple(Action)),
    Label("by", ("person", "tool", "bulk")),
    of=_REVIEW,
)
REVIEW_TAKEN_BACK = counter("qwarden_review_taken_back_total", "Decisions taken back.", of=_REVIEW)
REVIEW_LEASES_EXPIRED = counter(
    "qwarden_review_leases_expired_total",
    "Leases whose holders gave no sign of life, as far as the sweep has ended them.",
    of=_REVIEW,
)
REVIEW_BREACHES = counter(
    "qwarden_review_breaches_total", "Items that nobody decided in time.", of=_REVIEW
)
REVIEW_PUBLISHED = counter(
    "qwarden_review_published_total",
    "Messages of the outbox that a broker has acknowledged.",
    of=_REVIEW,
)
REVIEW_REQUESTS = tally(
    "qwarden_review_requests_total",
    "Requests to the review service.",
    Label("method", (*_METHODS, OTHER)),
    Label("status", ("0xx", "1xx", "2xx", "3xx", "4xx", "5xx")),
    of=_REVIEW,
)
REVIEW_REQUEST_SECONDS = spread(
    "qwarden_review_request_seconds",
    "One of these, but for live views.",
    buckets=_SECONDS,
    of=_REVIEW,
)
REVIEW_FAILING = gauge(
    "qwarden_review_failing",
    "1 while rounds of a work beside the API fail.",
    Label("work", ("sweep", "seal", "publisher", "live view", "gauges")),
    of=_REVIEW,
    unit="0 or 1",
)
REVIEW_LIVE = gauge(
    "qwarden_review_live_views", "Pages that follow the queue as it changes.", of=_REVIEW
)


class TenantLabels(FirstSeen):
    """Tenants as label values: those that settings name, and the first `most` others."""


def method_label(method: str) -> str:
    """A request's method as a label value: a client may send any word."""
    return method if method in _METHODS else OTHER


def cause_label(cause: str | None) -> str:
    """Why a verdict has no answer, as a label value."""
    return "none" if cause is None else cause if cause in _UNJUDGED else OTHER


def category_label(category: str) -> str:
    """A verdict's category as a label value: a checkpoint may have others than Qwen3Guard's."""
    return category if category in CATEGORIES else OTHER


def language_label(tag: str | None) -> str:
    """A verdict's language as a label value: without its region, and bounded, since producers may
    write any tag."""
    if tag is None:
        return "none"
    language = tag.partition("-")[0]
    return language if language in COMMON or language == "und" else OTHER


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
