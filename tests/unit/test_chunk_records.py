"""A record of `content.chunks`: when it is done, for whom, and what it says of itself when it was
refused; and what a commit says of where to read again."""

from __future__ import annotations

import json

import pytest

from qwarden.delivery.owed import Message, Owed
from qwarden.outcomes.source import MAX_ENVELOPE_BYTES, Source
from qwarden.streamer.chunks import Arrived, Done, Torn
from qwarden.streamer.commit import metadata_of, start_in
from qwarden.streamer.sessions import Start

SAID: Owed = (Message("moderation.verdicts", b"k", b"{}", []),)


def source(value: bytes | None = b"", key: bytes | None = b"k") -> Source:
    return Source("content.chunks", 1, 7, 0, key, value, ())


def arrived(done: Done | None, waits_for: int = 1) -> Arrived:
    return Arrived(source(), 0.0, done, waits_for)


def test_a_record_of_several_sessions_is_done_with_the_first_of_them_or_twice() -> None:
    told: list[Owed] = []
    record = arrived(told.append, waits_for=2)
    record.finish(SAID)
    assert told == [] and not record.is_done
    record.finish(SAID)
    assert told == [SAID] and record.is_done
    record.finish(())
    assert told == [SAID]


def test_what_was_done_before_a_revoke_is_done_again_from_the_start() -> None:
    told: list[Owed] = []
    record = arrived(told.append)
    record.finish(SAID)
    record.is_delivered_again(told.append)
    assert told == [SAID, SAID], "it owes what it owed"
    waits = arrived(told.append)
    waits.is_delivered_again(told.append)
    assert told == [SAID, SAID], "nothing was said of it yet"
    waits.finish()
    assert told == [SAID, SAID, ()]


def test_a_record_that_was_let_go_is_finished_in_the_next_epoch_by_the_old_one() -> None:
    told: list[Owed] = []
    record = arrived(told.append)
    record.let_go()
    assert told == [()] and not record.is_done
    record.let_go()
    record.finish(SAID)
    assert told == [()]
    read_again = arrived(None)
    read_again.let_go()
    read_again.finish(SAID)
    assert read_again.is_done and read_again.owed == SAID


LONGEST = b"k" * MAX_ENVELOPE_BYTES


@pytest.mark.parametrize(
    ("value", "key", "torn"),
    [
        (b'{"tenant":"t","session":"s","seq":4}', b"k", Torn(("t", "s"), 4, b"k")),
        (b'{"tenant":"t","session":"s","seq":-1}', None, Torn(("t", "s"), None, None)),
        (b'{"session":"s","seq":0}', b"k", Torn(None, 0, b"k")),
        (b'{"tenant":"t\\u0000","session":"s"}', b"k", Torn(None, None, b"k")),
        (b'{"tenant":"t","session":"\\u0000"}', b"k", Torn(None, None, b"k")),
        (b'{"tenant":"\xff","session":"s"}', b"k", Torn(None, None, b"k")),
        (b"[" * 100_000, b"k", Torn(None, None, b"k")),
        (None, LONGEST, Torn(None, None, LONGEST)),
        (b"{}", LONGEST + b"k", Torn(None, None, None)),
    ],
)
def test_a_refused_record_ends_a_session_that_there_cannot_be(
    value: bytes | None, key: bytes | None, torn: Torn
) -> None:
    assert Torn.of(source(value, key)) == torn


# Commits.


def test_a_commit_that_another_version_wrote_is_read_by_half() -> None:
    written = metadata_of(Start(7, 1_700_000_000_000))
    assert json.loads(written) == {"v": 1, "from": 7, "at": 1_700_000_000_000}
    assert " " not in written
    assert start_in(written) == Start(7, 1_700_000_000_000)
    assert start_in('{"v":1,"from":7}') == Start(7, 0)
    for unknown in ("", "{}", '{"v":2,"from":7,"at":1}', '{"v":1,"from":"7"}', '{"v":1}', "7"):
        assert start_in(unknown) is None
