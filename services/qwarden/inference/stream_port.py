"""The port to a stream guard. Every adapter passes
`tests/contract/engine/test_stream_guard_port.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from qwarden.guard.stream import Append, Appended


class StreamGuard(Protocol):
    """Judges sessions token by token, many at a time."""

    async def revision(self) -> str:
        """The revision that answers now. Raises `GuardUnavailable`."""
        ...

    async def append(
        self, appends: Sequence[Append], *, timeout_s: float | None = None
    ) -> list[Appended]:
        """An answer to each append, in their order. A session may be in it once.

        What an append alone is to blame for is a status of its answer. Raises `GuardUnavailable`
        where the request as a whole has no answers: whether the guard has taken it is not known
        then, and the next append of its sessions may be answered `replay`.
        """
        ...

    async def close(self) -> None: ...


def sendable(appends: Sequence[Append]) -> tuple[dict[int, bytes], dict[int, str]]:
    """By their places: what is sent of appends, and why the others are not: no wire carries half a
    surrogate pair."""
    sent: dict[int, bytes] = {}
    refused: dict[int, str] = {}
    for at, append in enumerate(appends):
        try:
            sent[at] = append.to_json()
        except ValueError as error:
            refused[at] = str(error)
    return sent, refused
