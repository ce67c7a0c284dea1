"""Values of an Avro schema, read by fastavro with the bounds that its own readers lack (1.13): none
of types that hold themselves, none of lists of what takes no bytes, none of decimals, which take
time of their length's square, so that 900 kB would stop all other records for a minute."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import IO, Any

import fastavro
from fastavro import _read_py as in_python
from fastavro.io.binary_decoder import BinaryDecoder
from fastavro.read import LOGICAL_READERS

from qwarden.contracts.confluent import Reader
from qwarden.registry.port import Schema, SchemaUnusable

_MAX_DECIMAL_BYTES = 1000
"""2,400 digits, which are read in 0.1 ms; a hundred times as many take 5 s."""
_LONG_BITS = 70
"""Of ten bytes with seven bits each, which 64 bits fit in."""


def avro(schema: Schema) -> Reader:
    """What reads the values of an Avro schema, without the head of the wire format."""
    named: dict[str, Any] = {}
    for _, text in schema.imports:
        fastavro.parse_schema(json.loads(text), named)
    # A record's encoding is that of its fields, so that this one changes no byte; and only a record
    # knows the imports that are parsed beside it. A namespace would become that of the names in it
    # that have none.
    whole: Any = fastavro.parse_schema(
        {
            "type": "record",
            "name": "qwarden_Value",
            "fields": [{"name": "value", "type": json.loads(schema.text)}],
        },
        named,
    )
    shape = _Shape(named)
    shape.visit(whole)

    def body(value: bytes) -> Any:
        stream = io.BytesIO(value)
        record: Any
        if shape.is_recursive:
            record = _read_recursive(stream, whole, named)
        else:
            record = fastavro.schemaless_reader(stream, whole, None)
        left = len(value) - stream.tell()
        if left:
            raise ValueError(f"{left} bytes are left over")
        return record["value"]

    return body


class _Shape:
    """What of an Avro schema could be without end: types that hold themselves, and lists of what
    takes no bytes, which a few bytes could make as long as they like."""

    def __init__(self, named: dict[str, Any]) -> None:
        self.is_recursive = False
        self._named = named
        self._open: set[str] = set()
        self._seen: dict[str, bool] = {}

    def visit(self, schema: Any) -> bool:
        """Looks at a schema and all below it. Whether its values may take no bytes. Raises
        `SchemaUnusable` for such a list."""
        if isinstance(schema, str):
            return self._visit_named(schema) if schema in self._named else schema == "null"
        if isinstance(schema, list):
            for branch in schema:
                self.visit(branch)
            return False
        kind = schema["type"]
        if kind in ("record", "error"):
            return self._visit_named(schema["name"])
        if kind == "array":
            if self.visit(schema["items"]):
                raise SchemaUnusable(
                    "it has an array of what takes no bytes, whose length has no bound"
                )
            return False
        if kind == "map":
            self.visit(schema["values"])
            return False
        if kind == "fixed":
            return not schema["size"]
        return False if kind == "enum" else self.visit(kind)

    def _visit_named(self, name: str) -> bool:
        if name in self._open:
            self.is_recursive = True
            return False
        if name not in self._seen:
            schema = self._named[name]
            if schema["type"] not in ("record", "error"):
                self._seen[name] = schema["type"] == "fixed" and not schema["size"]
            else:
                self._open.add(name)
                empty = [self.visit(each["type"]) for each in schema["fields"]]
                self._seen[name] = all(empty)
                self._open.discard(name)
        return self._seen[name]


def _read_recursive(stream: IO[bytes], schema: Any, named: Mapping[str, Any]) -> Any:
    """A value of a type that holds itself. Ends at Python's own depth, with `RecursionError`: the
    compiled reader has no bound, and ends the process. `named`: the schema's types by name."""
    decoder: Any = _Decoder(stream)  # type: ignore[no-untyped-call]
    types = {"writer": named, "reader": {}}
    return in_python.read_data(decoder, schema, types)  # type: ignore[no-untyped-call]


def _read_decimal(data: bytes, writer_schema: Any, reader_schema: Any = None) -> Any:
    """A decimal of as many bytes as its value says. Raises `ValueError`."""
    if len(data) > _MAX_DECIMAL_BYTES:
        raise ValueError(f"a decimal has {len(data):,} bytes, and at most {_MAX_DECIMAL_BYTES:,}")
    return LOGICAL_READERS["fixed-decimal"](data, writer_schema, reader_schema)


LOGICAL_READERS["bytes-decimal"] = _read_decimal


class _Decoder(BinaryDecoder):
    def read_long(self) -> int:
        number = 0
        for shift in range(0, _LONG_BITS, 7):
            byte: bytes = self.fo.read(1)
            if not byte:
                raise EOFError
            number |= (byte[0] & 0x7F) << shift
            if byte[0] < 0x80:
                return (number >> 1) ^ -(number & 1)
        raise ValueError("a whole number has more than ten bytes")

    read_int = read_long
