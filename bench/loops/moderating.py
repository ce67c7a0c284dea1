"""The real moderator, as its process runs it, and what it says that it did."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import redis.asyncio as redis
from prometheus_client import REGISTRY

from loops.events import ends
from qwarden import bootstrap
from qwarden import settings as settings_module
from qwarden.contracts import topics
from qwarden.inference.port import Guard
from qwarden.moderator.service import ModeratorService

_OUTPUTS = (
    topics.VERDICTS,
    topics.REVIEW,
    topics.EVIDENCE,
    topics.BACKLOG,
    topics.DEAD_LETTERS,
)
_FILLED_S = 120.0


async def moderate(
    environ: Mapping[str, str],
    guard: Guard | None,
    done: Callable[[], Awaitable[None]],
    *,
    fills: int = 0,
) -> dict[str, int]:
    """Serves until `done`, and then until Redis holds `fills` assessments. Without a `guard` it
    asks Triton.

    Returns how many records were written to each topic, where assessments came from, and how many
    were written to Redis, by name.
    """
    settings = settings_module.load(environ)
    servers = settings.kafka.bootstrap_servers
    before = await ends(servers, _OUTPUTS)
    async with bootstrap.moderator(settings, guard) as (judge, dispatcher):
        service = ModeratorService(settings, judge, dispatcher, bootstrap.control_of(settings))
        running = asyncio.create_task(service.run())
        waiting = asyncio.ensure_future(done())
        await asyncio.wait((running, waiting), return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise RuntimeError(f"the moderator ended with {running.result()} before all was done")
        await waiting
        if fills:
            assert settings.redis.url is not None
            await _holds(settings.redis.url.get_secret_value(), fills)
        service.stop()
        await running
    after = await ends(servers, _OUTPUTS)
    written = {name: after[name] - before[name] for name in _OUTPUTS}
    lookups = _counted("qwarden_cache_lookups_total", "lookup")
    return written | lookups | _counted("qwarden_cache_writes_total", "redis write")


async def serve(environ: Mapping[str, str], guard: Guard) -> None:
    """Serves until SIGTERM."""
    settings = settings_module.load(environ)
    async with bootstrap.moderator(settings, guard) as (judge, dispatcher):
        await ModeratorService(settings, judge, dispatcher, bootstrap.control_of(settings)).run()


def _counted(name: str, prefix: str) -> dict[str, int]:
    """The samples of a counter by their label `result`."""
    return {
        f"{prefix}: {sample.labels['result']}": int(sample.value)
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name == name
    }


async def _holds(url: str, entries: int) -> None:
    client = redis.Redis.from_url(url)
    try:
        for _ in range(int(_FILLED_S / 0.05)):
            if await client.dbsize() >= entries:
                return
            await asyncio.sleep(0.05)
        raise TimeoutError(f"Redis does not hold {entries} assessments after {_FILLED_S:.0f} s")
    finally:
        await client.aclose()
