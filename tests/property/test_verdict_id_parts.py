"""No two lists of parts are written as the same bytes."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from qwarden.contracts.verdict import Basis, verdict_id

# Few and awkward characters, so that runs of them meet at the borders of parts.
_text = st.text(alphabet="\0\1\2\5A", max_size=6)
_parts = st.fixed_dictionaries(
    {
        "tenant": _text,
        "event_id": _text,
        "task": _text,
        "key_id": _text,
        "value": st.binary(max_size=6),
        "revision": _text,
        "calibration": _text,
        "detector": _text,
        "policy_version": _text,
        "policy_serial": st.integers(0, 3),
        "basis": st.sampled_from(Basis),
        "cause": _text,
    }
)


@settings(deadline=None)
@given(_parts, _parts)
def test_one_id_means_one_list_of_parts(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert (verdict_id(**first) == verdict_id(**second)) == (first == second)


@settings(deadline=None)
@given(_parts)
def test_a_length_in_the_content_is_not_taken_for_that_of_a_part(parts: dict[str, Any]) -> None:
    def length(text: str) -> bytes:
        return len(text.encode()).to_bytes(4, "little")

    tenant = length(parts["tenant"]).decode() + parts["tenant"]
    first = parts | {"tenant": tenant}
    second = parts | {"value": parts["value"] + length(tenant)}
    assert verdict_id(**first) != verdict_id(**second)


_NEIGHBOURS = [
    ("tenant", "event_id"),
    ("event_id", "task"),
    ("task", "key_id"),
    ("key_id", "revision"),
    ("revision", "calibration"),
    ("calibration", "detector"),
    ("detector", "policy_version"),
]


@settings(deadline=None)
@given(_parts, st.sampled_from(_NEIGHBOURS), st.text("\0\1A", min_size=1, max_size=8), st.data())
def test_a_border_between_two_parts_that_moves_gives_another_id(
    parts: dict[str, Any], pair: tuple[str, str], text: str, data: st.DataObject
) -> None:
    cut, other = data.draw(st.lists(st.integers(0, len(text)), min_size=2, max_size=2, unique=True))
    left, right = pair
    assert verdict_id(**parts | {left: text[:cut], right: text[cut:]}) != verdict_id(
        **parts | {left: text[:other], right: text[other:]}
    )
