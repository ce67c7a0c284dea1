"""Sign-in by OpenID Connect: the code flow with PKCE, and the tokens that an issuer signs."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus

import httpx
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import Key, KeySet, import_key
from joserfc.jws import JWSRegistry

from qwarden import tls
from qwarden.review.people.claims import Said, lacks, said_in
from qwarden.review.people.secret import new_secret
from qwarden.review.refusals import Away, NotSignedIn
from qwarden.settings import Oidc

_log = logging.getLogger(__name__)

_SIGNED = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"]
"""What signs with a key that the issuer alone has: never `none`, and never a shared secret."""
_LEEWAY_S = 30
"""Between the issuer's clock and ours."""
_KEPT_S = 600.0
"""How long the issuer's addresses and keys are used unasked: so late is a withdrawn key seen."""
_AWAY_S = 1.0
"""After it could not be asked, how long nobody asks: those who wait for an issuer that hangs would
wait for one another too."""
_ANEW_S = 5.0
"""After keys were fetched because a signature did not fit, how long none does that again: whoever
makes up tokens keeps the issuer no busier than this."""


@dataclass(frozen=True, slots=True)
class Departure:
    """`url`: where the browser goes. `secret`: what it keeps until it comes back."""

    url: str
    secret: str


@dataclass(frozen=True, slots=True)
class _Published:
    """What the issuer has published: its addresses, its keys, and until when they are used."""

    metadata: Mapping[str, Any]
    keys: KeySet
    until: float

    @property
    def issuer(self) -> str:
        return str(self.metadata["issuer"])


