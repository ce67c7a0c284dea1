"""What a service sees of the control table, by whatever way it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from qwarden.contracts.control import Halt, Key, LossAccepted, Policies
from qwarden.control.overrides import Overridden
from qwarden.control.table import Table


class View:
    """The half of the port that reads: each adapter is one, and puts a table behind it."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._calls: list[Callable[[], None]] = []

    def halts(self) -> Mapping[Key, Halt]:
        return self._table.halts

    def accepted_losses(self) -> Mapping[Key, LossAccepted]:
        return self._table.losses

    def policies(self) -> Policies:
        return self._table.policies

    def override_of(self, tenant: str, content_hash: str) -> Overridden | None:
        return self._table.override_of(tenant, content_hash)

    def resumed_at(self) -> int | None:
        return self._table.resumed_at

    def on_change(self, call: Callable[[], None]) -> None:
        self._calls.append(call)

    def _tell(self) -> None:
        for call in self._calls:
            call()
