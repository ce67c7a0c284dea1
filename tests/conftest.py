"""The real parts, one of each for the whole run, and what a run must not hide."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import httpx
import hypothesis
import pytest

import engines
from qwarden.stack import triton as triton_part
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka
from qwarden.stack.triton import Triton
from qwarden.stack.valkey import Valkey

if TYPE_CHECKING:
    from moderators import Fleetlet

pytest_plugins = ("databases",)

SHARED = Path(__file__).parents[2] / "shared" / "data"
SLOW = (
    "broker",
    "e2e",
    "chaos",
    "stack",
    "quality",
    "platforms",
    "alerts",
    "autoscaling",
    "operations",
)
LONG = "engine"
"""The folders whose tests import torch: five seconds and 3 GiB a worker before the first one."""

# No test is timed: on a busy machine any example may be late. The suite's examples are the same on
# each run, so that it is red for a change alone; `make check` tries a tenth of them, `make storm`
# looks for new ones, ten times as many. `make mutants` asks whether a test fails, and for no
# smaller example.
_UNTIMED = hypothesis.settings(
    deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("suite", _UNTIMED, derandomize=True)
hypothesis.settings.register_profile("check", _UNTIMED, derandomize=True, max_examples=10)
hypothesis.settings.register_profile("hunt", _UNTIMED, max_examples=1000)
hypothesis.settings.register_profile(
    "mutants",
    _UNTIMED,
    derandomize=True,
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
)
hypothesis.settings.load_profile("suite")

# A client of httpx reads the web's authorities, 50 ms of CPU, also where it speaks plain HTTP, and
# many tests ask a service again and again: they are read once.
mock.patch(
    "httpx._transports.default.create_ssl_context", functools.cache(httpx.create_ssl_context)
).start()

if "PYTEST_XDIST_WORKER" in os.environ:
    # There is a worker for each core: with more threads torch would wait for itself.
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks tests of whole folders, and deselects those whose data is not beside the project."""
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        folders = item.path.relative_to(Path(__file__).parent).parts
        if folders[0] in SLOW and not item.get_closest_marker("storm"):
            item.add_marker("parts")
        if LONG in folders:
            item.add_marker("long")
        missing = item.get_closest_marker("shared") and not SHARED.is_dir()
        (left_out if missing else kept).append(item)
    items[:] = kept
    if left_out:
        config.hook.pytest_deselected(items=left_out)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Where nothing may be skipped (CI), a skip is a failure."""
    if hasattr(session.config, "workerinput"):
        return  # one of several processes: the one that started them counts for all
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    assert reporter is not None
    skipped = reporter.stats.get("skipped", [])
    if skipped and os.environ.get("TESTS_SKIP_NOTHING") and exitstatus == 0:
        reporter.write_line(f"{len(skipped)} tests were skipped and none may be here", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def parts_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="session")
def kafka(parts_home: Home) -> Iterator[Kafka]:
    with Kafka(parts_home) as part:
        yield part


@pytest.fixture(scope="session")
def cleared_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """The broker behind `own_kafka`."""
    with Kafka(Home(tmp_path_factory.mktemp("cleared"))) as part:
        yield part


@pytest.fixture(scope="module")
def own_kafka(cleared_kafka: Kafka) -> Kafka:
    """A broker without topics, for a module alone: the one of the module before it, whose topics
    are deleted. A start is two seconds of CPU."""
    from fleet import clear  # and aiokafka with it, which tests without a broker do without

    clear(cleared_kafka)
    return cleared_kafka


@pytest.fixture(scope="session")
def valkey(parts_home: Home) -> Iterator[Valkey]:
    with Valkey(parts_home) as part:
        yield part


@pytest.fixture(scope="session")
def triton(parts_home: Home) -> Iterator[Triton]:
    reason = triton_part.available()
    if reason is not None:
        pytest.skip(reason)
    with Triton(parts_home, engines.GEN) as part:
        yield part


@pytest.fixture
async def group(own: Fleetlet, request: pytest.FixtureRequest) -> str:
    """A group's name, of a test's own: it begins behind what the others of its file have left."""
    name = re.sub(r"\W", "-", request.node.name)[-60:]
    await own.at_the_end(name)
    return name
