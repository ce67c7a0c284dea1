"""Values of a Protobuf schema, by Google's library and a serialized FileDescriptorProto."""

from __future__ import annotations

import base64
from functools import cache
from importlib import import_module
from typing import Any

from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import Message

from qwarden.contracts.confluent import Reader, message_indexes
from qwarden.registry.port import Schema

_WELL_KNOWN = (
    "any", "api", "descriptor", "duration", "empty", "field_mask", "source_context", "struct",
    "timestamp", "type", "wrappers",
)  # fmt: skip
"""The files of google/protobuf/ that every .proto file may import and no registry holds."""


def protobuf(schema: Schema) -> Reader:
    """What reads the values of a Protobuf schema, from the message's indexes on."""
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
    modules = [import_module(f"google.protobuf.{name}_pb2") for name in _WELL_KNOWN]
    return {
        each.DESCRIPTOR.name: FileDescriptorProto.FromString(each.DESCRIPTOR.serialized_pb)
        for each in modules
    }


def _file(text: str) -> FileDescriptorProto:
    return FileDescriptorProto.FromString(base64.b64decode(text, validate=True))
