"""The dead letter: a record that can never be judged, where it came from, and why; and its mark,
which says what a person did with it.

Both stand on `moderation.dead-letters`, the mark in its letter's partition and behind it; `ce_type`
tells them apart. A letter without a mark is open.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal, NamedTuple

import msgspec

from qwarden.contracts.headers import TRACEPARENT, Header, ce_type, header
from qwarden.contracts.refusal import Refused
from qwarden.contracts.values import Instant


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


class Envelope(msgspec.Struct, frozen=True):
    """A record's key and headers exactly, their bytes in base64."""

    key: str | None
    headers: list[tuple[str, str | None]]
    """Null is a header without a value."""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A record of `moderation.dead-letters`: it can never be judged."""

    schema_version: Literal[1] = 1
    origin: Origin
    key: str | None
    """The record's key, its bytes that are not UTF-8 escaped; null also where it is too large."""
    headers: list[tuple[str, str]]
    """The record's headers, as far as they fit, their bytes that are not UTF-8 escaped."""
    envelope: Envelope | None = None
    """Key and headers once more where `key` and `headers` are not exactly what was sent."""
    envelope_truncated: bool = False
    """Whether key and headers stand nowhere in the letter as they were sent, since they do not fit;
    they stand at the origin while that topic keeps it."""
    event_id: str
    """Empty where it could not be read."""
    tenant: str
    """Empty where it could not be read."""
    error_class: str
    reason: str
    """A sentence that names the fix."""
    attempts: int
    """How often it was tried."""
    first_tried_at: Instant | None = None
    """When it was first taken up by this consumer; null where that is not known."""
    last_tried_at: Instant | None = None
    """When it was given up; null where that is not known."""
    consumer: str
    """Which consumer refused it."""
    traceparent: str | None = None
    """The W3C trace context that the record carried."""
    content: Sent


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """A record of `moderation.dead-letters`: what a person did with the letter that stood before
    it, in the same partition."""

    schema_version: Literal[1] = 1
    partition: int
    """The letter's partition of `moderation.dead-letters`."""
    offset: int
    """The letter's offset there."""
    what: Literal["replayed", "dropped"]
    at: Instant
    """When it was done."""
    by: str
    """Who did it."""
    sent_to: Origin | None = None
    """Where a replayed record stands now."""


KEPT_BYTES = 64 * 1024
"""How much of a value that would not fit is kept: enough to see what it is."""

ENVELOPE_CHARACTERS = 12 * 1024
"""How much of key and headers is kept, as JSON: a byte can take six characters there, and beside
them the letter's own record may carry 32 KiB of them as they are (`CONTENT_OVERHEAD_BYTES`)."""

_ESCAPED_BYTES = 8 * 1024
"""What JSON's escapes may add to a text that is kept whole: an eighth of `CONTENT_OVERHEAD_BYTES`,
and more than line breaks and quotes add to ordinary text."""

_TRACEPARENT_CHARACTERS = 64
"""Of a trace context that is kept: W3C's version 0 has 55. What is longer is none."""

_MARK = ce_type("dead-letter-mark")


def dead_letter(
    refused: Refused,
    *,
    origin: Origin,
    key: bytes | None,
    value: bytes | None,
    headers: Sequence[tuple[str, bytes | None]],
    consumer: str,
    max_bytes: int,
    tried: tuple[datetime, datetime] | None = None,
) -> DeadLetter:
    """The letter for a refused record. `max_bytes`: of a value that is kept whole. `tried`: when
    it was first and last tried, with their zone."""
    kept = _envelope(key, headers)
    first, last = tried or (None, None)
    return DeadLetter(
        origin=origin,
        key=kept.key,
        headers=kept.headers,
        envelope=kept.exact,
        envelope_truncated=kept.truncated,
        event_id=refused.event_id,
        tenant=refused.tenant,
        error_class=refused.error_class.value,
        reason=refused.reason,
        attempts=refused.attempts,
        first_tried_at=first,
        last_tried_at=last,
        consumer=consumer,
        traceparent=_traceparent(headers),
        content=_sent(value, max_bytes),
    )


