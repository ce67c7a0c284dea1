"""The client of the Triton model `qwen3guard_stream`: one gRPC request carries many sessions."""

from __future__ import annotations

from collections.abc import Sequence

from qwarden.guard.stream import Append, Appended, Status
from qwarden.inference.stream_port import sendable
from qwarden.inference.triton_model import Tls, TritonModel

MODEL = "qwen3guard_stream"
_PING = b"{}"
"""An append that the engine refuses at once, naming its revision."""


class TritonStream:
    """A stream guard behind Triton at `url` (gRPC, host:port); `timeout_s`, `queue_s`, `tls`: see
    `TritonModel`."""

    def __init__(
        self, url: str, *, timeout_s: float, queue_s: float = 60.0, tls: Tls | None = None
    ) -> None:
        self._model = TritonModel(
            url, MODEL, "APPEND", "APPENDED", timeout_s=timeout_s, queue_s=queue_s, tls=tls
        )

    async def revision(self) -> str:
        """The revision of the guard that is connected now; asked again after each disconnect."""
        return await self._model.revision(self._asked)

    async def append(
        self, appends: Sequence[Append], *, timeout_s: float | None = None
    ) -> list[Appended]:
        sent, refused = sendable(appends)
        answers = {
            at: Appended(await self.revision(), Status.REFUSED, why) for at, why in refused.items()
        }
        if sent:
            came = await self._model.ask(list(sent.values()), Appended.from_json, timeout_s)
            answers.update(zip(sent, came, strict=True))
        return [answers[at] for at in range(len(appends))]

    async def _asked(self) -> str:
        [answer] = await self._model.ask((_PING,), Appended.from_json)
        return answer.revision

    async def close(self) -> None:
        await self._model.close()
