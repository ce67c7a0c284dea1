"""Content hashes are HMAC-SHA256, whatever the message and the key are."""

from __future__ import annotations

import hmac

from hypothesis import given, settings
from hypothesis import strategies as st

from qwarden.contracts.keys import ContentKey


@settings(deadline=None)
@given(st.binary(min_size=32, max_size=100), st.binary(max_size=300))
def test_a_content_hash_is_not_the_one_that_was_published_before(
    secret: bytes, conversation: bytes
) -> None:
    key = hmac.digest(secret, b"qwarden content hash", "sha256")
    expected = hmac.digest(key, conversation, "sha256")[:16]
    assert ContentKey(secret).content_hash(conversation) == expected