class Original(NamedTuple):
    """A record as its producer sent it."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


def original_of(letter: DeadLetter) -> Original | None:
    """The record that a letter holds, to the byte, or None where it does not hold all of it.

    Raises `ValueError` for a letter whose value is not the one that it was made of.
    """
    sent = letter.content
    if sent.truncated or letter.envelope_truncated:
        return None
    value = base64.b64decode(sent.value) if sent.encoding == "base64" else sent.value.encode()
    if hashlib.sha256(value).hexdigest() != sent.sha256:
        raise ValueError("its value does not have the SHA-256 that the letter names")
    key = None if letter.key is None else letter.key.encode()
    headers: list[tuple[str, bytes | None]]
    headers = [(name, text.encode()) for name, text in letter.headers]
    if letter.envelope is not None:
        key = _from_base64(letter.envelope.key)
        headers = [(name, _from_base64(text)) for name, text in letter.envelope.headers]
    return Original(key, None if sent.encoding == "null" else value, headers)


def is_mark(carried: Iterable[Header]) -> bool:
    """Whether a record of `moderation.dead-letters` is a mark, by its headers."""
    return _MARK in carried


class _Kept(NamedTuple):
    key: str | None
    headers: list[tuple[str, str]]
    exact: Envelope | None = None
    truncated: bool = False


def _envelope(key: bytes | None, headers: Sequence[tuple[str, bytes | None]]) -> _Kept:
    """Key and headers as text; where that is not all of them exactly, in base64 first and as text
    in the room that is left."""
    kept = _texts(key, headers, ENVELOPE_CHARACTERS)
    if _is_text(key, headers) and _is_whole(kept, key, headers):
        return kept
    exact = _exact(key, headers, ENVELOPE_CHARACTERS)
    room = ENVELOPE_CHARACTERS - len(msgspec.json.encode(exact))
    return _texts(key, headers, room)._replace(exact=exact, truncated=exact is None)


def _texts(key: bytes | None, headers: Sequence[tuple[str, bytes | None]], room: int) -> _Kept:
    """The key, then each header in order, as far as they fit."""
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
    return _Kept(kept_key, kept)


def _is_whole(kept: _Kept, key: bytes | None, headers: Sequence[tuple[str, bytes | None]]) -> bool:
    return (kept.key is None) == (key is None) and len(kept.headers) == len(headers)


def _exact(
    key: bytes | None, headers: Sequence[tuple[str, bytes | None]], room: int
) -> Envelope | None:
    """Key and headers in base64, or None where that takes more than `room` characters."""
    size = len(key or b"") + sum(len(name) + len(data or b"") for name, data in headers)
    if size > room:
        return None
    exact = Envelope(_base64(key), [(name, _base64(data)) for name, data in headers])
    return exact if len(msgspec.json.encode(exact)) <= room else None


def _is_text(key: bytes | None, headers: Sequence[tuple[str, bytes | None]]) -> bool:
    """Whether key and headers are exactly what their texts say."""
    try:
        (key or b"").decode()
        for _, data in headers:
            if data is None:
                return False
            data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def _from_base64(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


def _traceparent(headers: Sequence[tuple[str, bytes | None]]) -> str | None:
    """What the record says of its trace, or None where that cannot be one."""
    found = header(headers, TRACEPARENT)
    usable = found and len(found) <= _TRACEPARENT_CHARACTERS and found.isascii()
    return found if usable else None


def _text(data: bytes) -> str:
    return data.decode(errors="backslashreplace")


def _sent(value: bytes | None, max_bytes: int) -> Sent:
    whole = value or b""
    # In JSON a byte can take six characters (\u0000), and base64 four for three: a value that is
    # kept whole must still fit its topic, so text is kept whole only where its JSON fits.
    kept, truncated = whole, False
    try:
        text, encoding = whole.decode(), "utf-8"
        fits = (
            len(whole) <= max_bytes and len(msgspec.json.encode(text)) <= max_bytes + _ESCAPED_BYTES
        )
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
