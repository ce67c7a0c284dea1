"""`qwarden policy check`: what a person may not be told wrongly of a policy."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from qwarden import cli

BASE = """\
name: base
rules:
  - {name: bad, when: {safety: Unsafe}, then: block, ground: terms, clause: "1", text: {en: No.}}
  - {name: doubt, when: {safety: Controversial}, then: allow}
  - {name: rest, then: allow}
cases:
  - {name: bread, given: {safety: Safe}, expect: {action: allow, rule: rest}}
"""
CHILD = "name: child\nextends: base\nfinal_look: always\n"


@dataclass
class Said:
    code: object
    out: str
    err: str


Check = Callable[..., Said]


@pytest.fixture
def check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Check:
    for name in [each for each in os.environ if each.startswith("QWARDEN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("QWARDEN_STACK__HOME", str(tmp_path / "stack"))

    def call(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["qwarden", "policy", "check", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return Said(ended.value.code or 0, said.out, said.err)

    return call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "policies"
    made.mkdir()
    (made / "base.yaml").write_text(BASE)
    (made / "child.yaml").write_text(CHILD)
    return made


def test_a_right_policy_does_not_say_how_many_rules_and_cases_it_has(
    check: Check, folder: Path
) -> None:
    said = check(folder)
    assert said.code == 0
    base, child = said.out.splitlines()
    assert base.endswith("3 rules, 1 case")
    assert child.endswith("3 rules, 0 cases")


def test_a_wrong_policy_is_taken_or_its_line_is_not_named(check: Check, folder: Path) -> None:
    wrong = folder / "base.yaml"
    wrong.write_text(BASE.replace("safety: Unsafe", "safety: Dangerous"))
    said = check(wrong)
    assert said.code == 1
    assert f"{wrong}:3:24: rules.0.when.safety" in said.err
    assert "wrong: 1 of 1 policy" in said.err
    assert check(folder).err.count(f"{wrong}:3:24") == 2, "the one that extends it is wrong too"


def test_a_case_that_fails_is_passed_over(check: Check, folder: Path) -> None:
    (folder / "base.yaml").write_text(BASE.replace("action: allow, rule", "action: block, rule"))
    said = check(folder / "base.yaml")
    assert said.code == 1
    assert "the case 'bread' fails: action is allow and block was expected" in said.err


def test_what_a_policy_extends_is_looked_for_beside_it_alone(
    check: Check, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = tmp_path / "elsewhere" / "child.yaml"
    alone.parent.mkdir()
    alone.write_text(CHILD)
    assert "no policy is called 'base'" in check(alone).err
    monkeypatch.setenv("QWARDEN_POLICY__PATH", str(tmp_path))
    assert check(alone).code == 0


def test_a_script_cannot_read_what_is_wrong(check: Check, folder: Path) -> None:
    (folder / "child.yaml").write_text(CHILD + "rules: [{name: rest, then: block}]\n")
    base, child = map(json.loads, check(folder, "--json").out.splitlines())
    assert (base["right"], base["rules"], base["cases"], base["errors"]) == (True, 3, 1, [])
    assert len(base["version"]) == 12
    assert not child["right"]
    assert child["errors"][0].startswith(f"{folder / 'child.yaml'}:4:")


@pytest.mark.parametrize(
    ("name", "words"), [("nowhere.yaml", "there is no file"), ("base.yml", "is called NAME.yaml")]
)
def test_a_file_that_is_none_ends_in_a_traceback(
    check: Check, folder: Path, name: str, words: str
) -> None:
    (folder / "base.yml").write_text(BASE)
    said = check(folder / name)
    assert said.code == 2
    assert words in said.err


def test_a_folder_without_policies_passes_for_right(check: Check, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    said = check(tmp_path / "empty")
    assert said.code == 2
    assert "no policies" in said.err
