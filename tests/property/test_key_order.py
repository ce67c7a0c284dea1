"""Publication by key against the list of arrivals, whatever order judgement ends in."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from qwarden.delivery.key_order import KeyOrder, Place

Keys = list[bytes | None]
_keys: st.SearchStrategy[Keys] = st.lists(
    st.one_of(st.none(), st.sampled_from([b"", b"a", b"b"])), max_size=14
)


@st.composite
def _runs(draw: st.DrawFn) -> tuple[Keys, list[int], list[int]]:
    """Keys in order of arrival, the order in which they finish, and when each arrives at latest."""
    keys = draw(_keys)
    finishing = draw(st.permutations(range(len(keys))))
    ahead = draw(st.lists(st.integers(0, 4), min_size=len(keys), max_size=len(keys)))
    return keys, list(finishing), ahead


@settings(deadline=None)
@given(_runs())
def test_no_record_overtakes_an_earlier_one_of_its_key(
    run: tuple[Keys, list[int], list[int]],
) -> None:
    keys, finishing, ahead = run
    order: KeyOrder[int] = KeyOrder()
    places: list[Place[int] | None] = []
    finished: set[int] = set()
    released: list[int] = []
    for index, more in zip(finishing, ahead, strict=True):
        # Records go on arriving while others are finished.
        while len(places) < min(len(keys), index + 1 + more):
            places.append(order.enter(keys[len(places)]))
        finished.add(index)
        now = order.finish(places[index], index)
        free = [
            each
            for each in sorted(finished - set(released))
            if keys[each] is None
            or all(before in finished for before in range(each) if keys[before] == keys[each])
        ]
        assert now == free, "what is free goes at once and in order, and nothing else does"
        released += now
    assert sorted(released) == list(range(len(keys)))
    for key in {key for key in keys if key is not None}:
        mine = [each for each in released if keys[each] == key]
        assert mine == sorted(mine)
    assert len(order) == 0, "nothing is kept of keys that are done"
