"""A registry with Confluent's REST interface, which Karapace, Redpanda and Apicurio speak too."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from qwarden import tls
from qwarden.registry.port import RegistryAway, Schema
from qwarden.settings import PREFIX, Certificates

_NO_SUCH = frozenset({40401, 40402, 40403})
"""The registry's own codes beside 404: no such subject, version, schema. A 404 without one comes
from something else at that address."""
_SERIALIZED = {"format": "serialized"}
"""Protobuf as a FileDescriptorProto in Base64: the text of a .proto file needs a compiler."""
_PROTOBUF = "PROTOBUF"


class HttpRegistry:
    """`url`: what stands before /schemas. `ca_file`: who signed the server's certificate, the
    system's authorities where absent. `timeout_s`: of each request. Raises `SettingsError` for a
    `ca_file` without certificates."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float,
        username: str | None = None,
        password: str | None = None,
        ca_file: Path | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._client = httpx.AsyncClient(
            timeout=timeout_s,
            auth=(username, password or "") if username is not None else None,
            verify=tls.context_of(Certificates(f"{PREFIX}REGISTRY__", ca_file)),
            headers={"accept": "application/vnd.schemaregistry.v1+json, application/json"},
        )

    async def schema(self, identity: int) -> Schema | None:
        path = f"/schemas/ids/{identity}"
        found = await self._get(path, {})
        if found is None:
            return None
        kind = found.get("schemaType") or "AVRO"
        if kind == _PROTOBUF:
            found = await self._get(path, _SERIALIZED)
            if found is None:
                return None
        imports: dict[str, str] = {}
        if not await self._add_imports(imports, found, kind):
            return None
        return Schema(kind, self._text(found, kind), tuple(imports.items()))

    async def close(self) -> None:
        await self._client.aclose()

    async def _add_imports(self, imports: dict[str, str], found: Any, kind: str) -> bool:
        """Adds what a schema refers to, each behind what it refers to itself. Whether all is
        there."""
        for each in found.get("references") or ():
            try:
                name, subject, version = each["name"], each["subject"], each["version"]
            except (KeyError, TypeError):
                raise self._strange("a reference without name, subject and version") from None
            if name in imports:
                continue
            of = quote(str(subject), safe="")
            path = f"/subjects/{of}/versions/{quote(str(version), safe='')}"
            # A schema that is in use stays readable when its subject is deleted.
            params = {"deleted": "true", **(_SERIALIZED if kind == _PROTOBUF else {})}
            inner = await self._get(path, params)
            if inner is None or not await self._add_imports(imports, inner, kind):
                return False
            imports[name] = self._text(inner, kind)
        return True

    def _text(self, found: Any, kind: str) -> str:
        text = found.get("schema")
        if not isinstance(text, str):
            raise self._strange("no schema in its answer")
        if kind == _PROTOBUF:
            try:
                base64.b64decode(text, validate=True)
            except (binascii.Error, ValueError):
                raise RegistryAway(
                    f"the registry at {self._url} gives a Protobuf schema as text, and not "
                    "serialized as it was asked; it needs one that knows ?format=serialized"
                ) from None
        return text

    async def _get(self, path: str, params: Mapping[str, str]) -> Any | None:
        """The JSON object there; None where the registry says that there is none."""
        try:
            answer = await self._client.get(self._url + path, params=dict(params))
        except httpx.HTTPError as error:
            said = str(error) or type(error).__name__
            raise RegistryAway(f"the registry at {self._url} is away: {said}") from None
        try:
            body = answer.json()
        except (ValueError, RecursionError):
            body = None
        is_object = isinstance(body, dict)
        if answer.status_code == HTTPStatus.NOT_FOUND:
            if is_object and body.get("error_code") in _NO_SUCH:
                return None
            raise self._strange("404 without the code of a registry")
        if answer.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise RegistryAway(
                f"the registry at {self._url} refuses this service ({answer.status_code}); set "
                "QWARDEN_REGISTRY__USERNAME and QWARDEN_REGISTRY__PASSWORD"
            )
        if answer.status_code != HTTPStatus.OK:
            raise RegistryAway(f"the registry at {self._url} answers {answer.status_code}")
        if not is_object:
            raise self._strange("no JSON object")
        return body

    def _strange(self, what: str) -> RegistryAway:
        return RegistryAway(
            f"what is at {self._url} answers with {what}; set QWARDEN_REGISTRY__URL to the "
            "address of a schema registry"
        )
