"""What each replica of the guards answers to one short text."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable

from qwarden import bootstrap
from qwarden.doctor import guards
from qwarden.doctor.finding import Findings
from qwarden.doctor.guards import ReplicaFacts
from qwarden.guard.answer import Unanswered
from qwarden.guard.stream import Append, Part, Status
from qwarden.inference import triton, triton_stream
from qwarden.inference.port import GuardFailed, GuardUnavailable
from qwarden.inference.replicas import Addresses
from qwarden.inference.trials import KNOWN_GOOD
from qwarden.inference.triton import TritonGuard
from qwarden.inference.triton_stream import TritonStream
from qwarden.settings import Settings

_UNKNOWN_MODEL = "unknown model"
"""What Triton says of a model that it has not loaded."""

Asked = Callable[[str], Awaitable[tuple[str, str]]]
"""By address: the revision that answered, and what is wrong with its answer, else empty."""


async def look_at_gen(found: Findings, settings: Settings) -> None:
    """The guard of whole texts."""

    addresses = Addresses([settings.triton.url])

    async def ask(address: str) -> tuple[str, str]:
        own = settings.triton
        encrypted = bootstrap.tls_of(settings, addresses.host_of(address))
        guard = TritonGuard(address, timeout_s=own.timeout_s, queue_s=own.queue_s, tls=encrypted)
        try:
            [answer] = await guard.judge([KNOWN_GOOD], timeout_s=settings.triton.probe_s)
        finally:
            await guard.close()
        if isinstance(answer, Unanswered):
            return answer.revision, f"it does not judge a plain greeting: {answer.reason}"
        return answer.revision, ""

    await _look(found, addresses, settings.triton.url, ask, model=triton.MODEL, is_needed=True)


async def look_at_stream(found: Findings, settings: Settings) -> None:
    """The guard of running sessions."""

    addresses = Addresses(settings.stream_urls)

    async def ask(address: str) -> tuple[str, str]:
        own = settings.stream_guard
        encrypted = bootstrap.tls_of(settings, addresses.host_of(address))
        guard = TritonStream(address, timeout_s=own.timeout_s, queue_s=own.queue_s, tls=encrypted)
        short = Append("", f"doctor {secrets.token_hex(8)}", 0, (Part("user", "hello", end=True),))
        try:
            [answer] = await guard.append([short], timeout_s=own.probe_s)
        finally:
            await guard.close()
        judged = answer.status in (Status.DONE, Status.FULL)
        return answer.revision, "" if judged else f"it does not judge a greeting: {answer.reason}"

    is_named = bool(settings.stream_guard.names)
    names = ", ".join(settings.stream_urls)
    await _look(found, addresses, names, ask, model=triton_stream.MODEL, is_needed=is_named)


async def _look(
    found: Findings, look: Addresses, names: str, ask: Asked, *, model: str, is_needed: bool
) -> None:
    addresses = sorted(await look())
    if not addresses:
        found.away(
            model,
            f"no address is known for {names}; is the name right, and has the headless "
            "Service any ready pod?",
        )
        return
    facts = await asyncio.gather(*(_fact(address, ask) for address in addresses))
    if all(_UNKNOWN_MODEL in each.trouble for each in facts):
        said = f"Triton at {', '.join(addresses)} is there and has not loaded it"
        if is_needed:
            found.wrong(model, f"{said}; see its log, and which models its workload names")
        else:
            found.left_out(model, f"{said}: running sessions need it, nothing else does")
        return
    guards.judge(found, facts, model=model)


async def _fact(address: str, ask: Asked) -> ReplicaFacts:
    began = time.perf_counter()
    try:
        revision, trouble = await ask(address)
    except (GuardUnavailable, GuardFailed) as error:
        return ReplicaFacts(address, None, 0.0, f"{error}; see its log and its pod's events")
    return ReplicaFacts(address, revision, time.perf_counter() - began, trouble)
