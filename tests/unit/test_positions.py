"""Where a partition is read from, and what counts as a loss."""

from __future__ import annotations

import pytest

from qwarden.delivery.positions import Accepted, Lost, StartAt, start_of


@pytest.mark.parametrize(
    ("committed", "begin", "end", "decision"),
    [
        (None, 0, 0, StartAt(0, seek=True)),
        (None, 0, 50, StartAt(0, seek=True)),
        (None, 20, 50, StartAt(20, seek=True)),
        (20, 20, 50, StartAt(20, seek=False)),
        (35, 20, 50, StartAt(35, seek=False)),
        (50, 20, 50, StartAt(50, seek=False)),
        (0, 0, 0, StartAt(0, seek=False)),
        (19, 20, 50, Lost(19, 20)),
        (0, 20, 20, Lost(0, 20)),
        (51, 20, 50, Lost(51, 50)),
        (7, 0, 0, Lost(7, 0)),
    ],
)
def test_no_partition_jumps_over_records_in_silence(
    committed: int | None, begin: int, end: int, decision: StartAt | Lost
) -> None:
    assert start_of(committed, begin, end) == decision


def test_a_loss_by_retention_names_the_records_and_the_way_on() -> None:
    sentence = Lost(19, 25).sentence("content.events", 3)
    assert "content.events/3 is stopped" in sentence
    assert "the records 19 to 24 are lost" in sentence
    assert "qwarden dlq accept-loss content.events/3 --from 19" in sentence


def test_a_topic_that_was_made_again_is_not_called_a_loss_by_retention() -> None:
    sentence = Lost(51, 50).sentence("content.events", 3)
    assert "deleted and made again" in sentence
    assert "retention" not in sentence


def test_a_loss_that_is_met_behind_the_commit_stops_for_ever() -> None:
    accepted = Accepted(committed=19, resume_at=25)
    assert accepted.covers(Lost(19, 25))
    assert accepted.covers(Lost(23, 25))


def test_an_accepted_loss_covers_another_one() -> None:
    accepted = Accepted(committed=19, resume_at=25)
    assert not accepted.covers(Lost(18, 25))
    assert not accepted.covers(Lost(25, 40))
    assert not accepted.covers(Lost(23, 40))
    assert not Accepted(committed=51, resume_at=0).covers(Lost(50, 49))


def test_an_accepted_loss_jumps_over_records_that_are_there() -> None:
    """In a topic that was made again an old acceptance may lie around a new and smaller loss."""
    accepted = Accepted(committed=100, resume_at=200)
    assert accepted.start_behind(Lost(150, 180)) == 180
    assert accepted.start_behind(Lost(100, 200)) == 200
    made_again = Accepted(committed=51, resume_at=0)
    assert made_again.covers(Lost(51, 50))
    assert made_again.start_behind(Lost(51, 50)) == 0, "its end is behind all that is there"
