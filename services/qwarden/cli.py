"""The command `qwarden`: one service a command, and the tools to work with a stack.

Exit codes: 0 done, 1 the answer is no, 2 wrong use, 3 a dependency is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import getpass
import importlib.util
import inspect
import json
import os
import socket
import sys
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterator,
    Mapping,
)
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn, Protocol, TypeVar

import msgspec
import typer
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from typer.core import TyperGroup

from qwarden import bootstrap, kafka, render, telemetry
from qwarden import settings as settings_module
from qwarden.contracts import topics
from qwarden.contracts.refusal import ErrorClass
from qwarden.control.port import ControlUnusable
from qwarden.dead_letters import acting, letters, reading, resuming, terminal
from qwarden.dead_letters.acting import Done
from qwarden.dead_letters.letters import Letter, Place, Wanted
from qwarden.guard.row import View, views_of
from qwarden.inference.dispatch import Dispatcher
from qwarden.inference.in_process_stream import InProcessStream
from qwarden.inference.port import GuardFailed, GuardUnavailable
from qwarden.inference.stream_client import StreamClient
from qwarden.inference.stream_port import StreamGuard
from qwarden.inference.triton_stream import TritonStream
from qwarden.moderator.service import ModeratorService
from qwarden.offline import moderate as offline
from qwarden.policy.document import DocumentError
from qwarden.settings import Settings, SettingsError
from qwarden.stack.errors import StackError
from qwarden.stack.home import Home
from qwarden.stack.running import running, stop_running
from qwarden.streamer.service import StreamerService
from qwarden.verify import report
from qwarden.verify.reader import Scope, opened
from qwarden.verify.report import Report

NO, WRONG_USE, MISSING = 1, 2, 3
T = TypeVar("T")


class Evaluated(Protocol):
    """What an evaluation comes to. `unanswered`: why, where no row was answered."""

    @property
    def unanswered(self) -> str | None: ...
    def write(self, folder: Path) -> None: ...
    def json(self) -> bytes: ...
    def text(self) -> str: ...


app = typer.Typer(
    name="qwarden",
    help="Content moderation at the speed of a message queue.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
topics_app = typer.Typer(help="The topics that the fleet needs.", no_args_is_help=True)
config_app = typer.Typer(help="The settings that a service would start with.", no_args_is_help=True)
dlq_app = typer.Typer(
    help="What waits for a person: dead letters, halts, and lost records.", no_args_is_help=True
)
app.add_typer(topics_app, name="topics")
app.add_typer(config_app, name="config")
app.add_typer(dlq_app, name="dlq")


class _FilesByDefault(TyperGroup):
    """`qwarden eval FILE` and `qwarden eval stream FILE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in self.commands:
            args = ["files", *args]
        return super().parse_args(ctx, args)


eval_app = typer.Typer(cls=_FilesByDefault, help="Measure the guard on labelled files.")
app.add_typer(eval_app, name="eval")

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

HOME = Home(
    Path(os.environ["QWARDEN_STACK__HOME"]) if "QWARDEN_STACK__HOME" in os.environ else None
)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, a line a record.")]
Direct = Annotated[
    bool, typer.Option("--direct", help="Run the engine in this process, without Triton.")
]
Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[LETTER]...", help="PARTITION/OFFSET, as `qwarden dlq ls` says it."),
]
ErrorClasses = Annotated[
    list[str] | None, typer.Option("--error-class", help="Only letters of this class; repeat it.")
]
TenantNames = Annotated[
    list[str] | None, typer.Option("--tenant", help="Only letters of this tenant; repeat it.")
]
Since = Annotated[
    str | None,
    typer.Option(help="Only letters written since then: 2026-03-01T12:00Z, or an age: 2h."),
]
Until = Annotated[str | None, typer.Option(help="Only letters written before then.")]
Everything = Annotated[bool, typer.Option("--all", help="All open letters.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
GuardName = Annotated[
    str | None,
    typer.Option("--guard", help="A Qwen3Guard-Gen directory or hub id; implies --direct."),
]
StreamGuardName = Annotated[
    str | None,
    typer.Option("--guard", help="A Qwen3Guard-Stream directory or hub id; implies --direct."),
]
FieldNames = Annotated[
    list[str] | None,
    typer.Option("--field", help="What a field is called: label=toxicity; repeat it."),
]
OutFolder = Annotated[
    Path | None, typer.Option("--out", help="A folder for eval.json, table.md and the plots.")
]
LabelNames = Annotated[
    list[str] | None,
    typer.Option("--label", help="What a label means: toxic=Unsafe; repeat it."),
]
Chunk = Annotated[
    int | None,
    typer.Option(
        "--chunk",
        min=1,
        help="Send each text in pieces of so many characters, as it would come from a running "
        "model; by default at once. What is said is the same.",
    ),
]


def main() -> None:
    """Runs the command line; known failures end as a sentence and an exit code."""
    try:
        app()
    except (SettingsError, DocumentError) as error:
        _end(WRONG_USE, str(error))
    except StackError as error:
        _end(MISSING, str(error))
    except KeyboardInterrupt:
        sys.exit(130)


# Services.


@app.command()
def moderator() -> None:
    """Run the moderator: events from content.events, verdicts to moderation.verdicts.

    Everything it needs to know is in QWARDEN_* (`qwarden config show` lists it). It serves
    /metrics, /healthz and /readyz, and stops in order on SIGTERM.
    """

    async def run(settings: Settings) -> int:
        async with bootstrap.moderator(settings) as (judge, dispatcher):
            control = bootstrap.control_of(settings)
            return await ModeratorService(settings, judge, dispatcher, control).run()

    _serve(run)


@app.command()
def streamer() -> None:
    """Run the streamer: chunks from content.chunks, signals to moderation.signals, and verdicts.

    Everything it needs to know is in QWARDEN_* (`qwarden config show` lists it). It serves
    /metrics, /healthz and /readyz, and stops in order on SIGTERM.
    """

    async def run(settings: Settings) -> int:
        async with bootstrap.streamer(settings) as (judge, client, dispatcher):
            control = bootstrap.control_of(settings)
            return await StreamerService(settings, judge, client, dispatcher, control).run()

    _serve(run)


def _serve(run: Callable[[Settings], Coroutine[Any, Any, int]]) -> NoReturn:
    """Runs a service to its end, and exits with its code."""
    import uvloop

    settings = settings_module.load()
    telemetry.log_as_json(settings.telemetry.log_level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(run(settings)))


# The local stack.


@app.command()
def up(
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            help="Start only these parts (valkey, triton) or services (moderator, streamer); "
            "repeat it. The broker always starts.",
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            "--without",
            help="Leave a part out: `--without triton` runs the engines in the services' own "
            "processes.",
        ),
    ] = None,
    guard: Annotated[
        list[str] | None,
        typer.Option(
            "--guard",
            help="A Qwen3Guard-Gen or -Stream directory or hub id; repeat it. By default the "
            "stand-ins (toys).",
        ),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when everything is ready; `qwarden down` ends.")
    ] = False,
) -> None:
    """Start the local stack and the services, until Ctrl-C.

    Addresses: .qwarden/stack.json. Settings with which one more service joins: .qwarden/stack.env.
    A broker named by QWARDEN_KAFKA__BOOTSTRAP_SERVERS is used instead of a local one.
    """
    from qwarden.stack.detached import start_detached
    from qwarden.stack.local import plan
    from qwarden.stack.stack import Stack, run

    wanted = plan(only=only or [], without=without or [], guards=guard or [], tell=err.print)
    parts: dict[str, Any] = {
        "services": wanted.services,
        "parts": wanted.parts,
        "settings": wanted.settings,
        "progress": _say,
    }
    if detach:
        start_detached(HOME, **parts)
        _where(HOME)
        return

    def ready() -> None:
        _where(HOME)
        err.print("Ctrl-C ends it.")

    run(Stack(HOME, **parts), ready)


@app.command()
def demo(
    once: Annotated[
        bool, typer.Option("--once", help="End when every sample has its outcome; 1 if one lacks.")
    ] = False,
    without: Annotated[
        list[str] | None,
        typer.Option("--without", help="As for `qwarden up`: `--without triton`."),
    ] = None,
) -> None:
    """Start everything, publish the sample events, and show every verdict as it comes."""
    from qwarden.stack.demo import Demo
    from qwarden.stack.local import plan
    from qwarden.stack.stack import Stack, ended_by_signals

    wanted = plan(without=without or [], tell=err.print)
    stack = Stack(
        HOME,
        services=wanted.services,
        parts=wanted.parts,
        settings=wanted.settings,
        progress=_say,
    )
    with ended_by_signals(stack), stack:

        async def run() -> bool:
            ended = asyncio.create_task(asyncio.to_thread(stack.wait))
            sessions = "streamer" in wanted.services
            answered = await Demo(HOME, out, sessions=sessions).run(ended, once=once)
            if not ended.done():
                stack.cancel()
                await ended
            return answered

        answered = _ask(run)
    if once and not answered:
        raise SystemExit(NO)


@app.command()
def down() -> None:
    """End the stack that `qwarden up` started, and wait until all of it is gone."""
    ran = stop_running(HOME)
    HOME.forget()  # what a killed stack has left behind
    err.print("The stack has ended." if ran else "No stack runs here.")


def _where(home: Home) -> None:
    addresses = home.addresses() or {}
    err.print("The stack is ready:")
    err.print(json.dumps(addresses, indent=2))
    for name, service in addresses.get("services", {}).items():
        err.print(f"metrics of the {name}: http://{service['http']}/metrics")


def _say(part: str, message: str, fraction: float | None) -> None:
    share = "" if fraction is None or fraction >= 1 else f" {fraction:.0%}"
    err.print(f"[bold]{part:>10}[/] {message}{share}")


# Topics.


@topics_app.command("create")
def topics_create(
    partitions: Annotated[
        int, typer.Option(help="Partitions of each topic; moderation.control has one.")
    ] = 8,
    replication_factor: Annotated[int, typer.Option(help="Replicas of each partition.")] = 1,
    min_insync_replicas: Annotated[
        int, typer.Option(help="Replicas that must have a record before it is acknowledged.")
    ] = 1,
) -> None:
    """Make the topics that are missing; those that are there stay as they are."""
    settings = _client_settings()
    made = _ask(
        lambda: kafka.create_topics(
            settings.kafka,
            partitions=partitions,
            replication_factor=replication_factor,
            min_insync_replicas=min_insync_replicas,
            max_event_bytes=settings.moderator.max_event_bytes,
        )
    )
    err.print(f"made: {', '.join(made)}" if made else "all topics are there already")


@app.command()
def publish(
    file: Annotated[Path, typer.Argument(help="A JSONL of events; - reads standard input.")],
    topic: Annotated[str, typer.Option(help="Where to publish.")] = topics.CONTENT,
) -> None:
    """Publish each line of a file as one record.

    An event needs event_id, tenant, and messages or text:
    {"event_id": "1", "tenant": "demo", "text": "Hello"}
    With --topic content.chunks a line is a piece of a running session:
    {"session": "1", "seq": 0, "tenant": "demo", "role": "user", "text": "Hello", "end": "turn"}
    """
    settings = _client_settings()
    with _opened(file) as lines:
        values = list(offline.lines_of(lines))
    with _bar("publishing", len(values)) as step:
        count = _ask(lambda: kafka.publish(settings.kafka, topic, values, lambda _p, _o: step(1)))
    err.print(f"published {count} records to {topic}")


@app.command()
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
    """Show a topic's records as people read them, until Ctrl-C."""
    settings = _client_settings()

    async def show() -> None:
        if topic == topics.VERDICTS and not as_json:
            out.print(render.verdict_heading())
        async with kafka.reading(
            settings.kafka, topic, from_beginning=from_beginning or not follow, follow=follow
        ) as records:
            await _print(records, topic, as_json)

    _ask(show)


def _wanted(
    error_class: ErrorClasses = None,
    tenant: TenantNames = None,
    since: Since = None,
    until: Until = None,
) -> Wanted:
    """The letters that the options of a command take."""
    now = datetime.now(UTC)
    known = [each.value for each in ErrorClass]
    for name in error_class or []:
        if name not in known:
            _end(WRONG_USE, f"there is no error class {name!r}; known: {', '.join(known)}")
    return _right(
        lambda: Wanted(
            error_classes=frozenset(error_class or ()),
            tenants=frozenset(tenant or ()),
            since=letters.instant_of(since, now) if since else None,
            until=letters.instant_of(until, now) if until else None,
        )
    )


def _filtered(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of `_wanted` in place of its parameter `wanted`."""
    options = inspect.signature(_wanted, eval_str=True).parameters
    of_its_own = inspect.signature(command, eval_str=True).parameters

    @functools.wraps(command)
    def run(**given: Any) -> None:
        command(_wanted(**{name: given.pop(name) for name in options}), **given)

    taken = [*options.values(), *(each for name, each in of_its_own.items() if name != "wanted")]
    by_name = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in taken]
    run.__signature__ = inspect.Signature(by_name)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in by_name}
    return run


@dlq_app.command("ls")
@_filtered
def dlq_ls(wanted: Wanted, as_json: AsJson = False) -> None:
    """List the open dead letters: where each came from, its error class, and the reason.

    A letter is open until it was replayed or dropped. Its place, the first column, names it to the
    other commands.

    \b
    qwarden dlq ls --error-class crashed --since 2h
    """
    settings = _client_settings()
    found = _open_letters(settings, wanted)
    for letter in found.letters.values():
        if as_json:
            _json_line(letter)
        else:
            out.print(terminal.open_letter(letter))
    err.print(_counted(found.letters.values()), markup=False)


@dlq_app.command("show")
def dlq_show(
    letter: Annotated[str, typer.Argument(help="PARTITION/OFFSET, as `qwarden dlq ls` says it.")],
    as_json: AsJson = False,
) -> None:
    """Show one dead letter with all that it holds, the content too; also one that is done.

    \b
    qwarden dlq show 3/17
    """
    settings = _client_settings()
    place = _right(lambda: letters.place_of(letter))
    found = _ask(lambda: reading.shown(settings.kafka, place))
    if found is None:
        _end(NO, f"there is no dead letter {place}; `qwarden dlq ls` lists the open ones")
    if as_json:
        whole = {"letter": found.letter.letter, "at": found.letter.at, "mark": found.mark}
        _json_line(whole | {"dead_letter": found.dead})
    else:
        out.print(terminal.whole_letter(*found))


@dlq_app.command("replay")
@_filtered
def dlq_replay(
    wanted: Wanted,
    names: Names = None,
    *,
    everything: Everything = False,
    rate: Annotated[
        float,
        typer.Option(
            min=0.1,
            help="Records a second at most: what is mistaken can be stopped by Ctrl-C before much "
            "of it is out.",
        ),
    ] = acting.DEFAULT_RATE,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Send the records of dead letters again, to content.backlog, as their producers sent them.

    For when what was wrong is mended: the guard, a policy, a limit. A letter that was sent is
    marked and no longer open; a run that was stopped goes on where it ended. A letter that does
    not hold all of its record is completed from where it came from, or left (exit code 1).

    \b
    qwarden dlq replay 3/17 3/18
    qwarden dlq replay --error-class crashed --since 2d --dry-run
    """
    settings = _client_settings()
    chosen = _chosen(settings, wanted, names, everything=everything)
    work = partial(acting.replay, settings.kafka, by=_who(), rate=rate, dry_run=dry_run)
    _act("replayed", chosen, work, dry_run=dry_run, as_json=as_json)


@dlq_app.command("drop")
@_filtered
def dlq_drop(
    wanted: Wanted,
    names: Names = None,
    *,
    everything: Everything = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Give dead letters up: they are marked and no longer open, and stay on the topic.

    \b
    qwarden dlq drop 3/17
    qwarden dlq drop --error-class not_json --tenant forum --until 7d
    """
    settings = _client_settings()
    chosen = _chosen(settings, wanted, names, everything=everything)
    work = partial(acting.drop, settings.kafka, by=_who(), dry_run=dry_run)
    _act("dropped", chosen, work, dry_run=dry_run, as_json=as_json)


@dlq_app.command("resume")
def dlq_resume(dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Let the fleet go on after a halt, once the guard or its deploy is mended.

    A moderator whose guard fails on many different contents writes a halt, with the figures, to
    moderation.control, and every moderator pauses. This withdraws it.

    \b
    qwarden dlq resume --dry-run     says why the fleet stands, and changes nothing
    qwarden dlq resume
    """
    settings = _client_settings()
    halts = _ask(lambda: resuming.resume(settings.kafka, dry_run=dry_run))
    for halt in halts.values():
        if as_json:
            _json_line(halt)
        else:
            out.print(f"{halt.at:%Y-%m-%d %H:%M:%S}  {halt.by}: {halt.reason}", markup=False)
    if not halts:
        err.print("No halt is in force.")
    elif dry_run:
        err.print("The fleet is halted; without --dry-run this lets it go on.")
    else:
        err.print("Withdrawn: the moderators go on within seconds.")


@dlq_app.command("accept-loss")
def dlq_accept_loss(
    where: Annotated[
        str, typer.Argument(metavar="TOPIC/PARTITION", help="As the moderator's log names it.")
    ],
    group: Annotated[
        str | None, typer.Option(help="Who has lost records; by default the moderators' own group.")
    ] = None,
    lost_from: Annotated[
        int | None,
        typer.Option(
            "--from", min=0, help="The offset at which the moderator says that it is stopped."
        ),
    ] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Accept that records of a partition are lost, so that its moderator goes on behind them.

    A partition stops where the group's offset is not in the topic any more: its retention was
    shorter than an outage, or it was made again. First see whether the records can come from their
    producers once more.

    \b
    qwarden dlq accept-loss content.events/1 --from 1200 --dry-run
    """
    settings = _client_settings()
    topic, slash, partition = where.rpartition("/")
    if not (slash and topic and partition.isdecimal()):
        _end(WRONG_USE, f"{where!r} names no partition; name it as TOPIC/PARTITION")
    known = {**settings.kafka.groups, topics.CHUNKS: settings.streamer.group_id}
    group = group or known.get(topic, settings.kafka.group_id)
    try:
        loss = _ask(
            lambda: resuming.accept_loss(
                settings.kafka,
                TopicPartition(topic, int(partition)),
                group,
                lost_from=lost_from,
                at=datetime.now(UTC),
                by=_who(),
                dry_run=dry_run,
            )
        )
    except resuming.NothingLost as nothing:
        _end(NO, str(nothing))
    if as_json:
        _json_line(loss)
    lost = (
        f"the records {loss.committed} to {loss.resume_at - 1}"
        if loss.committed < loss.resume_at
        else f"what stood before its offset {loss.committed}, since the topic was made again,"
    )
    err.print(
        f"{where}: the group {loss.group} has lost {lost} and "
        f"{'would go' if dry_run else 'goes'} on at {loss.resume_at}.",
        markup=False,
    )


@app.command()
def verify(
    since: Annotated[
        str | None,
        typer.Option(
            "--since", help="Only events from then on: 2026-03-01T12:00Z; else from the beginning."
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

    It exits with 1 where anything is missing, out of order, or has two values under one id; what
    was published twice after a crash is counted, and no fault.
    """
    settings = _client_settings()
    scope = Scope(
        to_end=to_end,
        since=_time("--since", since),
        max_event_bytes=settings.moderator.max_event_bytes,
    )

    async def run() -> Report:
        async with opened(settings.kafka, scope) as reader:
            with _bar("reading", reader.total) as step:
                return await reader.report(step, examples)

    found = _ask(run)
    if as_json:
        sys.stdout.buffer.write(found.json() + b"\n")
        sys.stdout.buffer.flush()
    else:
        for line in (report.table(found), *report.lines(found)):
            out.print(line, markup=False)
        out.print(report.sentence(found), markup=False)
    if not found.is_good:
        raise SystemExit(NO)


# Files.


@app.command()
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
    """
    if stream:
        if views is not None:
            _end(WRONG_USE, "--views: a stream is judged as it is sent; leave the option out")
        _moderate_stream(file, out_file, plot, chunk, direct=direct, guard=guard)
        return
    if chunk is not None or plot is not None:
        _end(WRONG_USE, "--chunk and --plot go with --stream; add it")
    environ = _guard_environ(direct, guard)
    environ.pop("QWARDEN_REDIS__URL", None)
    settings = settings_module.load(environ)
    telemetry.log_as_json("warning")

    tenants = bootstrap.tenants_of(settings)
    if views is None and guard is not None:
        views = View.AS_SENT
    if views is not None:
        try:
            tenants = tenants.with_views(views_of(views.split(",")))
        except ValueError as error:
            _end(WRONG_USE, f"--views: {error}")
    policies = {name: policy.version for name, policy in tenants.policies().items()}
    with _opened(file) as source:
        lines = list(offline.lines_of(source))

    async def run() -> None:
        guard = bootstrap.guard_of(settings)
        async with bootstrap.moderator(settings, guard, tenants) as (judge, _):
            with err.status("loading the guard …"):
                # Asked here: a service waits for an absent guard, and a person should not.
                revision = await guard.revision()
            first = 0
            if out_file is not None:
                admission = bootstrap.admission_of(settings, tenants)
                first = offline.resume(out_file, lines, revision, policies, admission)
            if first:
                err.print(f"{first:,} of {len(lines):,} lines are done already; going on")
            with contextlib.ExitStack() as stack:
                sink = stack.enter_context(out_file.open("ab")) if out_file else sys.stdout.buffer
                step = stack.enter_context(_bar("judging", len(lines), first))

                def done(count: int) -> None:
                    sink.flush()
                    step(count)

                await offline.moderate(
                    judge,
                    iter(lines[first:]),
                    name=str(file),
                    first=first,
                    write=sink.write,
                    done=done,
                )

    _ask(run)


def _moderate_stream(
    file: Path,
    out_file: Path | None,
    plot: Path | None,
    chunk: int | None,
    *,
    direct: bool,
    guard: str | None,
) -> None:
    from qwarden.offline import moderate_stream as streamed
    from qwarden.offline.stream_reading import ExchangeReader

    settings = _keyless(_stream_environ(direct, guard))
    telemetry.log_as_json("warning")
    tenants = bootstrap.tenants_of(settings)
    admission = bootstrap.admission_of(settings, tenants)
    policies = {name: policy.version for name, policy in tenants.policies().items()}
    drawn = None
    if plot is not None:
        _needs_eval_extra("matplotlib")
        _right(partial(_made, plot, "--plot"))
        drawn = partial(streamed.draw, plot)
    with _opened(file) as source:
        lines = list(offline.lines_of(source))

    async def run() -> None:
        async with _stream_client(settings) as (client, revision):
            first = 0
            if out_file is not None:
                first = streamed.resume(out_file, lines, revision, policies, admission)
            if first:
                err.print(f"{first:,} of {len(lines):,} lines are done already; going on")
            with contextlib.ExitStack() as stack:
                sink = stack.enter_context(out_file.open("ab")) if out_file else sys.stdout.buffer
                step = stack.enter_context(_bar("judging", len(lines), first))

                def done(count: int) -> None:
                    sink.flush()
                    step(count)

                await streamed.moderate_stream(
                    ExchangeReader(client, chunk),
                    admission,
                    lines[first:],
                    name=str(file),
                    first=first,
                    write=sink.write,
                    done=done,
                    drawn=drawn,
                )

    _ask(run)
    if plot is not None:
        err.print(f"the pictures are in {plot}", markup=False)


@eval_app.command("files")
def evaluation(
    files: Annotated[
        list[Path], typer.Argument(help="Labelled JSONL, also gzipped; - reads standard input.")
    ],
    *,
    fields: FieldNames = None,
    labels: LabelNames = None,
    out_dir: OutFolder = None,
    bins: Annotated[
        int, typer.Option(min=1, max=1000, help="Bins of the reliability table and the ECE.")
    ] = 15,
    direct: Direct = False,
    guard: GuardName = None,
    as_json: AsJson = False,
) -> None:
    """Measure the guard on labelled files: quality tables and plots.

    A row has a label (Safe, Controversial, Unsafe), what is judged (messages, prompt and response,
    or text) and, where known, id, source, lang, task, categories and refusal. By default it asks
    the Triton of the running stack, or of QWARDEN_TRITON__URL.

    `qwarden eval stream` measures Qwen3Guard-Stream.
    """
    _needs_eval_extra("numpy", *(("matplotlib",) if out_dir is not None else ()))
    from qwarden.offline.eval.evaluation import Evaluation, evaluate
    from qwarden.offline.eval.files import Reader
    from qwarden.offline.eval.labelled import labelled_of
    from qwarden.offline.eval.names import names_of

    settings = _keyless(_guard_environ(direct, guard))
    telemetry.log_as_json("warning")

    async def run() -> Evaluation:
        reader = Reader(names_of(fields or [], labels or []), labelled_of)
        _read_all(reader, files)
        _made(out_dir, "--out")
        guard = bootstrap.guard_of(settings)
        dispatcher = Dispatcher(guard, bootstrap.limits_of(settings))
        try:
            with err.status("loading the guard …"):
                revision = await guard.revision()
            with _bar("judging", len(reader.rows)) as step:
                return await evaluate(dispatcher, reader.rows, revision, bins=bins, done=step)
        finally:
            await dispatcher.close()
            await guard.close()

    _tell(_ask(run), out_dir, as_json=as_json)


@eval_app.command("stream")
def evaluation_of_stream(
    files: Annotated[
        list[Path],
        typer.Argument(help="Of Qwen3GuardTest's format, or labelled; - reads standard input."),
    ],
    *,
    fields: FieldNames = None,
    labels: LabelNames = None,
    out_dir: OutFolder = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer",
            help="What made the files' input_ids: a tokenizer.json, or a checkpoint's directory or "
            "hub id; by default the guard's own.",
        ),
    ] = None,
    choose: Annotated[
        bool,
        typer.Option("--choose", help="Find the rules that flag most within --budget, instead."),
    ] = False,
    budget: Annotated[
        float,
        typer.Option(
            min=0, max=0.5, help="The share of Safe texts that --choose may have flagged."
        ),
    ] = 0.01,
    plot: Annotated[
        list[str] | None,
        typer.Option(
            "--plot",
            metavar="ID",
            help="Draw the scores along this row's text instead, into --out or here; repeat it.",
        ),
    ] = None,
    chunk: Chunk = None,
    direct: Direct = False,
    guard: StreamGuardName = None,
    as_json: AsJson = False,
) -> None:
    """Measure the stream guard: where its flags fall, what they find, and what it says at the end.

    \b
    qwarden eval stream thinking_loc.jsonl --guard Qwen/Qwen3Guard-Stream-0.6B --out report/
    qwarden eval stream thinking.jsonl --guard Qwen/Qwen3Guard-Stream-0.6B --choose --budget 0.02
    """
    _needs_eval_extra("numpy", *(("matplotlib",) if out_dir is not None or plot else ()))
    from qwarden.offline.eval import stream_evaluation as streamed
    from qwarden.offline.eval.files import Reader
    from qwarden.offline.eval.names import names_of
    from qwarden.offline.eval.stream_rows import stream_row_of
    from qwarden.offline.eval.stream_table import choice_table
    from qwarden.offline.stream_reading import ExchangeReader

    settings = _keyless(_stream_environ(direct, guard))
    telemetry.log_as_json("warning")

    async def run() -> streamed.StreamEvaluation:
        own = settings.stream
        decode = None
        if tokenizer is not None:
            decode = streamed.decoder_of(tokenizer)
        elif own is not None:
            decode = streamed.decoder_of(own.checkpoint, own.hub_revision)
        reader = Reader(names_of(fields or [], labels or []), partial(stream_row_of, decode=decode))
        _read_all(reader, files)
        rows = reader.rows if not plot else streamed.named(reader.rows, plot)
        _made(out_dir, "--out")
        async with _stream_client(settings) as (client, revision):
            with _bar("judging", len(rows)) as step:
                reads = await streamed.read_rows(ExchangeReader(client, chunk), rows, step)
        return streamed.StreamEvaluation.of(rows, reads, revision)

    found = _ask(run)
    if plot:
        for file in found.draw(out_dir or Path()):
            out.print(str(file), markup=False)
        return
    if not choose:
        _tell(found, out_dir, as_json=as_json)
        return
    choices, missing = streamed.choices_of(found.rows, found.reads, budget)
    for sentence in missing:
        err.print(sentence, markup=False)
    if as_json:
        _json_line(choices)
    else:
        sys.stdout.buffer.write(choice_table(choices).encode() if choices else b"")
        sys.stdout.buffer.flush()
    if not any(choice.chosen for choice in choices):
        _end(NO, "nothing was chosen")


def _read_all(reader: Any, files: list[Path]) -> None:
    """Reads labelled files to their end. Raises `ValueError`."""
    for file in files:
        with _opened(file) as opened:
            reader.read("standard input" if str(file) == "-" else str(file), opened)
    reader.close()


def _made(folder: Path | None, option: str) -> None:
    """Makes a folder that is named, before the work that it is for. Raises `ValueError`."""
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{option} {folder}: {error.strerror}; name another folder") from None


def _needs_eval_extra(*names: str) -> None:
    for name in names:
        if importlib.util.find_spec(name) is None:
            _end(MISSING, f"{name} is not installed; eval needs the extra: qwarden[eval]")
    if "matplotlib" in names:
        os.environ.setdefault("MPLCONFIGDIR", str(HOME.cache("matplotlib")))


def _tell(found: Evaluated, out_dir: Path | None, *, as_json: bool) -> None:
    """Writes and prints an evaluation; exits 1 where no row was answered."""
    if out_dir is not None:
        try:
            found.write(out_dir)
        except OSError as error:
            _end(WRONG_USE, f"--out {out_dir}: {error}; name another folder")
        err.print(f"eval.json, table.md and the plots are in {out_dir}", markup=False)
    sys.stdout.buffer.write(found.json() + b"\n" if as_json else found.text().encode())
    sys.stdout.buffer.flush()
    if found.unanswered is not None:
        _end(NO, f"no row was answered; most often because {found.unanswered}")


# Settings.


@config_app.command("show")
def config_show() -> None:
    """Print all settings as JSON, secrets hidden, and exit 2 where one is wrong."""
    out.print_json(json.dumps(settings_module.shown(settings_module.load(_environ()))))


@config_app.command("check")
def config_check() -> None:
    """Check the settings and the policies and tenants that they name; start nothing."""
    settings = settings_module.load(_environ())
    kafka.client_arguments(settings.kafka)
    tenants = bootstrap.tenants_of(settings)
    names = ", ".join(sorted(tenants.known)) or "none (every tenant gets the policy default)"
    err.print(f"The settings are good. Tenants with a file: {names}.")


# What the commands share.


def _environ() -> dict[str, str]:
    """The environment over the running local stack's settings, if there is one."""
    # One that was killed leaves its files behind; what they name has ended.
    stack = HOME.settings() if running(HOME) is not None else None
    return {**(stack or {}), **os.environ}


def _guard_environ(direct: bool, guard: str | None) -> dict[str, str]:
    """The environment with the guard that the options choose."""
    environ = _environ()
    if guard is not None:
        environ["QWARDEN_ENGINE__CHECKPOINT"] = guard
    if direct or guard is not None:
        from qwarden.stack.local import STAND_IN

        environ["QWARDEN_GUARD__MODE"] = "in-process"
        environ.setdefault("QWARDEN_ENGINE__CHECKPOINT", str(STAND_IN))
    return environ


def _stream_environ(direct: bool, guard: str | None) -> dict[str, str]:
    """The environment with the stream guard that the options choose."""
    environ = _environ()
    if guard is not None:
        environ["QWARDEN_STREAM__CHECKPOINT"] = guard
    if direct or guard is not None:
        from qwarden.stack.local import STREAM_STAND_IN

        environ["QWARDEN_GUARD__MODE"] = "in-process"
        environ.setdefault("QWARDEN_STREAM__CHECKPOINT", str(STREAM_STAND_IN))
        # What was judged is over, and has no more need of the memory that it is kept in.
        environ.setdefault("QWARDEN_STREAM__SILENT_S", "0")
    return environ


@contextlib.asynccontextmanager
async def _stream_client(settings: Settings) -> AsyncIterator[tuple[StreamClient, str]]:
    """A client of the stream guard, and the revision that answers: a service waits for an absent
    guard, and a person should not."""
    guard: StreamGuard
    if settings.guard.mode == "in-process" and settings.stream is not None:
        guard = InProcessStream(settings.stream)
        client = bootstrap.stream_client_of(settings, guard_at=lambda _: guard)
    else:
        own = settings.stream_guard
        guard = TritonStream(settings.stream_urls[0], timeout_s=own.timeout_s, queue_s=own.queue_s)
        client = bootstrap.stream_client_of(settings)
    try:
        with err.status("loading the guard …"):
            revision = await guard.revision()
        yield client, revision
    finally:
        await client.close()
        await guard.close()


def _client_settings() -> Settings:
    return _keyless(_environ())


def _keyless(environ: Mapping[str, str]) -> Settings:
    # A tool that hashes nothing needs no content key.
    return settings_module.load({"QWARDEN_CONTENT_KEY": "00" * 32, **environ})


def _ask(work: Callable[[], Awaitable[T]]) -> T:
    """Runs a coroutine; what a dependency fails with becomes a sentence and an exit code."""

    async def run() -> T:
        return await work()

    try:
        return asyncio.run(run())
    except UnknownTopicOrPartitionError as error:
        _end(MISSING, f"{error}; `qwarden topics create` makes the topics")
    except KafkaError as error:
        _end(
            MISSING,
            f"Kafka does not answer as it should: {error}. Is QWARDEN_KAFKA__BOOTSTRAP_SERVERS "
            "right, or the local stack up (`qwarden up`)?",
        )
    except ControlUnusable as error:
        _end(MISSING, str(error))
    except GuardUnavailable as error:
        _end(MISSING, f"{error}; is the stack up (`qwarden up`), or is --direct meant?")
    except GuardFailed as error:
        _end(MISSING, str(error))
    except (offline.ResumeError, FileNotFoundError) as error:
        _end(WRONG_USE, str(error))
    except ImportError as error:
        _end(MISSING, f"{error.name} is not installed; the engine needs the extra: qwarden[engine]")
    except ValueError as error:
        _end(WRONG_USE, str(error))


def _time(option: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        _end(WRONG_USE, f"{option}: {text!r} is no time; write it as 2026-03-01T12:00Z")
    if time.tzinfo is None:
        _end(WRONG_USE, f"{option}: {text!r} has no time zone; add Z, or +01:00")
    return time


def _open_letters(settings: Settings, wanted: Wanted) -> letters.Open:
    with err.status("reading the dead letters …"):
        found = _ask(lambda: reading.open_letters(settings.kafka, wanted))
    if found.unreadable:
        err.print(f"{found.unreadable} records of the topic are neither letters nor marks")
    return found


def _chosen(
    settings: Settings, wanted: Wanted, names: list[str] | None, *, everything: bool
) -> letters.Open:
    """The open letters that a command is to act on."""
    places = _right(lambda: frozenset(map(letters.place_of, names or ())))
    wanted = dataclasses.replace(wanted, places=places)
    if wanted == Wanted() and not everything:
        _end(WRONG_USE, "which letters? Name them, filter them, or say --all")
    return _open_letters(settings, wanted)


def _act(
    what: str,
    chosen: letters.Open,
    work: Callable[[list[Place]], AsyncIterator[Done]],
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Acts on letters and tells of each, as it is done; exits 1 where any is left."""
    places = list(chosen.letters)
    left = 0

    async def run() -> None:
        nonlocal left
        with _bar(what, len(places)) as step:
            async for done in work(places):
                left += done.left is not None
                if as_json:
                    _json_line({"letter": str(done.place), what: done.left is None} | _told(done))
                elif done.left is not None:
                    err.print(f"{done.place} is left: {done.left}", style="red", markup=False)
                elif dry_run:
                    out.print(terminal.open_letter(chosen.letters[done.place]))
                step(1)

    missing = chosen.missing()
    for sentence in missing:
        err.print(sentence, style="red", markup=False)
    _ask(run)
    would = "would be " if dry_run else ""
    err.print(f"{len(places) - left} letters {would}{what}, {left} left")
    if left or missing:
        raise SystemExit(NO)


def _told(done: Done) -> dict[str, object]:
    told = {"sent_to": done.sent_to, "reason": done.left}
    return {name: value for name, value in told.items() if value is not None}


def _counted(found: Collection[Letter]) -> str:
    """How many letters there are, and of which error classes."""
    if not found:
        return "No dead letter is open that these filters take."
    classes = Counter(letter.error_class for letter in found).most_common()
    return f"{len(found)} open: " + ", ".join(f"{count} {name}" for name, count in classes)


def _json_line(record: object) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(record) + b"\n")
    sys.stdout.buffer.flush()


def _who() -> str:
    """Who runs this command, for what stands on topics."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        name = "cli"
    return f"{name}@{socket.gethostname()}"


def _right(read: Callable[[], T]) -> T:
    """What a person has typed, read; a mistake becomes a sentence and an exit code."""
    try:
        return read()
    except ValueError as error:
        _end(WRONG_USE, str(error))


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    if str(file) == "-":
        yield sys.stdin.buffer
        return
    if not file.exists() or file.is_dir():  # a pipe of the shell's is no file, and can be read
        _end(WRONG_USE, f"there is no file {file}")
    with file.open("rb") as opened:
        yield opened


@contextlib.contextmanager
def _bar(what: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error, where somebody looks at it."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal) as progress:
        task = progress.add_task(what, total=total, completed=done)
        yield lambda count: progress.advance(task, count)


async def _print(records: AsyncIterator[Any], topic: str, as_json: bool) -> None:
    async for record in records:
        if as_json:
            sys.stdout.buffer.write((record.value or b"null") + b"\n")
            sys.stdout.buffer.flush()
        else:
            out.print(render.record(topic, record.value, record.headers))


def _end(code: int, sentence: str) -> NoReturn:
    err.print(sentence, style="red" if code else "", markup=False)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
