"""The schemas that this process has met. An id's schema never changes, so that each is asked for
once, and a registry that goes away later stops nobody who needs no new one."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Collection, Mapping

from qwarden.backoff import Backoff
from qwarden.contracts.confluent import Reader
from qwarden.registry.port import Registry, RegistryAway, Schema
from qwarden.registry.reader import reader_of

_log = logging.getLogger(__name__)


class Schemas:
    """What reads the values of each schema; an id that is new is learned from the registry."""

    def __init__(self, registry: Registry, backoff: Backoff) -> None:
        self._registry = registry
        self._backoff = backoff
        self._readers: dict[int, Reader] = {}
        self._asking = asyncio.Lock()
        """One request at a time: what is asked for is asked once, and then known to all."""
        self.outage: str | None = None
        """Why the registry gives no answer now; None where it does, or was not asked."""

    @property
    def readers(self) -> Mapping[int, Reader]:
        """By schema id; grows with what is learned."""
        return self._readers

    async def learn(self, ids: Collection[int]) -> frozenset[int]:
        """Learns these schemas, and waits for a registry that is away. Those that it does not
        hold."""
        return frozenset([each for each in sorted(ids) if not await self._learn(each)])

    async def learn_within(self, ids: Collection[int], within_s: float) -> frozenset[int]:
        """As `learn`, for a person who waits: raises `RegistryAway` after `within_s` seconds."""
        try:
            async with asyncio.timeout(within_s):
                return await self.learn(ids)
        except TimeoutError:
            raise RegistryAway(
                self.outage or f"the schema registry has not answered within {within_s:g} s"
            ) from None

    async def close(self) -> None:
        await self._registry.close()

    async def _learn(self, identity: int) -> bool:
        async with self._asking:
            if identity in self._readers:
                return True
            schema = await self._answer(identity)
            if schema is None:
                return False
            self._readers[identity] = reader_of(schema, identity)
            return True

    async def _answer(self, identity: int) -> Schema | None:
        failures = 0
        while True:
            try:
                schema = await self._registry.schema(identity)
            except RegistryAway as away:
                failures += 1
                if self.outage is None:
                    _log.warning("waiting for schema %d: %s", identity, away)
                self.outage = str(away)
                await asyncio.sleep(self._backoff.wait_s(failures, random.random()))
                continue
            if self.outage is not None:
                _log.info("the registry answers again")
                self.outage = None
            return schema
