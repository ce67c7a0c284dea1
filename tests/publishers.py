"""A publisher of the outbox as a process of its own, which stops where a test says:

python publishers.py URL BOOTSTRAP HOLDER [begin|commit]

`begin`: it says `read` once it has read what is due, and goes on when its input has a line;
`commit`: it says `sent` once all of it is acknowledged, and never commits. It says `round` after
each round, and `fenced` where another one had taken over.
"""

from __future__ import annotations

import asyncio
import logging
import sys

from aiokafka import AIOKafkaProducer

from qwarden import settings
from qwarden.review import publishing
from qwarden.review.store.database import Database


def say(word: str) -> None:
    print(word, flush=True)


async def stopping_producer(kafka: settings.Kafka, stops_at: str) -> AIOKafkaProducer:
    """The service's own, which stops there."""
    producer = await publishing.transactional_producer(kafka)
    begin, commit = producer.begin_transaction, producer.commit_transaction

    async def begins() -> None:
        if stops_at == "begin":
            say("read")
            await asyncio.to_thread(sys.stdin.readline)
        await begin()

    async def commits() -> None:
        if stops_at == "commit":
            say("sent")
            await asyncio.Event().wait()
        await commit()

    producer.begin_transaction, producer.commit_transaction = begins, commits
    return producer


async def main(url: str, bootstrap: str, holder: str, stops_at: str = "") -> None:
    database = Database.open(url, 2)
    made = publishing.Publishing(
        database,
        settings.Kafka(bootstrap_servers=bootstrap),
        settings.Review(),
        holder,
        open_producer=lambda kafka: stopping_producer(kafka, stops_at),
    )
    while True:
        await made.round()
        say("round")
        await asyncio.sleep(0.05)


class _Fenced(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if "another process" in record.getMessage():
            say("fenced")


if __name__ == "__main__":
    logging.getLogger("qwarden").addHandler(_Fenced())
    asyncio.run(main(*sys.argv[1:]))
