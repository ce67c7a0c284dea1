"""The command `qwarden`: one service a command, and the tools to work with a stack.

Exit codes: 0 done, 1 the answer is no, 2 wrong use, 3 a dependency is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import importlib.util
import json
import os
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import msgspec
import typer
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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
from qwarden.inference.port import GuardFailed, GuardUnavailable
from qwarden.moderator.service import ModeratorService
from qwarden.offline import moderate as offline
from qwarden.policy.document import DocumentError
from qwarden.settings import Settings, SettingsError
from qwarden.stack.errors import StackError
from qwarden.stack.home import Home
from qwarden.stack.running import running, stop_running
from qwarden.verify import report
from qwarden.verify.reader import Scope, opened
from qwarden.verify.report import Report

NO, WRONG_USE, MISSING = 1, 2, 3
T = TypeVar("T")

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
    import uvloop

    settings = settings_module.load()
    telemetry.log_as_json(settings.telemetry.log_level)

    async def run() -> int:
        async with bootstrap.moderator(settings) as (judge, dispatcher):
            control = bootstrap.control_of(settings)
            return await ModeratorService(settings, judge, dispatcher, control).run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(run()))


# The local stack.


@app.command()
def up(
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            help="Start only these parts (valkey, triton) or services (moderator); repeat it. "
            "The broker always starts.",
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            "--without",
            help="Leave a part out: `--without triton` runs the engine in the service's process.",
        ),
    ] = None,
    guard: Annotated[
        str | None,
        typer.Option(
            "--guard", help="A Qwen3Guard-Gen directory or hub id; by default the stand-in (a toy)."
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

    wanted = plan(only=only or [], without=without or [], guard=guard, tell=err.print)
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
            answered = await Demo(HOME, out).run(ended, once=once)
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


@dlq_app.command("ls")
def dlq_ls(
    error_class: ErrorClasses = None,
    tenant: TenantNames = None,
    since: Since = None,
    until: Until = None,
    as_json: AsJson = False,
) -> None:
    """List the open dead letters: where each came from, its error class, and the reason.

    A letter is open until it was replayed or dropped. Its place, the first column, names it to the
    other commands.

    \b
    qwarden dlq ls --error-class crashed --since 2h
    """
    settings = _client_settings()
    found = _open_letters(settings, _wanted(None, error_class, tenant, since, until))
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
def dlq_replay(
    names: Names = None,
    error_class: ErrorClasses = None,
    tenant: TenantNames = None,
    since: Since = None,
    until: Until = None,
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
    wanted = _wanted(names, error_class, tenant, since, until)
    chosen = _chosen(settings, wanted, everything=everything)
    work = partial(acting.replay, settings.kafka, by=_who(), rate=rate, dry_run=dry_run)
    _act("replayed", chosen, work, dry_run=dry_run, as_json=as_json)


@dlq_app.command("drop")
def dlq_drop(
    names: Names = None,
    error_class: ErrorClasses = None,
    tenant: TenantNames = None,
    since: Since = None,
    until: Until = None,
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
    wanted = _wanted(names, error_class, tenant, since, until)
    chosen = _chosen(settings, wanted, everything=everything)
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
    group = group or settings.kafka.groups.get(topic, settings.kafka.group_id)
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
) -> None:
    """Judge a file of events without Kafka: its verdicts or a dead letter for each, in order.

    By default it asks the Triton of the running stack, or of QWARDEN_TRITON__URL. An answer with
    reasoning has two verdicts, on lines that follow each other.
    """
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


@app.command("eval")
def evaluation(
    files: Annotated[
        list[Path], typer.Argument(help="Labelled JSONL, also gzipped; - reads standard input.")
    ],
    *,
    fields: Annotated[
        list[str] | None,
        typer.Option("--field", help="What a field is called: label=toxicity; repeat it."),
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option("--label", help="What a label means: toxic=Unsafe; repeat it."),
    ] = None,
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="A folder for eval.json, table.md and the plots.")
    ] = None,
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
    """
    for name in ("numpy",) if out_dir is None else ("numpy", "matplotlib"):
        if importlib.util.find_spec(name) is None:
            _end(MISSING, f"{name} is not installed; eval needs the extra: qwarden[eval]")
    if out_dir is not None:
        os.environ.setdefault("MPLCONFIGDIR", str(HOME.cache("matplotlib")))
    from qwarden.offline.eval.evaluation import Evaluation, evaluate
    from qwarden.offline.eval.files import Reader
    from qwarden.offline.eval.names import names_of

    settings = _keyless(_guard_environ(direct, guard))
    telemetry.log_as_json("warning")

    async def run() -> Evaluation:
        reader = Reader(names_of(fields or [], labels or []))
        for file in files:
            with _opened(file) as opened:
                reader.read("standard input" if str(file) == "-" else str(file), opened)
        reader.close()
        if out_dir is not None:
            try:
                out_dir.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ValueError(
                    f"--out {out_dir}: {error.strerror}; name another folder"
                ) from None
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

    found = _ask(run)
    if out_dir is not None:
        try:
            found.write(out_dir)
        except OSError as error:
            _end(WRONG_USE, f"--out {out_dir}: {error}; name another folder")
        err.print(f"eval.json, table.md and the plots are in {out_dir}", markup=False)
    sys.stdout.buffer.write(found.json() + b"\n" if as_json else found.text().encode())
    sys.stdout.buffer.flush()
    if not found.report.answered:
        why = found.report.not_answered.reasons[0].reason
        _end(NO, f"no row was answered; most often because {why}")


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


def _wanted(
    names: list[str] | None,
    error_classes: list[str] | None,
    tenants: list[str] | None,
    since: str | None,
    until: str | None,
) -> Wanted:
    now = datetime.now(UTC)
    known = [each.value for each in ErrorClass]
    for error_class in error_classes or []:
        if error_class not in known:
            _end(WRONG_USE, f"there is no error class {error_class!r}; known: {', '.join(known)}")
    return _right(
        lambda: Wanted(
            places=frozenset(map(letters.place_of, names or ())),
            error_classes=frozenset(error_classes or ()),
            tenants=frozenset(tenants or ()),
            since=letters.instant_of(since, now) if since else None,
            until=letters.instant_of(until, now) if until else None,
        )
    )


def _open_letters(settings: Settings, wanted: Wanted) -> letters.Open:
    with err.status("reading the dead letters …"):
        found = _ask(lambda: reading.open_letters(settings.kafka, wanted))
    if found.unreadable:
        err.print(f"{found.unreadable} records of the topic are neither letters nor marks")
    return found


def _chosen(settings: Settings, wanted: Wanted, *, everything: bool) -> letters.Open:
    """The open letters that a command is to act on."""
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
