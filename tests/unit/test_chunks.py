"""Chunks that no producer means to send: none of them ends the streamer."""

from __future__ import annotations

import pytest

from qwarden.contracts.chunk import decode_chunk
from qwarden.contracts.refusal import ErrorClass, Refused

DEEP = b"[" * 100_000
TOO_DEEP = "the value is nested too deeply; a chunk is one flat object"


def refusal(value: bytes, *, max_bytes: int = 900_000) -> Refused:
    with pytest.raises(Refused) as found:
        decode_chunk(value, max_bytes=max_bytes, tenants=("demo",))
    return found.value


@pytest.mark.parametrize("before", [b'{"x":', b'{"tenant":7,"x":', b""])
def test_no_depth_ends_the_streamer(before: bytes) -> None:
    refused = refusal(before + DEEP)
    assert refused.error_class is ErrorClass.NOT_A_CHUNK
    assert refused.reason == TOO_DEEP


@pytest.mark.parametrize(
    ("value", "session", "tenant"),
    [
        (b'{"session":"s","tenant":"t","text":"long"}', "s", "t"),
        (b'{"session":"s","tenant":7}', "", ""),
        (b'{"session":"\xff"}', "", ""),
        (b'{"x":' + DEEP, "", ""),
    ],
)
def test_what_is_too_large_to_read_ends_the_streamer(
    value: bytes, session: str, tenant: str
) -> None:
    refused = refusal(value, max_bytes=10)
    assert refused.error_class is ErrorClass.TOO_LARGE
    assert (refused.event_id, refused.tenant) == (session, tenant)
