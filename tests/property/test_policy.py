"""Policies: what the checks say of rules, against every reading that rules can meet."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from examples import examples
from qwarden.contracts.verdict import Action
from qwarden.guard.answer import Safety, Triple, safety_of
from qwarden.guard.conversation import Task
from qwarden.policy.checks import findings
from qwarden.policy.conditions import Condition, compiled, holds
from qwarden.policy.file import PolicyFile
from qwarden.policy.places import Places
from qwarden.policy.policy import Policy, Undecided, body_of, version_of
from qwarden.policy.reading import Circumstances, Reading
from qwarden.policy.region import Space

CATEGORIES = ("Violent", "PII", "Jailbreak")
NUMBERS = (0.2, 0.4, 0.5, 0.6, 0.9)


def bounds() -> st.SearchStrategy[dict[str, float]]:
    return st.one_of(
        st.sampled_from(NUMBERS).map(lambda low: {"at_least": low}),
        st.sampled_from(NUMBERS).map(lambda high: {"below": high}),
        st.sampled_from([(a, b) for a in NUMBERS for b in NUMBERS if a < b]).map(
            lambda pair: {"at_least": pair[0], "below": pair[1]}
        ),
    )


def some(values: tuple[object, ...]) -> st.SearchStrategy[list[object]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True)


CONDITIONS = st.fixed_dictionaries(
    {},
    optional={
        "safety": some(tuple(map(str, Safety))),
        "category": some(CATEGORIES),
        "task": some(tuple(map(str, Task))),
        "language": some(("pt", "pt-BR", "de")),
        "refusal": st.booleans(),
        "score": st.dictionaries(
            st.sampled_from(("safe", "unsafe", "flagged")), bounds(), max_size=2
        ),
        "reach": st.sampled_from([{"at_least": 100}, {"below": 100}]),
        "metadata": st.just({"premium": [True]}),
    },
).map(Condition.model_validate)


def triples() -> Iterator[Triple]:
    """Scores on and between all numbers that the conditions compare them with."""
    steps = (0.0, 0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.75, 0.9, 1.0)
    for safe, unsafe in product(steps, steps):
        if safe + unsafe <= 1.0001:
            yield safe, round(1 - safe - unsafe, 2), unsafe


TRIPLES = tuple(triples())


def readings(rules: list[Condition]) -> Iterator[Reading]:
    """Every reading that can be told apart by these conditions."""
    asked = {name for rule in rules for name in rule.model_fields_set}
    languages = ("pt", "pt-BR", "de", "fr") if "language" in asked else ("fr",)
    reaches = (None, 50, 100) if "reach" in asked else (None,)
    carried: tuple[dict[str, bool], ...] = ({}, {"premium": True}) if "metadata" in asked else ({},)
    refusals = (None, True, False) if "refusal" in asked else (None,)
    scores = TRIPLES if "score" in asked else ((0.8, 0.1, 0.1), (0.1, 0.8, 0.1), (0.1, 0.1, 0.8))
    categories_asked = CATEGORIES if "category" in asked else ()
    named: tuple[tuple[str, ...], ...] = ((), *((each,) for each in categories_asked))
    for task, language, reach, metadata, refusal, triple, categories in product(
        tuple(Task), languages, reaches, carried, refusals, scores, named
    ):
        if task is not Task.PROMPT and "Jailbreak" in categories:
            continue
        if task is not Task.RESPONSE and refusal is not None:
            continue
        about = Circumstances("t", task.value, language, reach=reach, metadata=metadata)
        yield Reading(about, safety_of(triple), triple, categories, refusal)


@pytest.mark.long
@settings(max_examples=examples(25))
@given(st.lists(CONDITIONS, min_size=2, max_size=5))
def test_a_rule_that_some_content_reaches_is_called_unreachable(rules: list[Condition]) -> None:
    space = Space.of(rules)
    boxes = [space.box(rule) for rule in rules]
    tests = [compiled(rule) for rule in rules]
    unreachable = {
        index
        for index, box in enumerate(boxes)
        if box is None or not space.left_of(box, [b for b in boxes[:index] if b is not None])
    }
    assume(unreachable)
    for reading in readings(rules):
        first = next((n for n, each in enumerate(tests) if holds(each, reading)), None)
        assert first not in unreachable, (reading, rules)


@pytest.mark.long
@settings(max_examples=examples(25))
@given(st.lists(CONDITIONS, min_size=2, max_size=4))
def test_a_rule_that_no_content_reaches_passes_the_checks(rules: list[Condition]) -> None:
    """Without scores, whose cells are not free of each other, the two say the same."""
    assume(not any(rule.score for rule in rules))
    space = Space.of(rules)
    boxes = [space.box(rule) for rule in rules]
    tests = [compiled(rule) for rule in rules]
    reached = {
        next((n for n, each in enumerate(tests) if holds(each, reading)), None)
        for reading in readings(rules)
    }
    for index, box in enumerate(boxes):
        left = box is not None and space.left_of(box, [b for b in boxes[:index] if b is not None])
        assert bool(left) == (index in reached), (index, rules)


def policy(rules: list[Condition], actions: list[Action]) -> PolicyFile:
    said = []
    for number, (rule, action) in enumerate(zip(rules, actions, strict=True)):
        body: dict[str, object] = {"name": f"r{number}", "when": rule, "then": action}
        if action is not Action.ALLOW:
            body |= {"ground": "terms", "clause": "c"}
        if action is Action.DISCLAIM:
            body["text"] = {"en": "x"}
        if action is Action.REVIEW:
            body |= {
                "queue": "q", "harm": 5, "sla": "1m", "meanwhile": "hide", "on_breach": "block",
            }  # fmt: skip
        said.append(body)
    said.append({"name": "otherwise", "then": "allow"})
    return PolicyFile.model_validate({"name": "p", "rules": said})


POLICIES = st.lists(st.tuples(CONDITIONS, st.sampled_from(Action)), max_size=4).map(
    lambda pairs: policy([rule for rule, _ in pairs], [action for _, action in pairs])
)


@given(POLICIES)
def test_what_comes_into_force_is_another_policy_than_what_was_checked(file: PolicyFile) -> None:
    again = PolicyFile.model_validate_json(body_of(file))
    assert again == file
    assert version_of(again) == version_of(file) == Policy(again).version
    assert version_of(file) != version_of(file, frozen=True)


@pytest.mark.long
@settings(max_examples=examples(12))
@given(POLICIES)
def test_something_automatic_ends_in_block_under_a_freeze(file: PolicyFile) -> None:
    thawed, frozen = Policy(file), Policy(file, frozen=True)
    for reading in readings([rule.when for rule in file.rules][:2]):
        before, after = thawed.decide(reading), frozen.decide(reading)
        assert after.rule == before.rule
        assert after.action is not Action.BLOCK
        assert after.handling is None or after.handling.on_breach != "block"
        if before.action is not Action.BLOCK:
            assert after.action is before.action
        else:
            assert after.action is Action.REVIEW and after.handling is not None
        if after.action is Action.REVIEW:
            assert frozen.handling_of(after.rule) == after.handling


@pytest.mark.long
@settings(max_examples=examples(15))
@given(POLICIES, st.data())
def test_an_undecided_row_is_guessed(file: PolicyFile, data: st.DataObject) -> None:
    """What is told of a record that lacks something is what any value of it would have given."""
    acts = Policy(file)
    whole = data.draw(st.sampled_from(list(readings([rule.when for rule in file.rules]))))
    about = whole.about
    lacking = Reading(
        Circumstances(
            about.tenant, about.task, about.language, about.origin, None, {},
            frozenset({"reach", "metadata.premium"}),
        ),
        whole.safety, whole.scores, None, whole.refusal,
    )  # fmt: skip
    told = acts.decide_or_tell(lacking)
    if isinstance(told, Undecided):
        return
    for reach, metadata, categories in product(
        (None, 50, 100), ({}, {"premium": True}), ((), ("PII",), ("Violent",))
    ):
        filled = Reading(
            Circumstances(
                about.tenant, about.task, about.language, about.origin, reach, metadata
            ),
            whole.safety, whole.scores, categories, whole.refusal,
        )  # fmt: skip
        assert acts.decide(filled) == told


def test_a_long_policy_takes_for_ever_to_check() -> None:
    """Rules that each cut another corner off: work stays bounded, and nothing raises."""
    rules = [
        Condition.model_validate(
            {"tenant": f"t{n}", "language": ["de", "fr", "pt"][n % 3], "category": "Violent"}
        )
        for n in range(100)
    ]
    file = policy(rules, [Action.BLOCK] * len(rules))
    assert findings(file, Places.nowhere("p", len(file.rules)))
