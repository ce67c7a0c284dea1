"""The command that undoes the verdicts of a policy that was wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from qwarden.cli.asking import ask, right
from qwarden.cli.environment import environ, keyless, who
from qwarden.cli.options import AsJson
from qwarden.cli.policy_names import policies_named
from qwarden.cli.terminal import NO, WRONG_USE, bar, end, err, show, write_json
from qwarden.cli.times import instant
from qwarden.rejudge.planning import DEFAULT_RATE, SUPERSEDED, NotPossible, Plan, Selection
from qwarden.render import plain
from qwarden.settings import Settings

if TYPE_CHECKING:
    from qwarden.outcomes.lookup import Lookup
    from qwarden.policy.policy import Policy
    from qwarden.rejudge.acting import Outlook
    from qwarden.rejudge.contents import Door
    from qwarden.rejudge.reading import Found

_MEMORY_ENTRIES = 10_000
"""Assessments that are kept while the guard is asked: equal contents are asked for once."""


def rejudge(
    *,
    policy: Annotated[
        str | None,
        typer.Option(
            "--policy",
            metavar="VERSION|NAME@VERSION",
            help="Which version was wrong, as verdicts name it.",
        ),
    ] = None,
    rule: Annotated[str | None, typer.Option("--rule", help="Which of its rules.")] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--from", help="Verdicts written since then: 2026-03-01T12:00Z, or an age: 2h."
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--to", help="And before then; by default until now.")
    ] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only this tenant's.")] = None,
    chosen: Annotated[
        str | None,
        typer.Option(
            "--with",
            metavar="FILE|NAME@VERSION",
            help="Judge by this policy, instead of the one that is in force for each tenant now.",
        ),
    ] = None,
    plan_file: Annotated[
        Path | None,
        typer.Option("--plan", help="Where the dry run writes its plan; by default here."),
    ] = None,
    now: Annotated[
        bool, typer.Option("--now", help="Ask after the dry run whether to apply it at once.")
    ] = False,
    apply: Annotated[
        Path | None,
        typer.Option(
            "--apply", metavar="PLAN", help="Apply this plan, or go on where a run was stopped."
        ),
    ] = None,
    rate: Annotated[
        float,
        typer.Option(
            min=0.1,
            help="Verdicts a second at most: what is mistaken can be stopped by Ctrl-C before much "
            "of it is out.",
        ),
    ] = DEFAULT_RATE,
    as_json: AsJson = False,
) -> None:
    """Undo the verdicts of a rule that was wrong, by another policy.

    Without --apply nothing is written but a plan: what would change. Applied, each verdict gets one
    that supersedes it, with what the policy says of its own scores and facts; only where those do
    not tell is the guard asked. What a person decided, what was withdrawn, edited or superseded is
    left alone. It needs QWARDEN_POLICY__PATH as the services have it.

    \b
    qwarden rejudge --policy 3f2a9c01b7de --rule insults --from 2026-03-01T12:00Z
    qwarden rejudge --apply rejudge-5d0c12ab.json
    """
    if apply is not None:
        if (policy, rule, since, until, tenant, chosen, plan_file) != (None,) * 7 or now:
            end(WRONG_USE, "--apply does what its plan says; it goes with --rate and --json alone")
        _apply(_read(apply), rate, as_json=as_json)
        return
    if policy is None or rule is None or since is None:
        end(WRONG_USE, "name --policy, --rule and --from, or a plan with --apply")
    settings = _settings()
    selection = right(lambda: _selection(policy, rule, since, until, tenant))
    instead = policies_named([chosen], settings)[0] if chosen is not None else None
    with err.status("reading the verdicts …"):
        plan, seen, outlook = ask(lambda: _dry_run(settings, selection, instead))
    if not plan.selected:
        end(
            NO,
            "no verdict that stands is of this version and rule and of that time"
            + "".join(f"; left alone are {count:,}: {why}" for why, count in seen.left.items()),
        )
    plan_file = plan_file or Path(f"rejudge-{plan.hash[:8]}.json")
    plan_file.write_bytes(msgspec.json.format(msgspec.json.encode(plan)))
    if as_json:
        write_json({"plan": str(plan_file), "selected": plan.selected, **_fields(outlook)})
    else:
        for line in _lines(plan, outlook):
            show(plain(line))
    err.print(
        f"Nothing is changed yet. To do it: qwarden rejudge --apply {plan_file}", markup=False
    )
    if now and typer.confirm(f"Supersede {outlook.total:,} verdicts now?", err=True):
        _apply(plan, rate, as_json=as_json)


def _settings() -> Settings:
    """Without Redis: its entries are under the services' content key."""
    chosen = environ()
    chosen.pop("QWARDEN_REDIS__URL", None)
    return keyless(chosen)


def _selection(
    policy: str, rule: str, since: str, until: str | None, tenant: str | None
) -> Selection:
    name, _, version = policy.rpartition("@")
    found = Selection(
        version=version,
        policy=name or None,
        rule=rule,
        tenant=tenant,
        since=instant("--from", since),
        until=instant("--to", until) if until else datetime.now(UTC),
    )
    if found.since >= found.until:
        raise ValueError("--from is not before --to")
    return found


