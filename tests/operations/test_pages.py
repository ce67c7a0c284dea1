"""What a stranger would type, in the order of the pages: on a real broker, guard, cache and
database, with the faults that the pages speak of made where they speak of them."""

from __future__ import annotations

import asyncio
import os
import re
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from sqlalchemy import func, select

import engines
import fleet
import reviewing
from databases import Databases
from operations.pages import PAGES, ROOT, Block, Happening, blocks, read
from qwarden.contracts import topics
from qwarden.review.person import Role
from qwarden.review.store import audit
from qwarden.review.store.database import Database
from qwarden.review.store.schema import items
from qwarden.settings import load
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka
from qwarden.stack.service import Service, create_topics
from qwarden.stack.triton import Triton, available
from qwarden.stack.valkey import Valkey

_BLOCK_S = 240
_PRELUDE = """\
set -euo pipefail
in_pod() { "${@:2}"; }
qw() { qwarden "$@"; }
qwr() { qwarden "$@"; }
put() { cp "$1" "$POD/$1"; }
"""
"""What stands for a pod: this machine."""


@dataclass
class Stage:
    """The parts, and a folder in which the commands are run."""

    folder: Path
    settings: dict[str, str]
    more: dict[str, str] = field(default_factory=dict)

    def run(self, block: Block) -> str:
        """What it says. Fails where it does not end well, or does not say what the page says."""
        ran = subprocess.run(
            ["bash", "-c", _PRELUDE + block.script],
            cwd=self.folder,
            env={
                "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
                "HOME": str(self.folder),
                "POD": str(self.folder / "pod"),
                "QWARDEN_STACK__HOME": str(self.folder / "none"),
                **self.settings,
                **self.more,
            },
            capture_output=True,
            text=True,
            timeout=_BLOCK_S,
            check=False,
        )
        where = f"docs/{block.page}.md:{block.line}"
        said = ran.stdout + ran.stderr
        assert ran.returncode == 0, f"{where} ended with {ran.returncode}:\n{block.script}\n{said}"
        for each in block.says:
            assert each in said, f"{where} does not say {each!r}:\n{said}"
        return said


