"""The commands on what waits for a person: dead letters, halts, and lost records."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from qwarden.cli.asking import ask, right
from qwarden.cli.environment import client_settings, who
from qwarden.cli.options import AsJson, DryRun
from qwarden.cli.terminal import NO, WRONG_USE, bar, end, err, show, write_json
from qwarden.cli.times import instant
from qwarden.contracts import topics
from qwarden.contracts.refusal import ErrorClass
from qwarden.dead_letters import letters, terminal
from qwarden.dead_letters.letters import Letter, Place, Wanted
from qwarden.settings import Settings

if TYPE_CHECKING:
    from qwarden.dead_letters.acting import Done

DEFAULT_RATE = 100.0
"""Letters a second: a mistaken replay is stopped before much of it is out, and 10,000 letters take
under two minutes. They go behind what is fresh whatever the rate."""

app = typer.Typer(
    help="What waits for a person: dead letters, halts, and lost records.", no_args_is_help=True
)

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


@app.command("ls")
def dlq_ls(
    *,
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
    wanted = _wanted(error_class, tenant, since, until)
    settings = client_settings()
    found = _open_letters(settings, wanted)
    for letter in found.letters.values():
        if as_json:
            write_json(letter)
        else:
            show(terminal.open_letter(letter))
    err.print(_counted(found.letters.values()), markup=False)


@app.command("show")
def dlq_show(
    letter: Annotated[str, typer.Argument(help="PARTITION/OFFSET, as `qwarden dlq ls` says it.")],
    as_json: AsJson = False,
) -> None:
    """Show one dead letter with all that it holds, the content too; also one that is done.

    \b
    qwarden dlq show 3/17
    """
    from qwarden.dead_letters import reading

    settings = client_settings()
    place = right(lambda: letters.place_of(letter))
    found = ask(lambda: reading.shown(settings.kafka, place))
    if found is None:
        end(NO, f"there is no dead letter {place}; `qwarden dlq ls` lists the open ones")
    if as_json:
        whole = {"letter": found.letter.letter, "at": found.letter.at, "mark": found.mark}
        write_json(whole | {"dead_letter": found.dead})
    else:
        show(terminal.whole_letter(*found))


@app.command("replay")
def dlq_replay(
    names: Names = None,
    *,
    error_class: ErrorClasses = None,
    tenant: TenantNames = None,
    since: Since = None,
    until: Until = None,
    everything: Everything = False,
    rate: Annotated[
        float,
        typer.Option(
            min=0.1,
            help="Records a second at most: what is mistaken can be stopped by Ctrl-C before much "
            "of it is out.",
        ),
    ] = DEFAULT_RATE,
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
    from qwarden.dead_letters import acting

    wanted = _wanted(error_class, tenant, since, until)
    settings = client_settings()
    chosen = _chosen(settings, wanted, names, everything=everything)
    work = partial(acting.replay, settings.kafka, by=who(), rate=rate, dry_run=dry_run)
    _act("replayed", chosen, work, dry_run=dry_run, as_json=as_json)


@app.command("drop")
def dlq_drop(
    names: Names = None,
    *,
    error_class: ErrorClasses = None,
    tenant: TenantNames = None,
    since: Since = None,
    until: Until = None,
    everything: Everything = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Give dead letters up: they are marked and no longer open, and stay on the topic.

    \b
    qwarden dlq drop 3/17
    qwarden dlq drop --error-class not_json --tenant forum --until 7d
    """
    from qwarden.dead_letters import acting

    wanted = _wanted(error_class, tenant, since, until)
    settings = client_settings()
    chosen = _chosen(settings, wanted, names, everything=everything)
    work = partial(acting.drop, settings.kafka, by=who(), dry_run=dry_run)
    _act("dropped", chosen, work, dry_run=dry_run, as_json=as_json)


