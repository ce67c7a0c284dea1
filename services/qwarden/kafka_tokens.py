"""Tokens for a broker that asks for OAUTHBEARER, by client credentials (RFC 6749, 4.4)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import KafkaConnectionError

from qwarden import tls
from qwarden.settings import PREFIX, Certificates, Kafka, SettingsError

_log = logging.getLogger(__name__)

_TIMEOUT_S = 10.0
"""Of one request for a token; under the 30 s of kafka.request_timeout_ms, within which a client
connects."""
_RENEW = 0.8
"""A token is used for so much of its life: what is left of it is for a slow clock, for the way to
the broker, and for an issuer that is away."""
_LIFE_S = 300.0
"""Of a token whose issuer does not say it."""


class NoToken(KafkaConnectionError):  # type: ignore[misc]  # aiokafka has no types
    """No token can be had now: as where a broker is away, it is waited for."""


class Tokens(AbstractTokenProvider):  # type: ignore[misc]
    """Gives the token that is good now, and gets the next one before it ends.

    The issuer's certificate is trusted by the system's authorities and by the broker's. Raises
    `SettingsError` for a broker's that cannot be used.
    """

    def __init__(self, kafka: Kafka, clock: Callable[[], float] = time.monotonic) -> None:
        if not kafka.oauth_token_url or not kafka.oauth_client_id or not kafka.oauth_client_secret:
            raise SettingsError(f"{PREFIX}KAFKA__OAUTH_TOKEN_URL: is not set, nor who we are there")
        self._url = kafka.oauth_token_url
        self._client = (kafka.oauth_client_id, kafka.oauth_client_secret)
        self._asked = {"grant_type": "client_credentials"}
        if kafka.oauth_scope is not None:
            self._asked["scope"] = kafka.oauth_scope
        self._trusted = tls.trusting_the_system()
        if kafka.ca_file is not None:
            tls.context_of(Certificates(f"{PREFIX}KAFKA__", kafka.ca_file))
            self._trusted.load_verify_locations(kafka.ca_file)
        self._clock = clock
        self._token = ""
        self._renew_at = self._ends_at = 0.0
        self._fetching: asyncio.Task[None] | None = None

    async def token(self) -> str:
        """Raises `NoToken` with a sentence."""
        if self._clock() >= self._renew_at:
            try:
                await self._fetched()
            except NoToken as error:
                if self._clock() >= self._ends_at:
                    raise
                _log.warning("the token for Kafka is used on for now: %s", error)
        return self._token

    async def _fetched(self) -> None:
        """Clients that connect at the same time wait for one request."""
        running, fetching = asyncio.get_running_loop(), self._fetching
        if fetching is None or fetching.done() or fetching.get_loop() is not running:
            fetching = self._fetching = running.create_task(self._fetch(), name="kafka-token")
        await asyncio.shield(fetching)

    async def _fetch(self) -> None:
        import httpx  # takes longer than all else to import

        name, secret = self._client
        asked_at = self._clock()
        try:
            async with httpx.AsyncClient(verify=self._trusted, timeout=_TIMEOUT_S) as client:
                answer = await client.post(
                    self._url, data=self._asked, auth=(name, secret.get_secret_value())
                )
        except (httpx.HTTPError, OSError) as error:
            raise NoToken(
                f"the issuer of tokens at {self._url} is away: {str(error) or type(error).__name__}"
                "; set QWARDEN_KAFKA__OAUTH_TOKEN_URL to its token endpoint, and where its "
                "certificate is not trusted QWARDEN_KAFKA__CA_FILE to its authority too"
            ) from None
        said = _object(answer)
        if answer.status_code in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED):
            reason = said.get("error_description") or said.get("error") or answer.reason_phrase
            raise NoToken(
                f"the issuer of tokens at {self._url} refuses {name}: {reason}; set "
                "QWARDEN_KAFKA__OAUTH_CLIENT_ID, its OAUTH_CLIENT_SECRET, and its OAUTH_SCOPE"
            )
        token = said.get("access_token")
        if answer.status_code != HTTPStatus.OK or not isinstance(token, str):
            raise NoToken(
                f"what is at {self._url} answers {answer.status_code} and gives no token; set "
                "QWARDEN_KAFKA__OAUTH_TOKEN_URL to a token endpoint"
            )
        try:
            life_s = float(said.get("expires_in", _LIFE_S))
        except (TypeError, ValueError):
            life_s = _LIFE_S
        self._token = token
        self._renew_at, self._ends_at = asked_at + life_s * _RENEW, asked_at + life_s


def _object(answer: Any) -> dict[str, Any]:
    try:
        said = answer.json()
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}
