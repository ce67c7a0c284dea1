"""The chart's activation Job, its command run as it stands, on a real broker: a policy of a release
that is not in force after an upgrade, or one that comes into force anew though nothing changed."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

import fleet
from chart.releases import BASE, CHART, component_of, env, merged
from commands import Shell
from moderators import Fleetlet, policies_in
from qwarden.contracts.control import in_force_key
from qwarden.enforcement import commanding
from qwarden.policy.file import PolicyFile
from qwarden.policy.policy import version_of
from qwarden.policy.sources import read_source
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka

POLICIES = {
    "forum": "name: forum\nextends: strict\n",
    "news": "name: news\nextends: forum\n",
}
BASES = ("strict", "loose", "default")


def job(policies: dict[str, str]) -> dict[str, Any]:
    """The Job's container, as the chart renders it."""
    try:
        helm = importlib.import_module("helm_python")
        helm.helm_sdk_version()
    except Exception as error:  # no wheel for this platform, or a library that does not load
        pytest.skip(f"the chart needs the Python package helm-python-sdk: {error}")
    values = merged(BASE, {"policies": policies, "policyActivation": {"enabled": True}})
    with helm.Chart.load(CHART) as chart:
        text = "\n---\n".join(
            each
            for path, each in chart.render(values, name="qwarden", namespace="moderation").items()
            if path.endswith("activation-job.yaml")
        )
    (found,) = (each for each in yaml.safe_load_all(text) if each)
    assert component_of(found) == "activation"
    (container,) = found["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def mounted_in(folder: Path, policies: dict[str, str]) -> list[Path]:
    (folder / "policies").mkdir(exist_ok=True)
    files = [folder / "policies" / f"{name}.yaml" for name in policies]
    for file, text in zip(files, policies.values(), strict=True):
        file.write_text(text)
    return files


async def run(own: Fleetlet, folder: Path, policies: dict[str, str]) -> tuple[int | None, str]:
    """Runs the container's command, with its policies mounted below `folder`."""
    mounted_in(folder, policies)
    container = job(policies)
    mounted = env(container)["QWARDEN_POLICY__PATH"]
    words = [
        word.replace(mounted, str(folder)) for word in [*container["command"], *container["args"]]
    ]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QWARDEN_")}
    process = await asyncio.create_subprocess_exec(
        *words,
        env={
            **kept,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "QWARDEN_STACK__HOME": str(own.home.root),
            "QWARDEN_CONTENT_KEY": own.home.content_key(),
            "QWARDEN_KAFKA__BOOTSTRAP_SERVERS": own.kafka.bootstrap,
            "QWARDEN_POLICY__PATH": str(folder),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return process.returncode, out.decode()


@pytest.fixture
async def own(own_kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Fleetlet:
    await asyncio.to_thread(fleet.clear, own_kafka)
    home = Home(tmp_path_factory.mktemp("activation"))
    made = Fleetlet(own_kafka, home, policies_in(home.root))
    await made.make_topics()
    return made


async def test_an_upgrade_whose_policies_act_nowhere_or_anew(own: Fleetlet, tmp_path: Path) -> None:
    async def serials() -> dict[str, int]:
        stands = await commanding.standing(own.settings("none").kafka)
        return {name: stands.in_force[in_force_key(name)].offset for name in POLICIES}

    code, said = await run(own, tmp_path, POLICIES)
    assert code == 0, said
    first = await serials()

    code, said = await run(own, tmp_path, POLICIES)
    assert code == 0, said
    assert said.count("is in force already") == len(POLICIES)
    assert await serials() == first

    code, said = await run(own, tmp_path, {**POLICIES, "news": "name: news\nextends: loose\n"})
    assert code == 0, said
    second = await serials()
    assert second["forum"] == first["forum"]
    assert second["news"] > first["news"]

    # What is wrong fails the upgrade, and what acted before does: the others too, though one
    # that is right and has changed comes first.
    wrong = {"forum": "name: forum\nextends: loose\n", "news": "name: news\nrules: 3\n"}
    code, said = await run(own, tmp_path, wrong)
    assert code != 0, said
    assert await serials() == second


async def test_an_upgrade_of_something_else_that_brings_a_rolled_back_policy_back(
    own: Fleetlet, tmp_path: Path
) -> None:
    reached = own.settings("none").kafka
    old, new, by_hand = ({"forum": f"name: forum\nextends: {base}\n"} for base in BASES)

    def resolved(policies: dict[str, str]) -> PolicyFile:
        return read_source(policies, "forum").file

    shell = Shell(
        tmp_path,
        {
            "QWARDEN_KAFKA__BOOTSTRAP_SERVERS": own.kafka.bootstrap,
            "QWARDEN_POLICY__PATH": str(tmp_path),
        },
    )

    async def upgrade(policies: dict[str, str]) -> str | None:
        """Does what the container's command does with a file, in this process: a start of that one
        is two of `qwarden`, 1.5 s of CPU. The version in force after it."""
        for file in mounted_in(tmp_path, policies):
            said = await shell.run("policy", "activate", "--if-changed", file)
            assert said.code == 0, said.err
        return await acting()

    async def acting() -> str | None:
        record = (await commanding.standing(reached)).in_force[in_force_key("forum")].record
        assert record is not None
        return record.version

    was, is_now, persons = (version_of(resolved(each)) for each in (old, new, by_hand))
    assert await upgrade(old) == was
    assert await upgrade(new) == is_now

    # By the container's command itself, so that it is one that leaves this as people have it.
    await commanding.rollback(reached, "forum", at=datetime.now(UTC), by="ann")
    code, said = await run(own, tmp_path, new)
    assert code == 0, said
    assert f"people have put {was} in force since, which stays" in " ".join(said.split())
    assert await acting() == was
    # Twice: the file acts, and that stays too.
    await commanding.rollback(reached, "forum", at=datetime.now(UTC), by="ann")
    assert await upgrade(new) is None

    # What a person activated stays until the values change, and is theirs when they say it.
    await commanding.activate(reached, resolved(by_hand), at=datetime.now(UTC), by="ann")
    assert await upgrade(new) == persons
    assert await upgrade(by_hand) == persons
    await commanding.activate(reached, resolved(new), at=datetime.now(UTC), by="ann")
    assert await upgrade(by_hand) == is_now

    # A change of the values acts, and so does going back to values that acted before.
    assert await upgrade(old) == was
    assert await upgrade(new) == is_now
