"""A session that ends the stream engine's process: it alone is given up, and nobody else's."""

from __future__ import annotations

import asyncio
import shutil
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from qwarden.guard.stream import Append, Appended, Part, Status
from qwarden.inference.port import GuardUnavailable
from qwarden.inference.triton_stream import TritonStream
from qwarden.stack import triton as triton_part
from qwarden.stack.home import Home, checkout
from qwarden.stack.triton import Triton
from unit.engine.stream_checkpoint import random_stream_checkpoint

DIES = """

import os
from pathlib import Path
from qwarden_engine.stream.jobs import Held
from qwarden_engine.stream.network import StreamNetwork

_writing, _step = Held.writing, StreamNetwork.step
_deadly = []

def writing(self, append, *room):
    if any("deadly" in part.text for part in append.parts):
        _deadly.append(self)
    return _writing(self, append, *room)

def step(self, spans, slab):
    if any(held.slot is span.slot for held in _deadly for span in spans):
        with (Path({folder!r}) / "deaths").open("a") as deaths:
            deaths.write(f"{{len(spans)}}\\n")
        os._exit(1)
    return _step(self, spans, slab)

Held.writing, StreamNetwork.step = writing, step
"""


@contextmanager
def dying(folder: Path) -> Iterator[Triton]:
    """A Triton whose stream engine ends its process at a session with the word."""
    reason = triton_part.available()
    if reason is not None:
        pytest.skip(reason)
    models = folder / "models"
    shutil.copytree(checkout() / "triton_models" / "repository", models)
    source = models / "qwen3guard_stream" / "1" / "model.py"
    source.write_text(source.read_text() + DIES.format(folder=str(folder)))
    settings = {
        "QWARDEN_STREAM__CHECKPOINT": str(random_stream_checkpoint(folder / "guard")),
        "QWARDEN_STREAM__KV_MIB": "16",
    }
    with Triton(Home(folder / "home"), settings, repository=models) as triton:
        yield triton


def whole(session: str) -> Append:
    parts = (Part("user", f"a {session} question", end=True), Part("assistant", "an answer"))
    return Append("tenant", session, 0, parts)


async def answered(guard: TritonStream, appends: Sequence[Append]) -> list[Appended]:
    """As a client does: it sends all again until it is answered."""
    deadline = time.monotonic() + 120
    while True:
        try:
            return await guard.append(appends)
        except GuardUnavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)


async def test_a_deadly_session_is_replayed_for_ever_or_takes_others_with_it(
    tmp_path: Path,
) -> None:
    names = [f"harmless {n}" for n in range(9)]
    with dying(tmp_path) as triton:
        stream = TritonStream(triton.grpc, timeout_s=30)
        try:
            before = await answered(stream, [whole(name) for name in names])
            assert not (tmp_path / "deaths").exists()
            *others, deadly = await answered(stream, [whole(each) for each in (*names, "deadly")])
            again = await answered(stream, [whole("deadly")])
            metrics = _metrics(triton)
        finally:
            await stream.close()
    for said in (deadly, *again):
        assert said.status is Status.REFUSED
        assert "ended the engine's process" in said.reason
    assert {said.status for said in (*before, *others)} == {Status.DONE}
    for one, other in zip(before, others, strict=True):
        assert [each.end for each in one.scored] == [each.end for each in other.scored]
    # Once with the others, then twice alone, with the known good session between.
    deaths = (tmp_path / "deaths").read_text().split()
    assert deaths[-2:] == ["1", "1"]
    assert len(deaths) == 3
    assert metrics["qwarden_stream_crashed_total"] == 2
    assert metrics["qwarden_stream_sessions"] == len(names)
    assert metrics["qwarden_stream_kv_used_bytes"] > 0


def _metrics(triton: Triton) -> dict[str, float]:
    time.sleep(1.5)  # over the second after which they are brought up to date
    with urllib.request.urlopen(f"http://{triton.metrics}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    return {
        name: float(value)
        for name, value in (line.rsplit(" ", 1) for line in lines if line.startswith("qwarden_"))
    }
