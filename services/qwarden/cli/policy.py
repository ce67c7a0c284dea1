"""The commands on policies: check one, put it in force, and take back what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from qwarden.cli.asking import ask
from qwarden.cli.environment import client_settings, who
from qwarden.cli.options import AsJson
from qwarden.cli.policy_files import (
    checked_file,
    file_at,
    files_of,
    files_of_settings,
    own_file,
)
from qwarden.cli.terminal import NO, WRONG_USE, end, err, show, write_json
from qwarden.contracts.control import ALL_TENANTS, InForce, Policies, in_force_key
from qwarden.policy.changes import changes
from qwarden.policy.file import PolicyFile
from qwarden.policy.in_force import Unusable, version_in_force
from qwarden.policy.policy import version_of
from qwarden.policy.sources import BUILT_IN
from qwarden.settings import Settings

app = typer.Typer(
    help="Policies: check them, put them in force, and take back what is wrong.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(help="The policy's name.")]
Who = Annotated[str | None, typer.Argument(metavar="[TENANT]", help="Whose content.")]
Everybody = Annotated[bool, typer.Option("--all", help="Every tenant's, unknown ones' too.")]


@app.command("check")
def policy_check(
    paths: Annotated[
        list[Path], typer.Argument(metavar="FILE|DIR...", help="NAME.yaml, or a folder of them.")
    ],
    *,
    as_json: AsJson = False,
) -> None:
    """Check policies and run the cases that stand in them. Exit code 1 where one is wrong.

    What a policy extends is looked for beside it, then in QWARDEN_POLICY__PATH.

    \b
    qwarden policy check deploy/policies
    """
    settings = client_settings()
    files = [file for path in paths for file in files_of(path)]
    if not files:
        end(WRONG_USE, f"there are no policies in {paths[0]}; a policy's file is called NAME.yaml")
    checked = [checked_file(file, settings) for file in files]
    for each in checked:
        if as_json:
            write_json(each.said())
            continue
        for sentence in each.errors:
            err.print(sentence, style="red", markup=False)
        for sentence in each.warnings:
            err.print(f"{sentence} (a warning)", style="yellow", markup=False)
        if each.file is not None and not each.errors:
            show(
                f"{each.path}: right, version {version_of(each.file)}: "
                f"{_count(len(each.file.rules), 'rule')}, {_count(len(each.file.cases), 'case')}"
            )
    wrong = [each for each in checked if each.errors]
    if wrong:
        end(NO, f"wrong: {len(wrong)} of {_count(len(checked), 'policy', 'policies')}")


@app.command("show")
def policy_show(
    name: Annotated[str | None, typer.Argument(help="Only this policy.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Show what is in force: of each policy its version, who put it there, and whether the file in
    QWARDEN_POLICY__PATH says something else; and the freezes.

    \b
    qwarden policy show
    """
    from qwarden.enforcement import commanding

    settings = client_settings()
    stands = ask(lambda: commanding.standing(settings.kafka))
    rows = list(_rows(stands, settings))
    if name is not None:
        rows = [row for row in rows if row.policy == name]
        if not rows:
            end(NO, f"no policy {name!r} is in force, and there is no file of that name")
    freezes = commanding.frozen_tenants(stands)
    for row in rows:
        if as_json:
            write_json(row)
        else:
            show(row.sentence())
    for tenant, freeze in freezes.items():
        if as_json:
            write_json(freeze)
        else:
            show(
                f"{_whose(tenant)} frozen since {freeze.at:%Y-%m-%d %H:%M:%S} by {freeze.by}: "
                f"{freeze.reason}"
            )


