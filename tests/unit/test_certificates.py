"""When certificates end, before they do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from certificates import Authority, Issued
from qwarden import settings
from qwarden.certificates import Files, ends_of, files_of, look_at
from qwarden.settings import Certificates


def ends(file: Path | str) -> float | None:
    labels = {"file": str(file)}
    return REGISTRY.get_sample_value("qwarden_certificate_not_after_seconds", labels)


def test_a_file_of_several_ends_with_its_last(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    soon = authority.issue("soon", lasts=timedelta(hours=2))
    chain = tmp_path / "chain.pem"
    chain.write_bytes(authority.file.read_bytes() + soon.certificate.read_bytes())
    assert Files([authority.file, soon.certificate, chain]).look() == {}
    said = [ends(each) for each in (authority.file, soon.certificate, chain)]
    days, hours, whole = [each for each in said if each is not None]
    assert abs(hours - time.time() - 7200) < 600
    assert whole == hours
    assert days > hours + 3600


def test_a_certificate_that_is_gone_is_said_to_last(tmp_path: Path) -> None:
    file = Authority(tmp_path).issue("server").certificate
    files = Files([file])
    files.look()
    assert ends(file) is not None
    file.write_text("no certificate")
    assert set(files.look()) == {str(file)}
    assert ends(file) is None
    file.unlink()
    assert set(files.look()) == {str(file)}


def test_a_renewed_file_hides_that_the_process_still_uses_the_old_one(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    file = authority.issue("server", lasts=timedelta(hours=2)).certificate
    running = Files([file])
    running.look()
    before = ends(file)
    authority.issue("server", lasts=timedelta(days=1))
    running.look()
    assert ends(file) == before
    Files([file]).look()  # as the process does that is started next
    after = ends(file)
    assert before is not None
    assert after is not None
    assert after > before + 3600


@contextlib.asynccontextmanager
async def serving(host: str, port: int, issued: Issued, authority: Authority) -> AsyncIterator[int]:
    """A server with this certificate that asks for one of its authority, on the port yielded."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.file)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(issued.certificate, issued.key)
    server = await asyncio.start_server(lambda *_: None, host, port, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_the_replica_whose_certificate_ends_first_is_hidden_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has the files of its own start. One that has ended is read too, and so is one of an
    authority that is not ours; a replica that does not answer hides nothing."""
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    long, over = other.issue("long"), other.issue("over", lasts=timedelta(hours=-1))
    us = other.issue("us")
    own = Certificates("QWARDEN_TRITON__", authority.file, us.certificate, us.key)

    async def replicas(host: str, port: str, **_: int) -> list[Any]:
        assert host == "triton.gpu.svc"
        hosts = "127.0.0.1", "127.0.0.2", "127.0.0.3"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, int(port))) for each in hosts]

    async with (
        serving("127.0.0.1", 0, long, other) as port,
        serving("127.0.0.2", port, over, other),
    ):
        name = f"triton.gpu.svc:{port}"
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", replicas)
        assert await look_at(name, own) == {}
    first = ends_of(over.certificate.read_bytes())
    assert ends(f"the certificate of {name}") == first < time.time()
    assert "127.0.0." in (await look_at(name, own))[f"the certificate of {name}"]
    assert ends(f"the certificate of {name}") == first, (
        "what is away has the certificate that it had"
    )


def test_a_certificate_of_a_dependency_is_not_watched(tmp_path: Path) -> None:
    named = {
        "QWARDEN_KAFKA__SECURITY_PROTOCOL": "SSL",
        "QWARDEN_TRITON__TLS": "true",
        "QWARDEN_REDIS__URL": "rediss://127.0.0.1:6379",
        "QWARDEN_REVIEW__DATABASE_URL": "postgresql://127.0.0.1/review",
        "QWARDEN_REGISTRY__URL": "https://127.0.0.1:8081",
    }
    authority = Authority(tmp_path)
    issued = authority.issue("us")
    wanted = set()
    for prefix in ("KAFKA__", "TRITON__", "REDIS__", "REVIEW__DATABASE_", "REGISTRY__"):
        for kind in ("CA", "CERTIFICATE", "KEY") if prefix != "REGISTRY__" else ("CA",):
            file = tmp_path / f"{prefix}{kind}.pem"
            file.write_bytes((issued.key if kind == "KEY" else issued.certificate).read_bytes())
            named[f"QWARDEN_{prefix}{kind}_FILE"] = str(file)
            if kind != "KEY":
                wanted.add(file)
    loaded = settings.load({"QWARDEN_CONTENT_KEY": "ab" * 32, **named})
    assert set(files_of(loaded)) == wanted
