"""The port of the control table: what is in force now, and how to change it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from qwarden.contracts.control import Halt, Key, LossAccepted, Record


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

    def on_change(self, call: Callable[[], None]) -> None:
        """Calls this, in the event loop, whenever what is in force has changed; from the start on,
        so that what stood there before is told too."""
        ...

    async def write(self, record: Record) -> None:
        """Puts a record in force, in place of what stood under its key; returns when that is
        acknowledged. The own view follows like everybody's."""
        ...

    async def withdraw(self, key: Key) -> None:
        """Withdraws what stands under a key; returns when that is acknowledged."""
        ...

    async def close(self) -> None: ...
