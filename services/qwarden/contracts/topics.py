"""The topics, by the names that every service and tool uses."""

from __future__ import annotations

CONTENT = "content.events"
BACKLOG = "content.backlog"
"""The moderator's own side lane: only the fleet and its command line write to it."""
CHUNKS = "content.chunks"
"""Running sessions, a piece of text a record, keyed by tenant and session."""
SIGNALS = "moderation.signals"
"""What the stream guard says of sessions while they run."""
VERDICTS = "moderation.verdicts"
REVIEW = "moderation.review"
EVIDENCE = "moderation.evidence"
DEAD_LETTERS = "moderation.dead-letters"
CONTROL = "moderation.control"
"""What all services must know within seconds."""
DECISIONS = "moderation.decisions"
"""What people said, written by the review service; never compacted. What reads it takes a fleet
without it for one where nobody has decided anything."""

CARRY_CONTENT: tuple[str, ...] = (BACKLOG, REVIEW, EVIDENCE, DEAD_LETTERS)
"""Topics whose records carry another topic's content on, with something beside it: what is said of
it, or where it came from. What the topic of its origin takes must fit here too."""

COMPACTED: tuple[str, ...] = (CONTROL,)
"""Topics that keep the last record of each key for ever, in one partition: what is in force is
read in one order by everybody."""

JUDGED: tuple[str, ...] = (VERDICTS, REVIEW, EVIDENCE, DEAD_LETTERS, CONTROL)
"""What every service that judges writes to or follows."""

REVIEWED: tuple[str, ...] = (REVIEW, EVIDENCE, DEAD_LETTERS, CONTROL, DECISIONS)
"""What the review service reads, writes and follows."""

ALL: tuple[str, ...] = (CONTENT, BACKLOG, CHUNKS, SIGNALS, *JUDGED, DECISIONS)

KEPT: tuple[str, ...] = (DEAD_LETTERS, DECISIONS)
"""Topics that people go back to: a dead letter waits for somebody to look at it, and what a person
decided must be known for as long as there are verdicts that it stands over."""

RETENTION_HOURS = 7 * 24
"""Of what passes through: longer than the longest outage that is promised to lose nothing (three
days: a weekend and the day after it), twice. A record that is not judged by then is lost."""
KEPT_HOURS = 180 * 24
"""Of `KEPT`: the appeal window, for which the review service keeps its ledger too."""

MAX_EVENT_BYTES = 900_000
"""The default limit of one event's value: under Kafka's own default of 1 MiB a request, with
room for the record's headers and key."""

CONTENT_OVERHEAD_BYTES = 64 * 1024
"""What a record that carries content may add to it: the verdict beside it (measured under 4 KiB),
original headers, and JSON's escapes of the envelope."""


def partitions_of(name: str, partitions: int) -> int:
    """How many partitions a topic has, where the others have so many."""
    return 1 if name in COMPACTED else partitions


def configs_of(
    name: str,
    *,
    min_insync_replicas: int,
    max_event_bytes: int = MAX_EVENT_BYTES,
    retention_hours: int = RETENTION_HOURS,
    kept_hours: int = KEPT_HOURS,
) -> dict[str, str]:
    """How a topic is configured, by Kafka's own names. `max_event_bytes`: of one event's value, to
    which comes room for keys, headers, and what is written beside the content."""
    overhead = CONTENT_OVERHEAD_BYTES * (2 if name in CARRY_CONTENT else 1)
    configs = {
        "min.insync.replicas": str(min_insync_replicas),
        "max.message.bytes": str(max_event_bytes + overhead),
    }
    if name in COMPACTED:
        return configs | {"cleanup.policy": "compact"}
    hours = kept_hours if name in KEPT else retention_hours
    return configs | {"cleanup.policy": "delete", "retention.ms": str(hours * 3_600_000)}
