"""The audit log's chain: whatever is done to a sealed row is found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qwarden.review.chain import START, ChainHead, Checking, Row, chained

Sealed = list[tuple[Row, str]]

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_contents: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "number": st.integers(1, 2**63 - 1),
        "at": st.floats(0, 4e9),
        "actor": _texts,
        "act": _texts,
        "tenant": _texts,
        "item_id": st.none() | _texts,
        "about": _texts,
    }
)


@st.composite
def _chains(draw: st.DrawFn, least: int = 1) -> Sealed:
    contents = draw(st.lists(_contents, min_size=least, max_size=6))
    return _sealed([Row(**content, position=at) for at, content in enumerate(contents)])


def _sealed(rows: Sequence[Row], previous: str = START) -> Sealed:
    sealed: Sealed = []
    for row in rows:
        previous = chained(previous, row)
        sealed.append((row, previous))
    return sealed


def _moved(row: Row, position: int) -> Row:
    return msgspec.structs.replace(row, position=position)


def _broken_at(rows: Sealed, known: ChainHead | None = None) -> int | None:
    checking = Checking(known)
    for row in rows:
        checking.take([row])
    checking.end()
    return checking.broken_at


def _head(rows: Sealed) -> ChainHead:
    row, said = rows[-1]
    return ChainHead(row.position, said)


@given(_chains(), st.data())
def test_a_whole_chain_is_whole_with_each_head_that_it_ever_had(
    rows: Sealed, data: st.DataObject
) -> None:
    earlier = data.draw(st.integers(1, len(rows)))
    assert _broken_at(rows) is None
    assert _broken_at(rows, _head(rows[:earlier])) is None
    checking = Checking()
    checking.take(rows)
    assert (checking.rows, checking.head) == (len(rows), _head(rows))


@pytest.mark.long
@given(_chains(), _contents, st.data())
def test_a_changed_field_is_found_where_it_is(
    rows: Sealed, other: dict[str, Any], data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(rows) - 1))
    field = data.draw(st.sampled_from([*other, "position", "chained"]))
    row, said = rows[at]
    if field == "chained":
        rows[at] = row, said[:-1] + ("0" if said[-1] != "0" else "1")
    else:
        new = data.draw(st.integers(0, 9)) if field == "position" else other[field]
        assume(new != getattr(row, field))
        rows[at] = msgspec.structs.replace(row, **{field: new}), said
    assert _broken_at(rows) == at


@pytest.mark.long
@given(_chains(least=2), st.data())
def test_a_row_that_is_dropped_is_found(rows: Sealed, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(rows) - 2))
    assert _broken_at(rows[:at] + rows[at + 1 :]) == at


@pytest.mark.long
@given(_chains(), st.data())
def test_last_rows_that_are_dropped_are_found_by_who_kept_a_head(
    rows: Sealed, data: st.DataObject
) -> None:
    left = data.draw(st.integers(0, len(rows) - 1))
    assert _broken_at(rows[:left], _head(rows)) == left


@pytest.mark.long
@given(_chains(least=2), st.data())
def test_two_rows_that_are_swapped_are_found(rows: Sealed, data: st.DataObject) -> None:
    one = data.draw(st.integers(0, len(rows) - 2))
    other = data.draw(st.integers(one + 1, len(rows) - 1))
    places = data.draw(st.booleans(), label="whether each takes the other's position")
    first, second = rows[one], rows[other]
    assume(_moved(first[0], other) != second[0])
    if places:
        first, second = (_moved(first[0], other), first[1]), (_moved(second[0], one), second[1])
    rows[one], rows[other] = second, first
    assert _broken_at(rows) == one


@pytest.mark.long
@given(_chains(), _contents, st.data())
def test_a_row_that_is_slipped_in_is_found(
    rows: Sealed, content: dict[str, Any], data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(rows) - 1))
    previous = rows[at - 1][1] if at else START
    (new,) = _sealed([Row(**content, position=at)], previous)
    assume(new[1] != rows[at][1])
    pushed = [(_moved(row, row.position + 1), said) for row, said in rows[at:]]
    assert _broken_at([*rows[:at], new, *pushed]) == at + 1
    assert _broken_at([*rows[:at], new, *rows[at:]]) == at + 1


@pytest.mark.long
@given(_chains(), _contents, st.data())
def test_a_chain_that_is_made_anew_from_a_changed_row_is_found_by_who_kept_a_head(
    rows: Sealed, content: dict[str, Any], data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(rows) - 1))
    new = Row(**content, position=at)
    assume(new != rows[at][0])
    previous = rows[at - 1][1] if at else START
    forged = [*rows[:at], *_sealed([new, *(row for row, _ in rows[at + 1 :])], previous)]
    assert _broken_at(forged) is None
    assert _broken_at(forged, _head(rows)) == len(rows) - 1


def test_another_program_can_check_an_export() -> None:
    """The hash is that of the row's canonical JSON, which any language writes."""
    row = Row(
        number=7,
        at=1_700_000_000.25,
        actor="somebody",
        act="claimed",
        tenant="Größe\n",
        item_id=None,
        about='{"fence":3}',
        position=0,
    )
    fields = {
        "about": '{"fence":3}',
        "act": "claimed",
        "actor": "somebody",
        "at": 1_700_000_000.25,
        "item_id": None,
        "number": 7,
        "position": 0,
        "previous": "0" * 64,
        "tenant": "Größe\n",
    }
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert chained(START, row) == hashlib.sha256(text.encode()).hexdigest()
