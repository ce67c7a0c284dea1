"""Kafka as platforms have it: SCRAM over TLS, client certificates, and tokens, on one real broker.

Each way, everything that a fleet does connects: topics are made, the control topic is read, a
moderator consumes in its groups and publishes, and a person's command reads what it said.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import KafkaError
from confluent_kafka import admin as librdkafka

from certificates import Authority
from commands import Shell
from moderators import Guard
from platforms.tokens import CLIENT, ISSUER, SECRET, TokenIssuer
from qwarden import bootstrap
from qwarden import kafka as kafka_tools
from qwarden import settings as settings_module
from qwarden.contracts import topics
from qwarden.kafka_tokens import NoToken, Tokens
from qwarden.moderator.service import ModeratorService
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka

LISTENERS = {"SCRAM": "SASL_SSL", "MTLS": "SSL", "OAUTH": "SASL_SSL"}
USER, PASSWORD = "fleet", "pass=word, with signs"
_LOGIN = "org.apache.kafka.common.security"


@dataclass
class Platform:
    """A broker with a listener of each kind, and who is trusted there."""

    kafka: Kafka
    home: Home
    folder: Path
    authority: Authority
    issuer: TokenIssuer

    def environ(self, way: str, **more: str) -> dict[str, str]:
        """The settings of a service that connects this way."""
        ways: Mapping[str, dict[str, str]] = {
            "SCRAM-SHA-256": self._login("SCRAM-SHA-256"),
            "SCRAM-SHA-512": self._login("SCRAM-SHA-512"),
            "PLAIN": self._login("PLAIN"),
            "MTLS": {
                "BOOTSTRAP_SERVERS": self.kafka.address("MTLS"),
                "SECURITY_PROTOCOL": "SSL",
                "CERTIFICATE_FILE": str(self.folder / "client.crt"),
                "KEY_FILE": str(self.folder / "client.key"),
            },
            "OAUTHBEARER": {
                "BOOTSTRAP_SERVERS": self.kafka.address("OAUTH"),
                "SECURITY_PROTOCOL": "SASL_SSL",
                "SASL_MECHANISM": "OAUTHBEARER",
                "OAUTH_TOKEN_URL": self.issuer.url,
                "OAUTH_CLIENT_ID": CLIENT,
                "OAUTH_CLIENT_SECRET": SECRET,
                "OAUTH_SCOPE": "publish consume",
            },
        }
        own = {"CA_FILE": str(self.authority.file), **ways[way], **more}
        return {
            "QWARDEN_CONTENT_KEY": self.home.content_key(),
            "QWARDEN_HTTP__PORT": "0",
            "QWARDEN_KAFKA__SESSION_TIMEOUT_MS": "6000",
            "QWARDEN_KAFKA__REQUEST_TIMEOUT_MS": "10000",
            **{f"QWARDEN_KAFKA__{name}": value for name, value in own.items() if value},
        }

    def settings(self, way: str, **more: str) -> settings_module.Settings:
        return settings_module.load(self.environ(way, **more))

    def _login(self, mechanism: str) -> dict[str, str]:
        return {
            "BOOTSTRAP_SERVERS": self.kafka.address("SCRAM"),
            "SECURITY_PROTOCOL": "SASL_SSL",
            "SASL_MECHANISM": mechanism,
            "SASL_USERNAME": USER,
            "SASL_PASSWORD": PASSWORD,
        }


WAYS = ("SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN", "MTLS", "OAUTHBEARER")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("platform")
    home = Home(folder)
    authority = Authority(folder)
    server = authority.issue("server", hosts=("127.0.0.1",))
    authority.issue("client")
    with TokenIssuer(folder, authority.issue("issuer")) as issuer:
        keys = issuer.keys.as_uri()
        scram, oauth = f"{_LOGIN}.scram.ScramLoginModule", f"{_LOGIN}.oauthbearer"
        kafka = Kafka(
            home,
            listeners=LISTENERS,
            settings={
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": str(server.both),
                "ssl.truststore.type": "PEM",
                "ssl.truststore.location": str(authority.file),
                "listener.name.mtls.ssl.client.auth": "required",
                "listener.name.scram.sasl.enabled.mechanisms": "SCRAM-SHA-256,SCRAM-SHA-512,PLAIN",
                "listener.name.scram.scram-sha-256.sasl.jaas.config": f"{scram} required;",
                "listener.name.scram.scram-sha-512.sasl.jaas.config": f"{scram} required;",
                "listener.name.scram.plain.sasl.jaas.config": (
                    f'{_LOGIN}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
                ),
                "listener.name.oauth.sasl.enabled.mechanisms": "OAUTHBEARER",
                "listener.name.oauth.oauthbearer.sasl.jaas.config": (
                    f"{oauth}.OAuthBearerLoginModule required;"
                ),
                "listener.name.oauth.oauthbearer.sasl.server.callback.handler.class": (
                    f"{oauth}.OAuthBearerValidatorCallbackHandler"
                ),
                # The one that Kafka 4.1.1 takes by itself checks no signature and no audience.
                "sasl.oauthbearer.jwt.validator.class": (f"{oauth}.BrokerJwtValidator"),
                "sasl.oauthbearer.jwks.endpoint.url": keys,
                "sasl.oauthbearer.expected.issuer": ISSUER,
                "sasl.oauthbearer.expected.audience": "kafka",
            },
            options=[f"-D{_ALLOWED}={keys}"],
        )
        with kafka:
            _add_user(kafka.bootstrap)
            yield Platform(kafka, home, folder, authority, issuer)


_ALLOWED = "org.apache.kafka.sasl.oauthbearer.allowed.urls"


def _add_user(bootstrap: str) -> None:
    names: Any = librdkafka  # its module does not export them by type
    admin = names.AdminClient({"bootstrap.servers": bootstrap})
    for mechanism in (names.ScramMechanism.SCRAM_SHA_256, names.ScramMechanism.SCRAM_SHA_512):
        of = names.ScramCredentialInfo(mechanism, 4096)
        wanted = names.UserScramCredentialUpsertion(USER, of, PASSWORD.encode())
        (done,) = admin.alter_user_scram_credentials([wanted]).values()  # one a user and request
        done.result(timeout=30)


@pytest.mark.parametrize("way", WAYS)
async def test_everything_that_a_fleet_does_connects(platform: Platform, way: str) -> None:
    environ = platform.environ(way, GROUP_ID=f"group-{way.lower()}")
    settings = settings_module.load(environ)
    await kafka_tools.create_topics(
        settings.kafka,
        partitions=2,
        replication_factor=1,
        min_insync_replicas=1,
        max_event_bytes=900_000,
    )
    async with bootstrap.moderator(settings, Guard()) as (judge, dispatcher):
        control = bootstrap.control_of(settings)
        service = ModeratorService(settings, judge, dispatcher, control)
        running = asyncio.create_task(service.run())
        event = {"event_id": way, "tenant": "demo", "text": f"hello by {way}"}
        sent: list[int] = []
        await kafka_tools.publish(
            settings.kafka,
            topics.CONTENT,
            [json.dumps(event).encode()],
            lambda partition, offset: sent.append(offset),
        )

        async def judged() -> None:
            async with kafka_tools.reading(
                settings.kafka, topics.VERDICTS, from_beginning=True, follow=True
            ) as records:
                async for each in records:
                    if json.loads(each.value)["event_id"] == way:
                        return

        try:
            await asyncio.wait_for(judged(), 60)
            assert service.lanes[0].delivery.failure is None
        finally:
            service.stop()
            assert await running == 0


REFUSED: list[tuple[str, str, dict[str, str], str]] = [
    (
        "a wrong password",
        "SCRAM-SHA-512",
        {"SASL_PASSWORD": "another"},
        "refuses fleet by SCRAM-SHA-512 .*QWARDEN_KAFKA__SASL_PASSWORD",
    ),
    (
        "an authority that is not the broker's",
        "SCRAM-SHA-512",
        {"CA_FILE": "{another}"},
        "is not trusted .*QWARDEN_KAFKA__CA_FILE",
    ),
    (
        "another name than the certificate's",
        "SCRAM-SHA-512",
        {"BOOTSTRAP_SERVERS": "{localhost}"},
        "is not trusted .*name it in QWARDEN_KAFKA__BOOTSTRAP_SERVERS",
    ),
    (
        "a mechanism of another listener",
        "SCRAM-SHA-512",
        {"BOOTSTRAP_SERVERS": "{oauth}"},
        "does not take SCRAM-SHA-512; set QWARDEN_KAFKA__SASL_MECHANISM",
    ),
    (
        "no certificate where one is asked for",
        "MTLS",
        {"CERTIFICATE_FILE": "", "KEY_FILE": ""},
        "wants a certificate of ours .*QWARDEN_KAFKA__CERTIFICATE_FILE",
    ),
    (
        "a certificate of another authority",
        "MTLS",
        {"CERTIFICATE_FILE": "{foreign}.crt", "KEY_FILE": "{foreign}.key"},
        "wants a certificate of ours .*QWARDEN_KAFKA__CERTIFICATE_FILE",
    ),
    (
        "TLS to a listener without",
        "MTLS",
        {"BOOTSTRAP_SERVERS": "{plain}"},
        "does not speak TLS",
    ),
    (
        "no TLS to a listener with it",
        "MTLS",
        {"SECURITY_PROTOCOL": "PLAINTEXT", "CA_FILE": "", "CERTIFICATE_FILE": "", "KEY_FILE": ""},
        "another protocol than QWARDEN_KAFKA__SECURITY_PROTOCOL",
    ),
    (
        "a wrong secret",
        "OAUTHBEARER",
        {"OAUTH_CLIENT_SECRET": "another"},
        "refuses qwarden: no such client; set QWARDEN_KAFKA__OAUTH_CLIENT_ID",
    ),
    (
        "an issuer that is away",
        "OAUTHBEARER",
        {"OAUTH_TOKEN_URL": "https://127.0.0.1:1/token"},
        "https://127.0.0.1:1/token is away",
    ),
]


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an authority that nobody trusts, and of what it has signed."""
    folder = tmp_path_factory.mktemp("others")
    Authority(folder, "another").issue("foreign")
    return folder


