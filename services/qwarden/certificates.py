"""When the certificates end that the settings name: an operator hears of it weeks before."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

from qwarden import telemetry
from qwarden.settings import Settings

_log = logging.getLogger(__name__)

_LOOK_S = 60.0
"""How often the files are read: a Secret's volume follows its change within a minute or two."""


def files_of(settings: Settings) -> Iterator[Path]:
    """The files with certificates: authorities, and our own."""
    for of in (
        settings.kafka.certificates,
        settings.redis.certificates,
        settings.triton.certificates,
        settings.review.database_certificates,
    ):
        for file in (of.ca_file, of.certificate_file):
            if file is not None:
                yield file
    if settings.registry.ca_file is not None:
        yield settings.registry.ca_file


def ends_of(pem: bytes) -> datetime:
    """When the first of a file's certificates ends. Raises `ValueError` where there is none."""
    from cryptography import x509  # takes 40 ms, and most fleets name no file

    return min(each.not_valid_after_utc for each in x509.load_pem_x509_certificates(pem))


async def watch(settings: Settings) -> None:
    """Tells the ends as metrics, until it is cancelled; at once without a file."""
    files = sorted(set(files_of(settings)))
    said: dict[Path, str] = {}
    while files:
        faults = await asyncio.to_thread(look, files)
        for file, fault in faults.items():
            if file not in said:
                _log.warning("when the certificates in %s end is not known: %s", file, fault)
        said = faults
        await asyncio.sleep(_LOOK_S)


def look(files: Iterable[Path]) -> dict[Path, str]:
    """Tells when each of these ends; returns those that cannot be read, and why."""
    faults = {}
    for file in files:
        try:
            ends = ends_of(file.read_bytes())
        except (OSError, ValueError) as error:
            faults[file] = str(error)
            with contextlib.suppress(KeyError):
                telemetry.CERTIFICATE_NOT_AFTER_SECONDS.remove(str(file))
        else:
            telemetry.CERTIFICATE_NOT_AFTER_SECONDS.labels(str(file)).set(ends.timestamp())
    return faults
