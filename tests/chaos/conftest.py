"""The same parts as the path's, of a test's own, since a test here kills them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

import engines
from fleet import Fleet
from qwarden.stack import triton as triton_part
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka
from qwarden.stack.triton import Triton
from qwarden.stack.valkey import Valkey


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    reason = triton_part.available()
    if reason is not None:
        pytest.skip(reason)
    home = Home(tmp_path_factory.mktemp("chaos"))
    with Kafka(home) as kafka, Valkey(home) as valkey, Triton(home, engines.GEN) as triton:
        made = Fleet(home, kafka, valkey, triton)
        asyncio.run(made.make_topics(4))
        yield made
