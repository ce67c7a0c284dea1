"""Policies that must never come into force: each file says in its first line what it is told."""

from __future__ import annotations

import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from qwarden.policy import schema
from qwarden.policy.document import DocumentError
from qwarden.policy.sources import load

BAD = sorted((Path(__file__).parent / "policies" / "bad").glob("*.yaml"))
EXAMPLES = Path(__file__).parents[2] / "deploy" / "policies" / "policies"


@pytest.mark.parametrize("file", BAD, ids=[file.stem for file in BAD])
def test_a_bad_policy_is_loaded(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    expected = text.splitlines()[0].removeprefix("# ")
    with pytest.raises(DocumentError) as raised:
        load({file.stem: text})
    told = str(raised.value).splitlines()
    assert any(re.match(f"policies/{file.stem}.yaml:{expected}", line) for line in told), told


def test_there_are_too_few_bad_policies_to_rely_on() -> None:
    assert len(BAD) >= 30


def test_an_example_is_refused_or_has_no_tests_of_its_own() -> None:
    texts = {file.stem: file.read_text(encoding="utf-8") for file in EXAMPLES.glob("*.yaml")}
    for policy in (loaded := load(texts)).policies.values():
        assert policy.name not in texts or policy.file.cases, policy.name
    assert texts.keys() <= loaded.policies.keys()


@pytest.mark.parametrize("name", list(schema.FILES))
def test_an_editor_checks_files_by_the_schema_of_another_version(name: str) -> None:
    written = Path(schema.__file__).parent / "schemas" / f"{name}.schema.json"
    assert written.read_text(encoding="utf-8") == schema.text_of(name), (
        "run: python -m qwarden.policy.schema"
    )


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda file: file.stem)
def test_an_editor_marks_what_is_right_as_wrong(file: Path) -> None:
    said = yaml.safe_load(file.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema.schema_of("policy")).validate(said)
