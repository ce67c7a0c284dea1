"""Records of the control topic: which one a key is of, and what is written under it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from qwarden.contracts.control import (
    Freeze,
    Halt,
    InForce,
    Key,
    LossAccepted,
    Override,
    PolicyBody,
    Record,
    decode_key,
    withdrawn,
    written,
)

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

RECORDS: list[tuple[Record, Key, bytes, bytes]] = [
    (Halt(reason="r", at=AT, by="m"), Key("halt"), b"/qwarden/moderator", b"qwarden.halt.v1"),
    (
        LossAccepted(
            topic="t", partition=1, group="g/h", committed=2, resume_at=9, at=AT, by="lead"
        ),
        Key("loss_accepted", "", "t/1/g/h"),
        b"/qwarden/cli",
        b"qwarden.loss-accepted.v1",
    ),
    (
        PolicyBody(policy="p", version="v", body={}, at=AT, by="lead"),
        Key("policy", "*", "p/v"),
        b"/qwarden/cli",
        b"qwarden.policy.v1",
    ),
    (
        InForce(policy="p", version="v", previous=None, at=AT, by="lead"),
        Key("in_force", "*", "p"),
        b"/qwarden/cli",
        b"qwarden.in-force.v1",
    ),
    (
        Freeze(tenant="demo", frozen=True, reason="r", at=AT, by="lead"),
        Key("freeze", "demo"),
        b"/qwarden/cli",
        b"qwarden.freeze.v1",
    ),
    (
        Override(
            tenant="demo",
            content_hash="c0",
            action="block",
            categories=[],
            ground="terms",
            clause="c",
            decision_id="d",
            until=AT,
            at=AT,
            by="calm-heron-27",
        ),
        Key("override", "demo", "c0"),
        b"/qwarden/review-service",
        b"qwarden.override.v1",
    ),
]


@pytest.mark.parametrize(("record", "key", "source", "kind"), RECORDS)
def test_a_record_takes_the_place_of_another(
    record: Record, key: Key, source: bytes, kind: bytes
) -> None:
    found = written(record)
    assert decode_key(found.key) == record.key() == key
    headers = dict(found.headers)
    assert (headers["ce_source"], headers["ce_type"]) == (source, kind)
    assert headers["ce_id"].decode() == "/".join((*key, record.by, AT.isoformat()))
    assert found.value is not None
    assert withdrawn(record.key()) == (found.key, None, [])


@pytest.mark.parametrize(
    "data",
    [None, b"", b"halt", b'["halt"]', b'["halt", "", ""]', b'["halt","",""] ', b'["a","b",1]',
     b'["halt","","\xff"]'],
)  # fmt: skip
def test_bytes_that_no_service_writes_are_a_key(data: bytes | None) -> None:
    assert decode_key(data) is None