def _read(file: Path) -> Plan:
    if not file.is_file():
        end(WRONG_USE, f"there is no file {file}; a run without --apply writes one")
    try:
        return msgspec.json.decode(file.read_bytes(), type=Plan)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        end(WRONG_USE, f"{file} is no plan: {error}; a run without --apply writes one")


@asynccontextmanager
async def _door(settings: Settings) -> AsyncIterator[Door]:
    from qwarden import bootstrap
    from qwarden.rejudge.contents import Door

    async with bootstrap.door(settings) as (admission, schemas):
        yield Door(admission, schemas)


@asynccontextmanager
async def _judging(settings: Settings) -> AsyncIterator[Lookup]:
    from qwarden import bootstrap

    guard = bootstrap.guard_of(settings)
    async with bootstrap.judging(settings, guard, _MEMORY_ENTRIES) as (lookup, _):
        # Asked here: a service waits for an absent guard, and a person should not.
        await guard.revision()
        yield lookup


async def _dry_run(
    settings: Settings, selection: Selection, instead: Policy | None
) -> tuple[Plan, Found, Outlook]:
    from qwarden import bootstrap
    from qwarden.enforcement import commanding
    from qwarden.policy.in_force import acting
    from qwarden.rejudge import acting as doing

    stands = await commanding.standing(settings.kafka)
    try:
        plan, seen = await doing.plan_for(
            settings.kafka,
            selection,
            acting(bootstrap.tenants_of(settings, activated=True), stands, None),
            stands,
            chosen=instead,
            at=datetime.now(UTC),
            by=who(),
        )
    except NotPossible as error:
        end(NO, str(error))
    async with _door(settings) as door:
        return plan, seen, await doing.outlook(settings.kafka, plan, seen, door)


def _apply(plan: Plan, rate: float, *, as_json: bool) -> None:
    from qwarden.control.kafka import commanding
    from qwarden.rejudge import acting as doing

    settings = _settings()
    impossible: Counter[str] = Counter()
    told: Counter[str] = Counter()

    async def run() -> Found:
        async with commanding(settings.kafka) as control, _door(settings) as door:
            with err.status("reading the verdicts …"):
                seen = await doing.found_again(settings.kafka, plan)
            before = seen.since.pop(SUPERSEDED, 0)
            if before:
                err.print(f"{before:,} of them are superseded already; going on")
            with bar("rejudged", len(seen.rows) + before, before) as step:
                work = doing.apply(
                    settings.kafka,
                    plan,
                    seen,
                    door=door,
                    judging=lambda: _judging(settings),
                    stands=control.policies,
                    rate=rate,
                    sample_rate=settings.moderator.evidence_sample,
                )
                async with aclosing(work) as each:
                    async for done in each:
                        if done.left is not None:
                            impossible[done.left] += 1
                        else:
                            told["unchanged" if done.same else str(done.action)] += 1
                        if as_json:
                            write_json(done)
                        step(1)
            return seen

    try:
        seen = ask(run)
    except NotPossible as error:
        end(NO, str(error))
    superseded = told.total() - told["unchanged"]
    err.print(
        f"{superseded:,} verdicts are superseded"
        + "".join(f", {told[each]:,} {each}" for each in sorted(told) if each != "unchanged")
        + (f"; {told['unchanged']:,} would say the same and stay" if told["unchanged"] else "")
    )
    for why, count in (seen.left + seen.since).items():
        err.print(f"{count:,} left alone: {why}", markup=False)
    for why, count in impossible.items():
        err.print(f"{count:,} not possible: {why}", style="red", markup=False)
    if impossible:
        raise SystemExit(NO)


def _fields(outlook: Outlook) -> dict[str, object]:
    fields: dict[str, object] = msgspec.to_builtins(outlook)
    return fields


def _lines(plan: Plan, outlook: Outlook) -> Iterator[str]:
    chosen = plan.selection
    yield (
        f"{plan.selected:,} verdicts of {plan.policy} {chosen.version}, rule {chosen.rule}, from "
        f"{chosen.since:%Y-%m-%d %H:%M:%S} to {chosen.until:%Y-%m-%d %H:%M:%S} UTC"
    )
    for flow in outlook.flows:
        acts = plan.acts[flow.tenant]
        frozen = ", frozen" if acts.frozen else ""
        yield (
            f"{flow.verdicts:>9,}  {flow.tenant}: {flow.old} -> {flow.new}, by the rule "
            f"{flow.rule} of {flow.policy} {acts.body}{frozen}"
        )
    if outlook.same:
        yield f"{outlook.same:>9,}  would say the same: left alone"
    for why, count in outlook.undecided.items():
        yield f"{count:>9,}  undecided: the guard is asked; {why}"
    for why, count in outlook.left.items():
        yield f"{count:>9,}  left alone: {why}"
    for why, count in outlook.impossible.items():
        yield f"{count:>9,}  not possible: {why}"
    if outlook.doubtful:
        yield f"{outlook.doubtful:>9,}  decisions cannot be read: what they are on is not known"
