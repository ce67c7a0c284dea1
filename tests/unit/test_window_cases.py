"""Single failures of the window, each by name; `tests/property/test_window.py` has the rest."""

from __future__ import annotations

from qwarden.delivery.window import Partition, Window

P = Partition("content.events", 0)


def _delivered(*offsets: int) -> tuple[Window, int]:
    window = Window()
    epoch = window.assign(P)
    window.deliver(P, [(offset, 100 + offset) for offset in offsets], offsets[-1] + 1)
    return window, epoch


def test_a_stale_epoch_cannot_move_the_watermark() -> None:
    window, old = _delivered(4)
    new = window.assign(P)
    window.deliver(P, [(4, 104)], 5)
    assert not window.finish(P, old, 4)
    assert window.to_commit() == {P: (new, 4)}


def test_a_record_that_is_done_early_does_not_commit_those_before_it() -> None:
    window, epoch = _delivered(4, 7, 9)
    window.finish(P, epoch, 9)
    window.finish(P, epoch, 7)
    assert window.to_commit() == {P: (epoch, 4)}


def test_a_hole_between_offsets_is_not_waited_for() -> None:
    window, epoch = _delivered(4, 9)
    window.finish(P, epoch, 4)
    assert window.to_commit() == {P: (epoch, 9)}
    window.finish(P, epoch, 9)
    assert window.to_commit() == {P: (epoch, 10)}


def test_records_of_a_revoked_partition_are_not_handled() -> None:
    window, _ = _delivered(4)
    window.revoke(P)
    assert window.deliver(P, [(5, 105)], 6) is None
    assert window.to_commit() == {}
    assert window.in_flight == 0


def test_an_assigned_partition_without_records_commits_nothing() -> None:
    window = Window()
    window.assign(P)
    assert window.to_commit() == {}
    assert window.watermarks() == {}


def test_a_commit_that_failed_is_made_again() -> None:
    window, epoch = _delivered(4)
    window.finish(P, epoch, 4)
    first = window.to_commit()
    assert window.to_commit() == first == {P: (epoch, 5)}
    window.committed(first)
    assert window.to_commit() == {}


def test_a_commit_of_an_older_epoch_does_not_count_for_the_new_one() -> None:
    window, old = _delivered(4)
    window.finish(P, old, 4)
    late = window.to_commit()
    new = window.assign(P)
    window.deliver(P, [(4, 104)], 5)
    window.finish(P, new, 4)
    window.committed(late)
    assert window.to_commit() == {P: (new, 5)}


def test_partitions_do_not_hold_each_other_back() -> None:
    other = Partition("content.events", 1)
    window, epoch = _delivered(4)
    second = window.assign(other)
    window.deliver(other, [(30, 50)], 31)
    window.finish(P, epoch, 4)
    assert window.watermarks() == {P: 5, other: 30}
    assert window.oldest_timestamp() == 50
    window.finish(other, second, 30)
    window.committed(window.to_commit())
    assert window.oldest_timestamp() is None


def test_what_was_let_go_unsent_is_committed_as_done() -> None:
    window, epoch = _delivered(4, 5, 6)
    window.send(P, epoch, 4)
    window.let_go()
    assert not window.send(P, epoch, 5)
    window.finish(P, epoch, 5)
    window.finish(P, epoch, 4)
    assert window.to_commit() == {P: (epoch, 5)}


def test_a_gap_below_what_was_published_is_left_to_the_next_owner_who_repeats_all_of_it() -> None:
    window, epoch = _delivered(4, 5, 6)
    window.send(P, epoch, 5)
    window.finish(P, epoch, 5)
    window.let_go()
    assert window.is_torn
    assert window.send(P, epoch, 4)
    window.finish(P, epoch, 4)
    assert not window.is_torn
    assert window.to_commit() == {P: (epoch, 6)}


def test_a_hole_at_the_end_is_waited_for_as_if_a_record_stood_there() -> None:
    window = Window()
    epoch = window.assign(P)
    window.deliver(P, [(4, 104)], 6)
    window.send(P, epoch, 4)
    window.finish(P, epoch, 4)
    assert window.to_commit() == {P: (epoch, 6)}


def test_a_partition_without_a_commit_begins_where_retention_says_later() -> None:
    window = Window()
    epoch = window.assign(P)
    window.begin(P, 17)
    assert window.to_commit() == {P: (epoch, 17)}
    window.deliver(P, [(17, 0)], 18)
    window.begin(P, 3)
    assert window.to_commit() == {P: (epoch, 17)}


def test_an_epoch_outlives_its_assignment() -> None:
    window = Window()
    assert window.epoch_of(P) is None
    first, second = window.assign(P), window.assign(P)
    assert window.epoch_of(P) == second != first
    window.revoke(P)
    assert window.epoch_of(P) is None


def test_the_last_outcome_that_went_out_is_torn_off_when_it_is_sent_again() -> None:
    window, epoch = _delivered(4, 5)
    window.send(P, epoch, 4)
    window.let_go()
    assert window.send(P, epoch, 4), "publication begins anew"
    assert not window.send(P, epoch, 5)


def test_a_partition_that_went_while_its_beginning_was_asked_for_begins() -> None:
    window = Window()
    window.begin(P, 17)
    assert window.to_commit() == {}


def test_a_record_at_the_watermark_counts_as_committed() -> None:
    window, epoch = _delivered(4, 5)
    window.finish(P, epoch, 4)
    window.committed(window.to_commit())
    assert window.uncommitted == 1
    assert window.oldest_timestamp() == 105
