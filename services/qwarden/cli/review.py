"""The commands of those who run the review service: people, tokens, golden items, the log."""

from __future__ import annotations

import codecs
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from qwarden.cli.environment import who
from qwarden.cli.files import opened
from qwarden.cli.options import AsJson
from qwarden.cli.review_store import in_database
from qwarden.cli.terminal import NO, WRONG_USE, end, err, show, show_rows, write, write_json
from qwarden.render import plain
from qwarden.review.person import EVERY, Person, Role
from qwarden.settings import Review

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

app = typer.Typer(
    help="People and their queue: who may do what, and what a lead does daily.",
    no_args_is_help=True,
)
user_app = typer.Typer(help="Who may do what.", no_args_is_help=True)
token_app = typer.Typer(
    help="Tokens for tools, and for people on a terminal.", no_args_is_help=True
)
golden_app = typer.Typer(help="Items whose right answer is known.", no_args_is_help=True)
audit_app = typer.Typer(help="The log of who did what.", no_args_is_help=True)
app.add_typer(user_app, name="user")
app.add_typer(token_app, name="token")
app.add_typer(golden_app, name="golden")
app.add_typer(audit_app, name="audit")

Name = Annotated[str, typer.Argument(help="A person's or tool's name, as they were added.")]
Roles = Annotated[
    list[str] | None,
    typer.Option("--role", help=f"{', '.join(Role)}; repeat it."),
]
Tenants = Annotated[
    list[str] | None, typer.Option("--tenant", help="Whose content; repeat it; `*` is all.")
]
Languages = Annotated[
    list[str] | None, typer.Option("--language", help="Such as `pt`; repeat it; `*` is all.")
]


