"""Which verdict consumers keep, against one that reads a topic record by record."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwarden.contracts.standing import Key, standing
from qwarden.contracts.verdict import Basis, Verdict
from unit.builders import verdict, withdrawal

BASES = ("human", "guard", "quota", "expired", "degraded")


def used(serial: int) -> dict[str, Any]:
    return {"name": "forum", "version": "0" * 12, "serial": serial, "rule": "r"}


@st.composite
def topics(draw: st.DrawFn) -> list[tuple[int, Verdict]]:
    """One event's verdicts with their offsets: revisions, edits, repeats, and chains of verdicts
    that supersede one another; at times a withdrawal."""
    said: list[Verdict] = []
    for number in range(draw(st.integers(1, 8))):
        supersedes = None
        if said and draw(st.sampled_from((True, False))):
            old = draw(st.sampled_from(said))
            supersedes, edit, task = old.verdict_id, old.edit, old.task
        else:
            edit, task = draw(st.integers(0, 1)), draw(st.sampled_from(("prompt", "response")))
        basis, serial = draw(st.sampled_from(BASES)), draw(st.integers(0, 2))
        said.append(
            verdict(
                f"{number}",
                basis=basis,
                policy=used(serial),
                supersedes=supersedes,
                edit=edit,
                task=task,
            )
        )
    if draw(st.integers(0, 4)) == 0:
        said.insert(draw(st.integers(0, len(said))), withdrawal("gone"))
    repeats = draw(st.lists(st.sampled_from(said), max_size=3))
    return list(enumerate([*said, *repeats]))


@given(topics(), st.randoms(use_true_random=False))
def test_the_order_in_which_verdicts_are_read_decides(
    said: list[tuple[int, Verdict]], rng: random.Random
) -> None:
    shuffled = said.copy()
    rng.shuffle(shuffled)
    assert standing(shuffled) == standing(said)


@given(topics())
def test_a_verdict_stands_that_must_not(said: list[tuple[int, Verdict]]) -> None:
    stands = standing(said)
    known = [each for _, each in said]
    if any(each.basis is Basis.WITHDRAWN for each in known):
        assert {each.verdict_id for each in stands.values()} == {"gone"}
        assert list(stands) == [Key("demo", "e1", None)]
        return
    edit = max(each.edit for each in known)
    gone = {each.supersedes for each in known}
    assert {key.task for key in stands} == {each.task for each in known if each.edit == edit}
    for key, kept in stands.items():
        assert (kept.edit, kept.task) == (edit, key.task)
        assert kept.verdict_id not in gone
        rivals = [
            each
            for each in known
            if (each.edit, each.task) == (edit, key.task) and each.verdict_id not in gone
        ]
        strongest = max(_rank(each) for each in rivals)
        assert _rank(kept) == strongest


def _rank(each: Verdict) -> tuple[int, int]:
    assert each.policy is not None
    return -BASES.index(each.basis), each.policy.serial


@pytest.mark.long
@given(topics(), topics())
def test_one_event_decides_on_another(
    one: list[tuple[int, Verdict]], other: list[tuple[int, Verdict]]
) -> None:
    moved = [(at, msgspec.structs.replace(each, event_id="e2")) for at, each in other]
    assert standing([*one, *moved]) == standing(one) | standing(moved)
