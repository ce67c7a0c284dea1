"""Whether the schema registry and the issuer of sign-ins are what the settings take them for."""

from __future__ import annotations

from typing import Any

import httpx

from qwarden import tls
from qwarden.bootstrap import registry_of
from qwarden.doctor.finding import Findings
from qwarden.registry.port import RegistryAway
from qwarden.settings import Oidc, Registry

_NO_SCHEMA = 2**31 - 1
"""An id that no registry has given: it answers that there is none, and anything else does not."""


async def look_at_registry(found: Findings, own: Registry) -> None:
    """`own.url` must be there."""
    assert own.url is not None
    registry = registry_of(own)
    try:
        await registry.schema(_NO_SCHEMA)
    except RegistryAway as away:
        found.away(own.url, f"{away}; records that need a schema wait meanwhile")
    else:
        found.good(own.url, "it answers as a schema registry")
    finally:
        await registry.close()


async def look_at_issuer(found: Findings, oidc: Oidc, public_url: str) -> None:
    """`public_url`: where people's browsers reach the review service."""
    base = oidc.issuer.rstrip("/")
    where = f"{base}/.well-known/openid-configuration"
    trusted = tls.trusting_the_system()
    async with httpx.AsyncClient(verify=trusted, timeout=oidc.timeout_s) as http:
        try:
            metadata = await _object(http, where)
            if str(metadata.get("issuer")).rstrip("/") != base:
                found.wrong(
                    base,
                    f"it calls itself {metadata.get('issuer')!r}; set QWARDEN_OIDC__ISSUER to that",
                )
                return
            lacking = [
                name
                for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")
                if not isinstance(metadata.get(name), str)
            ]
            if lacking:
                found.wrong(
                    base,
                    f"it publishes no {', '.join(lacking)}; QWARDEN_OIDC__ISSUER must name an "
                    "issuer of OpenID Connect that knows the code flow",
                )
                return
            keys = (await _object(http, metadata["jwks_uri"])).get("keys") or []
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            found.away(
                base,
                f"{where} cannot be had ({str(error) or type(error).__name__}); who is signed in "
                "stays so, and nobody else gets in: is QWARDEN_OIDC__ISSUER right, and up?",
            )
            return
    signing = [key for key in keys if key.get("kty") in ("RSA", "EC")]
    if not signing:
        found.wrong(base, "it publishes no RSA or EC key, so that no token of its can be believed")
    else:
        found.good(
            base,
            f"it publishes {len(signing)} keys; people come back to "
            f"{public_url.rstrip('/')}/oidc/callback, which must be registered there",
        )


async def _object(http: httpx.AsyncClient, url: str) -> dict[str, Any]:
    answer = await http.get(url)
    answer.raise_for_status()
    body = answer.json()
    if not isinstance(body, dict):
        raise ValueError("it is no JSON object")
    return body
