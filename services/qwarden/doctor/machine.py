"""What the doctor sees of the machine, or the container, that it runs in: files and room."""

from __future__ import annotations

import datetime
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509

from qwarden import tls
from qwarden.doctor import certificates
from qwarden.doctor.durations import mebibytes
from qwarden.doctor.finding import Findings
from qwarden.doctor.reach import reach
from qwarden.settings import Certificates, Settings, SettingsError

_SHARED_MEMORY = Path("/dev/shm")
_SHARED_BYTES = 64 * 2**20
"""What a Python model of Triton takes at its start, once for each; a pod has this much unless it
is given a memory volume."""
_DISK_BYTES = 256 * 2**20
"""Under this the local stack's broker, its logs and SQLite soon stand still, each in its way."""


def look_at_room(found: Findings, folders: Iterable[Path]) -> None:
    """`folders`: where this process, or the local stack, writes."""
    if _SHARED_MEMORY.is_dir():
        size = shutil.disk_usage(_SHARED_MEMORY)
        said = f"{mebibytes(size.free)} of {mebibytes(size.total)} are free"
        if size.total <= _SHARED_BYTES or size.free < _SHARED_BYTES:
            found.note(
                "/dev/shm",
                f"{said}: too little for a Triton that runs here, which needs a memory volume of a "
                "GiB; nothing else uses it",
            )
        else:
            found.good("/dev/shm", said)
    for folder in folders:
        if folder.is_dir():
            free = shutil.disk_usage(folder).free
            if free < _DISK_BYTES:
                found.wrong(str(folder), f"only {mebibytes(free)} of disk are free; make room")
            else:
                found.good(str(folder), f"{mebibytes(free)} of disk are free")


async def look_at_certificates(found: Findings, settings: Settings) -> None:
    """The files that the settings name, and what the servers show, where they can be asked."""
    named = [
        settings.kafka.certificates,
        settings.redis.certificates,
        settings.triton.certificates,
        settings.review.database_certificates,
        Certificates("QWARDEN_REGISTRY__", ca_file=settings.registry.ca_file),
    ]
    for each in named:
        _files(found, each)
    if settings.kafka.is_encrypted:
        await _shown(found, "Kafka", settings.kafka.bootstrap_servers, settings.kafka.certificates)
    if settings.triton.tls:
        asked = ",".join(sorted({settings.triton.url, *settings.stream_urls}))
        await _shown(found, "Triton", asked, settings.triton.certificates)
    if not found.all:
        found.left_out("certificates", "no setting names any, and no connection is encrypted")


def _files(found: Findings, own: Certificates) -> None:
    for setting, file in own.named.items():
        if setting.endswith("KEY_FILE"):
            continue
        try:
            read = x509.load_pem_x509_certificates(file.read_bytes())
            ends = min(_ends(each) for each in read)
        except (OSError, ValueError) as error:
            found.wrong(setting, f"{file} gives no certificate ({error}); name a file in PEM")
        else:
            certificates.judge(found, f"{setting} {file}", ends, now=time.time())
    if own.certificate_file is not None:
        try:
            tls.context_of(own)
        except SettingsError as error:
            found.wrong(f"{own.setting}CERTIFICATE_FILE", str(error))


async def _shown(found: Findings, whose: str, addresses: str, own: Certificates) -> None:
    try:
        context = tls.context_of(own)
    except SettingsError:
        return  # which was said of the file
    for address in filter(None, map(str.strip, addresses.split(","))):
        reached = await reach(address, context)
        if reached.ends is not None:
            certificates.judge(found, f"{whose}'s own, at {address}", reached.ends, now=time.time())


def _ends(certificate: x509.Certificate) -> float:
    return certificate.not_valid_after_utc.astimezone(datetime.UTC).timestamp()
