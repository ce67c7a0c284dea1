"""Runs one moderator as several groups after each other: its in-process cache stays.

Arguments: the groups. A line on standard input ends the one that runs, which is said on standard
output; another begins the next one.
"""

from __future__ import annotations

import asyncio
import sys

from qwarden import bootstrap, telemetry
from qwarden import settings as settings_module
from qwarden.moderator.service import ModeratorService


async def main(groups: list[str]) -> None:
    settings = settings_module.load()
    telemetry.log_as_json("info")
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with bootstrap.moderator(settings) as (judge, dispatcher):
        for group in groups:
            kafka = settings.kafka.model_copy(update={"group_id": group})
            own = settings.model_copy(update={"kafka": kafka})
            service = ModeratorService(own, judge, dispatcher, bootstrap.control_of(own))
            running = asyncio.create_task(service.run())
            await lines.readline()
            service.stop()
            assert await running == 0
            print("stopped", flush=True)
            await lines.readline()


asyncio.run(main(sys.argv[1:]))
