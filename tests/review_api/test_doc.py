"""The tool of docs/review-api.md, run as it stands there."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka
from reviewing import escalations, reviewing

DOC = Path(__file__).parents[2] / "docs" / "review-api.md"
LINES = 25
OUR_TOOL = """
import logging
logging.basicConfig(filename="answers.log", level=logging.INFO)

async def ask(asked):
    return {"action": "block", "reason": "spam", "ground": "terms", "clause": "4.1"}
"""


@pytest.mark.parts
async def test_the_tool_of_the_documentation_decides_nothing(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= LINES
    (tmp_path / "our_tool.py").write_text(OUR_TOOL)
    (tmp_path / "main.py").write_text(code)
    home = Home(tmp_path_factory.mktemp("doc"))
    with Kafka(home) as kafka:
        async with reviewing(home, kafka, f"sqlite:///{tmp_path / 'review.db'}") as running:
            tool = await running.client("their tool", is_tool=True)
            await running.seed(escalations(5))
            person = await running.client("a person")
            held = (await person.post("/v1/claims", json={})).json()
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                "main.py",
                cwd=tmp_path,
                env={
                    **os.environ,
                    "KAFKA": kafka.bootstrap,
                    "REVIEW_URL": running.url,
                    "REVIEW_TOKEN": tool.headers["authorization"].removeprefix("Bearer "),
                },
            )
            try:
                await answered(tmp_path / "answers.log", "409 Conflict")
                released = f"/v1/items/{held['item']['item_id']}/release"
                await person.post(released, json={"lease": held["lease"]["token"]})
                for _ in range(120):
                    mine = (await tool.get("/v1/rulings")).json()
                    if len(mine) == 5:
                        break
                    await asyncio.sleep(0.25)
                assert [each["action"] for each in mine] == ["block"] * 5
            finally:
                child.terminate()
                await child.wait()


async def answered(log: Path, what: str) -> None:
    """Waits until the tool was told that."""
    for _ in range(120):
        if log.exists() and what in log.read_text(encoding="utf-8"):
            return
        await asyncio.sleep(0.25)
    raise AssertionError(f"the tool was never told {what}")
