"""The dead letter: a record that can never be judged, where it came from, and why."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Literal

import msgspec

from qwarden.contracts.refusal import Refused


class Origin(msgspec.Struct, frozen=True):
    """Where a record stood."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    """Kafka's, in milliseconds since 1970."""


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """The bytes as they were sent."""

    encoding: Literal["utf-8", "base64", "null"]
    """How `value` holds them: as text where they are UTF-8, else in base64; null: there is none."""
    value: str
    truncated: bool
    """Whether `value` holds only the first part; the whole stands at the origin while that topic
    keeps it."""
    bytes: int
    """Of the whole value."""
    sha256: str
    """Of the whole value, hexadecimal."""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A record of `moderation.dead-letters`: it can never be judged."""

    schema_version: Literal[1] = 1
    origin: Origin
    key: str | None
    """The record's key, its bytes that are not UTF-8 escaped; null also where it is too large."""
    headers: list[tuple[str, str]]
    """The record's headers, as far as they fit, their bytes that are not UTF-8 escaped."""
    event_id: str
    """Empty where it could not be read."""
    tenant: str
    """Empty where it could not be read."""
    error_class: str
    reason: str
    """A sentence that names the fix."""
    attempts: int
    """How often it was tried."""
    consumer: str
    """Which consumer refused it."""
    content: Sent


KEPT_BYTES = 64 * 1024
"""How much of a value that would not fit is kept: enough to see what it is."""

ENVELOPE_CHARACTERS = 12 * 1024
"""How much of key and headers is kept, as JSON: a byte can take six characters there, and beside
them the letter's own record may carry 32 KiB of them as they are (`CONTENT_OVERHEAD_BYTES`)."""


def dead_letter(
    refused: Refused,
    *,
    origin: Origin,
    key: bytes | None,
    value: bytes | None,
    headers: Sequence[tuple[str, bytes | None]],
    consumer: str,
    max_bytes: int,
) -> DeadLetter:
    """The letter for a refused record. `max_bytes`: of a value that is kept whole."""
    kept_key, kept_headers = _envelope(key, headers)
    return DeadLetter(
        origin=origin,
        key=kept_key,
        headers=kept_headers,
        event_id=refused.event_id,
        tenant=refused.tenant,
        error_class=refused.error_class.value,
        reason=refused.reason,
        attempts=refused.attempts,
        consumer=consumer,
        content=_sent(value, max_bytes),
    )


def _envelope(
    key: bytes | None, headers: Sequence[tuple[str, bytes | None]]
) -> tuple[str | None, list[tuple[str, str]]]:
    """Key and headers as text: the key, then each header in order, as far as they fit."""
    room = ENVELOPE_CHARACTERS
    kept_key = None if key is None else _text(key)
    if len(msgspec.json.encode(kept_key)) > room:
        kept_key = None
    room -= len(msgspec.json.encode(kept_key))
    kept = []
    for name, data in headers:
        pair = (name, _text(data or b""))
        room -= len(msgspec.json.encode(pair)) + 1
        if room < 0:
            break
        kept.append(pair)
    return kept_key, kept


def _text(data: bytes) -> str:
    return data.decode(errors="backslashreplace")


def _sent(value: bytes | None, max_bytes: int) -> Sent:
    whole = value or b""
    # In JSON a byte can take six characters (\u0000), and base64 four for three: a value that is
    # kept whole must still fit its topic, so text is kept whole only where its JSON fits.
    kept, truncated = whole, False
    try:
        text, encoding = whole.decode(), "utf-8"
        fits = len(whole) <= max_bytes and len(msgspec.json.encode(text)) <= max_bytes + 8192
    except UnicodeDecodeError:
        text, encoding = base64.b64encode(whole).decode(), "base64"
        fits = len(text) <= max_bytes
    if not fits:
        kept, truncated = whole[: min(KEPT_BYTES, max_bytes // 2)], True
        if encoding == "utf-8":
            text = kept.decode(errors="ignore")
            if len(msgspec.json.encode(text)) > max_bytes:
                text, encoding = base64.b64encode(kept).decode(), "base64"
        else:
            text = base64.b64encode(kept).decode()
    return Sent(
        encoding="null" if value is None else encoding,  # type: ignore[arg-type]
        value=text,
        truncated=truncated,
        bytes=len(whole),
        sha256=hashlib.sha256(whole).hexdigest(),
    )
