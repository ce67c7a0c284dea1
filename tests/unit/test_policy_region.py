"""Rules that nothing reaches: where the numbers end, and what no guard says."""

from __future__ import annotations

from typing import Any

import pytest

from qwarden.policy.conditions import Condition, When
from qwarden.policy.region import MAX_BOXES, Space, reached_rules


def score(name: str, **bounds: float) -> dict[str, Any]:
    return {"score": {name: bounds}}


SAFE, CONTROVERSIAL, UNSAFE = ({"safety": word} for word in ("Safe", "Controversial", "Unsafe"))
SURE = {"safe": {"at_least": 0.25}, "controversial": {"at_least": 0.5}}


@pytest.mark.parametrize(
    ("when", "is_possible"),
    [
        (SAFE | score("safe", below=1 / 3), False),
        (SAFE | score("safe", below=0.334), True),
        (SAFE | score("safe", at_least=1), True),
        (SAFE | score("flagged", at_least=2 / 3), True),
        (SAFE | score("flagged", at_least=0.667), False),
        (SAFE | score("flagged", below=0.1), True),
        (UNSAFE | score("unsafe", below=0.25), False),
        (UNSAFE | score("unsafe", below=0.26), True),
        (UNSAFE | score("unsafe", at_least=1), True),
        (UNSAFE | score("controversial", below=0.1), True),
        (CONTROVERSIAL | score("controversial", below=0.25), False),
        (CONTROVERSIAL | score("controversial", below=0.26), True),
        (CONTROVERSIAL | score("unsafe", below=0.1), True),
        (UNSAFE | score("safe", at_least=0.5), True),
        (UNSAFE | score("safe", at_least=0.51), False),
        (UNSAFE | score("safe", below=0.01), True),
        (UNSAFE | score("flagged", below=0.5), False),
        (UNSAFE | score("flagged", below=0.51), True),
        (UNSAFE | score("flagged", at_least=1), True),
        ({"safety": ["Safe", "Unsafe"]} | score("safe", below=0.1), True),
        ({"score": {"safe": {"at_least": 0.5}, "flagged": {"at_least": 0.5}}}, True),
        ({"score": {"safe": {"at_least": 0.5}, "flagged": {"at_least": 0.51}}}, False),
        ({"score": {**SURE, "unsafe": {"at_least": 0.25}}}, True),
        ({"score": {**SURE, "unsafe": {"at_least": 0.26}}}, False),
        ({"score": {**SURE, "flagged": {"at_least": 0.75}}}, True),
        ({"category": "Jailbreak", "task": "response"}, False),
        ({"category": "Jailbreak", "task": ["thinking", "prompt"]}, True),
        ({"category": ["Jailbreak", "Violent"], "task": "response"}, True),
        ({"refusal": True, "task": "prompt"}, False),
        ({"refusal": False, "task": ["prompt", "response"]}, True),
        ({"refusal": True, "category": "Jailbreak"}, False),
    ],
)
def test_what_no_guard_says_passes_for_possible_or_the_other_way_round(
    when: dict[str, Any], is_possible: bool
) -> None:
    assert reached_rules([Condition.model_validate(when)]) == [is_possible]


@pytest.mark.parametrize(
    ("when", "is_possible"),
    [
        (UNSAFE | score("unsafe", below=0.1), False),
        (UNSAFE | score("unsafe", below=0.11), True),
        (UNSAFE | score("safe", at_least=0.8), True),
        (UNSAFE | score("safe", at_least=0.81), False),
        (UNSAFE | score("flagged", below=0.2), False),
        (UNSAFE | score("flagged", below=0.21), True),
        (SAFE | score("flagged", at_least=0.667), False),
    ],
)
def test_an_early_flag_passes_for_what_no_guard_says(
    when: dict[str, Any], is_possible: bool
) -> None:
    condition = Condition.model_validate(when)
    assert reached_rules([condition], flagged=0.2) == [is_possible]
    late = reached_rules([condition], flagged=0.9)
    assert late == reached_rules([condition])