class Issuer:
    """The one whose word is taken for who somebody is.

    `public_url`: where browsers reach us. `clock`: one that does not jump, in seconds. Its
    certificate is trusted by the system's authorities.
    """

    def __init__(
        self, oidc: Oidc, public_url: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._oidc = oidc
        self._back = f"{public_url.rstrip('/')}/oidc/callback"
        self._clock = clock
        self._http = httpx.AsyncClient(verify=tls.trusting_the_system(), timeout=oidc.timeout_s)
        self._published: _Published | None = None
        self._anew_at = self._away_at = -math.inf
        self._asking = asyncio.Lock()

    async def depart(self) -> Departure:
        """Where to send a browser whose user wants to sign in. Raises Away."""
        published = await self._current()
        secret = new_secret()
        url = prepare_grant_uri(
            self._address(published, "authorization_endpoint"),
            client_id=self._oidc.client_id,
            response_type="code",
            redirect_uri=self._back,
            scope=self._oidc.scopes,
            state=_part(secret, "state"),
            nonce=_part(secret, "nonce"),
            code_challenge=create_s256_code_challenge(_part(secret, "verifier")),
            code_challenge_method="S256",
        )
        return Departure(url, secret)

    async def arrive(self, secret: str | None, query: Mapping[str, str], *, now: float) -> Said:
        """Who came back: what the issuer has signed of them.

        `secret`: of the `Departure`, where the browser still has it. `query`: of the address that
        it came back to. `now`: seconds since 1970. Raises NotSignedIn, and Away.
        """
        if secret is None or query.get("state") != _part(secret, "state"):
            raise NotSignedIn("this sign-in was not begun here, or is over; sign in anew")
        published = await self._current()
        if query.get("iss", published.issuer) != published.issuer:
            raise self._unproven("the answer is another issuer's")  # RFC 9207
        if "code" not in query:
            raise NotSignedIn("the sign-in service has not signed you in; sign in anew")
        tokens = await self._redeem(published, query["code"], secret)

        def checked(published: _Published) -> dict[str, Any]:
            token = _signed(tokens.get("id_token"), published)
            claims = CodeIDToken(
                token.claims,
                token.header,
                _expected(published, self._oidc.client_id),
                {
                    "nonce": _part(secret, "nonce"),
                    "client_id": self._oidc.client_id,
                    "access_token": tokens.get("access_token"),
                },
            )
            claims.validate(now=int(now), leeway=_LEEWAY_S)
            return dict(claims)

        claims = await self._proven(checked)
        if lacks(claims, self._oidc) and "userinfo_endpoint" in published.metadata:
            more = await self._userinfo(published, tokens)
            if more.get("sub") != claims["sub"]:
                raise self._unproven("userinfo is somebody else's")
            claims = {**more, **claims}
        return said_in(claims, self._oidc)

    async def caller(self, token: str, *, now: float) -> Said:
        """Whose access token, a JWT for `oidc.audience`, this is. Raises NotSignedIn, also where a
        claim that is to be read is not in it, and Away."""
        if self._oidc.audience is None:
            raise NotSignedIn("this is no token of ours; an admin makes one")
        audience = self._oidc.audience

        def checked(published: _Published) -> dict[str, Any]:
            claims = _signed(token, published).claims
            expected = _expected(published, audience)
            jwt.JWTClaimsRegistry(int(now), _LEEWAY_S, **expected).validate(claims)
            return claims

        claims = await self._proven(checked)
        if lacks(claims, self._oidc):  # what it does not say would be taken away
            raise NotSignedIn(
                "this token says nothing of roles, or of tenants or languages that are asked for; "
                "have the sign-in service put those claims into access tokens too"
            )
        return said_in(claims, self._oidc)

    async def close(self) -> None:
        await self._http.aclose()

    @property
    def name(self) -> str:
        """Who it is, as the accounts that it signs in say."""
        return self._oidc.issuer.rstrip("/")

    @property
    def session_s(self) -> float:
        """How long its word is taken for, once given to a browser."""
        return self._oidc.session_s

    async def _proven(self, checked: Callable[[_Published], dict[str, Any]]) -> dict[str, Any]:
        """The claims of a token, by the keys that are known, else by those that are there now."""
        published = await self._current()
        try:
            try:
                return checked(published)
            except _Unsigned:
                anew = await self._anew(published)
                if anew is published:
                    raise
                return checked(anew)
        except _Unsigned as unfit:
            raise self._unproven(str(unfit)) from None
        except JoseError as unfit:
            raise self._unproven(getattr(unfit, "claim", None) or unfit.error) from None

    def _unproven(self, why: str) -> NotSignedIn:
        _log.warning("what comes as a word of %s is not believed: %s", self._oidc.issuer, why)
        return NotSignedIn(f"this does not prove who you are ({why}); sign in anew")

    async def _current(self) -> _Published:
        async with self._asking:
            if self._published is None or self._published.until <= self._clock():
                self._published = await self._fetch()
            return self._published

    async def _anew(self, old: _Published) -> _Published:
        """What is published now; `old` where that was asked for a moment ago."""
        async with self._asking:
            if self._published in (old, None) and self._clock() >= self._anew_at + _ANEW_S:
                self._anew_at = self._clock()
                self._published = await self._fetch()
            return self._published or old

    async def _fetch(self) -> _Published:
        if self._clock() < self._away_at + _AWAY_S:
            raise self._away()
        try:
            return await self._asked()
        except Away:
            self._away_at = self._clock()
            raise

    async def _asked(self) -> _Published:
        base = self._oidc.issuer.rstrip("/")
        metadata = await self._get(f"{base}/.well-known/openid-configuration")
        if str(metadata.get("issuer")).rstrip("/") != base:
            raise self._strange("is another issuer by its own account; set QWARDEN_OIDC__ISSUER")
        found = _Published(metadata, KeySet([]), self._clock() + _KEPT_S)
        listed = (await self._get(self._address(found, "jwks_uri"))).get("keys")
        keys = [key for each in listed or () if (key := _key(each)) is not None]
        return _Published(metadata, KeySet(keys), found.until)

    async def _redeem(self, published: _Published, code: str, secret: str) -> Mapping[str, Any]:
        answer = await self._ask(
            "POST",
            self._address(published, "token_endpoint"),
            data={
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": self._back,
                "code_verifier": _part(secret, "verifier"),
            },
            auth=httpx.BasicAuth(  # RFC 6749 2.3.1
                quote_plus(self._oidc.client_id),
                quote_plus(self._oidc.client_secret.get_secret_value()),
            ),
        )
        body = self._object(answer)
        if answer.status_code == httpx.codes.OK:
            return body
        if body.get("error") == "invalid_grant":
            raise NotSignedIn("this sign-in was used already or took too long; sign in anew")
        raise self._strange(
            f"refuses this service ({answer.status_code}); set QWARDEN_OIDC__CLIENT_ID and "
            "QWARDEN_OIDC__CLIENT_SECRET to what it knows, and "
            f"register {self._back} there"
        )

    async def _userinfo(
        self, published: _Published, tokens: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        address = self._address(published, "userinfo_endpoint")
        return await self._get(address, {"authorization": f"Bearer {tokens.get('access_token')}"})

    async def _get(self, url: str, headers: Mapping[str, str] | None = None) -> Mapping[str, Any]:
        answer = await self._ask("GET", url, headers=headers)
        if answer.status_code != httpx.codes.OK:
            raise self._strange(f"answers {answer.status_code}")
        return self._object(answer)

    async def _ask(self, method: str, url: str, **what: Any) -> httpx.Response:
        try:
            return await self._http.request(method, url, **what)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._strange(f"cannot be reached ({type(error).__name__})") from None

    def _object(self, answer: httpx.Response) -> Mapping[str, Any]:
        try:
            body = answer.json()
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise self._strange(f"answers {answer.status_code} without a JSON object")
        return body

    def _address(self, published: _Published, name: str) -> str:
        address = published.metadata.get(name)
        if not isinstance(address, str):
            raise self._strange(f"publishes no {name}")
        return address

    def _strange(self, what: str) -> Away:
        _log.warning("the sign-in service at %s %s", self._oidc.issuer, what)
        return self._away()

    def _away(self) -> Away:
        return Away(
            "the sign-in service cannot be used now; who is signed in stays so, and others try "
            "again in a moment"
        )


class _Unsigned(Exception):
    """A token that no key of the issuer's has signed."""


def _signed(token: object, published: _Published) -> jwt.Token:
    if not isinstance(token, str):
        raise _Unsigned("there is none")
    try:
        registry = JWSRegistry(algorithms=_SIGNED, strict_check_header=False)
        return jwt.decode(token, published.keys, registry=registry)
    except JoseError as error:
        raise _Unsigned(error.error) from None
    except (ValueError, RecursionError):
        raise _Unsigned("decode_error") from None


def _expected(published: _Published, audience: str) -> dict[str, Any]:
    """What the claims of any of its tokens are held against."""
    return {
        "iss": {"essential": True, "value": published.issuer},
        "aud": {"essential": True, "value": audience},
        "sub": {"essential": True},
        "exp": {"essential": True},
        "iat": {"essential": True},
    }


def _key(published: object) -> Key | None:
    """A key that may sign; those of kinds that we do not know are passed over."""
    if not isinstance(published, dict) or published.get("use", "sig") != "sig":
        return None
    if published.get("kty") not in ("RSA", "EC"):
        return None
    try:
        return import_key(published)
    except (JoseError, ValueError):
        return None


def _part(secret: str, of: str) -> str:
    """State, nonce and verifier come from one secret, so that the browser alone keeps them and no
    process of the service needs to."""
    return hashlib.sha256(f"{of} {secret}".encode()).hexdigest()
