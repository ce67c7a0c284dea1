"""The command that compares what came in with what went out."""

from __future__ import annotations

from typing import Annotated

import typer

from qwarden.cli.asking import ask
from qwarden.cli.environment import client_settings
from qwarden.cli.options import AsJson
from qwarden.cli.terminal import MISSING, NO, bar, end, show, write
from qwarden.cli.times import instant
from qwarden.verify import report
from qwarden.verify.report import Report


def verify(
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            help="Only events from then on: 2026-03-01T12:00Z, or an age: 2h; else all.",
        ),
    ] = None,
    to_end: Annotated[
        bool,
        typer.Option(
            "--to-end",
            help="Judge everything that is there, not only what lies below the committed offsets.",
        ),
    ] = False,
    examples: Annotated[
        int, typer.Option(min=0, help="How many events to name for each kind of finding.")
    ] = 5,
    as_json: AsJson = False,
) -> None:
    """Compare the input and the output topics: whether every event got what it is owed.

    The topics that have a file are read too: QWARDEN_POLICY__PATH must be what the services have.

    It exits with 1 where anything is missing, out of order, or has two values under one id; what
    was published twice after a crash is counted, and no fault.

    \b
    qwarden verify --since 2d
    """
    from qwarden import bootstrap
    from qwarden.registry.port import RegistryAway
    from qwarden.verify.reader import Scope, opened
    from qwarden.verify.theirs import Theirs

    settings = client_settings()
    scope = Scope(
        to_end=to_end,
        since=instant("--since", since) if since else None,
        max_event_bytes=settings.moderator.max_event_bytes,
    )

    async def run() -> Report:
        try:
            async with (
                bootstrap.door(settings) as (admission, schemas),
                opened(settings.kafka, scope, Theirs(admission, schemas)) as reader,
            ):
                with bar("reading", reader.total) as step:
                    return await reader.report(step, examples)
        except RegistryAway as away:
            end(MISSING, str(away))

    found = ask(run)
    if as_json:
        write(found.json() + b"\n")
    else:
        for line in (report.table(found), *report.lines(found)):
            show(line)
        show(report.sentence(found))
    if not found.is_good:
        raise SystemExit(NO)
