"""What reads the pages finds what is wrong with them: else every page would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs import shell
from docs.pages import ROOT, Block
from docs.test_blocks import KINDS

WRONG = {
    "qwarden verify --nope": "No such option: --nope",
    "qwarden tale moderation.verdicts": "No such command 'tale'",
    "echo x | .venv/bin/qwarden publish - --bad | cat": "No such option: --bad",
    "kubectl exec deployment/x -- qwarden docto": "No such command 'docto'",
    "TOKEN=$(qwarden review tokn add nina)": "No such command 'tokn'",
    "cat > file <<'END'\nfrob\nEND\nqwarden up --wat": "No such option: --wat",
    "make nothing": "there is no `make nothing`",
    "QWARDEN_KAFKA__NOPE=1 qwarden moderator": "there is no setting QWARDEN_KAFKA__NOPE",
    ".venv/bin/python -m qwarden.nothing": "there is no module qwarden.nothing",
    ".venv/bin/python bench/nothing.py": "there is no file bench/nothing.py",
    "frob the thing": "nobody knows `frob`",
    "if true; then": "bash does not read it",
}
RIGHT = """\
qw() { in_pod moderator qwarden "$@"; }
qwarden policy freeze acme --reason "wrong blocks" > said 2>&1 || echo "exit code $?"   # a brake
QWARDEN_REDIS__URL=redis://cache:6379/0 qwarden config check | grep good && make check
qwarden publish - <<'END'
{"event_id": "1", "tenant": "demo", "text": "frob | qwarden nothing"}
END
"""
BAD_BLOCKS = {
    "json event": '{"event_id": "1", "text": "whose?"}',
    "json chunk": '{"session": "1", "tenant": "demo"}',
    "json golden": '{"tenant": "demo", "queue": "general", "action": "allow", "colour": "red"}',
    "json row": '{"event_id": "1"}',
    "yaml policy": "name: forum\nrules: []\n",
    "yaml policy-part": "on_outage: never\n",
    "yaml tenant": "name: acme\npolicy: [default]\n",
    "yaml topic": "name: shop\nmapping: {text: '['}\n",
    "yaml": "moderatr: {}\n",
    "java": "class Publish {}\n",
    "python": "def\n",
    "text": "\n",
}


@pytest.mark.parametrize("script", WRONG)
def test_a_command_that_there_is_not_passes(script: str) -> None:
    assert WRONG[script] in " ".join(shell.faults(script))


def test_a_script_that_is_right_is_found_wrong() -> None:
    assert list(shell.faults(RIGHT)) == []
    assert list(shell.commands(RIGHT))[-1] == ["qwarden", "publish", "-"]


@pytest.mark.parametrize("code", ["qwarden policy chek", "qwarden verify --to-endd"])
def test_a_command_in_prose_that_there_is_not_passes(code: str) -> None:
    assert len(list(shell.named_faults(code))) == 1


@pytest.mark.parametrize("kind", BAD_BLOCKS)
def test_an_example_that_is_wrong_passes(kind: str, tmp_path: Path) -> None:
    block = Block(ROOT / "README.md", 1, kind, BAD_BLOCKS[kind])
    try:
        faults = KINDS[kind](block, tmp_path)
    except Exception:
        return
    assert faults


def test_a_kind_of_example_is_never_seen_to_fail() -> None:
    assert KINDS.keys() - BAD_BLOCKS.keys() == {"sh", "promql"}, "those of `WRONG`, and promtool's"
