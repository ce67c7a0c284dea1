"""The moderator beside the hand-written loop: events a second, in turns in one run; its latency.

`make bench-pipeline` runs it. All read the same events from one real Kafka on this machine, each
run in a process of its own with a new group, under the same garbage collector; the order goes
round. The guard answers at once: what is measured is everything around it. Metrics are on, one
event in 1,000 belongs to a sampled trace, and the evidence sample is in force.

A rate runs from the first poll that gives records to the last commit. The moderator commits what is
left twice a second, so that the last commit may come up to half a second late: with 100,000 events
that is a few per cent of its run, and they are not taken off.

Latency is measured apart, on the same broker when all the rest is over: at 30 % of the moderator's
rate, from the time at which an event is due to its verdict read by a consumer.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import redis
import typer
from aiokafka.admin import NewTopic
from rich.console import Console

from loops import child, events, guards, pace, report
from loops.child import Child, Order, Ran
from loops.spans import Collector
from machine import machine
from qwarden import kafka
from qwarden import settings as settings_module
from qwarden.contracts import topics
from qwarden.stack import triton as triton_part
from qwarden.stack.home import Home
from qwarden.stack.kafka import FULL_SPEED, Kafka
from qwarden.stack.ports import free_ports
from qwarden.stack.probe import answers_200
from qwarden.stack.triton import Triton
from qwarden.stack.valkey import Valkey

RESULTS = Path(__file__).parent / "results" / "pipeline.json"
PARTITIONS = 8
KINDS = (*report.WHAT, "latency")
READY_S = 60.0
WARM_S, LOAD_S = 5.0, 30.0
QUICK_EVENTS, QUICK_WARM_S, QUICK_LOAD_S = 20_000, 2.0, 5.0

out = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
began = time.monotonic()


def say(sentence: str) -> None:
    """Progress, on standard error, with the seconds since the start."""
    print(f"{time.monotonic() - began:7.1f} s  {sentence}", file=sys.stderr, flush=True)


@dataclass
class Ground:
    """What all runs stand on: the broker with the events, the caches, the collector of spans."""

    home: Home
    broker: Kafka
    valkey: Valkey
    collector: Collector
    events: int
    groups: int = 0
    policies: Path = field(init=False)

    def __post_init__(self) -> None:
        self.policies = events.write_policies(self.home.data("policies"))

    def order(self, kind: str, **more: Any) -> Order:
        """A run with a group of its own, and with the parts that its kind uses."""
        self.groups += 1
        group = f"{kind}-{self.groups}"
        environ = {
            "QWARDEN_CONTENT_KEY": self.home.content_key(),
            "QWARDEN_KAFKA__BOOTSTRAP_SERVERS": self.broker.bootstrap,
            "QWARDEN_KAFKA__GROUP_ID": group,
            "QWARDEN_HTTP__PORT": "0",
            "QWARDEN_POLICY__PATH": str(self.policies),
            "QWARDEN_TELEMETRY__OTLP_ENDPOINT": self.collector.endpoint,
        }
        if kind in ("fill", "redis", "cold"):
            environ["QWARDEN_REDIS__URL"] = self.cold if kind == "cold" else self.valkey.url
            # A machine that hiccups must not turn a run of one kind into one of another.
            environ["QWARDEN_REDIS__TIMEOUT_S"] = "5"
        if kind == "fill":
            environ["QWARDEN_REDIS__WAITING"] = str(self.events)
        return Order(
            kind=kind,
            group=group,
            events=self.events,
            bootstrap=self.broker.bootstrap,
            environ=environ | more.pop("environ", {}),
            ready=self.home.tmp / "verdicts",
            **more,
        )

    @property
    def cold(self) -> str:
        """The database of Valkey that is emptied before each cold run."""
        return self.valkey.url.removesuffix("/0") + "/1"

    def run(self, kind: str) -> Ran:
        """One run that is measured."""
        before = self._written()
        if kind != "cold":
            ran = child.run(self.order(kind))
        else:
            redis.Redis.from_url(self.cold).flushdb()
            with self._triton() as address:
                ran = child.run(self.order(kind, environ={"QWARDEN_TRITON__URL": address}))
        if kind in report.LOOPS:
            ran.counts[child.TARGET] = self._written() - before
        spans = self.collector.taken()
        ran.counts.update({f"span: {name}": count for name, count in spans.items()})
        assert isinstance(ran, Ran)
        return ran

    def _written(self) -> int:
        (count,) = asyncio.run(events.ends(self.broker.bootstrap, (child.TARGET,))).values()
        return count

    @contextmanager
    def _triton(self) -> Iterator[str]:
        """A Triton for one run: its supervisor looks at the machine's processes all the time."""
        repository = self.home.root / "repository"
        if not repository.is_dir():
            guards.write_repository(repository)
        with Triton(self.home, {}, repository=repository) as server:
            yield server.grpc