@app.command("activate")
def policy_activate(
    file: Annotated[Path, typer.Argument(help="NAME.yaml, the policy.")],
    *,
    if_changed: Annotated[
        bool,
        typer.Option(
            "--if-changed",
            help="Not where this version is what --if-changed activated last: what people have "
            "activated or taken back since stays. For releases, which declare all at each upgrade.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Put a policy in force, for every tenant that may use it, without a restart.

    It is checked first, with what it extends, and one that fails is refused (exit code 1). From
    then on it acts instead of the file that services have read, until `qwarden policy rollback`.
    To activate what is in force changes nothing.

    \b
    qwarden policy activate policies/forum.yaml
    """
    from qwarden.enforcement import commanding

    settings = client_settings()
    checked = checked_file(file_at(file), settings)
    for sentence in checked.warnings:
        err.print(f"{sentence} (a warning)", style="yellow", markup=False)
    policy = checked.file
    if policy is None or checked.errors:
        for sentence in checked.errors:
            err.print(sentence, style="red", markup=False)
        end(NO, f"{file} is wrong, and nothing has changed")
    try:
        change = ask(
            lambda: commanding.activate(
                settings.kafka, policy, at=datetime.now(UTC), by=who(), if_changed=if_changed
            )
        )
    except commanding.NotPossible as error:
        end(NO, str(error))
    if change.record is None:
        version = version_of(policy)
        now = version_of(change.now) if change.now is not None else "each service's own file"
        if now == version:
            err.print(f"{policy.name}: the version {version} is in force already")
        else:
            err.print(
                f"{policy.name}: the version {version} was declared before, and people have put "
                f"{now} in force since, which stays; without --if-changed it is activated"
            )
        return
    was = change.was if change.was is not None else own_file(policy.name, settings)
    _tell(change.record, was, policy, as_json=as_json)


@app.command("rollback")
def policy_rollback(name: Name, *, as_json: AsJson = False) -> None:
    """Take the last activation of a policy back: the version before it acts, or the file that each
    service has. Once more, and it is the file.

    \b
    qwarden policy rollback forum
    """
    from qwarden.enforcement import commanding

    settings = client_settings()
    try:
        change = ask(
            lambda: commanding.rollback(settings.kafka, name, at=datetime.now(UTC), by=who())
        )
    except commanding.NotPossible as error:
        end(NO, str(error))
    assert change.record is not None
    now = change.now if change.now is not None else own_file(name, settings)
    _tell(change.record, change.was, now, as_json=as_json)


@app.command("freeze")
def policy_freeze(
    tenant: Who = None,
    *,
    everybody: Everybody = False,
    reason: Annotated[str, typer.Option(help="Why; everybody who looks sees it.")],
    as_json: AsJson = False,
) -> None:
    """Have people look at everything that would be blocked, until `qwarden policy unfreeze`.

    It reaches every service within seconds, holds across restarts, and changes no policy: what
    would end in `block` becomes a review.

    \b
    qwarden policy freeze forum --reason "it blocks recipes"
    """
    _freeze(_tenant(tenant, everybody), frozen=True, reason=reason, as_json=as_json)


@app.command("unfreeze")
def policy_unfreeze(
    tenant: Who = None, *, everybody: Everybody = False, as_json: AsJson = False
) -> None:
    """Lift a freeze: policies block again. `--all` lifts that of everybody, and no tenant's own.

    \b
    qwarden policy unfreeze forum
    """
    _freeze(_tenant(tenant, everybody), frozen=False, reason="", as_json=as_json)


@dataclass(frozen=True, slots=True)
class _Row:
    """What is in force of one policy. `serial`: the offset of the record that says so. `origin`:
    where the version comes from. `fault`: why it cannot act; then what acted before does."""

    policy: str
    origin: Literal["built-in", "file", "activated"]
    version: str | None
    file_version: str | None = None
    file_differs: bool = False
    previous: str | None = None
    serial: int | None = None
    at: datetime | None = None
    by: str | None = None
    fault: str | None = None

    def sentence(self) -> str:
        said = f"{self.policy}: version {self.version}, "
        if self.origin == "activated":
            said += f"activated {self.at:%Y-%m-%d %H:%M:%S} by {self.by}"
            said += f", before it {self.previous or 'the file'}"
        elif self.at is not None:
            said += f"from each service's file since {self.at:%Y-%m-%d %H:%M:%S}, by {self.by}"
        else:
            said += "built in" if self.origin == "built-in" else "from each service's file"
        if self.file_differs:
            said += f"; the file says {self.file_version} and does not count"
        if self.fault is not None:
            said += f"; IT CANNOT ACT, and what acted before does: {self.fault}"
        return said


def _rows(stands: Policies, settings: Settings) -> Iterator[_Row]:
    """What is in force of each policy, by name."""
    files = {each.stem for each in files_of_settings(settings)}
    activated = {key.subject for key in stands.in_force}
    for name in sorted({*BUILT_IN, *files, *activated}):
        fault = None
        try:
            version_in_force(name, stands)
        except Unusable as error:
            fault = str(error)
        if name in BUILT_IN:
            yield _Row(name, "built-in", BUILT_IN[name].version, fault=fault)
            continue
        file = own_file(name, settings)
        own = version_of(file) if file is not None else None
        pointer = stands.in_force.get(in_force_key(name))
        record = pointer.record if pointer is not None else None
        version = record.version if record is not None else None
        yield _Row(
            name,
            "file" if version is None else "activated",
            own if version is None else version,
            own,
            file_differs=None not in (own, version) and own != version,
            previous=record.previous if record is not None else None,
            serial=pointer.offset if pointer is not None else None,
            at=record.at if record is not None else None,
            by=record.by if record is not None else None,
            fault=fault,
        )


def _tell(
    record: InForce, was: PolicyFile | None, now: PolicyFile | None, *, as_json: bool
) -> None:
    """What came into force, and what it changes."""
    differs = changes(was, now) if was is not None and now is not None else []
    if as_json:
        write_json(msgspec.to_builtins(record) | {"changes": differs})
        return
    version = record.version or "each service's own file"
    before = record.previous or "each service's own file"
    show(f"{record.policy}: {version} acts within seconds; before it: {before}")
    for line in differs:
        show(f"  {line}")


def _freeze(tenant: str, *, frozen: bool, reason: str, as_json: bool) -> None:
    from qwarden.enforcement import commanding

    settings = client_settings()
    record = ask(
        lambda: commanding.freeze(
            settings.kafka, tenant, frozen=frozen, reason=reason, at=datetime.now(UTC), by=who()
        )
    )
    if record is None:
        err.print(f"{_whose(tenant)} {'frozen already' if frozen else 'not frozen'}", markup=False)
    elif as_json:
        write_json(record)
    else:
        done = (
            "frozen: within seconds nothing automatic blocks" if frozen else "not frozen any more"
        )
        show(f"{_whose(tenant)} {done}")
    if frozen and tenant != ALL_TENANTS and not _has_file(tenant, settings):
        err.print(
            f"No tenant's file here has the name {tenant!r}: see that it is meant",
            style="yellow",
            markup=False,
        )
    if not frozen:
        left = commanding.frozen_tenants(ask(lambda: commanding.standing(settings.kafka)))
        for other in left:
            err.print(f"{_whose(other)} frozen still", style="yellow", markup=False)


def _has_file(tenant: str, settings: Settings) -> bool:
    folder = settings.policy.path
    return folder is not None and (folder / "tenants" / f"{tenant}.yaml").is_file()


def _tenant(tenant: str | None, everybody: bool) -> str:
    if everybody and tenant is None:
        return ALL_TENANTS
    if everybody or not tenant:
        end(WRONG_USE, "name one tenant, or say --all")
    if tenant == ALL_TENANTS:
        end(WRONG_USE, f"{ALL_TENANTS!r} stands for every tenant; say --all")
    return tenant


def _whose(tenant: str) -> str:
    return "every tenant is" if tenant == ALL_TENANTS else f"the tenant {tenant!r} is"


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
