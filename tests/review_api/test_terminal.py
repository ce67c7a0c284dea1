"""`qwarden review` as it is typed, against the API on a real port and a database of its own."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from qwarden import cli
from qwarden.review.store import audit
from qwarden.review.store.database import Database
from qwarden.stack.ports import free_ports
from review_api.desk import claimed, decided, serving
from reviewing import escalations

pytestmark = pytest.mark.parts
"""A command loads all of qwarden's, and its calls go over a real port: a second and more each."""


class Terminal:
    """A person's shell."""

    def __init__(self, url: str, tmp_path: Path, port: int = 0) -> None:
        self.environ: dict[str, str | None] = {
            "QWARDEN_REVIEW__DATABASE_URL": url,
            "QWARDEN_REVIEW__PUBLIC_URL": f"http://127.0.0.1:{port}",
            "QWARDEN_STACK__HOME": str(tmp_path / "stack"),
        }

    async def run(self, *words: str, code: int = 0) -> str:
        """What a command says; on standard error where it fails."""
        done = await asyncio.to_thread(
            CliRunner().invoke, cli.app, ["review", *words], env=self.environ
        )
        assert done.exit_code == code, (words, done.exit_code, done.stderr, done.exception)
        return (done.stderr if code else done.stdout).strip()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'review.db'}"


async def test_an_init_container_that_prepares_no_database_or_starts_on_a_later_one(
    url: str, tmp_path: Path
) -> None:
    terminal = Terminal(url, tmp_path)
    said = await terminal.run("migrate")
    assert said.startswith("the database has the schema ")
    assert await terminal.run("migrate") == said
    assert said.endswith(f" {json.loads(await terminal.run('migrate', '--json'))['schema']}")
    database = Database.open(url, 2)
    async with database.reading() as tx:
        (number,) = (await tx.execute(text("SELECT version_num FROM alembic_version"))).one()
    assert said.endswith(f" {number}")
    async with database.writing() as tx:
        await tx.execute(text("UPDATE alembic_version SET version_num = '999'"))
        await tx.execute(text("UPDATE compatibility SET oldest = 999"))
    await database.close()
    assert "start the version" in await terminal.run("migrate", code=3)


async def test_a_person_cannot_be_added_changed_or_removed(url: str, tmp_path: Path) -> None:
    terminal = Terminal(url, tmp_path)
    said = await terminal.run("user", "add", "nina", "--role", "lead", "--language", "de")
    assert "nina is " in said
    assert "lead; tenants *; languages de" in said
    await terminal.run("user", "add", "nina", code=1)
    assert "pope" not in await terminal.run("user", "add", "other", "--role", "pope", code=2)
    await terminal.run("user", "change", "nina", "--language", "pt", "--language", "en")
    (nina,) = map(json.loads, (await terminal.run("user", "ls", "--json")).splitlines())
    assert sorted(nina["person"]["languages"]) == ["en", "pt"]
    assert (await terminal.run("link", "nina")).startswith("http://127.0.0.1:0/sign-in#")
    link = json.loads(await terminal.run("link", "nina", "--json"))
    assert link["url"].startswith("http://127.0.0.1:0/sign-in#")
    assert link["expires_at"] > time.time()
    assert (await terminal.run("token", "add", "nina", "--days", "3")).startswith("qw_")
    made = json.loads(await terminal.run("token", "add", "nina", "--label", "job", "--json"))
    assert made.pop("token").startswith("qw_")
    assert made == {"label": "job", "expires_at": None}
    listed = [
        json.loads(line)["label"]
        for line in (await terminal.run("token", "ls", "nina", "--json")).splitlines()
    ]
    assert listed == ["terminal", "job"]
    assert "terminal" in await terminal.run("token", "ls", "nina")
    await terminal.run("token", "revoke", "nina", "--label", "job")
    await terminal.run("token", "revoke", "nina")
    assert await terminal.run("token", "ls", "nina", "--json") == ""
    await terminal.run("user", "remove", "nina")
    assert "nobody called 'nina'" in await terminal.run("link", "nina", code=1)


async def test_a_bad_line_of_golden_items_is_not_named(url: str, tmp_path: Path) -> None:
    terminal = Terminal(url, tmp_path)
    good = {"tenant": "acme", "queue": "general", "text": "Is it open?", "action": "allow"}
    file = tmp_path / "goldens.jsonl"
    file.write_text(json.dumps(good) + '\n\n{"tenant": "acme"}\n')
    assert "line 3" in await terminal.run("golden", "add", str(file), code=2)
    assert await terminal.run("golden", "ls", "--json") == ""
    file.write_text(json.dumps(good) + "\n")
    await terminal.run("golden", "add", str(file))
    shown = await terminal.run("golden", "ls", "--json")
    assert "Is it open" not in shown
    assert "0 of 0" in await terminal.run("golden", "ls")
    await terminal.run("golden", "retire", json.loads(shown)["golden_id"])
    assert await terminal.run("golden", "ls", "--json") == ""


