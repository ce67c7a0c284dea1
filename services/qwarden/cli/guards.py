"""The guards that a command asks itself, without a service."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

from qwarden import bootstrap
from qwarden.cli.environment import environ
from qwarden.cli.terminal import WRONG_USE, end, err
from qwarden.inference.in_process_stream import InProcessStream
from qwarden.inference.stream_client import StreamClient
from qwarden.inference.stream_port import StreamGuard
from qwarden.inference.triton_stream import TritonStream
from qwarden.settings import Settings

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)


def named_checkpoint(guard: str) -> str:
    """What --guard names: a directory, or what can be a hub id where nothing is called so."""
    named = Path(guard)
    if not named.is_dir() and (named.exists() or not _HUB_ID.fullmatch(guard)):
        why = "is no directory" if named.exists() else "there is no such directory"
        end(
            WRONG_USE,
            f"--guard {guard}: {why}; name that of a Qwen3Guard checkpoint, or a hub id such as "
            "Qwen/Qwen3Guard-Gen-0.6B",
        )
    return guard


def guard_environ(direct: bool, guard: str | None) -> dict[str, str]:
    """The environment with the guard that the options choose."""
    chosen = environ()
    if guard is not None:
        chosen["QWARDEN_ENGINE__CHECKPOINT"] = named_checkpoint(guard)
    if direct or guard is not None:
        from qwarden.stack.local import STAND_IN

        chosen["QWARDEN_GUARD__MODE"] = "in-process"
        chosen.setdefault("QWARDEN_ENGINE__CHECKPOINT", str(STAND_IN))
    return chosen


def stream_environ(direct: bool, guard: str | None) -> dict[str, str]:
    """The environment with the stream guard that the options choose."""
    chosen = environ()
    if guard is not None:
        chosen["QWARDEN_STREAM__CHECKPOINT"] = named_checkpoint(guard)
    if direct or guard is not None:
        from qwarden.stack.local import STREAM_STAND_IN

        chosen["QWARDEN_GUARD__MODE"] = "in-process"
        chosen.setdefault("QWARDEN_STREAM__CHECKPOINT", str(STREAM_STAND_IN))
        # What was judged is over, and has no more need of the memory that it is kept in.
        chosen.setdefault("QWARDEN_STREAM__SILENT_S", "0")
    return chosen


@contextlib.asynccontextmanager
async def stream_client(settings: Settings) -> AsyncIterator[tuple[StreamClient, str]]:
    """A client of the stream guard, and the revision that answers: a service waits for an absent
    guard, and a person should not."""
    guard: StreamGuard
    if settings.guard.mode == "in-process" and settings.stream is not None:
        guard = InProcessStream(settings.stream)
        client = bootstrap.stream_client_of(settings, guard_at=lambda _: guard)
    else:
        own = settings.stream_guard
        guard = TritonStream(
            settings.stream_urls[0],
            timeout_s=own.timeout_s,
            queue_s=own.queue_s,
            tls=bootstrap.tls_of(settings),
        )
        client = bootstrap.stream_client_of(settings)
    try:
        with err.status("loading the guard …"):
            revision = await guard.revision()
        yield client, revision
    finally:
        await client.close()
        await guard.close()
