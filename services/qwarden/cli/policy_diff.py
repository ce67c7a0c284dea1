"""The command that says what another policy would have done."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from qwarden.cli.asking import ask
from qwarden.cli.environment import client_settings, needs_eval_extra
from qwarden.cli.files import opened
from qwarden.cli.options import AsJson
from qwarden.cli.policy_names import policies_named
from qwarden.cli.terminal import NO, WRONG_USE, end, err, show, write_json
from qwarden.cli.times import hours, instant
from qwarden.contracts import topics
from qwarden.settings import Settings

if TYPE_CHECKING:
    from qwarden.offline.policy_diff.following import Shadow
    from qwarden.policy.diff import Comparison
    from qwarden.policy.diff_report import Report

SECONDS_A_DECISION = 45.0
"""An exchange of 150 words, read at 240 words a minute, and some seconds to decide."""

Which = Annotated[
    str, typer.Argument(help="A file, a name (in force, or built in), or NAME@VERSION.")
]


def diff(
    old: Which,
    new: Which,
    *,
    events: Annotated[
        str,
        typer.Option(
            help=f"A JSONL of verdicts or evidence, - for standard input, {topics.VERDICTS} or "
            f"{topics.EVIDENCE}."
        ),
    ] = topics.VERDICTS,
    since: Annotated[
        str | None,
        typer.Option(help="Of a topic, only what came since: 2026-03-01T12:00Z, or an age: 2h."),
    ] = None,
    sample_rate: Annotated[
        float | None,
        typer.Option(
            help="Of a file of evidence: the rate at which what was allowed was kept, such as "
            "0.01. On the topic each record says it."
        ),
    ] = None,
    over: Annotated[
        str | None,
        typer.Option(help="Of a file: the time over which its content came, such as 24h."),
    ] = None,
    seconds_a_decision: Annotated[
        float,
        typer.Option(
            min=0.1,
            help="What a person takes for one item; by default an exchange of 150 words read at "
            "240 words a minute, and some seconds to decide.",
        ),
    ] = SECONDS_A_DECISION,
    examples: Annotated[
        int, typer.Option(min=0, help="Verdicts to name for each change of action.")
    ] = 3,
    show_content: Annotated[
        bool,
        typer.Option("--show", help="Show the content of examples, which only evidence has."),
    ] = False,
    fail_over: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Exit with 1 where a larger share of verdicts changes: 0.01."
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Write a PNG of how actions flow from old to new.")
    ] = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="Follow the verdict topic until Ctrl-C: the shadow."),
    ] = False,
    every: Annotated[
        float, typer.Option(min=1, help="With --follow: seconds between two reports.")
    ] = 60.0,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="With --follow: serve /metrics there."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what another policy would have done, from what was judged already.

    The guard is not asked, and nothing is done: verdicts carry what rules read. What they do not
    carry (a category that was not decoded, metadata that no rule had asked for) is counted as
    undecided, by the rule that needs it, and never guessed. Where OLD gave a verdict itself, what
    was done is what it is compared with; else OLD decides anew. Evidence holds a sample of what was
    allowed: its counts are estimates, with 95 % intervals.

    \b
    qwarden policy diff forum policies/forum.yaml                     all verdicts of the topic
    qwarden policy diff forum policies/forum.yaml --since 2d --events moderation.evidence --show
    qwarden policy diff default strict --events verdicts.jsonl --over 24h --plot flow.png
    qwarden policy diff forum@3f2a91c04d77 forum                      two versions
    qwarden policy diff forum policies/forum.yaml --follow            a shadow, on what comes

    \b
    In CI, on a file of verdicts that is kept beside the policies:
    qwarden policy diff main/forum.yaml policies/forum.yaml --events old.jsonl --fail-over 0.02
    """
    settings = client_settings()
    if plot is not None:
        needs_eval_extra("matplotlib")
        if not plot.parent.is_dir():
            end(WRONG_USE, f"--plot {plot}: there is no folder {plot.parent}; make it first")
    _check(events, since=since, sample_rate=sample_rate, over=over, follow=follow, plot=plot)
    given = policies_named((old, new), settings)

    from qwarden.policy.diff import Comparison, RateMissing

    if metrics_port is not None and not follow:
        end(WRONG_USE, "--metrics-port goes with --follow; add it")
    if follow:
        if fail_over is not None:
            end(WRONG_USE, "--fail-over: a shadow has no end; leave the option out")
        from qwarden.offline.policy_diff.following import Shadow

        shadow = Shadow(*given, examples=examples)

        def tell() -> None:
            _tell(
                shadow.turn(seconds_a_decision=seconds_a_decision, show=show_content),
                as_json=as_json,
            )
            err.print(shadow.since.sentence(), markup=False)

        _follow(settings, shadow, tell, every_s=every, metrics_port=metrics_port)
        return
    comparison = Comparison(*given, examples=examples)
    try:
        if events in topics.ALL:
            length = _topic(settings, events, since, comparison)
        else:
            _file(Path(events), comparison, sample_rate)
            length = hours("--over", over) if over else None
    except RateMissing as error:
        end(WRONG_USE, f"--sample-rate: {error}")
    report = comparison.report(
        hours=length, seconds_a_decision=seconds_a_decision, show=show_content
    )
    if not report.records.rows and "unreadable" in report.left:
        end(WRONG_USE, f"--events {events}: holds no verdict; give verdicts or evidence")
    _tell(report, as_json=as_json)
    if plot is not None:
        from qwarden.offline.policy_diff.plot import draw

        draw(report, plot)
        err.print(f"the picture is in {plot}", markup=False)
    if fail_over is not None and report.changed_share.value > fail_over:
        end(NO, f"{report.changed_share.value:.2%} of verdicts change, over {fail_over:.2%}")


