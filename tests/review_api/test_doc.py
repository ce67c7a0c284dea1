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
                await running.seed(escalations(5))
                for _ in range(120):
                    mine = (await tool.get("/v1/rulings")).json()
                    if len(mine) == 5:
                        break
                    await asyncio.sleep(0.25)
                assert [each["action"] for each in mine] == ["block"] * 5
            finally:
                child.terminate()
                await child.wait()
