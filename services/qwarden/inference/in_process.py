"""The same engine in this process, where there is no Triton."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from qwarden.guard.answer import Answer
from qwarden.inference.port import GuardFailed, GuardUnavailable, Trouble

if TYPE_CHECKING:
    from qwarden_engine.gen import Gen
    from qwarden_engine.settings import EngineSettings

T = TypeVar("T")


class InProcessGuard:
    """Loads the checkpoint in a thread of its own at the first call, and hands rows over there.

    Where the engine cannot judge at all, it has failed: here nobody starts it again, so it is
    never away, and it takes all that it is given, so it is never busy. A request alone can fail.
    Needs the extra `engine` (torch). Errors of the checkpoint come through as they are: a wrong
    checkpoint is no outage, and waiting does not mend it.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine-rows")
        self._loading: asyncio.Future[Gen] | None = None

    async def revision(self) -> str:
        return (await self._loaded()).revision

    async def judge(self, rows: Sequence[bytes], *, timeout_s: float | None = None) -> list[Answer]:
        gen = await self._loaded()
        answers = await handed_over(self._thread, gen.submit, rows, timeout_s)
        if answers is None:
            raise GuardFailed("the engine cannot judge what it could at its start; start it anew")
        return answers

    async def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._loading is not None and self._loading.done() and not self._loading.exception():
            await asyncio.to_thread(self._loading.result().close)

    async def _loaded(self) -> Gen:
        if self._loading is None:
            self._loading = asyncio.get_running_loop().run_in_executor(self._thread, self._load)
        return await asyncio.shield(self._loading)

    def _load(self) -> Gen:
        from qwarden_engine.gen import Gen

        return Gen.load(self._settings)


async def handed_over(
    thread: Executor,
    submit: Callable[[Sequence[bytes], Callable[[list[T] | None], None], Callable[[], bool]], None],
    rows: Sequence[bytes],
    timeout_s: float | None,
) -> list[T] | None:
    """What an engine's `submit`, called in `thread`, gives to `done`. Raises `GuardUnavailable`."""
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[list[T] | None] = loop.create_future()

    def set_answers(answers: list[T] | None) -> None:
        if not answered.done():
            answered.set_result(answers)

    def done(answers: list[T] | None) -> None:
        loop.call_soon_threadsafe(set_answers, answers)

    try:
        async with asyncio.timeout(timeout_s):
            await loop.run_in_executor(thread, submit, rows, done, answered.cancelled)
            return await answered
    except TimeoutError:
        raise GuardUnavailable(
            f"the engine has not answered within {timeout_s} s", Trouble.FAILED
        ) from None
    except Exception as error:  # of reading these rows: the engine's thread goes on
        raise GuardUnavailable(f"the engine failed: {error!r}", Trouble.FAILED) from error
    finally:
        answered.cancel()  # the engine asks it whether anybody waits
