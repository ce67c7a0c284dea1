"""Every fenced block of every page is something that a machine can hold against the project. One
that nothing here accounts for fails, so that no example is written that nobody ever tries.

What runs them as they stand is beside this: `test_examples.py` (README.md), tests/operations
(operations, backup, upgrades) and tests/review_api/test_doc.py.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from docs import shell
from docs.pages import ROOT, Block, all_blocks
from prometheuses import PROMTOOL, needs_promtool
from qwarden import bootstrap
from qwarden.contracts import topics
from qwarden.contracts.chunk import decode_chunk
from qwarden.contracts.event import decode_event
from qwarden.offline import moderate_stream
from qwarden.policy import sources
from qwarden.policy.document import DocumentError
from qwarden.policy.tenants import read_tenants
from qwarden.review import golden

BLOCKS = all_blocks()
CASES = (
    "cases:\n  - name: a greeting is let through\n    given: {safety: Safe}\n"
    "    expect: {action: allow}\n"
)


def test_no_block_is_found() -> None:
    assert {block.page.name for block in BLOCKS} >= {"README.md", "operations.md", "policies.md"}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.where)
def test_an_example_says_what_is_not_so(block: Block, tmp_path: Path) -> None:
    assert block.kind in KINDS, f"{block.where}: nothing accounts for ```{block.kind}"
    try:
        faults = KINDS[block.kind](block, tmp_path)
    except Exception as error:
        error.add_note(block.where)
        raise
    assert faults == [], block.where


def _sh(block: Block, _: Path) -> list[str]:
    return list(shell.faults(block.text))


def _python(block: Block, _: Path) -> list[str]:
    ast.parse(block.text)
    return []


def _events(block: Block, _: Path) -> list[str]:
    for value in _values(block):
        decode_event(value, max_bytes=topics.MAX_EVENT_BYTES)
    return []


def _chunks(block: Block, _: Path) -> list[str]:
    for value in _values(block):
        decode_chunk(value, max_bytes=topics.MAX_EVENT_BYTES)
    return []


def _goldens(block: Block, _: Path) -> list[str]:
    for value in _values(block):
        msgspec.json.decode(value, type=golden.Line)
    return []


def _rows(block: Block, _: Path) -> list[str]:
    """A row of `qwarden moderate --stream` has just these fields."""
    document = json.loads(block.text)
    known = set(moderate_stream.Row.__struct_fields__)
    return sorted(f"{name}: only one of page and row has it" for name in document.keys() ^ known)


def _policy(block: Block, _: Path) -> list[str]:
    name = yaml.safe_load(block.text)["name"]
    return _checked(name, block.text)


def _policy_part(block: Block, _: Path) -> list[str]:
    """Keys of a policy's file, shown without the rest of it."""
    return _checked("part", f"name: part\nextends: default\n{CASES}{block.text}")


def _checked(name: str, text: str) -> list[str]:
    try:
        sources.load({name: text})
        return []
    except DocumentError as error:
        return str(error).splitlines()


def _tenant(block: Block, _: Path) -> list[str]:
    name = yaml.safe_load(block.text)["name"]
    try:
        read_tenants({}, {name: block.text}, strict=True, activated=True)
        return []
    except DocumentError as error:
        return str(error).splitlines()


def _topic(block: Block, folder: Path) -> list[str]:
    from qwarden import settings

    name = yaml.safe_load(block.text)["name"]
    (folder / "topics").mkdir()
    (folder / "topics" / f"{name}.yaml").write_text(block.text)
    loaded = settings.load(
        {
            "QWARDEN_CONTENT_KEY": "0f" * 32,
            "QWARDEN_POLICY__PATH": str(folder),
            "QWARDEN_REGISTRY__URL": "http://127.0.0.1:1",
        }
    )
    assert name in bootstrap.topics_of(loaded, bootstrap.tenants_of(loaded))
    return []


def _values_of_the_chart(block: Block, _: Path) -> list[str]:
    """Keys that the chart has; docs/values.md is written of its values by tests/chart."""
    if block.page == ROOT / "docs" / "values.md":
        return []
    known = yaml.safe_load((ROOT / "helm" / "qwarden" / "values.yaml").read_text())
    return [f"the chart has no {name}" for name in yaml.safe_load(block.text).keys() - known.keys()]


def _promql(block: Block, folder: Path) -> list[str]:
    if PROMTOOL is None:
        pytest.skip(needs_promtool.kwargs["reason"])
    rules = [
        {"record": f"a:question:{number}", "expr": question}
        for number, question in enumerate(block.text.strip().split("\n\n"))
    ]
    file = folder / "rules.yaml"
    file.write_text(json.dumps({"groups": [{"name": "page", "rules": rules}]}))
    ran = subprocess.run(
        [PROMTOOL, "check", "rules", file], capture_output=True, text=True, check=False
    )
    return [] if ran.returncode == 0 else [ran.stdout + ran.stderr]


def _java(block: Block, _: Path) -> list[str]:
    """Compiled and run by `test_examples.py`; here only that it will find its class."""
    return [] if re.search(r"^public class \w+ \{$", block.text, re.M) else ["no public class"]


def _shown(block: Block, _: Path) -> list[str]:
    """What is shown and not typed: output, a sketch, HTTP in short."""
    return [] if block.text.strip() else ["it is empty"]


def _values(block: Block) -> list[bytes]:
    """A record a line, or one over several."""
    try:
        json.loads(block.text)
    except json.JSONDecodeError:
        return [line.encode() for line in block.text.splitlines()]
    return [block.text.encode()]


KINDS: dict[str, Callable[[Block, Path], Any]] = {
    "sh": _sh,
    "python": _python,
    "java": _java,
    "json event": _events,
    "json chunk": _chunks,
    "json golden": _goldens,
    "json row": _rows,
    "yaml policy": _policy,
    "yaml policy-part": _policy_part,
    "yaml tenant": _tenant,
    "yaml topic": _topic,
    "yaml": _values_of_the_chart,
    "promql": _promql,
    "text": _shown,
}
"""What is behind a fence, and what accounts for it."""
