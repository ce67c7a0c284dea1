"""A registry in memory."""

from __future__ import annotations

from collections.abc import Mapping

from qwarden.registry.port import RegistryAway, Schema


class MemoryRegistry:
    """Holds the schemas that it is given. `is_away` makes it answer nobody."""

    def __init__(self, schemas: Mapping[int, Schema]) -> None:
        self.schemas = dict(schemas)
        self.is_away = False

    async def schema(self, identity: int) -> Schema | None:
        if self.is_away:
            raise RegistryAway("the registry is away")
        return self.schemas.get(identity)

    async def close(self) -> None:
        return None
