"""Addresses of Redis: one server, one that Sentinels know, or a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote

Kind = Literal["single", "sentinel", "cluster"]

_KINDS: dict[str, Kind] = {
    "redis": "single",
    "rediss": "single",
    "unix": "single",
    "redis+sentinel": "sentinel",
    "rediss+sentinel": "sentinel",
    "redis+cluster": "cluster",
    "rediss+cluster": "cluster",
}


@dataclass(frozen=True, slots=True)
class Address:
    """An address, read.

    `url`: as it was written; all else is of Sentinels and clusters, since redis-py reads the others
    itself. `servers`: host and port of each that may be asked first. `service`: what Sentinels call
    the server. `db`: of that server; a cluster has none.
    """

    url: str = field(repr=False)
    kind: Kind
    is_encrypted: bool
    servers: tuple[tuple[str, int], ...] = ()
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    service: str = ""
    db: int = 0


def read_address(url: str) -> Address:
    """Reads an address. Raises `ValueError` with a sentence, which holds no part of a password."""
    scheme, _, rest = url.partition("://")
    kind = _KINDS.get(scheme)
    if kind is None:
        raise ValueError(
            "an address of Redis begins with redis:// or unix://, redis+sentinel:// or "
            "redis+cluster://, or with rediss for TLS"
        )
    is_encrypted = scheme.startswith("rediss")
    if kind == "single":
        return Address(url, kind, is_encrypted)
    if "?" in rest or "#" in rest:
        raise ValueError(
            f"{scheme}:// takes no options behind a '?' and no '#'; write those of a password as "
            "%3F and %23"
        )
    credentials, _, where = rest.rpartition("@")
    username, _, password = credentials.partition(":")
    hosts, *path = where.split("/")
    servers = tuple(_server(each, scheme) for each in hosts.split(","))
    service, db = _path(kind, path, scheme)
    return Address(
        url,
        kind,
        is_encrypted,
        servers,
        unquote(username) or None,
        unquote(password) or None,
        service,
        db,
    )


def _server(text: str, scheme: str) -> tuple[str, int]:
    host, _, port = text.strip().rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(
            f"{scheme}:// needs host:port, with commas between several, and one of them is none"
        )
    return host.strip("[]"), int(port)


def _path(kind: Kind, path: Sequence[str], scheme: str) -> tuple[str, int]:
    """The service and its database."""
    if kind == "cluster":
        if any(each not in ("", "0") for each in path):
            raise ValueError(f"{scheme}:// has no databases; leave out what stands behind '/'")
        return "", 0
    service, db, *more = *path, *("", "")[len(path) :]
    if not service or any(more) or (db and not db.isdecimal()):
        raise ValueError(
            f"{scheme}:// is followed by its servers and then by /SERVICE, what the Sentinels call "
            "the server they watch, or /SERVICE/DB"
        )
    return unquote(service), int(db or 0)
