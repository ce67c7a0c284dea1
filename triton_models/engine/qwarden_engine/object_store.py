"""A reader of object stores that speak S3, with what Python brings: list, and get.

Requests are signed by AWS's Signature Version 4, which MinIO, Ceph, R2 and Google Cloud Storage
(with HMAC keys) take too. Buckets are named in the path, which each of them accepts.
"""

from __future__ import annotations

import hashlib
import hmac
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Self
from urllib.parse import quote, urlencode, urlsplit
from xml.etree import ElementTree

TIMEOUT_S = 60.0
"""How long a store may be silent; a large object takes longer, and is read all the while."""

_EMPTY = hashlib.sha256(b"").hexdigest()
_PIECE = 1 << 20
"""Bytes that are read at a time: weights of gigabytes never stand in memory as a whole."""


class StoreError(Exception):
    """A store that did not give what was asked; the message says why."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """An access key and its secret."""

    access_key: str
    secret_key: str

    @classmethod
    def of(cls, access_key: str | None, secret_key: str | None) -> Self | None:
        """None where neither is given. Raises `StoreError` where one is missing."""
        if access_key and secret_key:
            return cls(access_key, secret_key)
        if access_key or secret_key:
            raise StoreError("an access key and its secret go together, and one of them is missing")
        return None


@dataclass(frozen=True, slots=True)
class Entry:
    """An object: its size in bytes, and its ETag, which changes when it does."""

    key: str
    size: int
    tag: str


class ObjectStore:
    """A store at `endpoint` (https://HOST[:PORT]); without credentials requests are not signed."""

    def __init__(
        self,
        endpoint: str,
        region: str,
        credentials: Credentials | None,
        *,
        now: Callable[[], datetime],
    ) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._region = region
        self._credentials = credentials
        self._now = now

    def entries(self, bucket: str, prefix: str) -> Iterator[Entry]:
        """What lies below a prefix. Raises `StoreError`, also where nothing does."""
        more: str | None = ""
        found = 0
        while more is not None:
            query = {"list-type": "2", "prefix": prefix}
            if more:
                query["continuation-token"] = more
            with self._open(f"/{bucket}", query) as answer:
                page = self._page(answer)
            space = page.tag.partition("}")[0] + "}" if page.tag.startswith("{") else ""
            for each in page.iter(f"{space}Contents"):
                found += 1
                yield Entry(
                    each.findtext(f"{space}Key", ""),
                    int(each.findtext(f"{space}Size", "0")),
                    each.findtext(f"{space}ETag", ""),
                )
            more = page.findtext(f"{space}NextContinuationToken")
        if not found:
            raise StoreError(f"nothing is there below {prefix or 'its root'}")

    def save(self, bucket: str, entry: Entry, file: Path) -> None:
        """Writes an object to a file, which is there as a whole or not at all."""
        part = file.with_name(f"{file.name}.part")
        with self._open(f"/{bucket}/{entry.key}", {}) as answer, part.open("wb") as to:
            while piece := self._read(answer, _PIECE):
                to.write(piece)
        if part.stat().st_size != entry.size:
            raise StoreError(
                f"{entry.key} has {entry.size} bytes and {part.stat().st_size} of them came"
            )
        part.rename(file)

    def _page(self, answer: HTTPResponse) -> ElementTree.Element:
        try:
            return ElementTree.fromstring(self._read(answer, None))
        except ElementTree.ParseError:
            raise StoreError(f"{self._endpoint} does not answer as S3 does") from None

    def _read(self, answer: HTTPResponse, most: int | None) -> bytes:
        try:
            return answer.read(most)
        except (OSError, HTTPException) as error:
            raise StoreError(f"{self._endpoint} broke off ({error!r})") from None

    def _open(self, path: str, query: Mapping[str, str]) -> HTTPResponse:
        path = quote(path, safe="/-_.~")
        # As the signature wants it: sorted, and a space as %20.
        line = urlencode(sorted(query.items()), quote_via=quote, safe="-_.~")
        host = urlsplit(self._endpoint).netloc
        headers = {"host": host, "x-amz-content-sha256": _EMPTY}
        if self._credentials is not None:
            at = self._now()
            headers["x-amz-date"] = at.strftime("%Y%m%dT%H%M%SZ")
            headers["authorization"] = authorization(
                self._credentials, self._region, at, path, line, headers
            )
        url = f"{self._endpoint}{path}" + (f"?{line}" if line else "")
        try:
            request = urllib.request.Request(url, headers=headers)
        except ValueError:
            raise StoreError(f"{self._endpoint} is no address: it begins with https://") from None
        try:
            answer: HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            raise StoreError(f"the store answers {error.code}: {_code(error)}") from None
        except (OSError, HTTPException) as error:  # URLError is an OSError
            reason = getattr(error, "reason", error)
            raise StoreError(f"{self._endpoint} cannot be reached ({reason})") from None
        return answer


def authorization(
    credentials: Credentials,
    region: str,
    at: datetime,
    path: str,
    query: str,
    headers: Mapping[str, str],
) -> str:
    """The header of a GET without a body, by Signature Version 4. `path`, `query`: encoded;
    `headers`: all that are signed, their names in small letters."""
    day = at.strftime("%Y%m%d")
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name].strip()}\n" for name in sorted(headers))
    asked = f"GET\n{path}\n{query}\n{lines}\n{names}\n{headers['x-amz-content-sha256']}"
    scope = f"{day}/{region}/s3/aws4_request"
    said = hashlib.sha256(asked.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{at.strftime('%Y%m%dT%H%M%SZ')}\n{scope}\n{said}"
    key = f"AWS4{credentials.secret_key}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    return (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope},"
        f"SignedHeaders={names},Signature={signature}"
    )


def _code(error: urllib.error.HTTPError) -> str:
    """What an error says of itself, as `NoSuchBucket`; else its reason."""
    try:
        page = ElementTree.fromstring(error.read())
    except (OSError, ElementTree.ParseError):
        return str(error.reason)
    return next((each.text for each in page.iter("Code") if each.text), str(error.reason))
