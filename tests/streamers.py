"""Streamers in the test's process, with guards that are words, on a real broker."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

import fleet
from qwarden import bootstrap
from qwarden import kafka as kafka_tools
from qwarden import settings as settings_module
from qwarden.contracts import topics
from qwarden.contracts.dead_letter import DeadLetter
from qwarden.contracts.escalation import Evidence
from qwarden.contracts.signal import Signal
from qwarden.contracts.verdict import Verdict, decode_verdict
from qwarden.guard.answer import Answer
from qwarden.guard.row import Row
from qwarden.inference.memory import MemoryGuard
from qwarden.inference.memory_stream import MemoryStream
from qwarden.inference.port import GuardUnavailable
from qwarden.inference.stream_port import StreamGuard
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka
from qwarden.streamer.commit import start_in
from qwarden.streamer.service import StreamerService
from qwarden.streamer.streamer import Streamer
from unit.builders import CONTROVERSIAL, REVISION, SAFE, UNSAFE, assessment

PARTITIONS = 4
OUT = (topics.SIGNALS, topics.VERDICTS, topics.REVIEW, topics.EVIDENCE, topics.DEAD_LETTERS)
POLICIES = {
    "policies/looks.yaml": ("name: looks\nextends: default\nfinal_look: always\n"),
    "policies/blind.yaml": (
        "name: blind\nextends: default\n"
        "final_look: never\n"
        "flagging: {thinking: {rule: consecutive, run: 2}, response: {rule: consecutive, run: 3}}\n"
    ),
    "tenants/demo.yaml": "name: demo\npolicies: [default, looks, blind]\n",
}


def chunk(session: str, seq: int, role: str, text: str, **more: object) -> dict[str, object]:
    tenant = more.pop("tenant", "demo")
    return {"tenant": tenant, "session": session, "seq": seq, "role": role, "text": text, **more}


def exchange(
    session: str, answer: str, *, ends: bool = True, question: str = "how do I bake bread ",
    words: int = 2, **first: object,
) -> list[dict[str, object]]:  # fmt: skip
    """A question and its answer, some words a chunk."""
    said = answer.split(" ")
    pieces = [" ".join(said[n : n + words]) + " " for n in range(0, len(said), words)]
    chunks = [chunk(session, 0, "user", question, end="turn", **first)]
    for piece in pieces:
        chunks.append(chunk(session, len(chunks), "assistant", piece))
    if ends:
        chunks[-1] |= {"end": "session", "text": pieces[-1].rstrip()}
    return chunks


class Gen(MemoryGuard):
    """The guard of whole texts: `bad` and `odd` anywhere in the last turn. Waits while not free."""

    def __init__(self) -> None:
        super().__init__(self._say, revision=REVISION)
        self.asked: list[str] = []
        self.free = asyncio.Event()
        self.free.set()

    def _say(self, row: bytes) -> Answer:
        text = Row.from_json(row).conversation.turns[-1].content
        self.asked.append(text)
        if "bad" in text:
            return assessment(UNSAFE, ("Violent", 0.9))
        return assessment(CONTROVERSIAL, ("PII", 0.9)) if "odd" in text else assessment(SAFE)

    async def judge(self, rows: Sequence[bytes], *, timeout_s: float | None = None) -> list[Answer]:
        await self.free.wait()
        return await super().judge(rows, timeout_s=timeout_s)


@dataclass
class Told:
    """What stands on the topics."""

    signals: dict[str, list[Signal]] = field(default_factory=lambda: defaultdict(list))
    verdicts: dict[str, list[Verdict]] = field(default_factory=lambda: defaultdict(list))
    evidence: dict[str, list[Evidence]] = field(default_factory=lambda: defaultdict(list))
    review: Counter[str] = field(default_factory=Counter)
    dead: list[DeadLetter] = field(default_factory=list)
    origins: dict[str, str] = field(default_factory=dict)

    def take(self, tap: fleet.Tap) -> None:
        for record in tap.records[topics.SIGNALS]:
            signal = msgspec.json.decode(record.value, type=Signal)
            self.signals[signal.session].append(signal)
        for record in tap.records[topics.VERDICTS]:
            verdict = decode_verdict(record.value)
            self.verdicts[verdict.event_id].append(verdict)
            self.origins[verdict.event_id] = fleet.origin_of(record)
        for record in tap.records[topics.EVIDENCE]:
            evidence = msgspec.json.decode(record.value, type=Evidence)
            self.evidence[evidence.verdict.event_id].append(evidence)
        for record in tap.records[topics.REVIEW]:
            self.review[json.loads(record.value)["verdict"]["event_id"]] += 1
        for record in tap.records[topics.DEAD_LETTERS]:
            self.dead.append(msgspec.json.decode(record.value, type=DeadLetter))
        for records in tap.records.values():
            records.clear()

    def of(self, session: str, task: str) -> Verdict:
        """The one verdict on a task, however often it was published."""
        found = {v.verdict_id: v for v in self.verdicts[session] if v.task == task}
        assert len(found) == 1, found
        return next(iter(found.values()))

    def kinds(self, session: str) -> list[str]:
        return [str(signal.kind) for signal in self.signals[session]]


_MEMBER: ContextVar[set[asyncio.Task[object]] | None] = ContextVar("member", default=None)
"""The tasks of the streamer that is running; who starts one inherits it."""


def _noted(
    loop: asyncio.AbstractEventLoop, running: Coroutine[object, object, object], **more: object
) -> asyncio.Task[object]:
    task = asyncio.Task(running, loop=loop, **more)  # type: ignore[arg-type]
    mine = _MEMBER.get()
    if mine is not None:
        mine.add(task)
        task.add_done_callback(mine.discard)
    return task


@dataclass
class Streaming:
    """One streamer in this process."""

    service: StreamerService
    streamer: Streamer
    running: asyncio.Task[int]
    tasks: set[asyncio.Task[object]]

    async def stop(self) -> None:
        """As SIGTERM."""
        self.service.stop()
        assert await self.running == 0

    async def kill(self) -> None:
        """As SIGKILL: nothing that it runs comes to its end, and nobody is told."""
        tasks = set(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=5)

    @property
    def partitions(self) -> int:
        return len(self.service.delivery._window.partitions)


@dataclass
class Streams:
    """A broker with the topics of a fleet, and streamers in this process."""

    kafka: Kafka
    home: Home
    policies: Path
    group: str

    def settings(self, **more: str) -> settings_module.Settings:
        return settings_module.load(
            {
                "QWARDEN_CONTENT_KEY": self.home.content_key(),
                "QWARDEN_KAFKA__BOOTSTRAP_SERVERS": self.kafka.bootstrap,
                "QWARDEN_KAFKA__SESSION_TIMEOUT_MS": "6000",
                "QWARDEN_HTTP__PORT": "0",
                "QWARDEN_POLICY__PATH": str(self.policies),
                "QWARDEN_STREAMER__GROUP_ID": self.group,
                "QWARDEN_STREAMER__COMMIT_INTERVAL_S": "0.1",
                "QWARDEN_STREAM_GUARD__BACKOFF_S": "0.05",
                "QWARDEN_STREAM_GUARD__MAX_BACKOFF_S": "0.2",
                **more,
            }
        )

    def __post_init__(self) -> None:
        for name, text in POLICIES.items():
            (self.policies / name).parent.mkdir(parents=True, exist_ok=True)
            (self.policies / name).write_text(text)

    async def start(self, stream: StreamGuard, gen: Gen | None = None, **more: str) -> Streaming:
        """A streamer, which the test ends itself."""
        settings = self.settings(**more)
        loop = asyncio.get_running_loop()
        loop.set_task_factory(_noted)  # type: ignore[arg-type]
        made: asyncio.Future[tuple[StreamerService, Streamer]] = loop.create_future()
        tasks: set[asyncio.Task[object]] = set()

        async def look() -> frozenset[str]:
            return frozenset({"here"})

        async def live() -> int:
            client = bootstrap.stream_client_of(settings, lambda _: stream, look)
            async with bootstrap.streamer(settings, client, gen or Gen()) as (judge, _, dispatcher):
                control = bootstrap.control_of(settings)
                service = StreamerService(settings, judge, client, dispatcher, control)
                made.set_result((service, judge))
                return await service.run()

        token = _MEMBER.set(tasks)
        running = asyncio.create_task(live())
        _MEMBER.reset(token)
        service, judge = await made
        return Streaming(service, judge, running, tasks)

    @asynccontextmanager
    async def streaming(
        self, stream: StreamGuard, gen: Gen | None = None, **more: str
    ) -> AsyncIterator[Streaming]:
        one = await self.start(stream, gen, **more)
        try:
            yield one
        finally:
            await one.stop()

    async def make_topics(self) -> None:
        await kafka_tools.create_topics(
            self.settings().kafka,
            partitions=PARTITIONS,
            replication_factor=1,
            min_insync_replicas=1,
            max_event_bytes=900_000,
        )

    async def at_the_end(self) -> None:
        """Lets the group begin behind everything that other tests have published."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.kafka.bootstrap, group_id=self.group, enable_auto_commit=False
        )
        await consumer.start()
        partitions = [TopicPartition(topics.CHUNKS, n) for n in range(PARTITIONS)]
        consumer.assign(partitions)
        await consumer.commit(await consumer.end_offsets(partitions))
        await consumer.stop()

    async def publish(
        self,
        chunks: Iterable[dict[str, object] | bytes],
        *,
        partition: int | None = None,
        age_s: float = 0,
    ) -> list[int]:
        """Publishes chunks, keyed by tenant and session; returns their offsets."""
        producer = AIOKafkaProducer(
            bootstrap_servers=self.kafka.bootstrap, enable_idempotence=True, linger_ms=2
        )
        await producer.start()
        at = int((time.time() - age_s) * 1000)
        try:
            sent = []
            for each in chunks:
                key, value = None, each
                if isinstance(each, dict):
                    key = f"{each['tenant']}/{each['session']}".encode()
                    value = json.dumps(each).encode()
                sent.append(
                    await producer.send(
                        topics.CHUNKS, value, key, partition=partition, timestamp_ms=at
                    )
                )
            return [(await one).offset for one in sent]
        finally:
            await producer.stop()

    async def committed(self) -> dict[int, tuple[int, str]]:
        """The group's offsets and what stands beside them, as the broker has them."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka.bootstrap)
        await admin.start()
        try:
            found = await admin.list_consumer_group_offsets(self.group)
        finally:
            await admin.close()
        return {
            where.partition: (at.offset, at.metadata)
            for where, at in found.items()
            if where.topic == topics.CHUNKS and at.offset >= 0
        }

    async def is_settled(self) -> bool:
        """Whether all chunks are committed, and no session is open beside them."""
        ends = await fleet.ends_of(self.kafka.bootstrap, topics.CHUNKS)
        committed = await self.committed()

        def is_over(end: int, at: int, beside: str) -> bool:
            start = start_in(beside)
            return at == end and (start is None or start.offset == end)

        return all(
            is_over(end, *committed.get(where.partition, (-1, ""))) for where, end in ends.items()
        )

    async def told(
        self,
        tap: fleet.Tap,
        sessions: dict[str, int],
        told: Told | None = None,
        *,
        within_s: float = 60,
    ) -> Told:
        """Reads until each session has that many verdicts of different ids."""
        told = told or Told()

        async def complete() -> bool:
            await tap.read()
            told.take(tap)
            return all(
                len({v.verdict_id for v in told.verdicts[session]}) >= count
                for session, count in sessions.items()
            )

        await fleet.until(complete, f"the verdicts of {len(sessions)} sessions", within_s)
        return told

    async def the(self, tap: fleet.Tap, told: Told, check: Callable[[], bool], what: str) -> None:
        """Reads on until that holds."""

        async def holds() -> bool:
            await tap.read()
            told.take(tap)
            return check()

        await fleet.until(holds, what)

    async def the_rest(self, tap: fleet.Tap, told: Told) -> None:
        """Waits until nothing is open, and reads all that was said."""
        await fleet.until(self.is_settled, "all is committed, and nothing is open")
        await tap.read_to_the_end()
        told.take(tap)


class Failing(MemoryStream):
    """A stream guard that is away when the test says so, and says how often it was asked."""

    def __init__(self, **kind: object) -> None:
        super().__init__(**kind)  # type: ignore[arg-type]
        self.away = False
        self.asked = 0
        self.before = self._before

    async def _before(self, appends: object) -> None:
        self.asked += 1
        if self.away:
            raise GuardUnavailable("the test says so")
