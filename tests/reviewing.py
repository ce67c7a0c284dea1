"""A real review service as a child on a free port, people who work there, and what they get."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from aiokafka import AIOKafkaProducer

import escalated
from qwarden import kafka as kafka_tools
from qwarden import settings as settings_module
from qwarden.contracts import headers, topics
from qwarden.contracts.escalation import Content, Escalation, Evidence
from qwarden.contracts.event import Message, Report
from qwarden.contracts.names import name_of
from qwarden.contracts.verdict import CategoryScore, Guard, Notice, PolicyUsed, Scores, encode
from qwarden.review.people import links, tokens
from qwarden.review.person import Person, Role
from qwarden.review.store.database import Database
from qwarden.review.store.intake import Arrived
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka
from qwarden.stack.service import Service

REVIEW_SERVICE = "review-service"

TEXTS: dict[str, tuple[str, ...]] = {
    "en": (
        "Our council wants to close the town library. Who comes to the meeting on Tuesday?",
        "I read that the new bus line was planned in secret. Is there anything to it?",
        "The recipe says to leave the dough over night. Does it have to be in the fridge?",
        "My neighbour plays the trumpet at six in the morning, and I have had enough of it.",
    ),
    "de": (
        "Der Stadtrat will die Bücherei schließen. Wer kommt am Dienstag zur Sitzung?",
        "Stimmt es, dass die neue Buslinie heimlich geplant wurde?",
    ),
    "es": ("El ayuntamiento quiere cerrar la biblioteca. ¿Quién viene el martes?",),
    "ar": ("يريد المجلس إغلاق المكتبة. من سيأتي إلى الاجتماع يوم الثلاثاء؟",),
}


@dataclass
class Reviewing:
    """One service and its database. `crowd`: behind each name, where tests share a service."""

    service: Service
    database: Database
    bootstrap: str
    settings: settings_module.Settings
    crowd: str = ""
    _clients: list[httpx.AsyncClient] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://{self.service.http}"

    async def add(self, name: str, *roles: Role, **may: Any) -> Person:
        """One who works here from now on, as `escalated.person` has it."""
        return await hired(self.database, f"{name}{self.crowd}", *roles, **may)

    async def link_of(self, person: Person) -> str:
        """A sign-in link, good once."""
        async with self.database.writing() as tx:
            token = await links.make(
                tx,
                person.user_id,
                actor="test",
                now=time.time(),
                limits=self.settings.review,
            )
        return f"{self.url}/sign-in#{token}"

    async def client_of(self, person: Person) -> httpx.AsyncClient:
        """The API as this one has it on a terminal: with a token."""
        token = await token_of(self.database, person)
        client = httpx.AsyncClient(
            base_url=self.url, headers={"Authorization": f"Bearer {token}"}, timeout=60
        )
        self._clients.append(client)
        return client

    async def client(self, name: str, *roles: Role, **more: Any) -> httpx.AsyncClient:
        """A new person's API."""
        return await self.client_of(await self.add(name, *roles, **more))

    async def seed(self, records: Iterable[Arrived]) -> int:
        """Publishes escalations and evidence as moderators do, and waits until the service has
        them; returns how many that were."""
        published = list(records)
        await publish(self.bootstrap, published)
        asked = {
            each.said.verdict.verdict_id
            for each in published
            if isinstance(each.said, Evidence) or each.said.content is not None
        }
        await self.until_kept(asked)
        return len(published)

    async def until_kept(self, verdict_ids: set[str], within_s: float = 60) -> None:
        """Waits until the ledger has these."""
        from sqlalchemy import select

        from qwarden.review.store.schema import ledger

        deadline = time.monotonic() + within_s
        while True:
            async with self.database.reading() as tx:
                found = await tx.execute(
                    select(ledger.c.verdict_id).where(ledger.c.verdict_id.in_(verdict_ids))
                )
                missing = verdict_ids - set(found.scalars())
            if not missing:
                return
            assert time.monotonic() < deadline, f"{len(missing)} records were not taken"
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        for client in self._clients:
            await client.aclose()
        await self.database.close()


async def hired(
    database: Database, name: str, *roles: Role, now: float | None = None, **may: Any
) -> Person:
    """One who works there from now on, as `escalated.person` has it."""
    async with database.writing() as tx:
        at = time.time() if now is None else now
        return await escalated.person(tx, name, *roles, now=at, **may)


async def token_of(database: Database, person: Person, now: float | None = None) -> str:
    """A token of theirs for the API."""
    async with database.writing() as tx:
        at = time.time() if now is None else now
        return await tokens.make(tx, person.user_id, "terminal", actor="test", now=at)


