"""The same engine in this process, where there is no Triton."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from qwarden.guard.answer import Answer
from qwarden.inference.port import GuardUnavailable

if TYPE_CHECKING:
    from qwarden_engine.settings import EngineSettings

Progress = Callable[[str], None]


class InProcessGuard:
    """Loads the checkpoint in a thread of its own at the first call, and judges there.

    A request that fails is an outage, as it is behind Triton.

    Needs the extra `engine` (torch). Errors of the checkpoint come through as they are: a wrong
    checkpoint is no outage, and waiting does not mend it.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._loading: asyncio.Future[object] | None = None

    async def revision(self) -> str:
        gen = await self._loaded()
        return str(gen.revision)  # type: ignore[attr-defined]

    async def judge(
        self, conversations: Sequence[bytes], *, timeout_s: float | None = None
    ) -> list[Answer]:
        gen = await self._loaded()
        judge: Callable[[Sequence[bytes]], list[Answer]] = gen.judge  # type: ignore[attr-defined]
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._thread, judge, conversations
            )
        except Exception as error:
            raise GuardUnavailable(f"the engine failed on a request: {error!r}") from error

    async def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _loaded(self) -> object:
        if self._loading is None:
            self._loading = asyncio.get_running_loop().run_in_executor(self._thread, self._load)
        return await asyncio.shield(self._loading)

    def _load(self) -> object:
        from qwarden_engine.gen import Gen

        return Gen.load(self._settings)
