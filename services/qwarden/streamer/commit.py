"""What stands beside a commit: from where its partition must be read again. Pure."""

from __future__ import annotations

import json

import msgspec

from qwarden.streamer.sessions import Start


def metadata_of(start: Start) -> str:
    """The metadata of a commit."""
    said = {"v": 1, "from": start.offset, "at": start.at}
    return json.dumps(said, separators=(",", ":"))


class _Metadata(msgspec.Struct, rename={"start": "from"}):
    v: int
    start: int
    at: int = 0


def start_in(metadata: str) -> Start | None:
    """From where a partition is to be read again, as its commit's metadata says; None where it
    says nothing, or nothing that is known here."""
    try:
        said = msgspec.json.decode(metadata, type=_Metadata)
    except msgspec.DecodeError:
        return None
    return Start(said.start, said.at) if said.v == 1 else None
