"""Values under a schema of a registry, read by the libraries of its kind.

What is read is given as JSON would hold it: instants and dates as ISO 8601, bytes as Base64,
decimals and UUIDs as text; of Protobuf its own JSON mapping, with the fields' names as they stand
in the .proto file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from qwarden.contracts.confluent import HEAD_BYTES, Reader
from qwarden.contracts.refusal import ErrorClass, Refused
from qwarden.registry.port import Schema, SchemaUnusable


def reader_of(schema: Schema, identity: int) -> Reader:
    """What reads the values of a schema. One that cannot be used reads none: each is refused with
    the reason."""
    try:
        body = _BODIES[schema.kind](schema)
    except KeyError:
        body = _unusable(f"its kind is {schema.kind!r}; known are {', '.join(sorted(_BODIES))}")
    except Exception as error:  # of its library, by what is wrong with a text from elsewhere
        body = _unusable(_said(error))

    def read(value: bytes) -> Any:
        try:
            return msgspec.to_builtins(body(value[HEAD_BYTES:]))
        except SchemaUnusable as unusable:
            raise _refused(
                f"the schema {identity} of this value cannot be used: {unusable}; register a "
                "corrected one, or take this topic through a producer that maps it"
            ) from None
        except Exception as error:  # the libraries raise a dozen types, by what is broken
            raise _refused(
                f"the value is not what its schema {identity} ({schema.kind}) says: "
                f"{_said(error)}; send it again with the schema that it was written with"
            ) from None

    return read


def _unusable(reason: str) -> Reader:
    def body(value: bytes) -> Any:
        raise SchemaUnusable(reason)

    return body


def _avro(schema: Schema) -> Reader:
    from qwarden.registry.avro import avro

    return avro(schema)


def _protobuf(schema: Schema) -> Reader:
    from qwarden.registry.protobuf import protobuf

    return protobuf(schema)


def _json(schema: Schema) -> Reader:
    return msgspec.json.decode


_BODIES: dict[str, Callable[[Schema], Reader]] = {
    "AVRO": _avro,
    "PROTOBUF": _protobuf,
    "JSON": _json,
}
"""By kind. Their libraries are imported with the first schema: most services read JSON alone."""


def _said(error: Exception) -> str:
    if isinstance(error, EOFError | IndexError) or not str(error):
        return f"it ends too early, or names what is not there ({type(error).__name__})"
    return str(error)


def _refused(reason: str) -> Refused:
    return Refused(ErrorClass.NOT_AN_EVENT, reason)
