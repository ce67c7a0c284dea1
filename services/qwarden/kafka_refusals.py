"""Why a broker does not let us in, in a sentence that names the setting."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any

from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from qwarden.kafka_tokens import NoToken
from qwarden.settings import Kafka


class Refused(KafkaConnectionError):  # type: ignore[misc]  # aiokafka has no types
    """A broker is there and does not let us in. It is waited for, as one that is away: what has to
    change may be the broker's side, or a Secret that is being rotated."""


_ASKED_MS = 3_000
"""Of one connection: a broker that is there says within milliseconds why it refuses, and one that
hangs is away."""
_WRONG_NAME, _WRONG_ADDRESS, _OVER = 62, 64, 10
"""What OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH, …_IP_ADDRESS_MISMATCH and …_CERT_HAS_EXPIRED are."""


async def why_refused(servers: str, arguments: Mapping[str, Any], kafka: Kafka) -> str | None:
    """Asks each broker once. None where one lets us in, or where none is there: that says itself.

    `arguments`: as `qwarden.kafka.client_arguments` gives them.
    """
    secured = ("security_", "ssl_", "sasl_")
    wanted = {name: each for name, each in arguments.items() if name.startswith(secured)}
    for host, port, _ in collect_hosts(servers):
        at = f"{host}:{port}"
        try:
            connection = await create_conn(host, port, request_timeout_ms=_ASKED_MS, **wanted)
            try:
                # A token that is refused is said only in answer to what is sent next, and aiokafka
                # 0.14 takes that for the answer to its request: with no brokers in it.
                let_in = bool((await connection.send(MetadataRequest([]))).brokers)
            finally:
                connection.close()
        except NoToken as error:
            return _plain(error)
        except (OSError, KafkaError, TimeoutError) as error:
            context = wanted.get("ssl_context")
            alert, shook_hands = None, False
            if context is not None:
                alert, shook_hands = await _alert(host, port, context)
            reason = _sentence(at, alert or error, kafka, shook_hands)
            if reason is not None:
                return reason
        else:
            return None if let_in else _refused_login(at, "it names no brokers", kafka)
    return None


async def _alert(host: str, port: int, context: ssl.SSLContext) -> tuple[Exception | None, bool]:
    """What TLS says, and whether it came behind the handshake: so it does where our certificate is
    refused, and aiokafka keeps only that the connection was closed."""
    shook_hands = False
    try:
        async with asyncio.timeout(_ASKED_MS / 1000):
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
            shook_hands = True
            try:
                await reader.read(1)
            finally:
                writer.close()
    except (ssl.SSLError, ConnectionResetError, ConnectionAbortedError) as error:
        return error, shook_hands
    except (OSError, TimeoutError):
        return None, shook_hands
    return None, shook_hands


def _sentence(at: str, error: BaseException, kafka: Kafka, shook_hands: bool) -> str | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _untrusted(at, error)
    said = _plain(error)
    if isinstance(error, SaslAuthenticationFailed):
        return _refused_login(at, said, kafka)
    if isinstance(error, UnsupportedSaslMechanismError):
        return (
            f"{at} does not take {kafka.sasl_mechanism}; set QWARDEN_KAFKA__SASL_MECHANISM to one "
            f"that this listener knows ({said})"
        )
    ends = isinstance(error, ConnectionResetError | ConnectionAbortedError)
    if kafka.is_encrypted and not shook_hands and (ends or "_VERSION" in said):
        return (
            f"{at} does not speak TLS as we do, and QWARDEN_KAFKA__SECURITY_PROTOCOL is "
            f"{kafka.security_protocol}; name its TLS port, or leave SSL out of the protocol"
        )
    alerted = "_ALERT_" in said and ("CERTIFICATE" in said or "UNKNOWN_CA" in said)
    if alerted or (shook_hands and ends):  # where the alert itself was lost
        return (
            f"{at} wants a certificate of ours that it trusts; set "
            f"QWARDEN_KAFKA__CERTIFICATE_FILE and QWARDEN_KAFKA__KEY_FILE ({said})"
        )
    closed = isinstance(error, KafkaConnectionError) and " closed" in said
    if closed or isinstance(error, IllegalSaslStateError):
        return (
            f"{at} ends the connection at once, as a listener does that has another protocol than "
            f"QWARDEN_KAFKA__SECURITY_PROTOCOL, which is {kafka.security_protocol} ({said})"
        )
    return None


def _untrusted(at: str, error: ssl.SSLCertVerificationError) -> str:
    fix = {
        _WRONG_NAME: "name it in QWARDEN_KAFKA__BOOTSTRAP_SERVERS as its certificate does",
        _WRONG_ADDRESS: "name it in QWARDEN_KAFKA__BOOTSTRAP_SERVERS as its certificate does",
        _OVER: "it is over, and the broker needs a new one",
    }.get(error.verify_code, "set QWARDEN_KAFKA__CA_FILE to the authority that signed it")
    return f"the certificate of {at} is not trusted ({error.verify_message}); {fix}"


def _refused_login(at: str, said: str, kafka: Kafka) -> str:
    if kafka.sasl_mechanism == "OAUTHBEARER":
        return (
            f"{at} refuses the token of {kafka.oauth_client_id} ({said}); the broker must take "
            "tokens of this issuer and audience: see QWARDEN_KAFKA__OAUTH_SCOPE, and the broker's "
            "sasl.oauthbearer settings"
        )
    return (
        f"{at} refuses {kafka.sasl_username} by {kafka.sasl_mechanism} ({said}); set "
        "QWARDEN_KAFKA__SASL_USERNAME and QWARDEN_KAFKA__SASL_PASSWORD"
    )


def _plain(error: BaseException) -> str:
    """Without the names of classes that aiokafka puts before its words."""
    name = f"{type(error).__name__}: "
    said = str(error)
    while said.startswith(name):
        said = said.removeprefix(name)
    return said or type(error).__name__
