"""README.md's examples, run as they stand: what a newcomer types first must not fail."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from docs import figures, java
from docs.pages import ROOT, Block, blocks_of
from moderators import Fleetlet, Guard
from qwarden import kafka
from qwarden.contracts import topics
from qwarden.contracts.event import Event, decode_event
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka

BROKER = "127.0.0.1:9092"
"""What the Java calls it, and says that it is to be replaced."""


def test_a_figure_is_of_an_older_run() -> None:
    """A page that is written of results, and README.md's table of the same."""
    assert figures.PAGE.read_text() == figures.page(), f"write it: {figures.COMMAND}"
    assert figures.README.read_text() == figures.readme(), f"write it: {figures.COMMAND}"


def _blocks(kind: str) -> list[Block]:
    return [block for block in blocks_of(ROOT / "README.md") if block.kind == kind]


@pytest.fixture(scope="module")
def own(own_kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Fleetlet:
    """A broker, with the policies that `make demo` has."""
    home = Home(tmp_path_factory.mktemp("readme"))
    made = Fleetlet(own_kafka, home, ROOT / "deploy" / "policies")
    asyncio.run(made.make_topics())
    return made


async def _events(own: Fleetlet) -> dict[str, Event]:
    broker = own.settings("none").kafka
    async with kafka.reading(broker, topics.CONTENT, from_beginning=True, follow=False) as records:
        values = [record.value async for record in records]
    found = (decode_event(value, max_bytes=topics.MAX_EVENT_BYTES) for value in values)
    return {event.event_id: event for event in found}


@pytest.mark.parts
async def test_a_python_producer_that_is_copied_publishes_no_event(
    own: Fleetlet, tmp_path: Path
) -> None:
    (block,) = _blocks("python")
    program = tmp_path / "publish.py"
    program.write_text(block.text)
    stack = tmp_path / ".qwarden" / "stack.json"
    stack.parent.mkdir()
    stack.write_text(json.dumps({"kafka": own.kafka.bootstrap}))
    _run([sys.executable, str(program)], tmp_path, {})
    assert (await _events(own))["post-17"].text == "Is this fine?"


@pytest.mark.parts
async def test_a_java_producer_that_is_copied_publishes_no_event(
    own: Fleetlet, tmp_path: Path
) -> None:
    (block,) = _blocks("java")
    assert BROKER in block.text
    java.ran(block.text.replace(BROKER, own.kafka.bootstrap), tmp_path, Home())
    messages = (await _events(own))["post-18"].messages
    assert messages is not None and [each.role for each in messages] == ["user", "assistant"]


@pytest.mark.parts
@pytest.mark.timeout(600)
async def test_a_command_that_is_copied_fails(own: Fleetlet, tmp_path: Path) -> None:
    """All blocks of commands but those that set up a checkout, and those that need real weights."""
    program = tmp_path / ".venv" / "bin" / "qwarden"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m qwarden "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    event = {"event_id": "post-19", "tenant": "demo", "text": "Good morning."}
    (tmp_path / "events.jsonl").write_bytes(msgspec.json.encode(event) + b"\n")
    scripts = [
        block.text
        for block in _blocks("sh")
        if not block.text.startswith("make ") and "--guard" not in block.text
    ]
    assert len(scripts) == 2
    settings = {
        "QWARDEN_CONTENT_KEY": own.home.content_key(),
        "QWARDEN_KAFKA__BOOTSTRAP_SERVERS": own.kafka.bootstrap,
        "QWARDEN_POLICY__PATH": str(own.policies),
        "QWARDEN_STACK__HOME": str(own.home.root),
    }
    async with own.moderating("qwarden-moderator", Guard()):
        for script in scripts:
            command = ["bash", "-euo", "pipefail", "-c", script]
            await asyncio.to_thread(_run, command, tmp_path, settings)
    assert {"mine-1", "post-19"} <= (await _events(own)).keys()
    assert b"post-19" in (tmp_path / "verdicts.jsonl").read_bytes()


def _run(command: list[str], folder: Path, settings: dict[str, str]) -> None:
    ran = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=290,  # nine starts of Python and one of torch, on two cores that others share
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
