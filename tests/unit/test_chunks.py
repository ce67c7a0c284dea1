"""Chunks that no producer means to send: none of them ends the streamer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qwarden.contracts.chunk import decode_chunk
from qwarden.contracts.refusal import ErrorClass, Refused
from qwarden.outcomes.source import MAX_ENVELOPE_BYTES, Source
from qwarden.streamer.chunks import Door
from unit.builders import admission

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


# The door.


def door(*, max_bytes: int = 900_000, strict: bool = True, default: str = "default") -> Door:
    """One that knows the tenant `demo`."""
    made = admission(max_bytes=max_bytes, strict=strict, default=default)
    return Door(made.tenants, made.keys, made.max_event_bytes, made.detector)


def sent(*, key: bytes | None = b"k", **fields: Any) -> Source:
    body = {"session": "s", "seq": 3, "tenant": "demo", "role": "user", "text": "hello"} | fields
    value = json.dumps({name: given for name, given in body.items() if given is not ...}).encode()
    return Source("content.chunks", 1, 7, 0, key, value, ())


REFUSED: list[tuple[Source, ErrorClass, str, str, bool]] = [
    (sent(tenant="nobody"), ErrorClass.UNKNOWN_TENANT, "s", "nobody", True),
    (sent(policy="none"), ErrorClass.UNKNOWN_POLICY, "s", "demo", True),
    (sent(text="x" * 1000), ErrorClass.TOO_LARGE, "s", "demo", True),
    (sent(key=b"k" * (MAX_ENVELOPE_BYTES + 1)), ErrorClass.TOO_LARGE, "s", "demo", False),
    (sent(tenant=...), ErrorClass.NOT_A_CHUNK, "s", "", False),
    (Source("content.chunks", 1, 7, 0, None, None, ()), ErrorClass.NOT_A_CHUNK, "", "", False),
]


@pytest.mark.parametrize(
    ("source", "error_class", "session", "tenant"), [each[:4] for each in REFUSED]
)
def test_a_chunk_that_nothing_judges_is_taken_or_does_not_say_whose_it_is(
    source: Source, error_class: ErrorClass, session: str, tenant: str
) -> None:
    with pytest.raises(Refused) as found:
        door(max_bytes=900).admit(source)
    told = found.value
    assert (told.error_class, told.event_id, told.tenant) == (error_class, session, tenant)


def test_a_chunk_without_a_tenant_is_refused_without_those_that_there_are() -> None:
    with pytest.raises(Refused, match="known are: demo"):
        door().admit(sent(tenant=...))


@pytest.mark.parametrize(("source", "is_told"), [(each[0], each[4]) for each in REFUSED])
def test_what_was_taken_under_another_configuration_is_forgotten_when_it_is_read_again(
    source: Source, is_told: bool
) -> None:
    """Tenants, policies and the limit may be others now; what is no chunk never was one."""
    chunk = door(max_bytes=900).was_admitted(source)
    assert (chunk is not None) == is_told
    assert chunk is None or (chunk.session, chunk.seq) == ("s", 3)


def test_a_session_without_its_beginning_is_judged_by_a_policy_that_it_may_not_name() -> None:
    own = door(default="strict")
    chunk = own.admit(sent(policy="loose"))
    tenant, policy = own.acting(chunk, chunk.policy)
    assert (tenant.name, policy.name) == ("demo", "loose")
    assert own.acting(chunk, None)[1].name == "strict"
    tenant, policy = own.acting_at_least(chunk)
    assert (tenant.name, policy.name) == ("demo", "strict")
    gone = door(strict=False).admit(sent(tenant="gone"))
    tenant, policy = own.acting_at_least(gone)
    assert (tenant.name, policy.name) == ("gone", "default")
    for name in (None, "strict"):
        with pytest.raises(Refused) as found:
            own.acting(gone, name)
        assert (found.value.event_id, found.value.tenant) == ("s", "gone")