@pytest.mark.parametrize(
    ("way", "more", "sentence"), [each[1:] for each in REFUSED], ids=[each[0] for each in REFUSED]
)
async def test_a_broker_that_lets_nobody_in_is_told_from_one_that_is_away(
    platform: Platform, others: Path, way: str, more: dict[str, str], sentence: str
) -> None:
    port = platform.kafka.address("SCRAM").rpartition(":")[2]
    words = {
        "another": others / "another.pem",
        "foreign": others / "foreign",
        "localhost": f"localhost:{port}",
        "oauth": platform.kafka.address("OAUTH"),
        "plain": platform.kafka.bootstrap,
    }
    settings = platform.settings(way, **{k: v.format(**words) for k, v in more.items()})
    with pytest.raises(KafkaError, match=sentence):
        async with kafka_tools.admin(settings.kafka):
            pass


async def test_a_token_for_somebody_else_is_named(platform: Platform) -> None:
    settings = platform.settings("OAUTHBEARER", OAUTH_SCOPE="somebody-elses")
    platform.issuer.audience = "somebody-else"
    try:
        with pytest.raises(KafkaError, match="refuses the token of qwarden"):
            async with kafka_tools.admin(settings.kafka):
                pass
    finally:
        platform.issuer.audience = "kafka"


