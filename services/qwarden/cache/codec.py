"""An assessment as the bytes that a store keeps."""

from __future__ import annotations

import math
from itertools import chain

import msgspec

from qwarden.guard.answer import Assessment

PREFIX = b"qw:a:"
"""Stands before every key in a store that others may use too."""

_FORMAT = b"\x02"
"""Stands before every value; another one is of another version, and counts as absent."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Assessment)


def encode(assessment: Assessment) -> bytes:
    return _FORMAT + _encoder.encode(assessment)


def decode(value: bytes | None) -> Assessment | None:
    """The assessment, or None for bytes that this version did not write."""
    if not value or value[:1] != _FORMAT:
        return None
    try:
        assessment = _decoder.decode(value[1:])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    logits = (assessment.logits, *(entry.logits for entry in assessment.entries))
    return assessment if all(map(math.isfinite, chain.from_iterable(logits))) else None
