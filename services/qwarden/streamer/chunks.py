"""A record of `content.chunks`: whose it is, what acts on it, and when it is done. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

import msgspec

from qwarden.contracts.chunk import Chunk, decode_chunk
from qwarden.contracts.keys import ContentKey
from qwarden.contracts.refusal import Refused
from qwarden.contracts.values import Count, Name
from qwarden.delivery.owed import Owed
from qwarden.language.port import Detector
from qwarden.outcomes.source import MAX_ENVELOPE_BYTES, Source
from qwarden.policy.policy import Policy
from qwarden.policy.tenants import Tenant, Tenants, policy_of

Done = Callable[[Owed], None]

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class Arrived:
    """A record. `polled`: when it came, of a clock that does not jump (s). `done`: finishes it;
    None where that counts for nothing (any more). `waits_for`: how often `finish` is called until
    it is done. `is_done`: what was said of it is acknowledged, and it owes `owed`."""

    source: Source
    polled: float
    done: Done | None
    waits_for: int = 1
    is_done: bool = False
    owed: Owed = ()

    @property
    def offset(self) -> int:
        return self.source.offset

    @property
    def key(self) -> bytes | None:
        return self.source.key

    def finish(self, owed: Owed = ()) -> None:
        """Finishes the record, which owes no more than this."""
        self.waits_for -= 1
        if self.waits_for > 0:
            return
        self.is_done, self.owed = True, owed
        done, self.done = self.done, None
        if done is not None:
            done(owed)

    def is_delivered_again(self, done: Done) -> None:
        """The record comes once more, in a new epoch, to who has it still."""
        self.done = done
        if self.is_done:
            self.finish(self.owed)

    def let_go(self) -> None:
        """Its epoch is over: the record is finished for nobody."""
        done, self.done = self.done, None
        if done is not None:
            done(())


@dataclass(eq=False, slots=True)
class Placed(Arrived):
    """A record that is a chunk."""

    chunk: Chunk = field(kw_only=True)


class _Names(msgspec.Struct):
    tenant: Name
    session: Name


class _Seq(msgspec.Struct):
    seq: Count


_names_decoder = msgspec.json.Decoder(_Names)
_seq_decoder = msgspec.json.Decoder(_Seq)


@dataclass(frozen=True, slots=True)
class Torn:
    """What a record that was refused says of itself: its session, where it names one that there
    may be, its place there, and the key of the record."""

    session: tuple[str, str] | None
    seq: int | None
    key: bytes | None

    @classmethod
    def of(cls, source: Source) -> Torn:
        names = _decoded(_names_decoder, source)
        seq = _decoded(_seq_decoder, source)
        named = None
        if names is not None and "\0" not in names.tenant + names.session:
            named = names.tenant, names.session
        # No session has a longer key, since each of its records would be refused for it.
        key = source.key if len(source.key or b"") <= MAX_ENVELOPE_BYTES else None
        return cls(named, None if seq is None else seq.seq, key)


def _decoded(decoder: msgspec.json.Decoder[T], source: Source) -> T | None:
    try:
        return decoder.decode(source.value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


@dataclass(frozen=True, slots=True)
class Door:
    """What decides whether a chunk is taken: the tenants, the content key, the byte limit; and what
    tells languages."""

    tenants: Tenants
    keys: ContentKey
    max_event_bytes: int
    detector: Detector

    def admit(self, source: Source) -> Chunk:
        """Reads one record. Raises `Refused` with a sentence that names the fix."""
        chunk = self._read(source)
        self.acting(chunk, chunk.policy)
        return chunk

    def was_admitted(self, source: Source) -> Chunk | None:
        """A record that `admit` refuses, where only what is in force decides that: it may have
        been admitted before."""
        try:
            return replace(self, max_event_bytes=len(source.value or b""))._read(source)
        except Refused:
            return None

    def acting(self, chunk: Chunk, policy: str | None) -> tuple[Tenant, Policy]:
        """Whose a chunk's session is, and the policy of that name. Raises `Refused`."""
        tenant = self.tenants.of(chunk.tenant, event_id=chunk.session)
        return tenant, policy_of(tenant, policy, event_id=chunk.session)

    def acting_at_least(self, chunk: Chunk) -> tuple[Tenant, Policy]:
        """The same for a session whose beginning nobody has: its tenant's default, also of a tenant
        that is not known."""
        tenant = replace(self.tenants, strict=False).of(chunk.tenant, event_id=chunk.session)
        return tenant, tenant.default

    def _read(self, source: Source) -> Chunk:
        chunk = decode_chunk(
            source.value, max_bytes=self.max_event_bytes, tenants=self.tenants.known
        )
        source.check_envelope(event_id=chunk.session, tenant=chunk.tenant)
        return chunk