@pytest.mark.parametrize(
    ("whens", "reached"),
    [
        ([score("unsafe", at_least=0.5), score("unsafe", at_least=0.6)], [True, False]),
        ([score("unsafe", at_least=0.5), score("unsafe", at_least=0.4)], [True, True]),
        ([score("unsafe", at_least=0.5), score("unsafe", below=0.5), {}], [True, True, False]),
        ([{"reach": {"below": 10}}, {"reach": {"at_least": 10}}, {}], [True, True, True]),
        (
            [{"reach": {"below": 10}}, {"reach": {"at_least": 10}}, {"reach": {"at_least": 5}}],
            [True, True, False],
        ),
        ([{"reach": {"at_least": 0}}, {"reach": {"at_least": -5}}], [True, False]),
        ([{"reach": {"below": 0}}], [False]),
        ([{"metadata": {"x": True}}, {"metadata": {"x": 1}}], [True, True]),
        ([{"metadata": {"x": True}}, {"metadata": {"y": True}}], [True, True]),
        ([{"metadata": {"x": [1, 2]}}, {"metadata": {"x": 2}}], [True, False]),
        ([{"language": "pt"}, {"language": "pt-BR"}], [True, False]),
        ([{"language": "pt-BR"}, {"language": "pt"}], [True, True]),
        ([{"tenant": "a"}, {"tenant": "b"}, {"tenant": ["a", "b"]}], [True, True, False]),
        ([{"tenant": "a"}, {"tenant": ["a", "c"]}, {}], [True, True, True]),
        ([{"origin": "appeal"}, {"origin": ["appeal"]}, {}], [True, False, True]),
        ([{"refusal": True}, {"refusal": False}, {"task": "response"}], [True, True, True]),
        ([{"task": "response"}, {"refusal": True}], [True, False]),
        ([SAFE, UNSAFE, CONTROVERSIAL, {}], [True, True, True, False]),
        ([UNSAFE, {"category": "Violent"}], [True, True]),
        ([UNSAFE, CONTROVERSIAL, {"category": "Violent"}], [True, True, False]),
        ([{"task": "prompt"}, {"category": "Jailbreak"}], [True, False]),
        (
            [score("safe", at_least=0.5), score("flagged", at_least=0.5), UNSAFE],
            [True, True, False],
        ),
        ([{"refusal": True, "task": "prompt"}, {"task": "prompt"}], [False, True]),
    ],
)
def test_a_rule_behind_others_is_called_reached_or_unreached_in_error(
    whens: list[dict[str, Any]], reached: list[bool]
) -> None:
    assert reached_rules([Condition.model_validate(when) for when in whens]) == reached


def test_what_nobody_judged_is_met_by_rules_that_ask_what_the_guard_says() -> None:
    whens = [When.model_validate(each) for each in ({"task": "prompt"}, {"tenant": "a"}, {})]
    assert reached_rules(whens) == [True, True, True]
    assert reached_rules([*whens, When()]) == [True, True, True, False]


def test_what_is_left_overlaps_or_is_told_where_it_cannot_be() -> None:
    space = Space.of([Condition.model_validate({"tenant": ["a", "b"], "metadata": {"x": [1, 2]}})])
    everything = space.box(Condition())
    assert everything is not None
    corner = space.box(Condition.model_validate({"tenant": "a", "metadata": {"x": 1}}))
    assert corner is not None
    left = space.left_of(everything, [corner])
    assert left is not None and len(left) == 2
    assert space.left_of(left[0], [left[1]]) == [left[0]]
    assert space.left_of(corner, [everything]) == []
    many = [Condition.model_validate({"metadata": {f"m{n}": 1, f"n{n}": 1}}) for n in range(8)]
    wide = Space.of(many)
    boxes = [box for each in many if (box := wide.box(each)) is not None]
    assert 2**7 < MAX_BOXES < 2**8, "each cuts one more corner off"
    assert len(wide.left_of({}, boxes[:7]) or ()) == 2**7
    assert wide.left_of({}, boxes) is None
