"""The command that judges a file of events."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from qwarden.cli.asking import ask
from qwarden.cli.environment import keyed, keyless, needs_eval_extra
from qwarden.cli.files import appending, lines_of, made
from qwarden.cli.options import Chunk, Direct, GuardName
from qwarden.cli.terminal import WRONG_USE, bar, end, err
from qwarden.guard.row import View, views_of


def moderate(
    file: Annotated[Path, typer.Argument(help="A JSONL of events; - reads standard input.")],
    *,
    out_file: Annotated[
        Path | None,
        typer.Option("--out", help="Write here, and go on where an earlier run stopped."),
    ] = None,
    direct: Direct = False,
    guard: GuardName = None,
    views: Annotated[
        str | None,
        typer.Option(
            "--views",
            help=f"Judge these, whatever the policies say: {','.join(View)}, or as_sent alone, the "
            "default with --guard.",
        ),
    ] = None,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream",
            help="Judge token by token with Qwen3Guard-Stream, which --guard names then: a row for "
            "each event, with the scores of every token of its last assistant's turn.",
        ),
    ] = False,
    chunk: Chunk = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="With --stream: a folder for a picture of each event."),
    ] = None,
) -> None:
    """Judge a file of events without Kafka: its verdicts or a dead letter for each, in order.

    By default it asks the Triton of the running stack, or of QWARDEN_TRITON__URL. An answer with
    reasoning has two verdicts, on lines that follow each other; with --stream each event has one
    row.

    \b
    qwarden moderate events.jsonl --out verdicts.jsonl
    qwarden moderate events.jsonl --guard Qwen/Qwen3Guard-Gen-0.6B
    """
    if stream:
        if views is not None:
            end(WRONG_USE, "--views: a stream is judged as it is sent; leave the option out")
        _moderate_stream(file, out_file, plot, chunk, direct=direct, guard=guard)
        return
    if chunk is not None or plot is not None:
        end(WRONG_USE, "--chunk and --plot go with --stream; add it")
    from qwarden import bootstrap, telemetry
    from qwarden.cli.guards import guard_environ
    from qwarden.offline import moderate as offline
    from qwarden.offline.resuming import resume

    environ = guard_environ(direct, guard)
    environ.pop("QWARDEN_REDIS__URL", None)
    settings = keyed(environ)
    telemetry.log_as_json("warning")

    tenants = bootstrap.tenants_of(settings)
    if views is None and guard is not None:
        views = View.AS_SENT
    if views is not None:
        try:
            tenants = tenants.with_views(views_of(views.split(",")))
        except ValueError as error:
            end(WRONG_USE, f"--views: {error}")
    lines = lines_of(file)

    with appending(out_file) as write:

        async def run() -> None:
            guard = bootstrap.guard_of(settings)
            async with bootstrap.moderator(settings, guard, tenants) as (judge, _):
                with err.status("loading the guard …"):
                    # Asked here: a service waits for an absent guard, and a person should not.
                    revision = await guard.revision()
                admission = bootstrap.admission_of(settings, tenants)
                first = 0
                if out_file is not None:
                    first = resume(out_file, lines, revision, admission, offline.tasks_of)
                with _judging(len(lines), first) as step:
                    await offline.moderate(
                        judge,
                        iter(lines[first:]),
                        name=str(file),
                        first=first,
                        write=write,
                        done=step,
                    )

        ask(run)


def _moderate_stream(
    file: Path,
    out_file: Path | None,
    plot: Path | None,
    chunk: int | None,
    *,
    direct: bool,
    guard: str | None,
) -> None:
    from qwarden import bootstrap, telemetry
    from qwarden.cli.guards import stream_client, stream_environ
    from qwarden.offline import moderate_stream as streamed
    from qwarden.offline.resuming import resume
    from qwarden.offline.stream_reading import ExchangeReader

    settings = keyless(stream_environ(direct, guard))
    telemetry.log_as_json("warning")
    admission = bootstrap.admission_of(settings, bootstrap.tenants_of(settings))
    drawn = None
    if plot is not None:
        needs_eval_extra("matplotlib")
        made(plot, "--plot")
        drawn = partial(streamed.draw, plot)
    lines = lines_of(file)

    with appending(out_file) as write:

        async def run() -> None:
            async with stream_client(settings) as (client, revision):
                first = 0
                if out_file is not None:
                    first = resume(out_file, lines, revision, admission, streamed.tasks_of)
                with _judging(len(lines), first) as step:
                    await streamed.moderate_stream(
                        ExchangeReader(client, chunk),
                        admission,
                        lines[first:],
                        name=str(file),
                        first=first,
                        write=write,
                        done=step,
                        drawn=drawn,
                    )

        ask(run)
    if plot is not None:
        err.print(f"the pictures are in {plot}", markup=False)


@contextlib.contextmanager
def _judging(lines: int, first: int) -> Iterator[Callable[[int], None]]:
    if first:
        err.print(f"{first:,} of {lines:,} lines are done already; going on")
    with bar("judging", lines, first) as step:
        yield step
