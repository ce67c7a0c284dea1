"""One issuer for all tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from databases import Sqlite
from issuers import Issuer, NotToBeHad, installed
from qwarden.review.store.database import Database
from qwarden.stack.home import Home
from signing_in import Clock, Service

URL = "http://review.test"


@pytest.fixture(scope="session")
def packages(parts_home: Home) -> Path:
    try:
        return installed(parts_home)
    except NotToBeHad as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def issuers(parts_home: Home, packages: Path) -> Iterator[Issuer]:
    with Issuer(parts_home, packages, f"{URL}/oidc/callback") as issuer:
        yield issuer


@pytest.fixture
def issuer(issuers: Issuer) -> Issuer:
    """With one account, `anna`, and one program, and as it should be."""
    anna = {"roles": ["lead"], "tenants": ["demo"], "languages": ["en", "pt-BR"]}
    tool = {"roles": ["reviewer"], "tenants": ["demo"], "languages": ["*"]}
    issuers.say(wrong=None, accounts={"anna": anna, "tool": tool})
    return issuers


@pytest.fixture
async def database(sqlite: Sqlite) -> AsyncIterator[Database]:
    """Of one kind: what is kept of people is tested on both elsewhere."""
    sqlite.fresh()
    opened = sqlite.open()
    yield opened
    await opened.close()


@pytest.fixture
async def service(database: Database, issuer: Issuer) -> AsyncIterator[Service]:
    made = Service(database, URL, issuer.environ, clock=Clock())
    yield made
    await made.door.close()
