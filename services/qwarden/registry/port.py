"""The port to a schema registry. Every adapter passes `tests/contract/test_registry_port.py`."""

from __future__ import annotations

from typing import Protocol

import msgspec


class Schema(msgspec.Struct, frozen=True):
    """A schema as a registry keeps it.

    `kind`: AVRO, PROTOBUF or JSON. `text`: as its kind writes it, but of Protobuf a serialized
    FileDescriptorProto in Base64. `imports`: of each schema that it refers to, itself or through
    others, its name and text, each behind those that it refers to itself.
    """

    kind: str
    text: str
    imports: tuple[tuple[str, str], ...] = ()


class SchemaUnusable(Exception):
    """No value can be read with this schema; the message says why."""


class RegistryAway(Exception):
    """The registry does not answer, or not as a registry does: ask again."""


class Registry(Protocol):
    """Schemas by their ids. What an id stands for never changes."""

    async def schema(self, identity: int) -> Schema | None:
        """The schema of an id, with all that it refers to; None where the registry says that it
        holds no such schema. Raises `RegistryAway`."""
        ...

    async def close(self) -> None: ...
