"""The overrides that stand: what people decided of content holds for the next equal one. Pure.

A fleet may have a million of them, and each moderator has them all. So what a verdict needs of one
is kept as bytes, under bytes: nothing that the garbage collector walks over.
"""

from __future__ import annotations

import msgspec

from qwarden.contracts.control import Override
from qwarden.contracts.verdict import Action

_HASH_BYTES = 16
"""Of a content hash, as `ContentKey` makes it."""


class Overridden(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What holds for a tenant's content, by the decision that said so. `ground` and `clause`: why
    it is restricted; null where it is allowed, or where nobody said."""

    action: Action
    ground: str | None
    clause: str | None
    decision_id: str


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Overridden)


class Overrides:
    """Those of all tenants. Content is named by its hash, as verdicts name it; a name that no
    verdict has is no content's, and nothing is kept of it."""

    def __init__(self) -> None:
        self._kept: dict[bytes, bytes] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, tenant: str, content_hash: str) -> Overridden | None:
        """What stands for this content."""
        if not self._kept:
            return None
        name = _name(tenant, content_hash)
        kept = None if name is None else self._kept.get(name)
        return None if kept is None else _decoder.decode(kept)

    def put(self, override: Override) -> None:
        """Puts one in place of what stood for its content. Raises `ValueError` for an action that
        is none, or a ground that is none: what that asks for is not known."""
        if override.ground not in (None, "law", "terms"):
            raise ValueError(f"{override.ground!r} is no ground")
        name = _name(override.tenant, override.content_hash)
        if name is None:
            raise ValueError("its content hash is no verdict's")
        action = Action(override.action)
        if action is Action.REVIEW:
            raise ValueError("people are not sent what they have decided")
        said = Overridden(action, override.ground, override.clause, override.decision_id)
        self._kept[name] = _encoder.encode(said)

    def remove(self, tenant: str, content_hash: str) -> None:
        """Nothing stands for this content any more."""
        name = _name(tenant, content_hash)
        if name is not None:
            self._kept.pop(name, None)


def _name(tenant: str, content_hash: str) -> bytes | None:
    """The tenant's name and the hash, which has one length, so that no two give the same bytes."""
    try:
        own = bytes.fromhex(content_hash)
    except ValueError:
        return None
    if len(own) != _HASH_BYTES or own.hex() != content_hash:
        return None
    return tenant.encode() + own
