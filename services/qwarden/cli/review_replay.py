"""The command that has the review service read its topics again, as after a restore."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from qwarden.cli.asking import ask
from qwarden.cli.environment import client_settings
from qwarden.cli.options import AsJson, DryRun
from qwarden.cli.terminal import NO, WRONG_USE, end, show, write_json
from qwarden.cli.times import instant


def replay(
    since: Annotated[
        str, typer.Option("--since", help="From then on: 2026-03-01T12:00Z, or an age: 2h.")
    ],
    *,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Have the review service read again what came since a time, for a database that was restored.

    What it holds already is known by its id and changes nothing, and what it has not read yet it
    reads all the same. No review service may run meanwhile: it would commit its own place over this
    one.

    \b
    qwarden review replay --since 2026-03-01T12:00Z --dry-run
    """
    from aiokafka import AIOKafkaConsumer, TopicPartition

    from qwarden import kafka
    from qwarden.contracts import topics
    from qwarden.stretch import stretch_of

    time = instant("--since", since)
    if time > datetime.now(UTC):
        end(WRONG_USE, f"--since: {since!r} is to come; name a time before the dump was made")
    settings = client_settings()
    own = settings.review.group_id
    groups = {topics.REVIEW: own, topics.EVIDENCE: f"{own}-evidence"}

    async def run() -> None:
        async with kafka.admin(settings.kafka) as admin:
            for group in groups.values():
                # One at a time: aiokafka 0.14 cannot read an answer of two groups.
                [response] = await admin.describe_consumer_groups([group])
                for _code, name, _state, _kind, _protocol, members, *_ in response.groups:
                    if members:
                        end(
                            NO,
                            f"{len(members)} processes are in the group {name}; stop the review "
                            "service first",
                        )
            committed = {}
            for topic, group in groups.items():
                partitions = await kafka.partitions_of(settings.kafka, topic)
                committed[topic] = await kafka.committed_in(
                    admin, group, [TopicPartition(topic, each) for each in partitions]
                )
        for topic, group in groups.items():
            stretch = await stretch_of(settings.kafka, topic, time)
            starts, count = {}, 0
            # Back alone: forward would leave out what nobody has read. One without a commit is read
            # from its beginning.
            for each, at in committed[topic].items():
                start, stop = stretch.offsets[each.partition]
                if start < at:
                    starts[each] = start
                    count += min(at, stop) - start
            if starts and not dry_run:
                consumer = AIOKafkaConsumer(
                    **kafka.client_arguments(settings.kafka),
                    group_id=group,
                    enable_auto_commit=False,
                )
                try:
                    consumer.assign(list(starts))
                    await consumer.start()
                    await consumer.commit(starts)
                finally:
                    await kafka.stop(consumer)
            if as_json:
                write_json({"topic": topic, "since": time, "records": count, "dry_run": dry_run})
                continue
            show(
                f"{topic}: {count} records since {time.isoformat()} "
                f"{'would be' if dry_run else 'will be'} read again"
            )

    ask(run)
