"""No two lists of parts are written as the same bytes."""

from __future__ import annotations

from typing import Any

from hypothesis import given
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
        "policy_version": _text,
        "policy_serial": st.integers(0, 3),
        "basis": st.sampled_from(Basis),
        "cause": _text,
    }
)


@given(_parts, _parts)
def test_one_id_means_one_list_of_parts(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert (verdict_id(**first) == verdict_id(**second)) == (first == second)


@given(_parts)
def test_a_length_in_the_content_is_not_taken_for_that_of_a_part(parts: dict[str, Any]) -> None:
    def length(text: str) -> bytes:
        return len(text.encode()).to_bytes(4, "little")

    tenant = length(parts["tenant"]).decode() + parts["tenant"]
    first = parts | {"tenant": tenant}
    second = parts | {"value": parts["value"] + length(tenant)}
    assert verdict_id(**first) != verdict_id(**second)
