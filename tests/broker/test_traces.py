"""One trace from the producer to Triton and back, over real parts, and what the parts count."""

from __future__ import annotations

import asyncio
import json
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from prometheus_client import REGISTRY

import engines
import fleet
from fleet import Tap
from moderators import Fleetlet, policies_in
from otlp import Sink, attributes, otlp_sink
from qwarden import __version__, catalogue
from qwarden.contracts import topics
from qwarden.metric import Kind
from qwarden.stack.child import Child
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka
from qwarden.stack.triton import Triton, available
from qwarden.stack.valkey import Valkey

TRACES = [
    ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"),
    ("5bf92f3577b34da6a3ce929d0e0e4736", "10f067aa0ba902b7"),
    ("6bf92f3577b34da6a3ce929d0e0e4736", "20f067aa0ba902b7"),
]
"""Ids of traces, and of the spans of the producer in them. More than one, since Triton sends its
spans once: on a busy machine one never came (1 run of some 10)."""
CONTENT = "a sentence that stands in no span"

pytestmark = pytest.mark.skipif(available() is not None, reason=available() or "")


class Traced(Triton):
    """Triton with its own traces on: those of requests that bring a context, and no others."""

    sink: Sink

    def _prepare(self) -> Child:
        child = super()._prepare()
        child._command += [
            "--trace-config=mode=opentelemetry",
            "--trace-config=level=TIMESTAMPS",
            "--trace-config=rate=1000000000",
            f"--trace-config=opentelemetry,url={self.sink.endpoint}",
            "--trace-config=opentelemetry,bsp_schedule_delay=50",
        ]
        return child


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    with otlp_sink() as made:
        yield made


@pytest.fixture(scope="module")
def traced(sink: Sink, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    home = Home(tmp_path_factory.mktemp("traced"))
    triton = Traced(home, engines.GEN)
    triton.sink = sink
    with triton:
        yield triton


@pytest.fixture
async def own(kafka: Kafka, parts_home: Home, tmp_path: Path) -> Fleetlet:
    made = Fleetlet(kafka, parts_home, policies_in(tmp_path))
    await made.make_topics()
    return made


async def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.05)


async def _comes(holds: Callable[[], bool]) -> bool:
    """Whether it does within some seconds; Triton's spans come within 0.1."""
    for _ in range(200):
        if holds():
            return True
        await asyncio.sleep(0.05)
    return False


async def test_a_trace_breaks_off_on_its_way_to_triton(
    own: Fleetlet, group: str, traced: Triton, sink: Sink, valkey: Valkey
) -> None:
    settings = {
        "QWARDEN_TRITON__URL": traced.grpc,
        "QWARDEN_REDIS__URL": valkey.url,
        "QWARDEN_TELEMETRY__OTLP_ENDPOINT": sink.endpoint,
        "QWARDEN_TELEMETRY__TRACE_RATIO": "0",
        "QWARDEN_TELEMETRY__GROUP_LOOK_S": "3",
    }
    delivered = _counted("records_total", topic=topics.CONTENT, result="delivered")
    traces = 0
    async with (
        Tap(own.kafka.bootstrap, *fleet.OUTPUTS) as tap,
        Tap(own.kafka.bootstrap, topics.VERDICTS) as verdicts,
        own.moderating(group, None, **settings),
        AIOKafkaProducer(bootstrap_servers=own.kafka.bootstrap) as producer,
    ):
        for trace_id, parent in TRACES:
            context = [("traceparent", f"00-{trace_id}-{parent}-01".encode())]
            sent = [
                await producer.send_and_wait(
                    topics.CONTENT,
                    json.dumps(
                        {"event_id": key, "tenant": "demo", "text": f"{CONTENT} {key}"}
                    ).encode(),
                    key.encode(),
                    headers=headers,
                )
                for key, headers in ((f"traced {parent}", context), (f"untraced {parent}", []))
            ]
            origins = [f"{topics.CONTENT}/{each.partition}/{each.offset}" for each in sent]
            await fleet.outcomes(tap, origins)
            traces += 1
            if await _comes(lambda: any(span.name == "InferRequest" for span in sink.spans())):
                break
        await verdicts.read_to_the_end()
        carried = {
            bytes(record.key).decode(): dict(record.headers).get("traceparent")
            for record in verdicts.records[topics.VERDICTS]
            if record.key is not None
        }
        labels = {"group": group, "topic": topics.CONTENT}
        await until(
            lambda: (
                _counted("group_lag_records", **labels) == 0
                and _counted("group_looks_total", group=group, result="done") > 0
            ),
            "the moderator tells how its group stands",
        )
    counted = _counted("records_total", topic=topics.CONTENT, result="delivered")
    assert counted == delivered + 2 * traces
    assert _counted("breaker_open", dependency="guard") == 0
    assert _counted("breaker_open", dependency="redis") == 0
    assert _counted("breaker_open", dependency="kafka") == 0
    assert _counted("verdict_seconds_count", lane="interactive") >= 2
    assert _counted("build_info", version=__version__) == 1
    assert carried[f"untraced {parent}"] is None
    spans = sink.spans()
    ours = {span.name: span for span in spans if span.trace_id.hex() == trace_id}
    assert {"queue wait", "moderate", "cache", "guard", "publish"} <= ours.keys()
    told = carried[f"traced {parent}"]
    assert told is not None
    assert bytes(told).decode().split("-")[1:3] == [trace_id, ours["moderate"].span_id.hex()]
    [request] = [
        span
        for span in spans
        if span.name == "guard request" and [link.span_id.hex() for link in span.links] == [parent]
    ]
    assert [link.span_id for link in ours["guard"].links] == [request.span_id]
    assert attributes(ours["guard"])["qwarden.cache"] == "miss"
    theirs = [span for span in spans if span.trace_id == request.trace_id]
    assert "InferRequest" in {span.name for span in theirs}, "Triton goes on with it"
    [infer] = [span for span in theirs if span.name == "InferRequest"]
    assert infer.parent_span_id == request.span_id
    for body in sink.bodies:
        assert CONTENT.encode() not in body


def test_triton_does_not_export_what_the_catalogue_names(traced: Triton) -> None:
    wanted = {
        each.name: each
        for each in (*catalogue.TRITON, *catalogue.engines())
        if each.of != ("qwen3guard_stream",) and not each.name.startswith("nv_gpu_")
    }
    deadline = time.monotonic() + 30
    while True:
        with urllib.request.urlopen(f"http://{traced.metrics}/metrics", timeout=10) as page:
            text = page.read().decode()
        kinds = dict(re.findall(r"^# TYPE (\S+) (\w+)$", text, re.MULTILINE))
        if wanted.keys() <= kinds.keys() or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    assert wanted.keys() <= kinds.keys()
    assert {name: kinds[name] for name in wanted} == {
        name: each.kind.value for name, each in wanted.items()
    }
    labels = {"model", "version"}
    [count] = re.findall(r"^nv_inference_count\{([^}]*)\}", text, re.MULTILINE)
    assert set(re.findall(r'(\w+)="', count)) == labels
    assert re.search(r"^qwarden_engine_pending_tokens 0", text, re.MULTILINE), "nothing waits"
    assert Kind.GAUGE.value == kinds["qwarden_engine_queue_oldest_seconds"]


def _counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"qwarden_{name}", labels) or 0.0
