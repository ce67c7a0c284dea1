"""Parts of these tests' own, since a test here makes their faults."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import engines
from chaos.test_guard_failures import MISCHIEF, Mischief
from fleet import Fleet
from qwarden.stack import triton as triton_part
from qwarden.stack.home import Home, checkout
from qwarden.stack.kafka import Kafka
from qwarden.stack.triton import Triton
from qwarden.stack.valkey import Valkey


@dataclass(frozen=True)
class Parts:
    """A fleet's parts, and a Triton that a test makes busy, or that fails on texts by name."""

    fleet: Fleet
    mischief: Mischief

    @property
    def triton(self) -> Triton:
        return self.mischief.triton


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    """Of one file: what another one left on the topics would be a fault of its own."""
    reason = triton_part.available()
    if reason is not None:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("alerts")
    models = folder / "models"
    shutil.copytree(checkout() / "triton_models" / "repository", models)
    source = models / "qwen3guard_gen" / "1" / "model.py"
    source.write_text(source.read_text() + MISCHIEF.format(folder=str(folder)))
    home = Home(folder / "home")
    with (
        Kafka(home) as kafka,
        Valkey(home) as valkey,
        Triton(home, engines.GEN, repository=models) as triton,
    ):
        made = Fleet(home, kafka, valkey, triton)
        asyncio.run(made.make_topics(4))
        yield Parts(made, Mischief(folder, triton))


@pytest.fixture
def watch_home(tmp_path: Path) -> Home:
    """Of one Prometheus."""
    return Home(tmp_path / "watch")
