"""The client of the Triton model `qwen3guard_gen`: one gRPC request carries many rows."""

from __future__ import annotations

from collections.abc import Sequence

from qwarden.guard.answer import Answer, decode_answer
from qwarden.inference.triton_model import Tls, TritonModel

MODEL = "qwen3guard_gen"
_PING = b"{}"
"""A row that the engine refuses at once, naming its revision."""


class TritonGuard:
    """A guard behind Triton at `url` (gRPC, host:port); `timeout_s`, `queue_s`, `tls`: see
    `TritonModel`."""

    def __init__(
        self, url: str, *, timeout_s: float, queue_s: float = 60.0, tls: Tls | None = None
    ) -> None:
        self._model = TritonModel(
            url, MODEL, "ROW", "ANSWER", timeout_s=timeout_s, queue_s=queue_s, tls=tls
        )

    async def revision(self) -> str:
        """The revision of the guard that is connected now; asked again after each disconnect."""
        return await self._model.revision(self._asked)

    async def judge(self, rows: Sequence[bytes], *, timeout_s: float | None = None) -> list[Answer]:
        return await self._model.ask(rows, decode_answer, timeout_s)

    async def _asked(self) -> str:
        [answer] = await self._model.ask((_PING,), decode_answer)
        return answer.revision

    async def close(self) -> None:
        await self._model.close()
