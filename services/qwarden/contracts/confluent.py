"""The Confluent wire format: a value that names the schema with which it is to be read. Pure.

A zero byte, the schema's id (4 bytes, big-endian), for Protobuf the path to the message's type,
then the body (Confluent's documentation, "Wire format").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qwarden.contracts.refusal import ErrorClass, Refused

Reader = Callable[[bytes], Any]
"""From a record's whole value to what it says, as JSON would hold it. Raises `Refused`."""

HEAD_BYTES = 5
"""The zero byte and the id."""
_MAX_VARINT_BYTES = 10
"""64 bits, seven to a byte."""
_MAX_NESTED = 100
"""Of message types in one another; protobuf's own compiler ends there."""


def schema_id(value: bytes) -> int | None:
    """The id of the schema with which a value is to be read; None where it names none."""
    if len(value) < HEAD_BYTES or value[0] != 0:
        return None
    return int.from_bytes(value[1:HEAD_BYTES], "big")


def not_framed(value: bytes) -> Refused:
    """Why a value without a `schema_id` is refused."""
    found = f"it begins with 0x{value[0]:02x}" if value and value[0] else f"{len(value)} bytes"
    return _refused(
        f"the value is not in the Confluent wire format, a zero byte and a schema's id ({found}); "
        "send it through the registry's serializer, or set decoder: json for this topic"
    )


def unknown_schema(identity: int) -> Refused:
    """Why a value is refused whose schema the registry does not hold."""
    return _refused(
        f"the registry has no schema {identity}, or lacks one that it refers to; register it, then "
        "replay this record"
    )


def message_indexes(value: bytes) -> tuple[tuple[int, ...], int]:
    """Of a Protobuf value behind its id: the path to the message's type (the index of the outermost
    one in its file, then of each nested one), and where the message begins. Raises `ValueError`."""
    count, at = _varint(value, 0)
    if count == 0:  # short for the first message of the file
        return (0,), at
    if not 0 < count <= _MAX_NESTED:
        raise ValueError(f"it says that its message type is nested {count} deep")
    path = []
    for _ in range(count):
        index, at = _varint(value, at)
        if index < 0:
            raise ValueError(f"it names the message type {index}")
        path.append(index)
    return tuple(path), at


def _varint(value: bytes, at: int) -> tuple[int, int]:
    """A zigzag number, and where the next thing begins."""
    number = 0
    for place, byte in enumerate(value[at : at + _MAX_VARINT_BYTES]):
        number |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), at + place + 1
    raise ValueError("it ends within the path to its message type")


def _refused(reason: str) -> Refused:
    return Refused(ErrorClass.NOT_AN_EVENT, reason)
