"""The demonstration: the whole stack on sample events, every verdict shown as it comes."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import AsyncExitStack
from importlib import resources
from typing import Any

import msgspec
from aiokafka import ConsumerRecord
from rich.console import Console
from rich.table import Table

from qwarden import kafka, render
from qwarden import settings as settings_module
from qwarden.contracts import headers, topics
from qwarden.contracts.verdict import decode_verdict
from qwarden.guard.conversation import Task
from qwarden.settings import Settings
from qwarden.stack.errors import Interrupted
from qwarden.stack.home import Home
from qwarden.stack.stack import REVIEW
from qwarden.verify.account import Account
from qwarden.verify.reader import tasks_of

OUTCOMES = (topics.VERDICTS, topics.DEAD_LETTERS)
SHOWN = (topics.SIGNALS, *OUTCOMES)
CHUNK = 24
"""Characters of a sample session's chunk: some six tokens."""
PEOPLE = {"reviewer": "reviewer", "lead": "lead"}
"""Who works in the demonstration, by name, with their role."""
ALL_ANSWERED_S = 120.0
"""Seconds in which the samples must have their outcomes: 2 measured, after a first slow forward."""


def sample_records() -> list[bytes]:
    """The sample events, a value a record: in twelve languages, each category, the three safeties,
    repeats, an edit, a deletion, template markers, two with reasoning, one too long, and three that
    are broken."""
    text = resources.files("qwarden.stack").joinpath("samples.jsonl").read_text(encoding="utf-8")
    # More pieces than the guard judges, eight of 32,768 tokens: each of these signs is three.
    too_long = {
        "event_id": "too-long",
        "tenant": "demo",
        "text": "\N{ALCHEMICAL SYMBOL FOR AIR}" * 120_000,
    }
    lines = [*text.splitlines(), json.dumps(too_long, ensure_ascii=False)]
    return [line.encode() for line in lines]


class SampleSession(msgspec.Struct, frozen=True):
    """One exchange: what a user asks, and what a model thinks and answers."""

    session: str
    user: str
    answer: str
    thinking: str = ""

    @property
    def tasks(self) -> list[str]:
        """The verdicts that it gets."""
        return [Task.PROMPT, Task.RESPONSE, *([Task.THINKING] if self.thinking else [])]

    def chunks(self) -> list[bytes]:
        """It as it comes from a model, a record's value a chunk."""
        cut = [("user", "answer", self.user)]
        for segment, text in (("thinking", self.thinking), ("answer", self.answer)):
            pieces = (text[at : at + CHUNK] for at in range(0, len(text), CHUNK))
            cut += [("assistant", segment, piece) for piece in pieces]
        last = len(cut) - 1
        return [
            msgspec.json.encode(
                {
                    "session": self.session,
                    "seq": seq,
                    "tenant": "demo",
                    "role": role,
                    "segment": segment,
                    "text": text,
                    "end": {0: "turn", last: "session"}.get(seq),
                }
            )
            for seq, (role, segment, text) in enumerate(cut)
        ]


def sample_sessions() -> list[SampleSession]:
    """An answer that is harmless, one with a thought, and one that goes wrong in the middle."""
    text = resources.files("qwarden.stack").joinpath("sessions.jsonl").read_text(encoding="utf-8")
    return [msgspec.json.decode(line, type=SampleSession) for line in text.splitlines()]


