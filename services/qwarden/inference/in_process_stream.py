"""The stream engine in this process, where there is no Triton."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from qwarden.guard.stream import Append, Appended, Status
from qwarden.inference.in_process import handed_over
from qwarden.inference.port import GuardUnavailable, Trouble
from qwarden.inference.stream_port import sendable

if TYPE_CHECKING:
    from qwarden_engine.stream.engine import Stream
    from qwarden_engine.stream.settings import StreamSettings


class InProcessStream:
    """Loads the checkpoint in a thread of its own at the first call, and hands appends over there.

    Needs the extra `engine` (torch). Errors of the checkpoint come through as they are: a wrong
    checkpoint is no outage, and waiting does not mend it.
    """

    def __init__(self, settings: StreamSettings) -> None:
        self._settings = settings
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stream-appends")
        self._loading: asyncio.Future[Stream] | None = None

    async def revision(self) -> str:
        return (await self._loaded()).revision

    async def append(
        self, appends: Sequence[Append], *, timeout_s: float | None = None
    ) -> list[Appended]:
        stream = await self._loaded()
        sent, refused = sendable(appends)
        answers = {
            at: Appended(stream.revision, Status.REFUSED, why) for at, why in refused.items()
        }
        came = await handed_over(self._thread, stream.submit, list(sent.values()), timeout_s)
        if came is None:
            raise GuardUnavailable(
                "the stream engine has failed on this request; its sessions are lost",
                Trouble.FAILED,
            )
        answers.update(zip(sent, came, strict=True))
        return [answers[at] for at in range(len(appends))]

    async def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._loading is not None and self._loading.done() and not self._loading.exception():
            await asyncio.to_thread(self._loading.result().close)

    async def _loaded(self) -> Stream:
        if self._loading is None:
            self._loading = asyncio.get_running_loop().run_in_executor(self._thread, self._load)
        return await asyncio.shield(self._loading)

    def _load(self) -> Stream:
        from qwarden_engine.stream.engine import Stream

        return Stream.load(self._settings)
