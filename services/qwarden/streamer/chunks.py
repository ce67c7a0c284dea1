"""A record of `content.chunks`, read: whose it is, and what acts on it. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qwarden.contracts.chunk import Chunk, decode_chunk
from qwarden.contracts.keys import ContentKey
from qwarden.delivery.owed import Owed
from qwarden.outcomes.source import Source
from qwarden.policy.policy import Policy
from qwarden.policy.tenants import Tenant, Tenants, policy_of

Done = Callable[[Owed], None]


@dataclass(eq=False, slots=True)
class Placed:
    """A chunk and the record that carried it. `polled`: when, of a clock that does not jump (s).
    `done`: finishes the record; None where that counts for nothing (any more). `is_done`: what was
    said of it is acknowledged, and its record owes `owed`."""

    chunk: Chunk
    source: Source
    polled: float
    done: Done | None
    is_done: bool = False
    owed: Owed = ()

    @property
    def offset(self) -> int:
        return self.source.offset

    def finish(self, owed: Owed = ()) -> None:
        """Finishes the record, which owes no more than this."""
        self.is_done, self.owed = True, owed
        done, self.done = self.done, None
        if done is not None:
            done(owed)

    def is_delivered_again(self, done: Done) -> None:
        """The record comes once more, in a new epoch, to who has its chunk still."""
        self.done = done
        if self.is_done:
            self.finish(self.owed)

    def let_go(self) -> None:
        """Its epoch is over: the record is finished for nobody."""
        done, self.done = self.done, None
        if done is not None:
            done(())


@dataclass(frozen=True, slots=True)
class Door:
    """What decides whether a chunk is taken: the tenants, the content key, the byte limit."""

    tenants: Tenants
    keys: ContentKey
    max_event_bytes: int

    def admit(self, source: Source) -> Chunk:
        """Reads one record. Raises `Refused` with a sentence that names the fix."""
        source.check_envelope()
        chunk = decode_chunk(
            source.value, max_bytes=self.max_event_bytes, tenants=self.tenants.known
        )
        self.acting(chunk, chunk.policy)
        return chunk

    def acting(self, chunk: Chunk, policy: str | None) -> tuple[Tenant, Policy]:
        """Whose a chunk's session is, and the policy of that name. Raises `Refused`."""
        tenant = self.tenants.of(chunk.tenant, event_id=chunk.session)
        return tenant, policy_of(tenant, policy, event_id=chunk.session)
