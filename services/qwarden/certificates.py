"""When the certificates end that a process uses: an operator hears of it weeks before."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from qwarden import telemetry, tls
from qwarden.settings import Certificates, Settings, SettingsError

_log = logging.getLogger(__name__)

_LOOK_S = 60.0
"""How often it is looked: a Secret's volume follows its change within a minute or two."""
_ANSWER_S = 5.0
"""A server that takes longer is as good as away."""


def files_of(settings: Settings) -> Iterator[Path]:
    """The files with certificates: authorities, and our own."""
    for of in settings.certificates:
        for file in (of.ca_file, of.certificate_file):
            if file is not None:
                yield file
    if settings.registry.ca_file is not None:
        yield settings.registry.ca_file


def ends_of(pem: bytes) -> float:
    """When the first of a file's certificates ends, in seconds since 1970. Raises `ValueError`
    where there is none."""
    from cryptography import x509  # takes 40 ms, and most fleets name no file

    read = x509.load_pem_x509_certificates(pem)
    return min(each.not_valid_after_utc for each in read).timestamp()


async def watch(settings: Settings, tritons: Sequence[str] = ()) -> None:
    """Tells the ends as metrics, until it is cancelled; at once where there is nothing to look at.

    `tritons`: those that this process asks, each host:port. They are looked at where the settings
    encrypt what is said to them.
    """
    files = Files(files_of(settings))
    encrypted = settings.guard.mode == "triton" and settings.triton.tls
    servers = sorted(set(tritons)) if encrypted else []
    said: Mapping[str, str] = {}
    while files.all or servers:
        faults = await asyncio.to_thread(files.look)
        for server in servers:
            faults |= await look_at(server, settings.triton.certificates)
        for what, fault in faults.items():
            if what not in said:
                _log.warning("when the certificates of %s end is not known: %s", what, fault)
        said = faults
        await asyncio.sleep(_LOOK_S)


class Files:
    """The files that a process has read at its start, and goes on with whatever is in them later:
    of one that was renewed the earlier end counts, until the process is started anew."""

    def __init__(self, files: Iterable[Path]) -> None:
        self.all = sorted(set(files))
        self._read: dict[Path, float] = {}

    def look(self) -> dict[str, str]:
        """Tells when each of them ends; returns those that cannot be read, and why."""
        faults = {}
        for file in self.all:
            try:
                now = ends_of(file.read_bytes())
            except (OSError, ValueError) as error:
                faults[str(file)] = str(error)
                with contextlib.suppress(KeyError):
                    telemetry.CERTIFICATE_NOT_AFTER_SECONDS.remove(str(file))
            else:
                ends = min(now, self._read.setdefault(file, now))
                telemetry.CERTIFICATE_NOT_AFTER_SECONDS.labels(str(file)).set(ends)
        return faults


async def look_at(server: str, own: Certificates) -> dict[str, str]:
    """Tells when the first of those certificates ends that the replicas at host:port show; returns
    why that is not known, by the name of the server. One that is away keeps what was said of it."""
    name = f"the certificate of {server}"
    try:
        ends = await shown_at(server, own)
    except (OSError, ValueError, SettingsError) as error:
        return {name: str(error) or type(error).__name__}
    telemetry.CERTIFICATE_NOT_AFTER_SECONDS.labels(name).set(ends)
    return {}


async def shown_at(server: str, own: Certificates) -> float:
    """When the first certificate ends, in seconds since 1970, of those that the replicas show which
    the name in `server`, host:port, stands for: each has the files of its own start. Nothing is
    checked and nothing is said to them, so that one that has ended is read too.

    Raises `OSError` where none answers, `SettingsError` for files of ours that cannot be used.
    """
    context = tls.context_of(own)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    host, _, port = server.rpartition(":")
    host = host.strip("[]")
    async with asyncio.timeout(_ANSWER_S):
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    replicas = {str(address[0]) for *_, address in found}
    answers = await asyncio.gather(
        *(_shown(each, int(port), host, context) for each in replicas), return_exceptions=True
    )
    ends = [each for each in answers if isinstance(each, float)]
    if not ends:
        raise next(each for each in answers if isinstance(each, BaseException))
    return min(ends)


async def _shown(address: str, port: int, host: str, context: ssl.SSLContext) -> float:
    from cryptography import x509

    async with asyncio.timeout(_ANSWER_S):
        _, writer = await asyncio.open_connection(address, port, ssl=context, server_hostname=host)
    try:
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(shown).not_valid_after_utc.timestamp()
    finally:
        writer.transport.abort()
