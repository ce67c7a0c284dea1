"""How far one gets to a server: its name, its port, its certificate."""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import dataclass

_STEP_S = 5.0
"""Of each step: a server that takes longer is as good as away."""


@dataclass(frozen=True, slots=True)
class Reached:
    """`trouble`: why one does not get there, None where one does; `ends`: when the server's
    certificate ends, in seconds since 1970, None where it shows none."""

    trouble: str | None
    ends: float | None = None


async def reach(address: str, context: ssl.SSLContext | None) -> Reached:
    """`address`: host:port; `context`: for a server that encrypts, None for one that does not."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_STEP_S):
            await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError) as error:
        return Reached(f"the name {host} does not resolve here ({_said(error)})")
    try:
        async with asyncio.timeout(_STEP_S):
            _, writer = await asyncio.open_connection(host, int(port))
    except (OSError, TimeoutError) as error:
        return Reached(f"nothing takes connections at {address} ({_said(error)})")
    writer.close()
    if context is None:
        return Reached(None)
    try:
        async with asyncio.timeout(_STEP_S):
            _, writer = await asyncio.open_connection(
                host, int(port), ssl=context, server_hostname=host
            )
    except ssl.SSLCertVerificationError as error:
        return Reached(
            f"the certificate that {address} shows is not trusted ({error.verify_message}); name "
            "its authority in the CA_FILE, and the server as its certificate does"
        )
    except (OSError, TimeoutError) as error:
        return Reached(f"{address} does not speak TLS with us ({_said(error)})")
    shown = writer.get_extra_info("peercert") or {}
    writer.close()
    ends = shown.get("notAfter")
    return Reached(None, None if ends is None else ssl.cert_time_to_seconds(ends))


def _said(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {_STEP_S:g} s"
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None)
    return str(reason or error or type(error).__name__).lower()
