"""The chunk: a piece of a running session, as producers send it, keyed by tenant and session.

A session is one exchange: earlier turns first, with `history`; then a user's turn, then what a
model thinks and answers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from qwarden.contracts.event import ROLES
from qwarden.contracts.fields import fields_of, text_of
from qwarden.contracts.refusal import ErrorClass, Refused, listed
from qwarden.contracts.values import Count, Name, one_of


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of one session's text, from the character behind the chunk before it."""

    session: Name
    """The exchange's own id; its verdicts have it as their event_id. A new exchange needs a new
    one."""
    seq: Count
    """From 0, one more with each chunk of the session."""
    tenant: Name
    """Whose policies act on it."""
    role: Annotated[str, one_of(*ROLES)]
    """Whose text it is. A chunk of another role than the one before it begins a new turn."""
    text: str
    """May be empty, where only something ends."""
    schema_version: Literal[1] = 1
    segment: Literal["answer", "thinking"] = "answer"
    """What of an assistant's turn it is; all other text is an `answer`."""
    history: bool = False
    """Of an earlier exchange: it is read and not judged, and comes before what is judged."""
    end: Literal["turn", "session"] | None = None
    """What ends behind this text. A user's turn is judged when it ends, an answer as it comes;
    the session's verdicts come when it ends."""
    policy: Name | None = None
    """One of the policies that the tenant lists, else its default; that of chunk 0 counts."""
    language: Annotated[str, msgspec.Meta(max_length=35)] | None = None
    """A language tag, such as `en` or `pt-BR`; that of chunk 0 counts."""


_decoder = msgspec.json.Decoder(Chunk)


class _Names(msgspec.Struct):
    session: Name = ""
    tenant: Name = ""


_names_decoder = msgspec.json.Decoder(_Names)


def decode_chunk(value: bytes | None, *, max_bytes: int, tenants: Iterable[str] = ()) -> Chunk:
    """Reads a record's value. Raises `Refused` with a sentence that names the fix.

    `tenants`: the names that the refusal of a chunk without a tenant lists.
    """
    if value is None:
        raise Refused(
            ErrorClass.NOT_A_CHUNK,
            'the record has no value; to end a session send a chunk with "end": "session"',
        )
    if len(value) > max_bytes:
        names = _names_of(value)
        raise Refused(
            ErrorClass.TOO_LARGE,
            f"the record has {len(value):,} bytes and the limit is {max_bytes:,}; send the text in "
            "smaller chunks",
            event_id=names.session,
            tenant=names.tenant,
        )
    try:
        try:
            chunk = _decoder.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _refused(value, tenants, error) from None
    except RecursionError:
        raise Refused(
            ErrorClass.NOT_A_CHUNK, "the value is nested too deeply; a chunk is one flat object"
        ) from None
    if chunk.role not in ROLES:
        raise _named(
            chunk,
            f"the chunk has the unknown role {chunk.role!r}; known are user, assistant, system, "
            "developer and tool",
        )
    for field in ("tenant", "session", "language"):
        if "\0" in (getattr(chunk, field) or ""):
            raise Refused(
                ErrorClass.NOT_A_CHUNK,
                f"the {field} of the chunk holds a NUL character (\\u0000), which no database "
                "keeps in a text; leave it out",
                event_id=chunk.session.replace("\0", ""),
                tenant=chunk.tenant.replace("\0", ""),
            )
    if chunk.segment == "thinking" and chunk.role != "assistant":
        raise _named(
            chunk,
            f"the chunk has the role {chunk.role} and the segment thinking, which only an "
            "assistant's turn can have; leave segment out",
        )
    return chunk


def _refused(value: bytes, tenants: Iterable[str], error: Exception) -> Refused:
    """Why a value is no chunk. Raises `Refused` itself for what is no JSON object."""
    fields = fields_of(value, what="a chunk", error_class=ErrorClass.NOT_A_CHUNK)
    reason = f"the value is not a chunk: {error}; the schema is chunk.schema.json"
    if fields.get("tenant") in (None, ""):
        reason = f'the chunk names no tenant; add "tenant"; known are: {listed(tenants)}'
    elif fields.get("session") in (None, ""):
        reason = 'the chunk names no session; add "session", the id of its exchange'
    elif fields.get("seq") is None:
        reason = 'the chunk has no seq; add "seq", from 0 and one more with each of its session'
    return Refused(
        ErrorClass.NOT_A_CHUNK,
        reason,
        event_id=text_of(fields, "session"),
        tenant=text_of(fields, "tenant"),
    )


def _names_of(value: bytes) -> _Names:
    """Whose chunk it is, as far as that can be read."""
    try:
        return _names_decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Names()


def _named(chunk: Chunk, reason: str) -> Refused:
    return Refused(ErrorClass.NOT_A_CHUNK, reason, event_id=chunk.session, tenant=chunk.tenant)
