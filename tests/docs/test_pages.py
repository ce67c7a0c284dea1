"""What the pages name exists: pages, headings, commands, options, settings, metrics and files."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from docs import shell
from docs.pages import PAGES, ROOT, anchors_of, links_of, prose_of, quoted_in, text_of
from prometheuses import PROMTOOL, needs_promtool
from qwarden import catalogue
from qwarden.contracts.schema import schema_of

WRITTEN_BY_A_TEST = {ROOT / "docs" / "metrics.md", ROOT / "docs" / "values.md"}

EACH = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@EACH
def test_a_link_leads_nowhere(page: Path) -> None:
    for target in links_of(page):
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), f"{target}: there is no such file"
        assert there.is_relative_to(ROOT), f"{target} leads out of the project"
        if anchor:
            assert anchor in anchors_of(there), f"{target}: no heading is called so"


@EACH
def test_a_command_of_the_prose_does_not_exist(page: Path) -> None:
    for code in quoted_in(page):
        for command in re.findall(r"(?:^|-- |\| )((?:\.venv/bin/)?qwarden .+)", code):
            assert list(shell.named_faults(command)) == []
        for target in re.findall(r"^make ([a-z-]+)", code):
            assert list(shell.faults(f"make {target}")) == []


@EACH
def test_a_setting_of_the_prose_does_not_exist(page: Path) -> None:
    for name in re.findall(r"QWARDEN_[A-Z0-9_]*[A-Z0-9](?:__(?![A-Z]))?", text_of(page)):
        assert name in shell.settings(), name


@EACH
def test_a_metric_of_the_prose_does_not_exist(page: Path) -> None:
    known = _metrics()
    for name in re.findall(
        r"\bqwarden_(?!engine\b)[a-z_]+[a-z]\b(?!\.)", " ".join(quoted_in(page))
    ):
        ends = ("", "_bucket", "_count", "_sum", "_total")
        assert any(name + end in known for end in ends), name


@cache
def _metrics() -> frozenset[str]:
    rules = (ROOT / "deploy" / "prometheus").glob("*.rules.yaml")
    texts = [catalogue.page(), *(path.read_text(encoding="utf-8") for path in rules)]
    return frozenset(re.findall(r"\bqwarden_\w+", "\n".join(texts)))


def test_a_route_of_the_pages_does_not_exist() -> None:
    """`POST /v1/items/ID/decide`: what is in capitals is a parameter."""
    document = json.loads((ROOT / "services/qwarden/review/http/openapi.json").read_text())
    routes = {
        f"{method.upper()} {re.sub(r'{[^}]*}', 'ID', path)}"
        for path, methods in document["paths"].items()
        for method in methods
    }
    asked = {
        f"{method} {re.sub(r'[A-Z_]{2,}', 'ID', path)}"
        for page in PAGES
        for method, path in re.findall(
            r"\b(GET|POST|PUT|PATCH|DELETE) (/v1/[\w/-]+)", text_of(page)
        )
    }
    assert len(asked) > 5
    assert asked <= routes


@needs_promtool
def test_a_question_of_the_prose_is_one_that_prometheus_does_not_read(tmp_path: Path) -> None:
    """What is pasted at night, such as `rate(qwarden_records_total{result="delivered"}[5m])`."""
    asked = {
        code
        for page in PAGES
        for code in quoted_in(page)
        if re.match(r"(?:[a-z_]+\()*(?:qwarden|nv)[_:][\w:]+[\[{]", code)
        and not re.search(r"\{[^}=]*\}|…", code)  # a metric with the names of its labels
    }
    assert len(asked) > 20
    rules = [{"record": f"asked:{at}", "expr": code} for at, code in enumerate(sorted(asked))]
    file = tmp_path / "rules.json"
    file.write_text(json.dumps({"groups": [{"name": "pages", "rules": rules}]}))
    ran = subprocess.run(
        [str(PROMTOOL), "check", "rules", file], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@EACH
def test_a_file_of_the_prose_does_not_exist(page: Path) -> None:
    if page in WRITTEN_BY_A_TEST:
        return
    for code in quoted_in(page):
        for name in re.findall(
            r"(?<![\w/.-])((?:tests|deploy|services|bench|docs|helm|triton_models)/[\w./-]+\w)",
            code,
        ):
            stands_for_one = re.search(r"[A-Z]{4}", name)
            assert stands_for_one or (ROOT / name).exists(), f"`{code}`: there is no {name}"


@EACH
def test_a_page_speaks_of_where_it_was_written(page: Path) -> None:
    prose = prose_of(page).replace("GitHub", "")
    assert not re.search(r"/(?:work|root|home)/|issue \d+\b(?! *\))", prose)


def test_a_page_is_found_by_nobody() -> None:
    """From README.md by links, each page of docs/ is reached."""
    reached: set[Path] = set()
    todo = [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in reached or page.suffix != ".md" or not page.is_file():
            continue
        reached.add(page)
        for target in links_of(page):
            if "://" not in target:
                there = (page.parent / target.partition("#")[0]).resolve()
                index = there / "README.md"
                pages = [index] if index.exists() else sorted(there.glob("*.md"))
                todo += pages if there.is_dir() else [there]
    assert set(PAGES) <= reached


@pytest.mark.long
@EACH
def test_a_dotted_name_of_the_prose_is_of_nothing(page: Path) -> None:
    """`redis.pause_s` is QWARDEN_REDIS__PAUSE_S, `review.oidc` a value of the chart,
    `policy.serial` a verdict's field, `policy.file` a module. What begins with the name of a group
    and is none of these is a name that was changed."""
    if page in WRITTEN_BY_A_TEST:
        return
    chart = json.loads((ROOT / "helm" / "qwarden" / "values.schema.json").read_text())
    verdict = schema_of("verdict")
    groups = {name.removeprefix("QWARDEN_").partition("__")[0] for name in shell.settings()}
    for code in quoted_in(page):
        first, *others = re.sub(r"\[.*?\]", "", code).split(".")
        if not others or not all(re.fullmatch(r"[A-Za-z_]+", each) for each in (first, *others)):
            continue
        if others[-1] in ("yaml", "json", "py", "md", "js", "dump", "jsonl"):
            continue
        if first.upper() in groups or first in chart["properties"]:
            setting = "QWARDEN_" + "__".join((first, *others)).upper()
            assert (
                setting in shell.settings()
                or _takes(chart, chart, [first, *others])
                or _takes(verdict, verdict, [first, *others])
                or importlib.util.find_spec(f"qwarden.{first}.{others[0]}") is not None
            ), code


def _takes(schema: dict[str, Any], node: dict[str, Any], names: list[str]) -> bool:
    """Whether what the schema describes may have a field of this name."""
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].removeprefix("#/$defs/")]
    below = [*node.get("anyOf", []), *([node["items"]] if "items" in node else [])]
    if below:
        return any(_takes(schema, each, names) for each in below)
    if not names:
        return True
    field = node.get("properties", {}).get(names[0])
    return field is not None and _takes(schema, field, names[1:])
