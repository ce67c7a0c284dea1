"""A broker, a Valkey and a Triton, with the topics made."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from fleet import Fleet
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka
from qwarden.stack.triton import Triton
from qwarden.stack.valkey import Valkey


@pytest.fixture(scope="module")
def path(
    tmp_path_factory: pytest.TempPathFactory, own_kafka: Kafka, triton: Triton
) -> Iterator[Fleet]:
    home = Home(tmp_path_factory.mktemp("path"))
    with Valkey(home) as valkey:
        made = Fleet(home, own_kafka, valkey, triton)
        asyncio.run(made.make_topics(8))
        yield made