@app.command("resume")
def dlq_resume(dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Let the fleet go on after a halt, once the guard or its deploy is mended.

    A moderator whose guard fails on many different contents writes a halt, with the figures, to
    moderation.control, and every moderator pauses. This withdraws it.

    \b
    qwarden dlq resume --dry-run     says why the fleet stands, and changes nothing
    qwarden dlq resume
    """
    from qwarden.dead_letters import resuming

    settings = client_settings()
    halts = ask(lambda: resuming.resume(settings.kafka, dry_run=dry_run))
    for halt in halts.values():
        if as_json:
            write_json(halt)
        else:
            show(f"{halt.at:%Y-%m-%d %H:%M:%S}  {halt.by}: {halt.reason}")
    if not halts:
        err.print("No halt is in force.")
    elif dry_run:
        err.print("The fleet is halted; without --dry-run this lets it go on.")
    else:
        err.print("Withdrawn: the moderators go on within seconds.")


@app.command("accept-loss")
def dlq_accept_loss(
    where: Annotated[
        str, typer.Argument(metavar="TOPIC/PARTITION", help="As the moderator's log names it.")
    ],
    group: Annotated[
        str | None,
        typer.Option(help="Who has lost records; by default the fleet's own group of it."),
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
    from aiokafka import TopicPartition

    from qwarden.dead_letters import resuming

    settings = client_settings()
    topic, slash, partition = where.rpartition("/")
    if not (slash and topic and partition.isdecimal()):
        end(WRONG_USE, f"{where!r} names no partition; name it as TOPIC/PARTITION")
    group = group or group_of(settings, topic)
    try:
        loss = ask(
            lambda: resuming.accept_loss(
                settings.kafka,
                TopicPartition(topic, int(partition)),
                group,
                lost_from=lost_from,
                at=datetime.now(UTC),
                by=who(),
                dry_run=dry_run,
            )
        )
    except resuming.NothingLost as nothing:
        end(NO, str(nothing))
    if as_json:
        write_json(loss)
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


def group_of(settings: Settings, topic: str) -> str:
    """Which of the fleet's groups reads a topic."""
    if topic == topics.CHUNKS:
        return settings.streamer.group_id
    return settings.kafka.group_of(topic)


def _wanted(
    error_class: list[str] | None, tenant: list[str] | None, since: str | None, until: str | None
) -> Wanted:
    """The letters that the options of a command take."""
    known = [each.value for each in ErrorClass]
    for name in error_class or []:
        if name not in known:
            end(WRONG_USE, f"there is no error class {name!r}; known: {', '.join(known)}")
    return Wanted(
        error_classes=frozenset(error_class or ()),
        tenants=frozenset(tenant or ()),
        since=instant("--since", since) if since else None,
        until=instant("--until", until) if until else None,
    )


def _open_letters(settings: Settings, wanted: Wanted) -> letters.Open:
    from qwarden.dead_letters import reading

    with err.status("reading the dead letters …"):
        found = ask(lambda: reading.open_letters(settings.kafka, wanted))
    if found.unreadable:
        err.print(f"{found.unreadable} records of the topic are neither letters nor marks")
    return found


def _chosen(
    settings: Settings, wanted: Wanted, names: list[str] | None, *, everything: bool
) -> letters.Open:
    """The open letters that a command is to act on."""
    places = right(lambda: frozenset(map(letters.place_of, names or ())))
    wanted = dataclasses.replace(wanted, places=places)
    if wanted == Wanted() and not everything:
        end(WRONG_USE, "which letters? Name them, filter them, or say --all")
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
        with bar(what, len(places)) as step:
            async for done in work(places):
                left += done.left is not None
                if as_json:
                    write_json({"letter": str(done.place), what: done.left is None} | _told(done))
                elif done.left is not None:
                    err.print(f"{done.place} is left: {done.left}", style="red", markup=False)
                elif dry_run:
                    show(terminal.open_letter(chosen.letters[done.place]))
                step(1)

    missing = chosen.missing()
    for sentence in missing:
        err.print(sentence, style="red", markup=False)
    ask(run)
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