def stage_in(folder: Path, settings: dict[str, str]) -> Stage:
    """A folder that looks like the checkout, with the programs that the pages call."""
    for name in ("helm", "deploy"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "pod").mkdir()
    programs = {
        "qwarden": f'exec {sys.executable} -m qwarden "$@"',
        "helm": f"PYTHONPATH={ROOT / 'tests'} exec {sys.executable} "
        f'{Path(__file__).with_name("helm_command.py")} "$@"',
    }
    (folder / "bin").mkdir()
    for name, does in programs.items():
        program = folder / "bin" / name
        program.write_text(f"#!/usr/bin/env bash\n{does}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return Stage(folder, settings)


async def play(
    stage: Stage, page: str, happenings: dict[str, Callable[[], Awaitable[None]]]
) -> None:
    """Runs a page from its beginning to its end."""
    for part in read(page):
        if isinstance(part, Happening):
            await happenings[part.what]()
        elif part.why_not is None:
            await asyncio.to_thread(stage.run, part)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[tuple[Home, Kafka]]:
    home = Home(tmp_path / "parts")
    with Kafka(home) as kafka:
        create_topics(home, {"QWARDEN_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap})
        yield home, kafka


@pytest.mark.timeout(1500)
async def test_a_stranger_comes_from_an_empty_cluster_through_the_night(
    broker: tuple[Home, Kafka], databases: Databases, tmp_path: Path
) -> None:
    reason = available()
    if reason is not None:
        pytest.skip(reason)
    home, kafka = broker
    url = await databases.fresh()
    (tmp_path / "shop").mkdir()
    with (
        Valkey(home) as valkey,
        Triton(home, engines.GEN) as triton,
    ):
        settings = {
            "QWARDEN_CONTENT_KEY": home.content_key(),
            "QWARDEN_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap,
            "QWARDEN_KAFKA__SESSION_TIMEOUT_MS": "6000",
            "QWARDEN_REDIS__URL": valkey.url,
            "QWARDEN_REDIS__TIMEOUT_S": "5",
            "QWARDEN_TRITON__URL": triton.grpc,
            "QWARDEN_REVIEW__DATABASE_URL": url,
        }
        stage = stage_in(tmp_path / "shop", settings)

        async def judged() -> None:
            async def all_of_it() -> bool:
                ends = await fleet.ends_of(kafka.bootstrap, topics.CONTENT)
                done = await _committed(kafka.bootstrap, "qwarden-moderator")
                return all(done.get(each, 0) >= end for each, end in ends.items())

            await fleet.until(all_of_it, "everything is judged", within_s=120)

        async def break_it() -> None:
            await asyncio.to_thread(triton.kill)
            await fleet.publish(
                kafka.bootstrap,
                topics.CONTENT,
                [
                    (
                        b"k",
                        b'{"event_id": "at-night", "tenant": "acme", "text": "Is anybody there?"}',
                    )
                ],
            )

        async def mend_it() -> None:
            await asyncio.to_thread(triton.start)

        with Service(home, "moderator", settings), Service(home, "review-service", settings):
            await play(
                stage,
                "operations",
                {
                    "waits until all is judged": judged,
                    "takes Triton away": break_it,
                    "brings Triton back": mend_it,
                },
            )
            await play(stage, "upgrades", {})
    await databases.drop(url)


async def _committed(bootstrap: str, group: str) -> dict[object, int]:
    from aiokafka.admin import AIOKafkaAdminClient

    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        found = await admin.list_consumer_group_offsets(group)
    finally:
        await admin.close()
    return {partition: at.offset for partition, at in found.items()}


@pytest.mark.timeout(900)
async def test_a_restored_database_knows_what_came_after_its_dump(
    broker: tuple[Home, Kafka], databases: Databases, tmp_path: Path
) -> None:
    """Each item once: those of the dump, and those that came since, from the topic."""
    home, kafka = broker
    url, restored = await databases.fresh(), await databases.empty()
    settings = reviewing.settings_of(kafka.bootstrap, url)
    (tmp_path / "shop").mkdir()
    before = datetime.now(UTC)
    stage = stage_in(tmp_path / "shop", settings)
    stage.more = {
        "DATABASE_URL": url,
        "RESTORED_URL": restored,
        "BEFORE_THE_DUMP": before.isoformat(timespec="milliseconds"),
    }
    first, later = reviewing.escalations(6), reviewing.escalations(4, name="later")
    old = reviewing.Reviewing(
        Service(home, "review-service", settings),
        Database.open(url, 4),
        kafka.bootstrap,
        load(settings),
    )
    new = Service(home, "review-service", {**settings, "QWARDEN_REVIEW__DATABASE_URL": restored})

    async def _items(database: Database) -> int:
        async with database.reading() as tx:
            return int((await tx.execute(select(func.count()).select_from(items))).scalar_one())

    async def until_items(database: Database, count: int) -> None:
        async def there() -> bool:
            return await _items(database) == count

        await fleet.until(there, f"{count} items are there")

    async def lose() -> None:
        await reviewing.publish(kafka.bootstrap, later)
        await until_items(old.database, 10)
        await asyncio.to_thread(old.service.stop)
        await old.close()
        await databases.drop(url)

    async def start_again() -> None:
        stage.settings["QWARDEN_REVIEW__DATABASE_URL"] = restored
        await asyncio.to_thread(new.start)
        database = Database.open(restored, 2)
        await until_items(database, 10)
        # What was read again is not there twice a moment later either.
        ends = await fleet.ends_of(kafka.bootstrap, topics.REVIEW)

        async def read_to_the_end() -> bool:
            done = await _committed(kafka.bootstrap, "qwarden-review")
            return all(done.get(each, 0) >= end for each, end in ends.items())

        await fleet.until(read_to_the_end, "the topic is read")
        assert await _items(database) == 10
        await database.close()

    await asyncio.to_thread(old.service.start)
    try:
        await reviewing.publish(kafka.bootstrap, first)
        await until_items(old.database, 6)
        await reviewing.hired(old.database, "dana", Role.LEAD)

        async def sealed() -> bool:
            async with old.database.reading() as tx:
                found = await audit.verify(tx)
            return found.rows > 0 and not found.unsealed

        await fleet.until(sealed, "the log is sealed")
        await play(
            stage,
            "backup",
            {
                "loses the database": lose,
                "starts the review service again": start_again,
            },
        )
    finally:
        await asyncio.to_thread(old.service.kill)
        await asyncio.to_thread(new.stop)
    await databases.drop(restored)


# What is not run here.

NOT_RUN = [each for page in PAGES for each in blocks(page, run=False)]


def test_what_kubectl_is_asked_about_is_what_the_chart_makes(tmp_path: Path) -> None:
    """With the values of the page itself."""
    values = next(
        each for each in blocks("operations", run=True) if "> my-values.yaml" in each.script
    )
    folder = tmp_path / "shop"
    folder.mkdir()
    stage = stage_in(folder, {})
    stage.run(values)
    made = [each for each in yaml.safe_load_all((folder / "rendered.yaml").read_text()) if each]
    deployments = {each["metadata"]["name"] for each in made if each["kind"] == "Deployment"}
    asked = {
        name
        for block in NOT_RUN
        for name in re.findall(r"deployment/(qwarden-[a-z0-9-]+)", block.script)
    }
    assert asked and asked - {"qwarden-triton-large"} <= deployments
    components = {
        each["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]
        for each in made
        if each["kind"] == "Deployment"
    }
    for block in NOT_RUN:
        for name in re.findall(r"app.kubernetes.io/component=([a-z0-9-]+)", block.script):
            assert name in components


def test_every_block_of_a_page_is_run_or_says_why_not() -> None:
    """A block of another kind would be passed over by all of these."""
    for page in PAGES:
        text = (ROOT / "docs" / f"{page}.md").read_text()
        kinds = re.findall(r"^```(\w*)\n", text, re.M)
        assert set(filter(None, kinds)) <= {"sh"}, page
        assert kinds.count("sh") == len(blocks(page, run=True)) + len(blocks(page, run=False))
