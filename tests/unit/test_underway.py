"""When the outcome of a record is decided: once, and only where it is sent."""

from __future__ import annotations

from aiokafka import ConsumerRecord

from qwarden.delivery.owed import Message, Owed
from qwarden.delivery.underway import Batch, Delivered
from qwarden.delivery.window import Partition, Window

WHERE = Partition("content.events", 0)
OWED: Owed = (Message("moderation.verdicts", b"k", b"{}", []),)


class Deciding:
    """A record that is delivered and judged, and how often its outcome was decided."""

    def __init__(self) -> None:
        self.times = 0
        self.window = Window()
        epoch = self.window.assign(WHERE)
        self.window.deliver(WHERE, [(4, 100)], 5)
        record = ConsumerRecord("content.events", 0, 4, 100, 0, b"k", b"{}", None, 1, 2, ())
        batch = Batch(self.window, lambda outcome: None, lambda record, reason: ())
        self.outcome = Delivered(batch, record, WHERE, epoch, None)
        self.outcome.finish(self._decide)

    def _decide(self) -> Owed:
        self.times += 1
        return OWED


def test_what_is_sent_again_is_another_outcome_than_before() -> None:
    """A part of the first may be on its topic already."""
    made = Deciding()
    assert made.outcome.goes() and made.outcome.goes()
    assert (made.outcome.owed, made.times) == (OWED, 1)


def test_what_another_owner_decides_takes_from_a_quota_here_too() -> None:
    made = Deciding()
    made.window.revoke(WHERE)
    assert not made.outcome.goes()
    assert (made.outcome.owed, made.times) == ((), 0)