@contextmanager
def ground(count: int) -> Iterator[Ground]:
    """A broker with the events and the verdicts of a first run, which also fills Redis and warms
    the broker."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="qwarden-bench-"))
        home = Home(Path(folder))
        say("starting Kafka and Valkey")
        made = Ground(
            home,
            stack.enter_context(Kafka(home, options=FULL_SPEED)),
            stack.enter_context(Valkey(home)),
            stack.enter_context(Collector()),
            count,
        )
        say(f"publishing {count:,} events")
        first = made.order("fill")
        asyncio.run(_prepare(first))
        say("a first run: it makes the verdicts, fills Redis and warms the broker")
        child.run(first)
        made.collector.taken()
        verdicts = asyncio.run(events.read_verdicts(first.bootstrap, count))
        events.keep_verdicts(verdicts, first.ready)
        yield made


async def _prepare(order: Order) -> None:
    settings = settings_module.load(order.environ)
    await kafka.create_topics(
        settings.kafka,
        partitions=PARTITIONS,
        replication_factor=1,
        min_insync_replicas=1,
        max_event_bytes=settings.moderator.max_event_bytes,
    )
    async with kafka.admin(settings.kafka) as admin:
        await admin.create_topics([NewTopic(child.TARGET, PARTITIONS, 1)])
    await events.publish(order.bootstrap, order.events)


def measure(on: Ground, kinds: list[str], rounds: int) -> list[dict[str, Ran]]:
    """All rounds; who comes first moves on by one with each."""
    found = []
    for number in range(rounds):
        ran = {}
        first = number % len(kinds)
        for kind in (*kinds[first:], *kinds[:first]):
            ran[kind] = on.run(kind)
            say(f"round {number + 1} of {rounds}: {kind} {ran[kind].rate:,.0f}/s")
        found.append(ran)
    return found


def measure_latency(
    on: Ground, rate: float, warm_s: float, seconds: float
) -> tuple[pace.Latency, pace.Latency]:
    """At LOAD of `rate`: to the verdicts of a moderator that starts where the events end now; and
    to the events themselves, which is one hop through the broker."""
    paced = {"rate": rate * report.LOAD, "warm_s": warm_s, "seconds": seconds}
    os.sync()  # else the kernel writes what the runs have left while latency is measured
    say(f"latency at {paced['rate']:,.0f}/s for {seconds:.0f} s: one hop")
    hop = child.run(on.order("load", **paced, answers=topics.CONTENT))
    (port,) = free_ports(1)
    order = on.order("served", environ={"QWARDEN_HTTP__PORT": str(port)})
    asyncio.run(pace.skip_to_the_end(on.broker.bootstrap, order.group, PARTITIONS))
    served = Child(order)
    _until_ready(port)
    say(f"latency at {paced['rate']:,.0f}/s for {seconds:.0f} s: the moderator")
    found = child.run(on.order("load", **paced))
    served.stop()
    return found, hop


def _until_ready(port: int) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        try:
            if answers_200(port, "/readyz"):
                return
        except OSError:  # it does not listen yet
            pass
        time.sleep(0.1)
    sys.exit(f"the moderator was not ready within {READY_S:.0f} s; its log stands above")


def _chosen(only: str) -> tuple[list[str], dict[str, str]]:
    """The kinds to run, with the ceiling that all are measured by; and why others are left out."""
    named = [each for each in only.split(",") if each]
    unknown = sorted(set(named) - set(KINDS))
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: kinds are {', '.join(KINDS)}")
    left_out = {}
    reason = triton_part.available()
    if reason is not None:
        left_out["cold"] = reason
    if importlib.util.find_spec("confluent_kafka") is None:
        left_out["librdkafka"] = "confluent-kafka is not installed: `pip install confluent-kafka`"
    wanted = {"ceiling", *named}
    if "latency" in named:
        wanted.add("moderator")  # whose rate it is a share of
    kept = [kind for kind in KINDS if kind in wanted and kind not in left_out]
    return kept, {kind: left_out[kind] for kind in left_out if kind in wanted}


def main(
    *,
    count: Annotated[int | None, typer.Option("--events", help="Events a run; 100,000.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Of runs of every kind; 5.")] = None,
    only: Annotated[str, typer.Option(help="Of these; the ceiling always.")] = ",".join(KINDS),
    quick: Annotated[
        bool, typer.Option(help="One round of few events: does it run? Writes only to --out.")
    ] = False,
    to: Annotated[Path | None, typer.Option("--out", help="The results.")] = None,
) -> None:
    """Measure the moderator beside the hand-written loop. Nothing else may run meanwhile."""
    logging.basicConfig(level=logging.ERROR)
    # Else the run under way, Kafka and Triton would outlive this process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    kinds, left_out = _chosen(only)
    count = count or (QUICK_EVENTS if quick else 100_000)
    rounds = rounds or (1 if quick else 5)
    warm_s, seconds = (QUICK_WARM_S, QUICK_LOAD_S) if quick else (WARM_S, LOAD_S)
    to = to or (None if quick else RESULTS)
    body: dict[str, Any] = {
        "what": "the moderator with an instant guard beside bench/ceilings, on one Kafka",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "machine": machine(),
        "versions": report.versions(),
        "load_before": round(os.getloadavg()[0], 2),
        "events": count,
        "event_bytes": len(events.event(0)),
        "partitions": PARTITIONS,
        "ceiling_of_librdkafka_before": _recorded(),
        "left_out": left_out,
        "latency": None,
    }
    with ground(count) as on:
        found = measure(on, [kind for kind in kinds if kind != "latency"], rounds)
        body |= report.summary(found, count)
        _write(to, body)
        if "latency" in kinds:
            rate = statistics.median(ran["moderator"].rate for ran in found)
            body["latency"] = report.latency(*measure_latency(on, rate, warm_s, seconds))
            _write(to, body)
    report.show(body, out)
    say(f"written to {to}" if to else "a quick run is written only where --out says")


def _recorded() -> float | None:
    """The ceiling's share of librdkafka in the results that are there."""
    if not RESULTS.is_file():
        return None
    share = json.loads(RESULTS.read_text()).get("ceiling_of_librdkafka")
    return None if share is None else float(share["median"])


def _write(to: Path | None, body: dict[str, Any]) -> None:
    if to is None:
        return
    to.parent.mkdir(parents=True, exist_ok=True)
    new = to.with_suffix(".new")
    new.write_text(json.dumps(body, indent=2) + "\n")
    new.replace(to)


if __name__ == "__main__":
    typer.run(main)