@user_app.command("add")
def user_add(
    name: Name,
    *,
    role: Roles = None,
    tenant: Tenants = None,
    language: Languages = None,
    tool: Annotated[
        bool, typer.Option("--tool", help="A program that decides, and never signs in.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Add a person; a reviewer of all tenants and languages, unless you say otherwise.

    \b
    qwarden review user add nina --role lead --tenant forum --language en --language de
    qwarden review link nina
    """
    from qwarden.review.people import users

    async def work(tx: AsyncConnection, limits: Review) -> Person:
        return await users.add(
            tx,
            name=name,
            roles=role or [Role.REVIEWER],
            tenants=tenant or [EVERY],
            languages=language or [EVERY],
            is_tool=tool,
            actor=who(),
            now=time.time(),
        )

    _say(in_database(work), as_json)


@user_app.command("change")
def user_change(
    name: Name,
    *,
    role: Roles = None,
    tenant: Tenants = None,
    language: Languages = None,
    as_json: AsJson = False,
) -> None:
    """Say anew what a person may do; what you do not name stays. It holds from their next request.

    \b
    qwarden review user change nina --language en --language de --language pl
    """
    from qwarden.review.people import users

    async def work(tx: AsyncConnection, limits: Review) -> Person:
        person = await _named(tx, name)
        return await users.change(
            tx,
            person.user_id,
            roles=role,
            tenants=tenant,
            languages=language,
            actor=who(),
            now=time.time(),
        )

    _say(in_database(work), as_json)


@user_app.command("remove")
def user_remove(name: Name) -> None:
    """Remove a person: their sessions and tokens are over, and what they hold goes back.

    \b
    qwarden review user remove nina
    """
    from qwarden.review.people import users

    async def work(tx: AsyncConnection, limits: Review) -> None:
        person = await _named(tx, name)
        await users.remove(tx, person.user_id, actor=who(), now=time.time())

    in_database(work)
    err.print(f"{name} is removed.", markup=False)


@user_app.command("ls")
def user_ls(*, as_json: AsJson = False) -> None:
    """List everybody, with the pseudonym under which their decisions stand."""
    from qwarden.review.people import users

    async def work(tx: AsyncConnection, limits: Review) -> list[users.User]:
        return list(await users.everybody(tx))

    everybody = in_database(work)
    if as_json:
        for user in everybody:
            write_json(user)
        return
    show_rows(
        ("name", "pseudonym", "roles", "tenants", "languages", ""),
        [
            (
                user.person.name,
                user.person.pseudonym,
                *_lists(user.person),
                "" if user.is_active else "removed",
            )
            for user in everybody
        ],
    )


@app.command("link")
def review_link(name: Name, *, as_json: AsJson = False) -> None:
    """Make a link with which a person signs in, once, within an hour (`review.link_s`).

    \b
    qwarden review link nina
    """
    from qwarden.review.people import links

    async def work(tx: AsyncConnection, limits: Review) -> dict[str, object]:
        person = await _named(tx, name)
        now = time.time()
        token = await links.make(tx, person.user_id, actor=who(), now=now, limits=limits)
        return {"url": links.url_of(token, limits), "expires_at": now + limits.link_s}

    made = in_database(work)
    if as_json:
        write_json(made)
    else:
        show(str(made["url"]))


@token_app.command("add")
def token_add(
    name: Name,
    *,
    label: Annotated[str, typer.Option(help="What you will know it by.")] = "terminal",
    days: Annotated[int | None, typer.Option(min=1, help="Until when; else for good.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a token for the REST interface. It is shown this once.

    \b
    export QWARDEN_REVIEW__TOKEN=$(qwarden review token add nina)
    qwarden review queues
    """
    from qwarden.review.people import tokens

    now = time.time()
    until = None if days is None else now + days * 86_400

    async def work(tx: AsyncConnection, limits: Review) -> str:
        person = await _named(tx, name)
        return await tokens.make(tx, person.user_id, label, expires_at=until, actor=who(), now=now)

    token = in_database(work)
    if as_json:
        write_json({"token": token, "label": label, "expires_at": until})
    else:
        show(token)


@token_app.command("ls")
def token_ls(name: Name, *, as_json: AsJson = False) -> None:
    """List a person's tokens by their labels.

    \b
    qwarden review token ls nina
    """
    from qwarden.review.people import tokens

    async def work(tx: AsyncConnection, limits: Review) -> list[tokens.Token]:
        return list(await tokens.of(tx, (await _named(tx, name)).user_id))

    found = in_database(work)
    if as_json:
        for token in found:
            write_json(token)
        return
    show_rows(
        ("label", "made", "good until"),
        [
            (
                token.label,
                _day(token.made_at),
                "it is revoked" if token.expires_at is None else _day(token.expires_at),
            )
            for token in found
        ],
    )


@token_app.command("revoke")
def token_revoke(
    name: Name, *, label: Annotated[str, typer.Option(help="Which one.")] = "terminal"
) -> None:
    """End a token, at once.

    \b
    qwarden review token revoke nina --label laptop
    """
    from qwarden.review.people import tokens

    async def work(tx: AsyncConnection, limits: Review) -> None:
        person = await _named(tx, name)
        await tokens.revoke(tx, person.user_id, label, actor=who(), now=time.time())

    in_database(work)
    err.print(f"the token {label!r} of {name} is revoked.", markup=False)


@golden_app.command("add")
def golden_add(
    file: Annotated[Path, typer.Argument(help="JSONL, an item a line.")],
    *,
    as_name: Annotated[
        str | None,
        typer.Option("--as", help="The person who made them, who is then given none of them."),
    ] = None,
) -> None:
    """Add items whose right answer is known; reviewers get some among the others, unseen.

    A line: {"tenant", "queue", "text" or "messages", "action"}, and optionally "language",
    "category", "task". All of the file is added, or, where a line is wrong, nothing.

    \b
    qwarden review golden add goldens.jsonl --as nina
    """
    from qwarden.review.store import goldens

    with opened(file) as source:
        lines = source.read().removeprefix(codecs.BOM_UTF8).splitlines()

    async def work(tx: AsyncConnection, limits: Review) -> int:
        person = None if as_name is None else await _named(tx, as_name)
        actor = who() if person is None else person.user_id
        return len(await goldens.add(tx, lines, actor=actor, now=time.time(), person=person))

    err.print(f"added: {in_database(work)}", markup=False)


@golden_app.command("ls")
def golden_ls(*, as_json: AsJson = False) -> None:
    """List the golden items in use, without their content: how often each was decided, and how
    often as it says. One that most people get wrong is wrong itself."""
    from qwarden.review.store import goldens

    async def work(tx: AsyncConnection, limits: Review) -> list[goldens.Golden]:
        return list(await goldens.in_use(tx))

    found = in_database(work)
    if as_json:
        for each in found:
            write_json(each)
        return
    show_rows(
        ("golden item", "tenant", "queue", "language", "category", "action", "right", "note"),
        [
            (
                each.golden_id,
                each.tenant,
                each.queue,
                each.language,
                each.category or "-",
                each.action,
                f"{each.right} of {each.given}",
                plain(each.note or ""),
            )
            for each in found
        ],
    )


@golden_app.command("retire")
def golden_retire(
    golden_id: Annotated[str, typer.Argument(help="As `golden ls` says it.")],
) -> None:
    """Take a golden item out of use; what was decided on it stays counted.

    \b
    qwarden review golden retire 4f1c6b0a9d3e
    """
    from qwarden.review.store import goldens

    async def work(tx: AsyncConnection, limits: Review) -> None:
        await goldens.retire(tx, golden_id, actor=who(), now=time.time())

    in_database(work)


@audit_app.command("verify")
def audit_verify(
    *,
    position: Annotated[
        int | None, typer.Option(help="One that you have noted, with --hash.")
    ] = None,
    noted: Annotated[str | None, typer.Option("--hash", help="Its hash then.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check the chain of the log. Exit code 1 where a row was changed, removed or put in.

    That its tail was cut off shows only with a position and hash that were noted elsewhere.

    \b
    qwarden review audit verify
    """
    from qwarden.review.chain import ChainHead
    from qwarden.review.store import audit

    if (position is None) != (noted is None):
        end(WRONG_USE, "--position and --hash go together")
    head = None if position is None or noted is None else ChainHead(position, noted)

    async def work(tx: AsyncConnection, limits: Review) -> audit.Verified:
        return await audit.verify(tx, head)

    found = in_database(work)
    if as_json:
        write_json(found)
    else:
        show(
            f"rows in the chain: {found.rows}; not in it yet: {found.unsealed}; "
            + (
                f"position {found.head.position} has the hash {found.head.chained}"
                if found.head
                else "nothing to note"
            )
        )
    if found.broken_at is not None:
        end(
            NO,
            f"the chain is broken at position {found.broken_at}: that row, or one before it, "
            "is not as it was written",
        )


@audit_app.command("export")
def audit_export() -> None:
    """Write the log as JSONL: ids and hashes, never content.

    \b
    qwarden review audit export > log.jsonl
    """
    from qwarden.review.store import audit

    async def tell(tx: AsyncConnection, limits: Review) -> None:
        await audit.write(tx, audit.Act.EXPORTED, actor=who(), at=time.time())

    async def work(tx: AsyncConnection, limits: Review) -> None:
        async for row in audit.export(tx):
            write(msgspec.json.encode(row) + b"\n")

    in_database(tell)  # stands also where the reader of what follows goes away
    in_database(work)


@app.command("migrate")
def review_migrate(*, as_json: AsJson = False) -> None:
    """Bring the database to this version's schema, as the service does at its start.

    For a pod's init container: several at once stand in line at a lock, and the service of the
    version before goes on meanwhile. A later schema on which this version works is left as it is.
    """
    from qwarden.review.store import migrating

    async def work(tx: AsyncConnection, limits: Review) -> migrating.Schema:
        return await tx.run_sync(migrating.look)

    revision = in_database(work).revision
    if as_json:
        write_json({"schema": revision})
    else:
        show(f"the database has the schema {revision}")


@app.command("erase")
def review_erase(
    tenant: Annotated[str, typer.Argument(help="Whose content.")],
    event_id: Annotated[str, typer.Argument(help="Of which event.")],
) -> None:
    """Erase an event's content from the ledger; verdicts, decisions and the log stay.

    For what the law or a user asks you to forget. It cannot be undone.

    \b
    qwarden review erase forum post-17
    """
    from qwarden.review.store import ledger

    async def work(tx: AsyncConnection, limits: Review) -> int:
        return await ledger.erase(tx, tenant, event_id, actor=who(), now=time.time())

    erased = in_database(work)
    if not erased:
        end(NO, f"the ledger has no content of the event {event_id!r} of the tenant {tenant!r}")
    err.print(f"erased: the content of {erased} verdicts", markup=False)


async def _named(tx: AsyncConnection, name: str) -> Person:
    from qwarden.review.people import users
    from qwarden.review.refusals import NotFound

    person = await users.named(tx, name)
    if person is None:
        raise NotFound(f"there is nobody called {name!r}; `qwarden review user ls` lists everybody")
    return person


def _say(person: Person, as_json: bool) -> None:
    if as_json:
        write_json(person)
        return
    roles, tenants, languages = _lists(person)
    show(
        f"{person.name} is {person.pseudonym} in decisions: {roles}; tenants {tenants}; "
        f"languages {languages}"
    )


def _lists(person: Person) -> tuple[str, str, str]:
    return (
        ", ".join(sorted(person.roles)),
        ", ".join(sorted(person.tenants)),
        ", ".join(sorted(person.languages)),
    )


def _day(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}"
