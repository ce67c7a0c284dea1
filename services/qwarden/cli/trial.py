"""The command that publishes one event and waits for what becomes of it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from qwarden import render
from qwarden.cli.asking import ask
from qwarden.cli.environment import client_settings
from qwarden.cli.options import AsJson
from qwarden.cli.terminal import MISSING, NO, end, err, show, write
from qwarden.contracts import headers, topics
from qwarden.contracts.dead_letter import DeadLetter, is_mark
from qwarden.contracts.verdict import Verdict, decode_verdict

T = TypeVar("T")


def trial(
    tenant: Annotated[
        str, typer.Option(help="Whose event it is; with strict tenants one that has a file.")
    ] = "qwarden-trial",
    timeout_s: Annotated[
        float, typer.Option(min=1, help="How long to wait; over a guard's start, if it is new.")
    ] = 120.0,
    as_json: AsJson = False,
) -> None:
    """Publish one event and wait for its verdict: whether the whole path works.

    No cache has its text, so that the guard is asked. Exit code 0: it was judged; 1: it was
    refused, or the policy acted without the guard; 3: nothing came in time.

    \b
    qwarden trial --timeout-s 300
    """
    from qwarden import kafka

    settings = client_settings()
    event_id = f"trial-{uuid.uuid4()}"
    event = {"event_id": event_id, "tenant": tenant, "text": f"A trial of the path, {event_id}."}
    sent: list[str] = []

    def verdict_of(record: Any) -> Verdict | None:
        verdict = decode_verdict(record.value or b"")
        return verdict if (verdict.tenant, verdict.event_id) == (tenant, event_id) else None

    def letter_of(record: Any) -> DeadLetter | None:
        if is_mark(record.headers) or headers.header(record.headers, headers.ORIGIN) not in sent:
            return None
        return msgspec.json.decode(record.value or b"", type=DeadLetter)

    async def run() -> tuple[Any, Verdict | DeadLetter] | None:
        async with AsyncExitStack() as stack:
            verdicts, letters = [
                await stack.enter_async_context(
                    kafka.reading(settings.kafka, topic, from_beginning=False, follow=True)
                )
                for topic in (topics.VERDICTS, topics.DEAD_LETTERS)
            ]
            await kafka.publish(
                settings.kafka,
                topics.CONTENT,
                [msgspec.json.encode(event)],
                lambda partition, offset: sent.append(f"{topics.CONTENT}/{partition}/{offset}"),
            )
            err.print(f"published {sent[0]}; waiting for its verdict", markup=False)
            waiting: list[asyncio.Task[tuple[Any, Any]]] = [
                asyncio.create_task(_first(verdicts, verdict_of)),
                asyncio.create_task(_first(letters, letter_of)),
            ]
            done, late = await asyncio.wait(
                waiting, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
            return done.pop().result() if done else None

    found = ask(run)
    if found is None:
        end(
            MISSING,
            f"no verdict within {timeout_s:g} s. The event stays on the topic, to be judged when "
            "it can be: see what /readyz of the moderators says, or run `qwarden doctor`",
        )
    record, outcome = found
    if as_json:
        write(record.value + b"\n")
    elif isinstance(outcome, Verdict):
        show(render.verdict_line(outcome, list(record.headers)))
    if isinstance(outcome, DeadLetter):
        end(NO, f"the event was refused ({outcome.error_class}): {outcome.reason}")
    if outcome.safety is None:
        end(
            NO,
            f"the policy acted without the guard: basis {outcome.basis.value}, cause "
            f"{outcome.cause}; see what /readyz of the moderators says",
        )


async def _first(records: AsyncIterator[Any], of: Callable[[Any], T | None]) -> tuple[Any, T]:
    """The first record that is what is looked for, and what it holds."""
    async for record in records:
        found = of(record)
        if found is not None:
            return record, found
    raise AssertionError("a topic that is followed does not end")
