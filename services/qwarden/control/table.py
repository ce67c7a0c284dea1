"""The records of the control topic, put together: what is in force after each of them.

Invariants, each held by `tests/contract/test_control_port.py`:
- The last record of a key stands; a null value leaves nothing under it.
- Offsets are not counted: what compaction has removed is not missed.
- An unknown kind is kept by its key and changes nothing that is known.
- Nothing that is read raises. A halt whose body cannot be read is in force all the same.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TypeVar

import msgspec

from qwarden.contracts.control import HALT, LOSS_ACCEPTED, Halt, Key, LossAccepted, decode_key

_log = logging.getLogger(__name__)

T = TypeVar("T")

_halt = msgspec.json.Decoder(Halt)
_loss = msgspec.json.Decoder(LossAccepted)


class Table:
    """What is in force."""

    def __init__(self) -> None:
        self._halts: dict[Key, Halt] = {}
        self._losses: dict[Key, LossAccepted] = {}
        self._others: dict[Key, bytes] = {}
        self.halts = MappingProxyType(self._halts)
        self.losses = MappingProxyType(self._losses)
        self.others = MappingProxyType(self._others)
        """What stands under keys of kinds that this version does not know."""
        self.resumed_at: int | None = None
        """The offset of the last record that withdrew a halt."""
        self.end = 0
        """The offset behind the last record."""

    def apply(self, data: bytes | None, value: bytes | None, offset: int) -> bool:
        """Takes the next record of the topic. Whether halts or accepted losses have changed, or
        a person has withdrawn a halt, also one that was compacted away."""
        self.end = offset + 1
        key = decode_key(data)
        if key is None:
            _log.warning("ignored a record of the control topic: its key %r is none", data)
            return False
        if key.kind == HALT and value is None:
            self.resumed_at = offset
            self._halts.pop(key, None)
            return True
        if key.kind == HALT:
            return _put(self._halts, key, _read_halt(key, value))
        if key.kind == LOSS_ACCEPTED:
            return _put(self._losses, key, _read_loss(key, value))
        _put(self._others, key, value)
        return False


def _read_halt(key: Key, value: bytes | None) -> Halt:
    try:
        return _halt.decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _log.error("the halt under %s cannot be read (%s); it is in force", key, error)
        reason = f"a halt whose record cannot be read ({error})"
        return Halt(reason=reason, at=datetime.now(UTC), by="")


def _read_loss(key: Key, value: bytes | None) -> LossAccepted | None:
    if value is None:
        return None
    try:
        loss = _loss.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _log.error("ignored the accepted loss under %s: it cannot be read (%s)", key, error)
        return None
    if loss.key() != key:
        _log.error("ignored the accepted loss under %s: it is of %s", key, loss.key())
        return None
    return loss


def _put(table: dict[Key, T], key: Key, value: T | None) -> bool:
    """Whether the table has changed."""
    if value is None:
        return table.pop(key, None) is not None
    changed = table.get(key) != value
    table[key] = value
    return changed
