"""Clients of Redis, by its address: the library's own, which give up where their time is over."""

from __future__ import annotations

from typing import Any

import redis.asyncio as redis
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from qwarden import tls
from qwarden.redis_address import read_address
from qwarden.settings import Certificates


def arguments(
    is_encrypted: bool, timeout_s: float, certificates: Certificates | None
) -> dict[str, Any]:
    """What each client is made with. Raises `SettingsError` for certificates of no use."""
    made: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": None,
    }
    if is_encrypted:
        # Older versions of the library check no name by default.
        made |= {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
        if certificates is not None:
            tls.context_of(certificates)
            files = {
                "ssl_ca_certs": certificates.ca_file,
                "ssl_certfile": certificates.certificate_file,
                "ssl_keyfile": certificates.key_file or certificates.certificate_file,
            }
            made |= {name: str(file) for name, file in files.items() if file is not None}
    return made


def shows_none(url: str, certificates: Certificates | None) -> bool:
    """Whether a server over TLS is shown no certificate of ours."""
    own = None if certificates is None else certificates.certificate_file
    return own is None and read_address(url).is_encrypted


def reason(error: BaseException, *, shown_none: bool = False) -> str:
    """Why a server does not answer, with the setting to change where TLS says it; `shown_none`: see
    `shows_none`."""
    said = str(error) or type(error).__name__
    if said == "TimeoutError":
        said = "no answer in time"
    if isinstance(error, MasterNotFoundError) and error.__cause__ is not None:
        return f"{said}; the last that was asked: {reason(error.__cause__, shown_none=shown_none)}"
    if "CERTIFICATE_VERIFY_FAILED" in said:
        return (
            f"{said}; set QWARDEN_REDIS__CA_FILE to the authority that signed its certificate, and "
            "name it in QWARDEN_REDIS__URL as that does"
        )
    if "_ALERT_" in said and ("CERTIFICATE" in said or "UNKNOWN_CA" in said):
        return f"{said}; set QWARDEN_REDIS__CERTIFICATE_FILE and QWARDEN_REDIS__KEY_FILE"
    if shown_none and ("reset by peer" in said or "closed by server" in said):
        # What TLS says of it may be lost: it comes when the connection ends.
        return f"{said}; if it asks for a certificate of ours, set QWARDEN_REDIS__CERTIFICATE_FILE"
    if "WRONG_VERSION_NUMBER" in said:
        return f"{said}; it does not speak TLS there: begin QWARDEN_REDIS__URL with redis://"
    return said


class _Sentinels(Sentinel):
    """Sentinels, one after the other. The library's own say of one that does not answer what its
    client looks like, and not why."""

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        failed: Exception | None = None
        has_answered = False
        for at, sentinel in enumerate(self.sentinels):
            try:
                known: Any = await sentinel.sentinel_masters()
            except (RedisConnectionError, RedisTimeoutError) as error:
                failed = error
                continue
            has_answered = True
            state = known.get(service_name)
            if state and self.check_master_state(state, service_name):
                self.sentinels.insert(0, self.sentinels.pop(at))
                return state["ip"], state["port"]
        raise MasterNotFoundError(
            f"no Sentinel of QWARDEN_REDIS__URL names a server for {service_name!r} that is up"
        ) from (None if has_answered else failed)


def open_clients(
    url: str, timeout_s: float, certificates: Certificates | None = None
) -> list[redis.Redis]:
    """The client of one server, or of the one that Sentinels name now, and behind it all else that
    is to be closed with it. Nothing is connected yet."""
    address = read_address(url)
    made = arguments(address.is_encrypted, timeout_s, certificates)
    if address.kind == "single":
        return [redis.Redis.from_url(url, **made)]
    made["ssl"] = address.is_encrypted
    login = {"username": address.username, "password": address.password}
    sentinels: Any = _Sentinels  # what it is made of has no types
    asked = sentinels(address.servers, sentinel_kwargs={**made, **login})
    if address.password is not None:
        # Sentinels have a password of their own, the servers' as a rule, or none; one that has none
        # refuses whoever sends it one, and is asked again without.
        asked.sentinels += sentinels(address.servers, sentinel_kwargs=made).sentinels
    client: redis.Redis = asked.master_for(address.service, db=address.db, **made, **login)
    return [client, *asked.sentinels]