async def test_who_wrote_golden_items_is_measured_by_them(url: str, tmp_path: Path) -> None:
    terminal = Terminal(url, tmp_path)
    file = tmp_path / "goldens.jsonl"
    line = {"tenant": "acme", "queue": "general", "text": "Is it open?", "action": "allow"}
    file.write_text(json.dumps(line), encoding="utf-8-sig")
    assert "nobody called" in await terminal.run("golden", "add", str(file), "--as", "ann", code=1)
    await terminal.run("user", "add", "ann")
    await terminal.run("golden", "add", str(file), "--as", "ann")
    (ann,) = map(json.loads, (await terminal.run("user", "ls", "--json")).splitlines())
    added = json.loads(await terminal.run("golden", "ls", "--json"))
    assert added["added_by"] == ann["person"]["user_id"]


async def test_a_tool_gets_a_link_that_signs_in(url: str, tmp_path: Path) -> None:
    terminal = Terminal(url, tmp_path)
    await terminal.run("user", "add", "backend", "--tool")
    assert "make a token" in await terminal.run("link", "backend", code=2)
    assert (await terminal.run("token", "add", "backend")).startswith("qw_")


async def test_a_changed_log_passes_on_a_terminal(url: str, tmp_path: Path) -> None:
    from sqlalchemy import text

    terminal = Terminal(url, tmp_path)
    await terminal.run("user", "add", "nina")
    database = Database.open(url, 2)
    async with database.writing() as tx:
        await audit.seal(tx, 100)
    noted = json.loads(await terminal.run("audit", "verify", "--json"))["head"]
    head = ("--position", str(noted["position"]), "--hash", noted["chained"])
    await terminal.run("audit", "verify", *head)
    assert len((await terminal.run("audit", "export")).splitlines()) == noted["position"] + 1
    async with database.reading() as tx:
        acts = (await tx.execute(text("SELECT act FROM audit ORDER BY number"))).scalars().all()
    assert acts == ["user_added", "exported"], "who takes the log away stands nowhere"
    async with database.writing() as tx:
        await tx.execute(text("UPDATE audit SET actor = 'somebody'"))
    assert "broken at position 0" in await terminal.run("audit", "verify", code=1)
    await database.close()


async def test_a_lead_s_day_cannot_be_done_on_a_terminal(url: str, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    terminal = Terminal(url, tmp_path, port)
    assert "QWARDEN_REVIEW__TOKEN" in await terminal.run("queues", code=2)
    async with serving(url, port) as desk:
        await terminal.run("user", "add", "nina", "--role", "lead")
        terminal.environ["QWARDEN_REVIEW__TOKEN"] = await terminal.run("token", "add", "nina")
        await desk.take(escalations(4, name="terminal"))
        queues = json.loads(await terminal.run("queues", "--json"))["queues"]
        assert sum(each["open"] for each in queues) == 4
        for each in queues:
            assert each["queue"] in await terminal.run("queues")
        listed = json.loads(await terminal.run("items", "--json"))["items"]
        assert listed[0]["item_id"] in await terminal.run("items")

        reviewer = await desk.client("ben")
        work = await claimed(reviewer)
        await decided(reviewer, work, "block")

        bulk = ("bulk", "allow", "--reason", "not_a_violation", "--tenant", listed[0]["tenant"])
        assert json.loads(await terminal.run(*bulk, "--dry-run", "--json"))["decisions"] == 3
        said = await terminal.run(*bulk, "--yes")
        bulk_id, told = said.splitlines()[-1].split(": ")
        assert told == "decided 3, left alone 0"
        assert json.loads(await terminal.run("items", "--json"))["items"] == []
        await terminal.run("undo", bulk_id)
        assert len(json.loads(await terminal.run("items", "--json"))["items"]) == 3
        assert json.loads(await terminal.run("quality", "--json"))["reviewers"]
        assert "reviewer" in await terminal.run("quality")

        first = ("acme", escalations(1, name="terminal")[0].said.verdict.event_id)
        assert "3.2 Civic claims" in await terminal.run("statement", *first)
        assert json.loads(await terminal.run("statement", *first, "--json"))
        said = await terminal.run("appeal", *first, "I only asked when it opens.")
        assert said.startswith("appeal ")
    assert "does not answer" in await terminal.run("queues", code=3)
