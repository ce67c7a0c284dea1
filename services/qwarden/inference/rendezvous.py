"""Which replica of the stream guard a session is sent to. Pure.

Rendezvous hashing: each address has a number for the session, and the highest owns it. Every client
that knows the same addresses says the same, and keeps nothing.

Invariants, each held by `tests/property/test_rendezvous.py`:
- The order of the addresses does not matter.
- Only sessions of an address that goes move, and only to the others in even shares; to one that
  comes move 1/n of the sessions, and no other moves.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b


def owner_of(tenant: str, session: str, addresses: Iterable[str]) -> str:
    """The address, of at least one, that keeps this session."""
    # The length keeps ("a", "bc") from ("ab", "c"). Half of a surrogate pair is refused later.
    key = f" {len(tenant)} {tenant}{session}".encode(errors="surrogatepass")

    def number(address: str) -> tuple[bytes, str]:
        return blake2b(address.encode() + key, digest_size=8).digest(), address

    return max(addresses, key=number)
