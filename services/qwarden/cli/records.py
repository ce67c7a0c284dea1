"""The commands that make topics, and write and read them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import typer

from qwarden import render
from qwarden.cli.asking import ask
from qwarden.cli.environment import client_settings
from qwarden.cli.files import lines_of
from qwarden.cli.options import AsJson
from qwarden.cli.terminal import bar, err, show, write, write_json
from qwarden.contracts import topics

topics_app = typer.Typer(help="The topics that the fleet needs.", no_args_is_help=True)


@topics_app.command("create")
def topics_create(
    *,
    partitions: Annotated[
        int, typer.Option(help="Partitions of each topic; moderation.control has one.")
    ] = 8,
    replication_factor: Annotated[int, typer.Option(help="Replicas of each partition.")] = 1,
    min_insync_replicas: Annotated[
        int, typer.Option(help="Replicas that must have a record before it is acknowledged.")
    ] = 1,
    retention_hours: Annotated[
        int,
        typer.Option(min=1, help="Hours that records are kept: longer than the longest outage."),
    ] = topics.RETENTION_HOURS,
    kept_hours: Annotated[
        int,
        typer.Option(min=1, help="The same of what people go back to: dead letters and decisions."),
    ] = topics.KEPT_HOURS,
    as_json: AsJson = False,
) -> None:
    """Make the topics that are missing; those that are there stay as they are.

    \b
    qwarden topics create --partitions 24 --replication-factor 3 --min-insync-replicas 2
    """
    from qwarden import kafka

    settings = client_settings()
    made = ask(
        lambda: kafka.create_topics(
            settings.kafka,
            partitions=partitions,
            replication_factor=replication_factor,
            min_insync_replicas=min_insync_replicas,
            max_event_bytes=settings.moderator.max_event_bytes,
            retention_hours=retention_hours,
            kept_hours=kept_hours,
        )
    )
    if as_json:
        write_json({"made": made})
    else:
        err.print(f"made: {', '.join(made)}" if made else "all topics are there already")


def publish(
    file: Annotated[Path, typer.Argument(help="A JSONL of events; - reads standard input.")],
    topic: Annotated[str, typer.Option(help="Where to publish.")] = topics.CONTENT,
) -> None:
    """Publish each line of a file as one record.

    \b
    An event needs event_id, tenant, and messages or text:
    {"event_id": "1", "tenant": "demo", "text": "Hello"}

    \b
    With --topic content.chunks a line is a piece of a running session:
    {"session": "1", "seq": 0, "tenant": "demo", "role": "user", "text": "Hello", "end": "turn"}

    \b
    qwarden publish events.jsonl
    """
    from qwarden import kafka

    settings = client_settings()
    values = lines_of(file)
    with bar("publishing", len(values)) as step:
        count = ask(lambda: kafka.publish(settings.kafka, topic, values, lambda _p, _o: step(1)))
    err.print(f"published {count} records to {topic}")


def tail(
    topic: Annotated[str, typer.Argument(help="For example moderation.verdicts.")],
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="From the topic's first record on.")
    ] = False,
    follow: Annotated[
        bool, typer.Option(help="Go on with what comes; else end at the topic's end.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Show a topic's records as people read them, until Ctrl-C.

    \b
    qwarden tail moderation.verdicts --from-beginning
    qwarden tail moderation.verdicts --no-follow --json > verdicts.jsonl
    """
    from qwarden import kafka

    settings = client_settings()

    async def run() -> None:
        if topic == topics.VERDICTS and not as_json:
            show(render.verdict_heading())
        async with kafka.reading(
            settings.kafka, topic, from_beginning=from_beginning or not follow, follow=follow
        ) as records:
            await _print(records, topic, as_json)

    ask(run)


async def _print(records: AsyncIterator[Any], topic: str, as_json: bool) -> None:
    async for record in records:
        if as_json:
            write((record.value or b"null") + b"\n")
        else:
            show(render.record(topic, record.value, record.headers))
