"""Values under a schema of a registry, read by the libraries of its kind.

What is read is given as JSON would hold it: instants and dates as ISO 8601, bytes as Base64,
decimals and UUIDs as text; of Protobuf its own JSON mapping, with the fields' names as they stand
in the .proto file.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import msgspec

from qwarden.contracts.confluent import HEAD_BYTES, Reader, message_indexes
from qwarden.contracts.refusal import ErrorClass, Refused
from qwarden.registry.port import Schema

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto
    from google.protobuf.message import Message

_WELL_KNOWN = (
    "any", "api", "descriptor", "duration", "empty", "field_mask", "source_context", "struct",
    "timestamp", "type", "wrappers",
)  # fmt: skip
"""The files of google/protobuf/ that every .proto file may import and no registry holds."""


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
        except _Unusable as unusable:
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


class _Unusable(Exception):
    """No value can be read with this schema."""


def _unusable(reason: str) -> Reader:
    def body(value: bytes) -> Any:
        raise _Unusable(reason)

    return body


def _avro(schema: Schema) -> Reader:
    # Imported where it is used: most services read JSON alone.
    import fastavro

    from qwarden.registry import bounded

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
    fastavro.read.LOGICAL_READERS["bytes-decimal"] = bounded.read_decimal

    def body(value: bytes) -> Any:
        stream = io.BytesIO(value)
        record: Any
        if shape.is_recursive:
            record = bounded.read_recursive(stream, whole, named)
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
        `_Unusable` for such a list."""
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
                raise _Unusable("it has an array of what takes no bytes, whose length has no bound")
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


def _protobuf(schema: Schema) -> Reader:
    from google.protobuf import descriptor_pool, json_format, message_factory

    pool = descriptor_pool.DescriptorPool()
    added: set[str] = set()

    def add(file: FileDescriptorProto) -> None:
        for name in file.dependency:
            if name not in added and name in _well_known():
                add(_well_known()[name])
        added.add(file.name)
        pool.Add(file)  # type: ignore[no-untyped-call]

    for name, text in schema.imports:
        imported = _file(text)
        imported.name = name  # as its importer calls it
        add(imported)
    file = _file(schema.text)
    file.name = "qwarden/value.proto"  # no registry keeps the one that it had
    add(file)

    @cache
    def kind(path: tuple[int, ...]) -> type[Message]:
        found = file.message_type[path[0]]
        names = [file.package, found.name] if file.package else [found.name]
        for index in path[1:]:
            found = found.nested_type[index]
            names.append(found.name)
        descriptor = pool.FindMessageTypeByName(".".join(names))  # type: ignore[no-untyped-call]
        return message_factory.GetMessageClass(descriptor)

    def body(value: bytes) -> Any:
        path, start = message_indexes(value)
        message = kind(path)()
        message.ParseFromString(value[start:])
        return json_format.MessageToDict(
            message,
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
            descriptor_pool=pool,
        )

    return body


@cache
def _well_known() -> dict[str, FileDescriptorProto]:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

    modules = [import_module(f"google.protobuf.{name}_pb2") for name in _WELL_KNOWN]
    return {
        each.DESCRIPTOR.name: FileDescriptorProto.FromString(each.DESCRIPTOR.serialized_pb)
        for each in modules
    }


def _file(text: str) -> FileDescriptorProto:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

    return FileDescriptorProto.FromString(base64.b64decode(text, validate=True))


def _json(schema: Schema) -> Reader:
    return msgspec.json.decode


_BODIES: dict[str, Callable[[Schema], Reader]] = {
    "AVRO": _avro,
    "PROTOBUF": _protobuf,
    "JSON": _json,
}


def _said(error: Exception) -> str:
    if isinstance(error, EOFError | IndexError) or not str(error):
        return f"it ends too early, or names what is not there ({type(error).__name__})"
    return str(error)


def _refused(reason: str) -> Refused:
    return Refused(ErrorClass.NOT_AN_EVENT, reason)