def _check(
    events: str,
    *,
    since: str | None,
    sample_rate: float | None,
    over: str | None,
    follow: bool,
    plot: Path | None,
) -> None:
    """Ends the command for options that do not go together, before any work."""
    from qwarden.offline.policy_diff.topic import READABLE

    is_topic = events in topics.ALL
    if is_topic and events not in READABLE:
        end(WRONG_USE, f"--events: {events} holds no verdicts; give {' or '.join(READABLE)}")
    if is_topic and (sample_rate is not None or over is not None):
        end(WRONG_USE, "--sample-rate and --over are for a file: a topic's records say it")
    if not is_topic and since is not None:
        end(WRONG_USE, "--since is for a topic: the records of a file have no time")
    if follow and (events != topics.VERDICTS or since is not None or plot is not None):
        end(WRONG_USE, "--follow reads the verdicts that come; --events, --since and --plot do not")
    if sample_rate is not None and not 0 < sample_rate <= 1:
        end(WRONG_USE, f"--sample-rate: {sample_rate:g} is no rate; give one such as 0.01")
    if over is not None:
        hours("--over", over)


def _file(file: Path, comparison: Comparison, rate: float | None) -> None:
    from qwarden.offline.policy_diff import files

    size = file.stat().st_size if file.is_file() else None
    with opened(file) as source, _progress("reading", size) as step:
        files.compare(source, comparison, rate=rate, step=step)


def _topic(
    settings: Settings, topic: str, since: str | None, comparison: Comparison
) -> float | None:
    from qwarden.offline.policy_diff import topic as reader
    from qwarden.stretch import stretch_of

    at = instant("--since", since) if since else None

    async def run() -> float | None:
        stretch = await stretch_of(settings.kafka, topic, at)
        with _progress("reading", stretch.total) as step:
            return await reader.compare(
                settings.kafka, stretch, comparison, step=lambda records: step(records, records)
            )

    return ask(run)


def _follow(
    settings: Settings,
    shadow: Shadow,
    tell: Callable[[], None],
    *,
    every_s: float,
    metrics_port: int | None,
) -> None:
    from qwarden.offline.policy_diff.following import follow

    if metrics_port is not None:
        host = settings.http.host
        try:
            port = shadow.serve(host, metrics_port)
        except OSError as error:
            end(WRONG_USE, f"--metrics-port {metrics_port}: {error.strerror}; name a free port")
        err.print(f"metrics: http://{host}:{port}/metrics", markup=False)
    err.print(f"following {topics.VERDICTS}; a report every {every_s:g} s, until Ctrl-C")
    try:
        ask(lambda: follow(settings.kafka, shadow, every_s=every_s, turn=tell))
    finally:
        tell()  # of what came since the last report


def _tell(report: Report, *, as_json: bool) -> None:
    if as_json:
        write_json(report)
        return
    from qwarden.offline.policy_diff.text import page

    for number, paragraph in enumerate(page(report)):
        show(paragraph if number == 0 else f"\n{paragraph}")


@contextmanager
def _progress(what: str, total: int | None) -> Iterator[Callable[[int, int], None]]:
    """Records, how many a second, and the time that is left, on standard error, where somebody
    looks at it. What it yields is told how many records, and how much of the total."""
    columns = (
        TextColumn(what),
        BarColumn(),
        TextColumn("{task.fields[records]:,} records"),
        TextColumn("{task.fields[rate]:,.0f}/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(what, total=total, records=0, rate=0.0)
        shown = progress.tasks[0]

        def step(records: int, part: int) -> None:
            so_far = shown.fields["records"] + records
            rate = so_far / shown.elapsed if shown.elapsed else 0.0
            progress.update(task, advance=part, records=so_far, rate=rate)

        yield step
