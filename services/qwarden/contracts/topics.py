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

CARRY_CONTENT: tuple[str, ...] = (REVIEW, EVIDENCE, DEAD_LETTERS)
"""Output topics whose records hold an event's content beside what is said of it."""

COMPACTED: tuple[str, ...] = (CONTROL,)
"""Topics that keep the last record of each key for ever, in one partition: what is in force is
read in one order by everybody."""

JUDGED: tuple[str, ...] = (VERDICTS, REVIEW, EVIDENCE, DEAD_LETTERS, CONTROL)
"""What every service that judges writes to or follows."""

REVIEWED: tuple[str, ...] = (REVIEW, EVIDENCE, DEAD_LETTERS, CONTROL, DECISIONS)
"""What the review service reads, writes and follows."""

ALL: tuple[str, ...] = (CONTENT, BACKLOG, CHUNKS, SIGNALS, *JUDGED, DECISIONS)

MAX_EVENT_BYTES = 900_000
"""The default limit of one event's value: under Kafka's own default of 1 MiB a request, with
room for the record's headers and key."""

CONTENT_OVERHEAD_BYTES = 64 * 1024
"""What a record that carries content may add to it: the verdict beside it (measured under 4 KiB),
original headers, and JSON's escapes of the envelope."""
