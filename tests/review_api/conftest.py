from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from qwarden.review.store.database import Database
from review_api.desk import Desk, open_desk


@pytest.fixture
async def desk(database: Database) -> AsyncIterator[Desk]:
    async with open_desk(database) as made:
        yield made
