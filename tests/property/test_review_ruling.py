"""Chains of decisions and what may be said, for everything that can come: the invariants of
`qwarden.review.ruling`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qwarden.contracts.decision import ACTIONS, By
from qwarden.guard.taxonomy import CATEGORIES
from qwarden.review.refusals import Invalid
from qwarden.review.ruling import (
    GROUNDS,
    MOST_CLAUSE,
    MOST_REASON,
    Link,
    Said,
    Unneeded,
    checked,
    last_of,
    place_of,
)

_TEXT = st.one_of(st.none(), st.text(max_size=220), st.sampled_from(("3.1", " ", "\0", "")))
_SAID = st.builds(
    Said,
    st.sampled_from((*ACTIONS, "review", "")),
    st.lists(st.sampled_from((*CATEGORIES, "Rude")), max_size=4).map(tuple),
    st.text(max_size=520),
    st.sampled_from((*GROUNDS, None, "both")),
    _TEXT,
    st.booleans(),
)
_ADDED = st.lists(st.tuples(st.integers(0, 3), st.sampled_from(By)), max_size=12)
"""The edits of a chain's decisions, and who made each, in their order."""


@given(_SAID)
def test_what_is_let_through_restricts_with_its_reasons_or_not_at_all(said: Said) -> None:
    try:
        found = checked(said)
    except Invalid as refused:
        assert str(refused).endswith(".")
        return
    assert checked(found) == found
    assert 0 < len(found.reason) <= MOST_REASON and "\0" not in found.reason
    if found.action == "allow":
        assert (found.categories, found.ground, found.clause) == ((), None, None)
    else:
        assert found.ground in GROUNDS
        assert found.clause is not None and 0 < len(found.clause) <= MOST_CLAUSE
    assert set(found.categories) == set(said.categories) <= set(CATEGORIES)


def _chain(added: list[tuple[int, By]]) -> list[Link]:
    chain: list[Link] = []
    for number, (edit, by) in enumerate(added):
        try:
            before = place_of(chain, edit, by)
        except Unneeded:
            continue
        supersedes = None if before is None else before.decision_id
        chain.append(Link(f"{number:032x}", supersedes, edit, by))
    return chain


@given(_ADDED)
def test_a_breach_never_takes_a_persons_place(added: list[tuple[int, By]]) -> None:
    chain = _chain(added)
    by_id = {link.decision_id: link for link in chain}
    for link in chain:
        if link.by is By.BREACH and link.supersedes is not None:
            assert by_id[link.supersedes].by is By.BREACH
    for edit in range(4):
        of_edit = [link for link in chain if link.edit == edit]
        # One at most, and before any person has said anything.
        assert By.BREACH not in [link.by for link in of_edit[1:]]
        highest = max((link.edit for link in chain), default=None)
        if edit == highest and of_edit[-1].by is By.PERSON:
            assert last_of(chain, edit) == of_edit[-1]


@given(_ADDED)
def test_no_two_decisions_of_an_edit_stand(added: list[tuple[int, By]]) -> None:
    chain = _chain(added)
    taken = [link.supersedes for link in chain if link.supersedes is not None]
    assert len(taken) == len(set(taken))
    standing = [link.edit for link in chain if link.decision_id not in taken]
    assert len(standing) == len(set(standing))
    for link in chain:  # what is superseded came before, and is of no later edit
        if link.supersedes is not None:
            before = next(each for each in chain if each.decision_id == link.supersedes)
            assert before.decision_id < link.decision_id and before.edit <= link.edit
