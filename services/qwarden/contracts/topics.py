"""The topics, by the names that every service and tool uses."""

from __future__ import annotations

CONTENT = "content.events"
VERDICTS = "moderation.verdicts"
REVIEW = "moderation.review"
EVIDENCE = "moderation.evidence"
DEAD_LETTERS = "moderation.dead-letters"

CARRY_CONTENT: tuple[str, ...] = (REVIEW, EVIDENCE, DEAD_LETTERS)
"""Output topics whose records hold an event's content beside what is said of it."""

ALL: tuple[str, ...] = (CONTENT, VERDICTS, REVIEW, EVIDENCE, DEAD_LETTERS)

MAX_EVENT_BYTES = 900_000
"""The default limit of one event's value: under Kafka's own default of 1 MiB a request, with
room for the record's headers and key."""

CONTENT_OVERHEAD_BYTES = 64 * 1024
"""What a record that carries content may add to it: the verdict beside it (measured under 4 KiB),
original headers, and JSON's escapes of the envelope."""
