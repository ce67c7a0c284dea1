"""Settings of connections that could not be made are refused at the start, each with its fix."""

from __future__ import annotations

import pytest

from qwarden import settings as settings_module
from qwarden.redis_address import read_address
from qwarden.settings import SettingsError

SASL = {"KAFKA__SECURITY_PROTOCOL": "SASL_SSL"}
LOGIN = {"KAFKA__SASL_USERNAME": "fleet", "KAFKA__SASL_PASSWORD": "secret"}
OAUTH = {
    **SASL,
    "KAFKA__SASL_MECHANISM": "OAUTHBEARER",
    "KAFKA__OAUTH_TOKEN_URL": "https://issuer.test/token",
    "KAFKA__OAUTH_CLIENT_ID": "fleet",
    "KAFKA__OAUTH_CLIENT_SECRET": "secret",
}
POSTGRESQL = "postgresql://review@database/review"


def load(own: dict[str, str]) -> settings_module.Settings:
    return settings_module.load(
        {"QWARDEN_CONTENT_KEY": "11" * 32, **{f"QWARDEN_{k}": v for k, v in own.items()}}
    )


def without(own: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in own.items() if key != name}


@pytest.mark.parametrize(
    ("own", "name", "fix"),
    [
        (SASL, "KAFKA__SASL_USERNAME", "is not set"),
        ({**SASL, "KAFKA__SASL_USERNAME": "fleet"}, "KAFKA__SASL_PASSWORD", "is not set"),
        (LOGIN, "KAFKA__SASL_USERNAME", "make that SASL_SSL"),
        (without(OAUTH, "KAFKA__OAUTH_TOKEN_URL"), "KAFKA__OAUTH_TOKEN_URL", "is not set"),
        (without(OAUTH, "KAFKA__OAUTH_CLIENT_ID"), "KAFKA__OAUTH_CLIENT_ID", "is not set"),
        (without(OAUTH, "KAFKA__OAUTH_CLIENT_SECRET"), "KAFKA__OAUTH_CLIENT_SECRET", "is not set"),
        ({**OAUTH, **LOGIN}, "KAFKA__SASL_USERNAME", "make that SCRAM-SHA-512"),
        ({**SASL, **LOGIN, "KAFKA__OAUTH_SCOPE": "all"}, "KAFKA__OAUTH_SCOPE", "OAUTHBEARER"),
        (
            {**OAUTH, "KAFKA__OAUTH_TOKEN_URL": "issuer.test/token"},
            "KAFKA__OAUTH_TOKEN_URL",
            "https://HOST/PATH",
        ),
        ({"KAFKA__CA_FILE": "/ca"}, "KAFKA__CA_FILE", "SECURITY_PROTOCOL to SSL or SASL_SSL"),
        (
            {"KAFKA__SECURITY_PROTOCOL": "SSL", "KAFKA__KEY_FILE": "/key"},
            "KAFKA__KEY_FILE",
            "set QWARDEN_KAFKA__CERTIFICATE_FILE",
        ),
        (
            {"REDIS__URL": "redis://cache:6379", "REDIS__CA_FILE": "/ca"},
            "REDIS__CA_FILE",
            "begin QWARDEN_REDIS__URL with rediss",
        ),
        ({"TRITON__CERTIFICATE_FILE": "/own"}, "TRITON__CERTIFICATE_FILE", "TRITON__TLS to true"),
        (
            {"REVIEW__DATABASE_URL": "sqlite:///review.db", "REVIEW__DATABASE_CA_FILE": "/ca"},
            "REVIEW__DATABASE_CA_FILE",
            "postgresql://",
        ),
        (
            {
                "REVIEW__DATABASE_URL": f"{POSTGRESQL}?sslmode=require",
                "REVIEW__DATABASE_CA_FILE": "/ca",
            },
            "REVIEW__DATABASE_URL",
            "has sslmode in it",
        ),
        ({"REDIS__URL": "redis+sentinel://one:26379"}, "REDIS__URL", "/SERVICE"),
    ],
)
def test_what_could_not_connect_or_would_be_ignored_is_refused(
    own: dict[str, str], name: str, fix: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        load(own)
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"QWARDEN_{name}: "), line
    assert fix in line


@pytest.mark.parametrize(
    "own",
    [
        {**SASL, **LOGIN, "KAFKA__CA_FILE": "/ca"},
        {**OAUTH, "KAFKA__OAUTH_SCOPE": "one two"},
        {**OAUTH, "KAFKA__SECURITY_PROTOCOL": "SASL_PLAINTEXT"},
        {
            "KAFKA__SECURITY_PROTOCOL": "SSL",
            "KAFKA__CERTIFICATE_FILE": "/own",
            "KAFKA__KEY_FILE": "/key",
        },
        {"REDIS__URL": "rediss+cluster://one:6379,two:6379", "REDIS__CA_FILE": "/ca"},
        {"TRITON__TLS": "true", "TRITON__CA_FILE": "/ca"},
        {"REVIEW__DATABASE_URL": POSTGRESQL, "REVIEW__DATABASE_CA_FILE": "/ca"},
        {"REVIEW__DATABASE_URL": f"{POSTGRESQL}?sslmode=verify-full&sslrootcert=/ca"},
    ],
)
def test_what_can_connect_is_taken(own: dict[str, str]) -> None:
    assert load(own)


def test_an_address_of_many_servers_is_read_whole() -> None:
    sentinel = read_address("rediss+sentinel://us%40er:pass%3F@one:26379,[::1]:26380/fleet/3")
    assert sentinel.kind == "sentinel" and sentinel.is_encrypted
    assert sentinel.servers == (("one", 26379), ("::1", 26380))
    assert (sentinel.username, sentinel.password) == ("us@er", "pass?")
    assert (sentinel.service, sentinel.db) == ("fleet", 3)
    cluster = read_address("redis+cluster://:secret@one:6379,two:6380/0")
    assert cluster.kind == "cluster" and not cluster.is_encrypted
    assert cluster.servers == (("one", 6379), ("two", 6380))
    assert (cluster.username, cluster.password) == (None, "secret")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://one:6379", "begins with redis://"),
        ("redis+sentinel://:secret@one:26379/fleet/three", "/SERVICE/DB"),
        ("redis+sentinel://:secret@one/fleet", "host:port"),
        ("redis+cluster://:secret@one:99999", "host:port"),
        ("redis+cluster://:secret@one:6379/1", "has no databases"),
        ("redis+cluster://:sec?ret@one:6379", "%3F"),
    ],
)
def test_an_address_that_is_none_is_told_without_its_password(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        read_address(url)
    assert "secret" not in str(refused.value) and "sec?" not in str(refused.value)


def test_what_is_shown_to_people_holds_no_secret() -> None:
    own = {**OAUTH, "REDIS__URL": "redis+sentinel://u:topsecret@one:26379,two:26379/fleet"}
    shown = str(settings_module.shown(load(own)))
    assert "topsecret" not in shown and "one:26379,two:26379/fleet" in shown
    assert "'secret'" not in shown