async def test_a_broker_that_is_away_is_said_to_be_away(platform: Platform) -> None:
    settings = platform.settings("MTLS", BOOTSTRAP_SERVERS="127.0.0.1:1")
    with pytest.raises(KafkaError, match="Unable to bootstrap"):
        async with kafka_tools.admin(settings.kafka):
            pass


def test_a_command_ends_with_the_sentence(platform: Platform, tmp_path: Path) -> None:
    environ = platform.environ("SCRAM-SHA-512", SASL_PASSWORD="another")
    ran = Shell(tmp_path, environ)("topics", "create")
    said = " ".join(ran.err.split())
    assert ran.code == 3, said
    assert "refuses fleet by SCRAM-SHA-512" in said and "QWARDEN_KAFKA__SASL_PASSWORD" in said
    assert "Traceback" not in said


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[TokenIssuer]:
    authority = Authority(tmp_path)
    with TokenIssuer(tmp_path, authority.issue("issuer")) as made:
        yield made


def kafka_at(issuer: TokenIssuer, **more: str) -> settings_module.Kafka:
    own = {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "OAUTHBEARER",
        "oauth_token_url": issuer.url,
        "oauth_client_id": CLIENT,
        "oauth_client_secret": SECRET,
        "ca_file": str(issuer.folder / "authority.pem"),
        **more,
    }
    return settings_module.Kafka.model_validate({k: v for k, v in own.items() if v})


async def test_a_token_is_renewed_before_it_ends_and_not_before(issuer: TokenIssuer) -> None:
    now = [0.0]
    tokens = Tokens(kafka_at(issuer, oauth_scope="one two"), clock=lambda: now[0])
    many = await asyncio.gather(*(tokens.token() for _ in range(20)))
    assert len(set(many)) == 1 and len(issuer.asked) == 1
    assert issuer.asked[0] == {"grant_type": "client_credentials", "scope": "one two"}
    now[0] = 200
    assert await tokens.token() == many[0] and len(issuer.asked) == 1
    now[0] = 299
    assert await tokens.token() != "" and len(issuer.asked) == 2


async def test_a_token_outlives_its_issuers_outage_and_no_longer(issuer: TokenIssuer) -> None:
    now = [0.0]
    tokens = Tokens(kafka_at(issuer), clock=lambda: now[0])
    token = await tokens.token()
    issuer.answers = (503, {})
    now[0] = 299
    assert await tokens.token() == token
    now[0] = 301
    with pytest.raises(NoToken, match="answers 503"):
        await tokens.token()
    issuer.answers = None
    assert await tokens.token()


async def test_an_issuer_of_an_unknown_authority_is_named(issuer: TokenIssuer) -> None:
    tokens = Tokens(kafka_at(issuer, ca_file=""))
    with pytest.raises(NoToken, match=r"CERTIFICATE_VERIFY_FAILED.*QWARDEN_KAFKA__CA_FILE"):
        await tokens.token()


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ((200, {"token": "x"}), "gives no token"),
        ((404, {}), "answers 404"),
        ((400, {"error": "invalid_scope"}), "refuses qwarden: invalid_scope"),
    ],
)
async def test_what_is_no_token_is_told(
    issuer: TokenIssuer, answer: tuple[int, dict[str, str]], sentence: str
) -> None:
    issuer.answers = answer
    with pytest.raises(NoToken, match=sentence):
        await Tokens(kafka_at(issuer)).token()
