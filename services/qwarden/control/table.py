"""The records of the control topic, put together: what is in force after each of them.

Invariants, each held by `tests/contract/test_control_port.py`:
- The last record of a key stands; a null value leaves nothing under it.
- Offsets are not counted: what compaction has removed is not missed.
- An unknown kind is kept by its key and changes nothing that is known.
- Nothing that is read raises. A halt whose body cannot be read is in force all the same, and so is
  a freeze; of what says which version of a policy acts, its offset is known, and nothing else.
- Where an override cannot be read none stands: the guard and the policy judge this content, as they
  did before a person had. Not the one before it, which may have been milder, and which compaction
  removes: what stands must not depend on when a service began to read.
- An override is no change that anybody is told of: it is looked up with each event.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec

from qwarden.contracts.control import (
    FREEZE,
    HALT,
    IN_FORCE,
    LOSS_ACCEPTED,
    OVERRIDE,
    POLICY,
    Freeze,
    Halt,
    InForce,
    Key,
    LossAccepted,
    Override,
    Policies,
    PolicyBody,
    Record,
    Stands,
    decode_key,
)
from qwarden.control.overrides import Overridden, Overrides

_log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R", bound=Record)

_halt = msgspec.json.Decoder(Halt)
_loss = msgspec.json.Decoder(LossAccepted)
_body = msgspec.json.Decoder(PolicyBody)
_in_force = msgspec.json.Decoder(InForce)
_freeze = msgspec.json.Decoder(Freeze)
_override = msgspec.json.Decoder(Override)

_OF_AN_OVERRIDE = Key(OVERRIDE).encode().removesuffix(b'"",""]')
"""How the keys of overrides begin."""


class Table:
    """What is in force. `keeps_overrides`: else they are passed over unread, for those who judge
    nothing by them."""

    def __init__(self, *, keeps_overrides: bool = True) -> None:
        self._overrides = Overrides() if keeps_overrides else None
        self._halts: dict[Key, Halt] = {}
        self._losses: dict[Key, LossAccepted] = {}
        self._bodies: dict[Key, PolicyBody] = {}
        self._in_force: dict[Key, Stands[InForce]] = {}
        self._freezes: dict[Key, Stands[Freeze]] = {}
        self._others: dict[Key, bytes] = {}
        self.halts = MappingProxyType(self._halts)
        self.losses = MappingProxyType(self._losses)
        self.policies = Policies(
            MappingProxyType(self._bodies),
            MappingProxyType(self._in_force),
            MappingProxyType(self._freezes),
        )
        self.others = MappingProxyType(self._others)
        """What stands under keys of kinds that this version does not know."""
        self.resumed_at: int | None = None
        """The offset of the last record that withdrew a halt."""
        self.end = 0
        """The offset behind the last record."""

    def apply(self, data: bytes | None, value: bytes | None, offset: int) -> bool:
        """Takes the next record of the topic. Whether what is in force has changed, or a person
        has withdrawn a halt, also one that was compacted away."""
        self.end = offset + 1
        if self._overrides is None and data is not None and data.startswith(_OF_AN_OVERRIDE):
            return False
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
            return _put(self._losses, key, _read(_loss, "accepted loss", key, value))
        if key.kind == POLICY:
            return _put(self._bodies, key, _read(_body, "policy", key, value))
        if key.kind == IN_FORCE:
            which = _read(_in_force, "version in force", key, value)
            return _put(self._in_force, key, None if value is None else Stands(which, offset))
        if key.kind == FREEZE:
            freeze = _read_freeze(key, value)
            return _put(self._freezes, key, None if freeze is None else Stands(freeze, offset))
        if key.kind == OVERRIDE and self._overrides is not None:
            _put_override(self._overrides, key, value)
            return False
        _put(self._others, key, value)
        return False

    @property
    def overrides(self) -> int:
        """How many stand."""
        return 0 if self._overrides is None else len(self._overrides)

    def override_of(self, tenant: str, content_hash: str) -> Overridden | None:
        """What stands for a tenant's content; None too where overrides are not kept."""
        return None if self._overrides is None else self._overrides.of(tenant, content_hash)

    @property
    def in_force(self) -> Mapping[str, Any]:
        """All that is and that is told when it changes, to compare."""
        return {
            "halts": self._halts,
            "losses": self._losses,
            "resumed_at": self.resumed_at,
            "bodies": self._bodies,
            "in_force": self._in_force,
            "freezes": self._freezes,
        }


def _read_halt(key: Key, value: bytes | None) -> Halt:
    try:
        return _halt.decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _log.error("the halt under %s cannot be read (%s); it is in force", key, error)
        reason = f"a halt whose record cannot be read ({error})"
        return Halt(reason=reason, at=datetime.now(UTC), by="")


def _read_freeze(key: Key, value: bytes | None) -> Freeze | None:
    if value is None:
        return None
    freeze = _read(_freeze, "freeze", key, value, "it is in force")
    if freeze is not None:
        return freeze
    reason = "a freeze whose record cannot be read"
    return Freeze(tenant=key.tenant, frozen=True, reason=reason, at=datetime.now(UTC), by="")


def _put_override(overrides: Overrides, key: Key, value: bytes | None) -> None:
    but = "the guard judges this content"
    override = _read(_override, "override", key, value, but)
    if override is not None:
        try:
            overrides.put(override)
            return
        except ValueError as error:
            _log.error("the override under %s cannot be read (%s); %s", key, error, but)
    overrides.remove(key.tenant, key.subject)


def _read(
    decoder: msgspec.json.Decoder[R],
    what: str,
    key: Key,
    value: bytes | None,
    but: str = "it is ignored",
) -> R | None:
    """The record that stands there; None where there is none, or none that can be read."""
    if value is None:
        return None
    try:
        record = decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _log.error("the %s under %s cannot be read (%s); %s", what, key, error, but)
        return None
    if record.key() != key:
        _log.error("the %s under %s is of %s; %s", what, key, record.key(), but)
        return None
    return record


def _put(table: dict[Key, T], key: Key, value: T | None) -> bool:
    """Whether the table has changed."""
    if value is None:
        return table.pop(key, None) is not None
    changed = table.get(key) != value
    table[key] = value
    return changed
