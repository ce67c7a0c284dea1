"""What the commands of `qwarden review` ask the database, in one transaction each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from qwarden.cli.environment import client_settings
from qwarden.cli.terminal import MISSING, NO, WRONG_USE, end
from qwarden.settings import Review

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

T = TypeVar("T")


def in_database(work: Callable[[AsyncConnection, Review], Awaitable[T]]) -> T:
    """Runs this in a transaction on QWARDEN_REVIEW__DATABASE_URL, which is brought to this version
    first. What is refused, or a database that does not answer, ends the command with a sentence."""
    from qwarden.review.refusals import Invalid, Refusal
    from qwarden.review.store.database import Database, is_outage
    from qwarden.review.store.migrating import TooNew

    limits = client_settings().review
    if limits.database_url is None:
        end(
            WRONG_USE,
            "QWARDEN_REVIEW__DATABASE_URL: is not set; give the review service's database, or "
            "start the local stack with `qwarden up`",
        )
    url = limits.database_url.get_secret_value()

    async def run() -> T:
        database = Database.open(url, limits.connections, limits.database_certificates)
        try:
            await database.migrate()
            async with database.writing() as tx:
                return await work(tx, limits)
        finally:
            await database.close()

    try:
        return asyncio.run(run())
    except Invalid as refusal:
        end(WRONG_USE, str(refusal))
    except Refusal as refusal:
        end(NO, str(refusal))
    except TooNew as error:
        end(MISSING, str(error))
    except Exception as error:
        if is_outage(error):
            end(MISSING, "the review service's database does not answer; is it up?")
        raise
