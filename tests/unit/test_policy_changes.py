"""What a person is told of another version: nothing that differs goes without a line."""

from __future__ import annotations

from typing import Any

import pytest

from qwarden.policy.changes import changes
from qwarden.policy.file import PolicyFile

TERMS = {"ground": "terms", "clause": "c"}
BLOCK = {"name": "unsafe", "when": {"safety": "Unsafe"}, "then": "block", **TERMS}
ROUGH = {"name": "rough", "when": {"safety": "Controversial"}, "then": "block", **TERMS}
LAST = {"name": "otherwise", "then": "allow"}


def policy(*rules: dict[str, Any], **fields: Any) -> PolicyFile:
    return PolicyFile.model_validate({"name": "house", "rules": rules, **fields})


OLD = policy(BLOCK, ROUGH, LAST)


@pytest.mark.parametrize(
    ("new", "lines"),
    [
        (OLD, []),
        (policy(BLOCK, ROUGH, LAST, name="other", extends="strict"), []),
        (policy(BLOCK, LAST), ["rule rough: is gone, and did block"]),
        (
            policy(BLOCK, ROUGH, {**ROUGH, "name": "mild"}, LAST),
            ["rule mild: is new, and does block"],
        ),
        (
            policy(BLOCK, {"name": "rough", "when": ROUGH["when"], "then": "allow"}, LAST),
            ["rule rough: does allow and did block"],
        ),
        (
            policy(BLOCK, {**ROUGH, "clause": "d", "text": {"en": "No."}}, LAST),
            ["rule rough: another clause, text"],
        ),
        (
            policy(ROUGH, BLOCK, LAST),
            ["rules: they stand in another order, and the first that matches acts"],
        ),
        (
            policy(BLOCK, ROUGH, LAST, on_outage="allow", language="de"),
            ["language: says something else", "on_outage: says something else"],
        ),
    ],
)
def test_a_change_of_a_policy_is_passed_over(new: PolicyFile, lines: list[str]) -> None:
    assert changes(OLD, new) == lines


def test_a_new_rule_among_the_old_ones_is_called_another_order() -> None:
    new = policy(LAST | {"name": "first", "when": {"safety": "Safe"}}, BLOCK, ROUGH, LAST)
    assert changes(OLD, new) == ["rule first: is new, and does allow"]
