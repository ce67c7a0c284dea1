"""The commands that run one service each, as the chart does."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from qwarden import settings as settings_module
from qwarden.settings import Settings


def moderator() -> None:
    """Run the moderator: events from content.events, verdicts to moderation.verdicts.

    Everything it needs to know is in QWARDEN_* (`qwarden config show` lists it). It serves
    /metrics, /healthz and /readyz, and stops in order on SIGTERM.
    """

    from qwarden import bootstrap
    from qwarden.moderator.service import ModeratorService

    async def run(settings: Settings) -> int:
        async with bootstrap.moderator(settings) as (judge, dispatcher):
            control = bootstrap.control_of(settings)
            return await ModeratorService(settings, judge, dispatcher, control).run()

    _serve(run)


def streamer() -> None:
    """Run the streamer: chunks from content.chunks, signals to moderation.signals, and verdicts.

    Everything it needs to know is in QWARDEN_* (`qwarden config show` lists it). It serves
    /metrics, /healthz and /readyz, and stops in order on SIGTERM.
    """

    from qwarden import bootstrap
    from qwarden.streamer.service import StreamerService

    async def run(settings: Settings) -> int:
        async with bootstrap.streamer(settings) as (judge, client, dispatcher):
            control = bootstrap.control_of(settings, keeps_overrides=False)
            return await StreamerService(settings, judge, client, dispatcher, control).run()

    _serve(run)


def review_service() -> None:
    """Run the review service: people's queue with its console and API, and the ledger.

    Everything it needs to know is in QWARDEN_* (`qwarden config show` lists it). It serves the
    console at /, the API under /v1, /metrics, /healthz and /readyz, and stops in order on SIGTERM.
    """

    from qwarden import bootstrap

    async def run(settings: Settings) -> int:
        async with bootstrap.review(settings) as service:
            return await service.run()

    _serve(run)


def _serve(run: Callable[[Settings], Coroutine[Any, Any, int]]) -> NoReturn:
    """Runs a service to its end, and exits with its code."""
    import uvloop

    from qwarden import telemetry

    settings = settings_module.load()
    telemetry.log_as_json(settings.telemetry.log_level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(run(settings)))
