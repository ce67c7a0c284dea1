"""The command `qwarden`: one service a command, and the tools to work with a stack.

Exit codes: 0 done, 1 the answer is no, 2 wrong use, 3 a dependency is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from qwarden import bootstrap, kafka, render, telemetry
from qwarden import settings as settings_module
from qwarden.contracts import topics
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
dlq_app = typer.Typer(help="Records that can never be judged.", no_args_is_help=True)
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
            return await ModeratorService(settings, judge, dispatcher).run()

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
    partitions: Annotated[int, typer.Option(help="Partitions of each topic.")] = 8,
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
def dlq_ls(as_json: AsJson = False) -> None:
    """List the dead letters: where each came from, its error class, and the reason."""
    settings = _client_settings()

    async def show() -> None:
        async with kafka.reading(
            settings.kafka, topics.DEAD_LETTERS, from_beginning=True, follow=False
        ) as records:
            await _print(records, topics.DEAD_LETTERS, as_json)

    _ask(show)


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
