"""The verdict's id: the same parts give it again, and every part counts."""

from __future__ import annotations

from typing import Any

import pytest

from qwarden.contracts.verdict import Basis, verdict_id

PARTS: dict[str, Any] = {
    "tenant": "demo",
    "event_id": "e1",
    "task": "prompt",
    "key_id": "k",
    "value": b'{"text":"hi"}',
    "revision": "toy@1",
    "calibration": "none",
    "detector": "",
    "policy_version": "aa",
    "policy_serial": 0,
    "basis": Basis.GUARD,
    "cause": "",
}


def test_a_redelivery_does_not_give_another_id() -> None:
    assert verdict_id(**PARTS) == verdict_id(**dict(reversed(PARTS.items())))
    assert len(verdict_id(**PARTS)) == 32
    assert int(verdict_id(**PARTS), 16) > 0


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("tenant", "forum"),
        ("event_id", "e2"),
        ("task", "response"),
        ("key_id", "l"),
        ("value", b'{"text":"ho"}'),
        ("revision", "toy@2"),
        ("calibration", "c1"),
        ("detector", "d1"),
        ("policy_version", "ab"),
        ("policy_serial", 1),
        ("basis", Basis.DEGRADED),
        ("cause", "deadline"),
    ],
)
def test_a_change_of_any_part_is_not_hidden_under_the_old_id(part: str, other: Any) -> None:
    assert PARTS[part] != other
    assert verdict_id(**PARTS) != verdict_id(**PARTS | {part: other})


def test_every_part_is_among_those_that_are_tested() -> None:
    assert set(PARTS) == set(
        verdict_id.__code__.co_varnames[: verdict_id.__code__.co_kwonlyargcount]
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"tenant": "ab", "event_id": "c"}, {"tenant": "a", "event_id": "bc"}),
        ({"tenant": "a", "event_id": ""}, {"tenant": "", "event_id": "a"}),
        ({"calibration": "1", "detector": ""}, {"calibration": "", "detector": "1"}),
        ({"detector": "1", "policy_version": ""}, {"detector": "", "policy_version": "1"}),
        ({"policy_serial": 1, "cause": "1"}, {"policy_serial": 11, "cause": ""}),
        # A value that ends as a part begins: its own length must not be taken for that part's.
        ({"value": b"", "cause": "\1"}, {"value": b"\1", "cause": ""}),
        ({"value": b"", "tenant": "\1\0\0\0A"}, {"value": b"\5\0\0\0", "tenant": "A"}),
    ],
)
def test_parts_do_not_run_into_each_other(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert verdict_id(**PARTS | first) != verdict_id(**PARTS | second)
