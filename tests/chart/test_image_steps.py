"""What the images' steps install is what runs: they are run as a script, and the result is started
with the settings and the commands of compose.yaml, against real parts. Those that install are
minutes each, and of `make storm`; what every change can break, the wheel, is of the suite."""

from __future__ import annotations

import asyncio
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from zipfile import ZipFile

import pytest

from chart import image_steps
from chart.composed import FILE, ROOT, project
from chart.dockerfiles import FILES
from chart.image_steps import Image
from databases import Databases
from qwarden.stack import triton as triton_part
from qwarden.stack.child import Child
from qwarden.stack.home import Home
from qwarden.stack.java import find_java, kafka_jars
from qwarden.stack.kafka_wire import broker_ready
from qwarden.stack.local import STAND_IN, STREAM_STAND_IN
from qwarden.stack.ports import free_ports
from qwarden.stack.probe import answers_200
from qwarden.stack.process import descendants
from qwarden.stack.triton import Triton
from qwarden.stack.valkey import Valkey

READY_S: Final = 120
"""Of one service; two seconds on an idle machine."""

INSTALLED_S: Final = 1800
"""Of the steps, most of them pip's downloads: a minute and a half for the services on two cores."""

pytestmark = pytest.mark.timeout(INSTALLED_S)

GIVEN: Final = {
    "QWARDEN_CONTENT_KEY": "0f" * 32,
    "GEN_CHECKPOINT": "/checkpoints/checkpoint",
    "STREAM_CHECKPOINT": "/checkpoints/stream",
}
"""The toys, as compose.yaml says that they are named."""

_NO_FIX: Final = "compose.yaml and the image do not fit each other."


def environment(service: str) -> dict[str, str]:
    found: dict[str, str] = project(GIVEN)["services"][service]["environment"]
    return found


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return image_steps.run(FILES["services"], tmp_path_factory.mktemp("services-image"))


def packages(image: Image) -> Path:
    (found,) = image.prefix.glob("lib/python3.*/site-packages")
    return found


@pytest.mark.parts
def test_a_file_that_the_image_lacks_and_its_sources_have(tmp_path: Path) -> None:
    wheel = image_steps.stage(FILES["services"], "wheel", tmp_path) / "src"
    (made,) = (wheel / "dist").glob("*.whl")
    inside = set(ZipFile(made).namelist())
    for source in (
        wheel / "services" / "qwarden",
        wheel / "triton_models" / "engine" / "qwarden_engine",
    ):
        wanted = {
            str(path.relative_to(source.parent)) for path in source.rglob("*") if path.is_file()
        }
        assert len(wanted) > 10
        assert sorted(wanted - inside) == []


