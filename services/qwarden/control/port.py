"""The port of the control table: what is in force now, and how to change it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from qwarden.contracts.control import Halt, Key, LossAccepted, Policies, Record
from qwarden.control.overrides import Overridden


class ControlUnusable(Exception):
    """`moderation.control` is not what it must be; the message names the fix."""


class Control(Protocol):
    """Each adapter passes `tests/contract/test_control_port.py`.

    Several of one fleet see the same records in one order, each a moment after they were
    acknowledged. Uncommitted records count: nobody's open transaction delays a halt.
    """

    async def start(self) -> None:
        """Returns when everything has been read that stood there when it was asked; waits for a
        broker that is away. From then on it follows. Raises `ControlUnusable`."""
        ...

    def halts(self) -> Mapping[Key, Halt]:
        """The halts in force. One whose record cannot be read halts too, and says so."""
        ...

    def accepted_losses(self) -> Mapping[Key, LossAccepted]:
        """The losses that people have accepted, by `loss_key`."""
        ...

    def policies(self) -> Policies:
        """The bodies of policies, which version of each is in force, and the freezes. A freeze
        whose record cannot be read freezes too, and says so."""
        ...

    def override_of(self, tenant: str, content_hash: str) -> Overridden | None:
        """What a person decided of this tenant's content, by its hash as verdicts have it; None
        where nobody has. One whose record cannot be read is none: the guard judges, and what stood
        before it does not come back. One of a transaction that is open, or was aborted, stands
        too, until the next record of its key."""
        ...

    def resumed_at(self) -> int | None:
        """Where the last withdrawal of a halt stands that was read; another value than before is
        another withdrawal."""
        ...

    def on_change(self, call: Callable[[], None]) -> None:
        """Calls this, in the event loop, whenever what is in force has changed or a halt was
        withdrawn; from the start on, so that what stood there before is told too. Overrides are not
        told: there are many, and they are looked up when they are needed."""
        ...

    async def write(self, record: Record, *, unless: Callable[[], bool] = lambda: False) -> None:
        """Puts a record in force, in place of what stood under its key; returns when that is
        acknowledged and the own view has come to it, or soon where that cannot be read.

        It is not written where `unless` holds before a try; one that is on its way then still may
        be."""
        ...

    async def withdraw(self, key: Key) -> None:
        """Withdraws what stands under a key; returns as `write` does."""
        ...

    async def close(self) -> None: ...
