"""What is derived from the content key: hashes of content that only its holders can make.

Content is often short and guessable, so a plain hash on a topic would tell it. Each use has a key
of its own, derived by HMAC-SHA256 from `QWARDEN_CONTENT_KEY` and the use's name.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from qwarden.guard.row import View

MIN_KEY_BYTES = 32


class ContentKey:
    """The derived keys of one content key. Raises `ValueError` for one that is too short."""

    __slots__ = ("_cache", "_content", "id")

    def __init__(self, secret: bytes) -> None:
        if len(secret) < MIN_KEY_BYTES:
            raise ValueError(
                f"the content key has {len(secret)} bytes and needs at least {MIN_KEY_BYTES}; "
                "make one with: openssl rand -hex 32"
            )
        self._content = hmac.digest(secret, b"qwarden content hash", "sha256")
        self._cache = hmac.digest(secret, b"qwarden cache key", "sha256")
        self.id = hmac.digest(secret, b"qwarden key id", "sha256")[:6].hex()
        """Names the key without telling it: part of every verdict's id."""

    def content_hash(self, conversation: bytes) -> bytes:
        """16 bytes that stand for a conversation and its task (`Conversation.to_json`)."""
        return hmac.digest(self._content, conversation, "sha256")[:16]

    def cache_key(
        self, content_hash: bytes, *, views: Sequence[View], scope: str, revision: str
    ) -> bytes:
        """16 bytes under which an assessment of these views is kept.

        `scope` is the tenant, or the empty string for those that share: else a hit, or its speed,
        would tell one tenant what another has sent.
        """
        named = ",".join(views)
        message = b"\0".join((scope.encode(), revision.encode(), named.encode(), content_hash))
        return hmac.digest(self._cache, message, "sha256")[:16]