class Demo:
    """Publishes the samples and shows what becomes of them. `services`: those that run; with the
    streamer there are running sessions too."""

    def __init__(self, home: Home, out: Console, *, services: Collection[str]) -> None:
        self._home = home
        self._out = out
        self._sessions = sample_sessions() if "streamer" in services else []
        self._reviews = REVIEW in services
        self._settings: Settings = settings_module.load(home.settings() or {})
        self._account = Account()
        self._complete = asyncio.Event()

    async def run(self, ended: asyncio.Task[None], *, once: bool) -> bool:
        """Publishes the samples and shows what comes, until `ended`; with `once`, until every
        sample has its outcomes. Whether each got exactly those.

        Raises what `ended` raises (`StackError` where a part of the stack died), with `once`
        `Interrupted` where it ended first, and `KafkaError`.
        """
        # Its lines about a broker that is gone are many a second; the stack says it in one.
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
        async with AsyncExitStack() as stack:
            read = {}
            for topic in SHOWN:
                read[topic] = await stack.enter_async_context(
                    kafka.reading(self._settings.kafka, topic, from_beginning=False, follow=True)
                )
            showing = [
                asyncio.create_task(self._show(topic, records), name=topic)
                for topic, records in read.items()
            ]
            complete = asyncio.create_task(self._complete.wait(), name="complete")
            stack.push_async_callback(_end, complete, *showing)
            self._out.print(render.verdict_heading())
            await self._publish()
            limit = ALL_ANSWERED_S if once else None
            await self._first((complete, ended, *showing), limit)
            self._sum_up()
            if not once and not ended.done():
                self._where_next(await self._sign_in_links())
                await self._first((ended, *showing), None)
        if once and not self._complete.is_set() and ended.done():
            raise Interrupted("The samples were interrupted before each had its outcome.")
        return not self._account.missing() and not self._account.contradicted()

    async def _first(self, tasks: Iterable[asyncio.Future[Any]], limit_s: float | None) -> None:
        done, _ = await asyncio.wait(tasks, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def _publish(self) -> None:
        values = sample_records()
        origins: list[str] = []

        topic = topics.CONTENT

        def sent(partition: int, offset: int) -> None:
            origins.append(f"{topic}/{partition}/{offset}")

        await kafka.publish(self._settings.kafka, topic, values, sent)
        for origin, value in zip(origins, values, strict=True):
            self._account.expect(origin, tasks_of(value, max_bytes=topics.MAX_EVENT_BYTES))
        for session in self._sessions:
            origins.clear()
            topic = topics.CHUNKS
            await kafka.publish(self._settings.kafka, topic, session.chunks(), sent)
            self._account.expect(origins[0], session.tasks)
        self._check()

    async def _show(self, topic: str, records: AsyncIterator[ConsumerRecord]) -> None:
        async for record in records:
            self._note(topic, record)
            self._out.print(render.record(topic, record.value, record.headers))
            self._check()

    def _note(self, topic: str, record: ConsumerRecord) -> None:
        origin = headers.header(record.headers, headers.ORIGIN) or ""
        if topic == topics.VERDICTS:
            self._account.verdict(origin, decode_verdict(record.value))
        elif topic == topics.DEAD_LETTERS:
            self._account.dead_letter(origin)

    def _check(self) -> None:
        if self._account.expected and not self._account.missing():
            self._complete.set()

    def _sum_up(self) -> None:
        account = self._account
        table = Table(show_header=False, box=None)
        table.add_row("events and sessions published", str(account.expected))
        table.add_row("with their outcomes", str(account.answered()))
        table.add_row("without", ", ".join(sorted(account.missing())) or "0")
        table.add_row("with two that differ", ", ".join(sorted(account.contradicted())) or "0")
        table.add_row("repeats", str(account.repeats()))
        self._out.print(table)

    async def _sign_in_links(self) -> dict[str, str]:
        """Links for a reviewer and a lead of the demonstration, where there is a review service."""
        limits = self._settings.review
        if not self._reviews or limits.database_url is None:
            return {}
        from qwarden.review.people import links, users
        from qwarden.review.person import EVERY
        from qwarden.review.store.audit import SERVICE
        from qwarden.review.store.database import Database

        database = Database.open(
            limits.database_url.get_secret_value(),
            limits.connections,
            limits.database_certificates,
        )
        found = {}
        try:
            async with database.writing() as tx:
                now = time.time()
                for name, role in PEOPLE.items():
                    person = await users.named(tx, name) or await users.add(
                        tx,
                        name=name,
                        roles=[role],
                        tenants=[EVERY],
                        languages=[EVERY],
                        actor=SERVICE,
                        now=now,
                    )
                    token = await links.make(
                        tx, person.user_id, actor=SERVICE, now=now, limits=limits
                    )
                    found[name] = links.url_of(token, limits)
        finally:
            await database.close()
        return found

    def _where_next(self, links: Mapping[str, str]) -> None:
        addresses = self._home.addresses() or {}
        metrics = addresses["services"]["moderator"]["http"]
        people = "".join(f"\nAs a {name:11} {link}" for name, link in links.items())
        self._out.print(
            f"""{people}
Metrics          http://{metrics}/metrics
Your own event   echo '{{"event_id": "mine-1", "tenant": "demo", "text": "Hello"}}' \\
                   | .venv/bin/qwarden publish -
Sessions         .venv/bin/qwarden tail moderation.signals --from-beginning
For people       .venv/bin/qwarden tail moderation.review --from-beginning
Dead letters     .venv/bin/qwarden dlq ls
Addresses        {self._home.root}/stack.json

The guards are stand-ins, toys. Ctrl-C ends everything.""",
            markup=False,
        )


async def _end(*tasks: asyncio.Task[Any]) -> None:
    """End tasks before what they read is closed: else each would say so with a traceback."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