@pytest.mark.storm
def test_a_package_of_another_version_than_was_tested(image: Image) -> None:
    listed = subprocess.run(
        [image.prefix / "bin" / "python", "-m", "pip", "freeze", "--exclude", "qwarden"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    tested = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    assert len(listed) > 40
    assert {each.lower() for each in listed} <= {each.lower() for each in tested}
    assert not any(each.startswith(("torch=", "transformers=")) for each in listed)


def _properties(kafka: dict[str, str], **changed: str) -> str:
    """server.properties as Kafka's own image makes it of its environment."""
    settings = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value
        for name, value in kafka.items()
    }
    settings |= {name.replace("_", "."): value for name, value in changed.items()}
    return "".join(f"{name}={value}\n" for name, value in settings.items())


@pytest.fixture(scope="module")
def broker(parts_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The real broker with compose's settings; its own addresses alone are of this machine."""
    folder = tmp_path_factory.mktemp("compose-kafka")
    inside, outside, controller = free_ports(3)
    given = environment("kafka")
    assert given["KAFKA_LISTENERS"] == "INSIDE://:9092,OUTSIDE://:19092,CONTROLLER://:9093"
    assert given["KAFKA_ADVERTISED_LISTENERS"] == "INSIDE://kafka:9092,OUTSIDE://127.0.0.1:19092"
    assert given["KAFKA_CONTROLLER_QUORUM_VOTERS"] == "1@kafka:9093"
    listeners = f"INSIDE://127.0.0.1:{inside},OUTSIDE://127.0.0.1:{outside}"
    settings = folder / "server.properties"
    settings.write_text(
        _properties(
            given,
            listeners=f"{listeners},CONTROLLER://127.0.0.1:{controller}",
            advertised_listeners=listeners,
            controller_quorum_voters=f"1@127.0.0.1:{controller}",
            log_dirs=str(folder / "data"),
        ),
        encoding="utf-8",
    )
    jars = os.pathsep.join(map(str, kafka_jars(parts_home, lambda _said, _done: None)))
    java = [str(find_java()), "-Xmx512m", "-XX:+UseSerialGC", "-cp", jars]
    java[1:1] = ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
    tool = ["kafka.tools.StorageTool", "format", "-t", "cXdhcmRlbi1jb21wb3NlMQ"]
    subprocess.run([*java, *tool, "-c", str(settings)], check=True, capture_output=True)
    child = Child(parts_home, "compose-kafka", [*java, "kafka.Kafka", str(settings)])
    child.start()
    try:
        child.wait_ready(lambda: broker_ready(inside), READY_S, fix=_NO_FIX)
        assert broker_ready(outside)
        yield f"127.0.0.1:{inside}"
    finally:
        child.stop(20.0)


@pytest.fixture(scope="module")
def guards(parts_home: Home) -> Iterator[Triton]:
    """Triton with compose's settings for it."""
    reason = triton_part.available()
    if reason is not None:
        pytest.skip(reason)
    settings = {n: v for n, v in environment("triton-cpu").items() if n.startswith("QWARDEN_")}
    mounts = {STAND_IN.name: STAND_IN, STREAM_STAND_IN.name: STREAM_STAND_IN}
    for name, path in settings.items():
        if path.startswith("/checkpoints/"):
            settings[name] = str(mounts[path.removeprefix("/checkpoints/")])
    with Triton(parts_home, settings) as part:
        yield part


class Fleet:
    """Compose's services out of the image, each a process of this machine."""

    def __init__(self, home: Home, image: Image, addresses: dict[str, str]) -> None:
        self._home = home
        self._image = image
        self._addresses = addresses
        self.started: list[Child] = []

    def child(
        self, service: str, port: int | None = None, command: list[str] | None = None
    ) -> Child:
        """Not started yet. `command`: another one than compose's."""
        described: dict[str, Any] = project(GIVEN)["services"][service]
        settings = {name: self._moved(value) for name, value in environment(service).items()}
        if port is not None:
            settings |= {"QWARDEN_HTTP__HOST": "127.0.0.1", "QWARDEN_HTTP__PORT": str(port)}
        program = self._image.prefix / "bin" / "qwarden"
        words = command or described["command"]
        return Child(
            self._home,
            f"compose-{service}",
            [str(program), *words],
            env={**self._image.environment, "PYTHONPATH": "", **settings},
        )

    def finish(self, service: str, command: list[str] | None = None) -> str:
        """Runs one that ends by itself, and returns what it said."""
        child = self.child(service, command=command)
        child.start()
        code = child.wait(READY_S)
        said = child.tail(200)
        child.kill()
        assert code == 0, said
        return said

    def serve(self, service: str, page: str) -> int:
        """Starts one that runs for ever and waits for a page of it; its port."""
        (port,) = free_ports(1)
        child = self.child(service, port)
        self.started.append(child)
        child.start()
        child.wait_ready(lambda: answers_200(port, page), READY_S, fix=_NO_FIX)
        return port

    def _moved(self, value: str) -> str:
        for name, here in self._addresses.items():
            value = value.replace(name, here)
        return value


@pytest.mark.storm
def test_an_image_whose_services_do_not_start_or_judge_nothing(
    parts_home: Home,
    image: Image,
    broker: str,
    valkey: Valkey,
    guards: Triton,
    databases: Databases,
) -> None:
    database = asyncio.run(databases.empty())
    addresses = {
        "kafka:9092": broker,
        "redis://valkey:6379/0": valkey.url,
        "triton:8001": guards.grpc,
        "postgresql://qwarden:qwarden@postgres/qwarden": database,
        "/etc/qwarden/policy": str(FILE.parent / "policies"),
    }
    fleet = Fleet(parts_home, image, addresses)
    try:
        assert "content.events" in fleet.finish("topics")
        assert "all topics are there" in fleet.finish("topics")
        fleet.finish("review-migrate")
        fleet.serve("moderator", "/readyz")
        fleet.serve("streamer", "/readyz")
        console = fleet.serve("review-service", "/readyz")
        with urllib.request.urlopen(f"http://127.0.0.1:{console}/") as page:
            assert b"<!doctype html>" in page.read().lower()
        fleet.finish("moderator", ["trial", "--tenant", "demo", "--timeout-s", "60"])
    finally:
        for child in fleet.started:
            child.stop(30.0)
    for child in fleet.started:
        assert child.exit_code == 0, child.tail()


class OfImage(Triton):
    """Triton from the wheel whose Python models run on an image's packages alone."""

    def __init__(self, home: Home, image: Image, settings: dict[str, str]) -> None:
        super().__init__(home, settings, repository=image.here("/models"))
        self._image = image

    def _prepare(self) -> Child:
        child = super()._prepare()
        # The wheel's stub, unlike the image's, reads no PYTHONPATH, and needs numpy before it is
        # told of one: it finds its environment through the first python3 of PATH, which is a
        # virtual environment without packages, and there the image's.
        (site,) = self._image.python.glob("lib/python3.*/site-packages")
        (site / "image.pth").write_text(str(self._image.prefix), encoding="utf-8")
        path = self._image.environment["PATH"]
        child._env |= {"PYTHONPATH": str(self._image.prefix), "PATH": path}
        return child


@pytest.mark.storm
def test_a_triton_image_whose_engines_do_not_load(parts_home: Home, tmp_path: Path) -> None:
    """Some 5 GB of torch."""
    reason = triton_part.available()
    if reason is not None:
        pytest.skip(reason)
    image = image_steps.run(FILES["triton"], tmp_path)
    settings = {
        "QWARDEN_ENGINE__CHECKPOINT": str(STAND_IN),
        "QWARDEN_STREAM__CHECKPOINT": str(STREAM_STAND_IN),
    }
    with OfImage(parts_home, image, settings) as triton:
        port = int(triton.http.rpartition(":")[2])
        for model in ("qwen3guard_gen", "qwen3guard_stream"):
            assert answers_200(port, f"/v2/models/{model}/ready")
        assert triton.child.pid is not None
        loaded = "".join(
            Path(f"/proc/{each.pid}/maps").read_text() for each in descendants(triton.child.pid)
        )
    assert f"{image.prefix}/torch/" in loaded
    assert "/site-packages/torch/" not in loaded
