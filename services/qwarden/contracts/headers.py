"""The headers of the records that we write and read.

A verdict's value depends only on what its id depends on; what changes from run to run (timings,
cache hits, trace) travels in headers.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

Header = tuple[str, bytes]

ORIGIN = "qw-origin"
"""topic/partition/offset of the record that this outcome answers, or that was put on another lane;
believed only on what the fleet itself writes."""
REPLAY = "qw-replay"
"""topic/partition/offset of the dead letter that a person sent again."""
CACHE = "qw-cache"
QUEUE_MS = "qw-queue-ms"
MODEL_MS = "qw-model-ms"
TOTAL_MS = "qw-total-ms"
SAMPLE_RATE = "qw-sample-rate"
TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

_CONTENT_TYPE: Header = ("content-type", b"application/json")
_SPEC: Header = ("ce_specversion", b"1.0")
MODERATOR: Header = ("ce_source", b"/qwarden/moderator")
STREAMER: Header = ("ce_source", b"/qwarden/streamer")
REVIEW_SERVICE: Header = ("ce_source", b"/qwarden/review-service")
CLI: Header = ("ce_source", b"/qwarden/cli")
"""Who writes: a service, or a person's command."""


def cloud_event(kind: str, identity: str, *, by: Header = MODERATOR) -> list[Header]:
    """CloudEvents 1.0 attributes, binary mode: `kind` is `verdict`, `review`, …"""
    return [_SPEC, ("ce_id", identity.encode()), by, ce_type(kind), _CONTENT_TYPE]


@cache
def ce_type(kind: str) -> Header:
    """The header by which a reader tells the kinds of a topic's records apart."""
    return ("ce_type", f"qwarden.{kind}.v1".encode())


def origin(topic: str, partition: int, offset: int) -> Header:
    return (ORIGIN, f"{topic}/{partition}/{offset}".encode())


def parsed_origin(text: str | None) -> tuple[str, int, int] | None:
    """Topic, partition and offset of an `origin`, or None for what is none."""
    topic, *where = (text or "").rsplit("/", 2)
    if not topic or len(where) != 2 or not all(each.isdecimal() for each in where):
        return None
    return topic, int(where[0]), int(where[1])


def milliseconds(name: str, seconds: float) -> Header:
    return (name, b"%.1f" % (seconds * 1000))


def event_attributes(headers: Iterable[Header]) -> dict[str, str]:
    """The `ce_*` headers of a record, decoded; those that are not UTF-8 are left out."""
    found = {}
    for name, data in headers:
        if name.startswith("ce_") and data is not None:
            try:
                found[name] = data.decode()
            except UnicodeDecodeError:
                continue
    return found


def header(headers: Iterable[tuple[str, bytes | None]], name: str) -> str | None:
    """The first header of that name, or None."""
    return next(
        ((data or b"").decode(errors="replace") for key, data in headers if key == name), None
    )