def settings_of(bootstrap: str, database_url: str, **more: str) -> dict[str, str]:
    """What a service is told. Golden items, second reviews and samples are off unless `more` says
    otherwise."""
    return {
        "QWARDEN_CONTENT_KEY": "0123456789abcdef" * 4,
        "QWARDEN_KAFKA__BOOTSTRAP_SERVERS": bootstrap,
        "QWARDEN_KAFKA__SESSION_TIMEOUT_MS": "6000",
        "QWARDEN_REVIEW__DATABASE_URL": database_url,
        "QWARDEN_REVIEW__GOLDEN_SHARE": "0",
        "QWARDEN_REVIEW__SECOND_SHARE": "0",
        "QWARDEN_REVIEW__SAMPLE_SHARE": "0",
        "QWARDEN_REVIEW__REQUESTS_A_MINUTE": "60000",
        "QWARDEN_REVIEW__SIGN_INS_A_MINUTE": "6000",
        **more,
    }


async def make_topics(bootstrap: str, partitions: int = 4) -> None:
    """The fleet's topics; those that are there stay."""
    settings = settings_module.load(settings_of(bootstrap, "sqlite:///none"))
    await kafka_tools.create_topics(
        settings.kafka,
        partitions=partitions,
        replication_factor=1,
        min_insync_replicas=1,
        max_event_bytes=900_000,
    )


@asynccontextmanager
async def reviewing(
    home: Home, kafka: Kafka, database_url: str, **more: str
) -> AsyncIterator[Reviewing]:
    """A real service as a child, ready; `more`: its settings."""
    await make_topics(kafka.bootstrap)
    told = settings_of(kafka.bootstrap, database_url, **more)
    service = Service(home, REVIEW_SERVICE, told)
    await asyncio.to_thread(service.start)
    try:
        async with working_at(service, told) as running:
            yield running
    finally:
        await asyncio.to_thread(service.stop)


@asynccontextmanager
async def working_at(
    service: Service, told: dict[str, str], crowd: str = ""
) -> AsyncIterator[Reviewing]:
    """A service that runs, told so, and its database."""
    settings = settings_module.load(told)
    url = settings.review.database_url
    assert url is not None
    database = Database.open(url.get_secret_value(), 4)
    running = Reviewing(service, database, settings.kafka.bootstrap_servers, settings, crowd)
    try:
        yield running
    finally:
        await running.close()


async def publish(bootstrap: str, records: Iterable[Arrived]) -> None:
    """Escalations and evidence, with the keys, headers and times that moderators give them."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", linger_ms=5, max_request_size=2_000_000
    )
    await producer.start()
    try:
        sent = []
        for each in records:
            verdict = each.said.verdict
            is_evidence = isinstance(each.said, Evidence)
            about = headers.cloud_event("evidence" if is_evidence else "review", verdict.verdict_id)
            if each.sample_rate is not None:
                about.append((headers.SAMPLE_RATE, str(each.sample_rate).encode()))
            sent.append(
                await producer.send(
                    topics.EVIDENCE if is_evidence else topics.REVIEW,
                    key=name_of(verdict.tenant, verdict.event_id).encode(),
                    value=encode(each.said),
                    headers=about,
                    timestamp_ms=int(each.at * 1000),
                )
            )
        for acknowledged in sent:
            await acknowledged
    finally:
        await producer.stop()


def escalations(
    count: int,
    *,
    name: str = "item",
    tenant: str = "acme",
    language: str = "en",
    age_s: float = 0.0,
    content: Content | None = None,
    **how: Any,
) -> list[Arrived]:
    """Escalations that look like a moderator's, each with content of its own. `how`: queue, harm,
    sla_s, on_breach, meanwhile; `content`: of all of them, instead of mild sentences."""
    made = []
    now = time.time() - age_s
    for number in range(count):
        own = f"{name}-{number}"
        verdict = escalated.verdict(
            own,
            tenant=tenant,
            language=language,
            scores=Scores(0.112, 0.641, 0.247),
            categories=["Politically Sensitive Topics"],
            category_scores=[CategoryScore("Politically Sensitive Topics", 0.71)],
            guard=Guard("Qwen3Guard-Gen-0.6B", "stand-in"),
            policy=PolicyUsed("default", "3f1c9a0b2d4e", 0, "controversial"),
            meanwhile="hide",
            notice=Notice("terms", "3.2 Civic claims", "Somebody will look at this."),
        )
        asked = escalated.escalation(verdict, now + number / 1000, **how)
        assert isinstance(asked.said, Escalation)
        texts = TEXTS[language]
        shown = content or Content(
            messages=[Message(role="user", content=texts[number % len(texts)])],
            context=f"A thread about the town, answer {number}.",
            link=f"https://forum.example/t/{number}",
            reports=[Report(reason="It is about my street.")],
            metadata={"room": "town", "number": number},
        )
        made.append(
            Arrived(
                Escalation(
                    kind=asked.said.kind,
                    verdict=verdict,
                    content=shown,
                    queue=asked.said.queue,
                    harm=asked.said.harm,
                    sla_s=asked.said.sla_s,
                    meanwhile=asked.said.meanwhile,
                    on_breach=asked.said.on_breach,
                ),
                asked.at,
            )
        )
    return made
