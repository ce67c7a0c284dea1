"""The storm's own judgement: a storm that cannot go red proves nothing."""

from __future__ import annotations

import itertools

from storm.blame import Published, Struck, blame
from storm.weather import plan

WHERE = ("content.events", 0)


def verdict(offset: int, by: str) -> Published:
    return Published(*WHERE, offset, "prompt", by)


def test_a_repeat_below_the_committed_offset_is_laid_at_the_victims_door() -> None:
    published = [verdict(5, "a/1"), verdict(6, "a/1"), verdict(5, "b/1"), verdict(6, "b/1")]
    found = blame(published, [Struck("a/1", {WHERE: 6}, 2)])
    assert found.repeats == 2
    assert found.by_strike[0][1:] == (1, 1)
    assert found.unexplained == [verdict(5, "b/1")]


def test_a_repeat_that_no_victim_published_is_explained() -> None:
    published = [verdict(5, "b/1"), verdict(5, "c/1")]
    found = blame(published, [Struck("a/1", {}, 2)])
    assert found.unexplained == [verdict(5, "c/1")]


def test_what_a_frozen_victim_publishes_long_after_is_laid_at_the_strikes_door() -> None:
    late = [Published(*WHERE, 5, "prompt", by, at_ms=at) for by, at in (("a/1", 900), ("b/1", 950))]
    assert not blame(late, [Struck("a/1", {}, 2, until_ms=900)]).unexplained
    assert blame(late, [Struck("a/1", {}, 2, until_ms=899)]).unexplained == late[1:]


def test_two_repeats_of_one_record_are_explained_by_one_strike() -> None:
    published = [verdict(5, by) for by in ("a/1", "b/1", "c/1")]
    assert len(blame(published, [Struck("a/1", {}, 2)]).unexplained) == 1
    strikes = [Struck("a/1", {}, 2), Struck("b/1", {}, 1)]
    assert not blame(published, strikes).unexplained


def test_the_same_task_of_two_records_is_a_repeat() -> None:
    thinking = Published(*WHERE, 5, "thinking", "a/1")
    assert blame([verdict(5, "a/1"), thinking, verdict(6, "a/1")], []).repeats == 0


def test_a_member_is_hit_again_before_the_others_were() -> None:
    strikes = plan(3, members=8, hits_a_member=16, apart_s=11, session_s=6)
    assert len(strikes) == 128
    for first in range(0, 128, 8):
        assert {strike.member for strike in strikes[first : first + 8]} == set(range(8))
    assert all(one.member != next_.member for one, next_ in itertools.pairwise(strikes))
    assert all(one.at_s < next_.at_s for one, next_ in itertools.pairwise(strikes))
    assert {strike.hit for strike in strikes} == {"kill", "freeze"}
    assert all(strike.freeze_s > 6 for strike in strikes if strike.hit == "freeze")
    assert strikes == plan(3, members=8, hits_a_member=16, apart_s=11, session_s=6)
