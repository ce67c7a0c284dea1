"""How a database comes to this version's schema, and whether this version works on another one.

Each revision says in `OLDEST` which is the oldest revision whose code still works on what it
leaves. The database keeps that beside its own number, so that code which does not know a later
revision knows whether it may work on it: a roll-back of the service is then no restore of the
database. What a revision may do to stay so is in docs/adr/0023.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, select, update

from qwarden.review.store.schema import compatibility


class TooNew(Exception):
    """A later version of the service has made a schema on which this one does not work."""


class Fit(enum.Enum):
    """How a database's schema stands to this version of the service."""

    EMPTY = enum.auto()
    """It has none."""
    BEHIND = enum.auto()
    """An earlier one: `upgrade` brings it here."""
    OWN = enum.auto()
    LATER = enum.auto()
    """A later one, on which this version works."""
    TOO_NEW = enum.auto()
    """A later one, on which it does not."""


@dataclass(frozen=True, slots=True)
class Schema:
    """What a database says of its schema. `revision`: its number, None where it has no tables;
    `own`: the number that this version makes; `oldest`: the oldest one whose code works on it, None
    where it does not say."""

    revision: str | None
    own: str
    oldest: int | None
    fit: Fit

    def refusal(self) -> str:
        """Why this version does not work on it, and what to do."""
        said = "" if self.oldest is None else f" (it needs the version of schema {self.oldest})"
        return (
            f"The database has the schema {self.revision}, which this version does not know: start "
            f"the version of the service that migrated it, or a later one{said}."
        )


def look(connection: Connection) -> Schema:
    """Reads what stands there, and changes nothing."""
    script = ScriptDirectory.from_config(_config(connection))
    own = script.get_current_head()
    assert own is not None
    revision = MigrationContext.configure(connection).get_current_revision()
    known = {each.revision for each in script.walk_revisions()}
    if revision is None:
        return Schema(None, own, None, Fit.EMPTY)
    oldest = _oldest(connection)
    if revision == own:
        return Schema(revision, own, oldest, Fit.OWN)
    if revision in known:
        return Schema(revision, own, oldest, Fit.BEHIND)
    works = oldest is not None and oldest <= int(own)
    return Schema(revision, own, oldest, Fit.LATER if works else Fit.TOO_NEW)


def upgrade(connection: Connection) -> None:
    """Brings the database to this version's schema, in the caller's transaction; a later one on
    which this version works is left as it is. Raises TooNew."""
    stands = look(connection)
    if stands.fit is Fit.TOO_NEW:
        raise TooNew(stands.refusal())
    if stands.fit in (Fit.OWN, Fit.LATER):
        return
    config = _config(connection)
    command.upgrade(config, "head")
    script = ScriptDirectory.from_config(config).get_revision("head")
    connection.execute(update(compatibility).values(oldest=script.module.OLDEST))


def _oldest(connection: Connection) -> int | None:
    if not inspect(connection).has_table(compatibility.name):  # before revision 2
        return None
    found: int | None = connection.execute(select(compatibility.c.oldest)).scalar_one_or_none()
    return found


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.attributes["connection"] = connection
    return config
