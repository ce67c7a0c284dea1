"""The event: one piece of content to judge, as producers send it.

CloudEvents 1.0 in Kafka's binary mode (`ce_*` headers, the value is the data) and plain JSON are
both taken; in binary mode `ce_id` and `ce_time` stand in for an absent `event_id` and `created_at`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import msgspec

from qwarden.contracts.fields import fields_of, text_of
from qwarden.contracts.refusal import ErrorClass, Refused, listed
from qwarden.contracts.values import Count, Instant, Name, Origin, one_of

ROLES: tuple[str, ...] = ("user", "assistant", "system", "developer", "tool")

MAX_DEPTH = 100
"""Of lists and objects in one another. What is decoded must be encoded again, a level deeper and
at any depth of the stack, and Python ends both at about a thousand levels."""


class Part(msgspec.Struct, frozen=True):
    """One part of a turn's content. Text is judged; any other type is refused by its name."""

    type: Annotated[str, one_of("text")]
    text: str | None = None


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn of a conversation."""

    role: Annotated[str, one_of(*ROLES)]
    """`developer` means `system`. Turns of `system` and `tool` are not judged."""
    content: str | list[Part]
    """A string, or text parts that are joined by a newline."""
    reasoning: str | None = None
    """What a model thought before this answer; only an assistant turn has it. That of the last
    turn is judged as a task of its own, `thinking`, with a verdict of its own; the content of that
    turn may then be empty. That of earlier turns is not judged."""


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """One user's report of this content."""

    reason: str
    at: Instant | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of content to judge: a conversation whose last turn is judged.

    It has `messages`, or `text`, or it is `deleted`.
    """

    event_id: Name
    """The content's own id, the same for each edit of it and for its deletion."""
    tenant: Name
    """Whose policies act on it."""
    schema_version: Literal[1] = 1
    messages: list[Message] | None = None
    """The conversation, oldest turn first; the last one is judged and must not be empty."""
    text: str | None = None
    """The short form of one user turn, instead of `messages`."""
    language: Annotated[str, msgspec.Meta(max_length=35)] | None = None
    """A language tag, such as `en` or `pt-BR`."""
    created_at: Instant | None = None
    """When the content was made, with a time zone."""
    deadline: Instant | None = None
    """After it nobody waits for the verdict any more: what is not judged by then is `expired`."""
    policy: Name | None = None
    """One of the policies that the tenant lists; without it the tenant's default acts."""
    reach: Count | None = None
    """How many people see the content."""
    subject: Annotated[str, msgspec.Meta(max_length=256)] | None = None
    """Whose content it is."""
    origin: Origin = "automatic"
    """What asked for the judgement."""
    reports: list[Report] = []
    """Shown to people, not judged."""
    context: str | None = None
    """Shown to people, not judged."""
    link: str | None = None
    """Shown to people, not judged."""
    metadata: dict[str, Any] = {}
    """Carried through to people, not judged."""
    edit: Count = 0
    """Grows with each edit of the same content; an edit replaces what was said of those before."""
    deleted: bool = False
    """Withdraws the content for good, whatever the edit."""


_decoder = msgspec.json.Decoder(Event)
_NO_HEADERS: Mapping[str, str] = {}


def decode_event(
    value: bytes | None,
    *,
    max_bytes: int,
    headers: Mapping[str, str] = _NO_HEADERS,
    tenants: Iterable[str] = (),
) -> Event:
    """Reads a record's value. Raises `Refused` with a sentence that names the fix.

    `headers`: the record's `ce_*` headers, decoded; only `ce_id` and `ce_time` are used.
    `tenants`: the names that the refusal of an event without a tenant lists.
    """
    if value is None:
        raise Refused(
            ErrorClass.NOT_AN_EVENT,
            'the record has no value; to withdraw content send an event with "deleted": true',
        )
    if len(value) > max_bytes:
        raise Refused(
            ErrorClass.TOO_LARGE,
            f"the record has {len(value):,} bytes and the limit is {max_bytes:,}; send less "
            "context, or raise moderator.max_event_bytes and the topics' max.message.bytes",
        )
    try:
        try:
            event = _decoder.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            event = _second_look(value, headers, tenants, error)
    except RecursionError:
        raise _too_deep() from None
    # Only a value with that many brackets can be that deep; walking every event would cost more.
    if value.count(b"[") + value.count(b"{") > MAX_DEPTH and _is_deep(event.metadata):
        raise _too_deep(event)
    if event.created_at is None and "ce_time" in headers:
        return _with_time(event, headers["ce_time"])
    return event


def _second_look(
    value: bytes, headers: Mapping[str, str], tenants: Iterable[str], error: Exception
) -> Event:
    """An event whose id stands in a binary-mode header, else the reason for its refusal."""
    fields = fields_of(value, what="an event", error_class=ErrorClass.NOT_AN_EVENT)
    if "event_id" not in fields and "ce_id" in headers:
        fields["event_id"] = headers["ce_id"]
        try:
            return msgspec.convert(fields, Event)
        except msgspec.ValidationError as still:
            error = still
    reason = f"the value is not an event: {error}; the schema is event.schema.json"
    if fields.get("tenant") in (None, ""):
        reason = f'the event names no tenant; add "tenant"; known are: {listed(tenants)}'
    elif "event_id" not in fields:
        reason = 'the event has no event_id; add "event_id", or the header ce_id'
    raise Refused(
        ErrorClass.NOT_AN_EVENT,
        reason,
        event_id=text_of(fields, "event_id"),
        tenant=text_of(fields, "tenant"),
    )


def _with_time(event: Event, time: str) -> Event:
    try:
        return msgspec.structs.replace(event, created_at=msgspec.convert(time, Instant))
    except msgspec.ValidationError as error:
        raise Refused(
            ErrorClass.NOT_AN_EVENT,
            f"the header ce_time is no time with a zone ({error}); correct it or leave it out",
            event_id=event.event_id,
            tenant=event.tenant,
        ) from None


def _too_deep(event: Event | None = None) -> Refused:
    return Refused(
        ErrorClass.NOT_AN_EVENT,
        f"the value is nested too deeply; send at most {MAX_DEPTH} levels of lists and objects",
        event_id=event.event_id if event else "",
        tenant=event.tenant if event else "",
    )


def _is_deep(metadata: dict[str, Any]) -> bool:
    level: list[Any] = [metadata]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True
