"""The port to a store of assessments. Every adapter passes `tests/contract/test_cache_port.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from qwarden.guard.answer import Assessment


class CacheUnavailable(Exception):
    """The store cannot answer now. Nothing is lost: what it would have known is judged anew."""


class AssessmentCache(Protocol):
    """Assessments by key; every entry ends by itself after a time to live."""

    async def get_many(self, keys: Sequence[bytes]) -> list[Assessment | None]:
        """What is kept under each key, in their order. Raises `CacheUnavailable`."""
        ...

    async def put_many(self, entries: Sequence[tuple[bytes, Assessment]]) -> None:
        """Keeps these. Raises `CacheUnavailable`."""
        ...

    async def close(self) -> None: ...
