"""Policies: which action an assessment gets, and what a wrong file is told."""

from __future__ import annotations

import pytest

from qwarden.contracts.verdict import SEVERITY, Action
from qwarden.guard.answer import Safety, Triple
from qwarden.guard.conversation import Task
from qwarden.guard.debounce import RULES, Consecutive, Evaluation, Rule, Threshold
from qwarden.guard.row import View
from qwarden.policy.document import DocumentError
from qwarden.policy.policy import BUILT_IN, Policy, read_policy
from unit.builders import CONTROVERSIAL, SAFE, UNSAFE, assessment

GOOD = """\
name: house
controversial:
  default: review
  categories:
    Unethical Acts: disclaim
    PII: allow
unsafe:
  default: disclaim
  categories:
    Violent: block
    Suicide & Self-Harm: review
"""


def _read(text: str) -> Policy:
    return read_policy(text, file="policies/house.yaml", expected_name="house")


def _decided(policy: Policy, logits: Triple, *categories: str) -> tuple[str, str]:
    answer = assessment(logits, *((name, 0.5) for name in categories))
    decided = policy.decide(answer.safety, answer)
    return decided.action.value, decided.rule


@pytest.mark.parametrize(
    ("logits", "categories", "action", "rule"),
    [
        (SAFE, (), "allow", "safe"),
        (SAFE, ("Violent",), "allow", "safe"),
        (UNSAFE, (), "disclaim", "unsafe.default"),
        (UNSAFE, ("Violent",), "block", "unsafe.Violent"),
        (UNSAFE, ("PII",), "disclaim", "unsafe.default"),
        (UNSAFE, ("Suicide & Self-Harm", "Violent"), "block", "unsafe.Violent"),
        (UNSAFE, ("Violent", "Suicide & Self-Harm"), "block", "unsafe.Violent"),
        (UNSAFE, ("Suicide & Self-Harm", "PII"), "review", "unsafe.Suicide & Self-Harm"),
        (CONTROVERSIAL, (), "review", "controversial.default"),
        (CONTROVERSIAL, ("Unethical Acts",), "disclaim", "controversial.Unethical Acts"),
        (CONTROVERSIAL, ("PII",), "allow", "controversial.PII"),
        (CONTROVERSIAL, ("PII", "Unethical Acts"), "disclaim", "controversial.Unethical Acts"),
        (CONTROVERSIAL, ("PII", "Violent"), "review", "controversial.default"),
        (CONTROVERSIAL, ("Violent", "PII"), "review", "controversial.default"),
    ],
)
def test_the_severest_action_of_all_categories_wins(
    logits: Triple, categories: tuple[str, ...], action: str, rule: str
) -> None:
    assert _decided(_read(GOOD), logits, *categories) == (action, rule)


def test_severity_is_not_the_order_of_the_alphabet() -> None:
    ordered = sorted(Action, key=SEVERITY.__getitem__)
    assert ordered == [Action.ALLOW, Action.DISCLAIM, Action.REVIEW, Action.BLOCK]


@pytest.mark.parametrize(
    ("name", "controversial", "unsafe"),
    [("default", "review", "block"), ("strict", "block", "block"), ("loose", "allow", "block")],
)
def test_a_built_in_policy_does_what_its_name_says(
    name: str, controversial: str, unsafe: str
) -> None:
    policy = BUILT_IN[name]
    assert policy.name == name
    assert _decided(policy, SAFE)[0] == "allow"
    assert _decided(policy, CONTROVERSIAL, "Violent")[0] == controversial
    assert _decided(policy, UNSAFE, "Violent")[0] == unsafe
    assert policy.unjudged().action is Action.REVIEW
    assert policy.expired().action is Action.REVIEW


def test_what_is_not_judged_is_dealt_with_as_the_policy_says() -> None:
    policy = _read(GOOD + "on_unjudged: block\non_expired: allow\n")
    assert (policy.unjudged().action, policy.unjudged().rule) == (Action.BLOCK, "on_unjudged")
    assert (policy.expired().action, policy.expired().rule) == (Action.ALLOW, "on_expired")


def test_the_safety_of_the_verdict_decides_not_the_categories() -> None:
    answer = assessment(UNSAFE, ("Violent", 0.9))
    assert _read(GOOD).decide(Safety.SAFE, answer).action is Action.ALLOW


def test_a_version_changes_with_all_that_a_policy_says_and_with_nothing_else() -> None:
    version = _read(GOOD).version
    reordered = GOOD.replace("    Unethical Acts: disclaim\n    PII: allow\n", "") + (
        "on_unjudged: review # as by default\n"
    )
    reordered = reordered.replace(
        "  default: review\n",
        "  categories: {PII: allow, Unethical Acts: disclaim}\n  default: review\n",
        1,
    ).replace("  categories:\nunsafe", "unsafe")
    reordered += "views: [markers_broken, as_sent, as_sent]\n"
    assert _read(reordered).version == version
    others = [
        GOOD.replace("PII: allow", "PII: disclaim"),
        GOOD.replace("default: disclaim", "default: block"),
        GOOD.replace("    PII: allow\n", ""),
        GOOD + "on_unjudged: block\n",
        GOOD + "on_expired: allow\n",
        GOOD + "views: [as_sent]\n",
    ]
    versions = {_read(text).version for text in others}
    assert len(versions) == len(others)
    assert version not in versions


def test_content_is_judged_as_it_was_sent_alone_unless_a_policy_says_more() -> None:
    both = (View.AS_SENT, View.MARKERS_BROKEN)
    assert {policy.views for policy in BUILT_IN.values()} == {both}
    assert _read(GOOD).views == both
    assert _read(GOOD + "views: [as_sent]\n").views == (View.AS_SENT,)


def test_a_policy_that_judges_other_views_passes_for_the_same() -> None:
    policy = _read(GOOD)
    one = policy.with_views([View.AS_SENT])
    assert one.views == (View.AS_SENT,)
    assert (one.name, one.version) == ("house", _read(GOOD + "views: [as_sent]\n").version)
    assert one.with_views(policy.views).version == policy.version
    assert _decided(one, UNSAFE, "Violent") == _decided(policy, UNSAFE, "Violent")


WRONG = [
    ("empty", "", "1: the file must hold one mapping"),
    ("a list", "- a", "1: the file must hold one mapping"),
    ("a word", "house", "1: the file must hold one mapping"),
    ("no YAML", "name: house\ncontroversial: [", "2: not YAML"),
    ("a tab", "name: house\ncontroversial:\n\tdefault: review\n", "3: not YAML"),
    ("a control character", "name: \x01", "1: not YAML"),
    ("two documents", GOOD + "---\na: 1\n", "12: not YAML"),
    ("nested without end", "name: " + "[" * 5000, "1: not YAML: nested too deeply"),
    ("code", GOOD + "x: !!python/name:os.system\n", "12: not YAML"),
    ("a missing field", GOOD.replace("  default: disclaim\n", ""), "7: unsafe.default: is missing"),
    ("a missing part", "name: house\nunsafe:\n  default: block\n", "1: controversial: is missing"),
    ("an unknown field", GOOD + "on_unsure: block\n", "12: on_unsure: unknown field"),
    ("an unknown field inside", GOOD.replace("unsafe:\n", "unsafe:\n  otherwise: block\n"),
     "8: unsafe.otherwise: unknown field"),
    ("a field twice", GOOD + "name: house\n", "12: name: stands twice, first on line 1"),
    ("a category twice", GOOD + "    Violent: allow\n",
     "12: unsafe.categories.Violent: stands twice, first on line 10"),
    ("an unknown category", GOOD.replace("    PII:", "    Spam:"),
     "6: controversial.categories.Spam: unknown category 'Spam'; known are Violent, "),
    ("a category in another case", GOOD.replace("    PII:", "    pii:"),
     "6: controversial.categories.pii: unknown category"),
    ("an unknown action", GOOD.replace("Violent: block", "Violent: ban"),
     "10: unsafe.categories.Violent: Input should be 'allow', 'disclaim', 'review' or 'block'"),
    ("never allowed unjudged", GOOD + "on_unjudged: allow\n",
     "12: on_unjudged: Input should be 'review' or 'block'"),
    ("no view at all", GOOD + "views: []\n", "12: views: views must hold as_sent"),
    ("not what was sent", GOOD + "views: [markers_broken]\n", "12: views: views must hold as_sent"),
    ("an unknown view", GOOD + "views: [as_sent, upside_down]\n",
     "12: views.1: Input should be 'as_sent' or 'markers_broken'"),
    ("a list of categories", GOOD.partition("    Violent")[0].rstrip() + " [a]\n",
     "9: unsafe.categories: Input should be"),
    ("no text as a field", GOOD + "yes: 1\n", "12: (file): a field's name must be text"),
    ("a number as a category", GOOD + "    1: block\n",
     "12: unsafe.categories: a field's name must be text"),
    ("a list as a field", GOOD + "? [a]\n: b\n", "12: (file): a field's name must be text"),
    ("no date", GOOD + "on_expired: 2024-13-45\n",
     "12: on_expired: '2024-13-45' is no timestamp; put it in quotes"),
    ("no truth", GOOD + "on_expired: !!bool perhaps\n", "12: on_expired: 'perhaps' is no bool"),
    ("an alias of itself", GOOD + "x: &x [*x]\n", "12: x: unknown field"),
    ("another name", GOOD.replace("name: house", "name: home"),
     "1: name: the file is called house.yaml; give both one name, not 'home'"),
    ("another name below", "# ours\n" + GOOD.replace("name: house", "name: home"), "2: name: "),
    ("a name with capitals", GOOD.replace("name: house", "name: House"), "1: name: String should"),
    ("a number as a name", GOOD.replace("name: house", "name: 7"), "1: name: Input should be"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"), [each[1:] for each in WRONG], ids=[each[0] for each in WRONG]
)
def test_a_wrong_file_is_refused_with_line_and_field(text: str, said: str) -> None:
    with pytest.raises(DocumentError) as raised:
        _read(text)
    lines = str(raised.value).splitlines()
    assert any(line.startswith(f"policies/house.yaml:{said}") for line in lines), lines


def test_all_errors_of_a_file_are_told_at_once() -> None:
    text = GOOD.replace("Violent: block", "Violent: ban").replace("PII: allow", "PII: maybe")
    with pytest.raises(DocumentError) as raised:
        _read(text)
    assert len(str(raised.value).splitlines()) == 2


def flagging(text: str) -> Policy:
    body = f"name: p\ncontroversial: {{default: review}}\nunsafe: {{default: block}}\n{text}"
    return read_policy(body, file="policies/p.yaml", expected_name="p")


def test_a_policy_that_says_nothing_of_flags_gets_other_rules_or_another_version() -> None:
    plain = flagging("")
    assert plain.rules == RULES and plain.final_look == "doubt"
    assert flagging("final_look: doubt\n").version == plain.version
    assert flagging("final_look: never\n").version != plain.version


@pytest.mark.parametrize(
    ("said", "rule"),
    [
        ("{rule: consecutive, run: 3}", Consecutive(3)),
        ("{rule: consecutive}", Consecutive(2)),
        ("{rule: evaluation}", Evaluation()),
        ("{rule: threshold, p: 0.9, run: 4}", Threshold(0.9, 4)),
    ],
)
def test_a_rule_for_thoughts_changes_those_for_answers(said: str, rule: Rule) -> None:
    rules = flagging(f"flagging: {{thinking: {said}}}\n").rules
    assert rules == {**RULES, Task.THINKING: rule}


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("flagging: {thinking: {rule: threshold, p: 2}}", "thinking"),
        ("flagging: {response: {rule: consecutive, run: 0}}", "run"),
        ("flagging: {response: {run: 2}}", "rule"),
        ("flagging: {prompt: {rule: evaluation}}", "prompt"),
        ("final_look: sometimes", "final_look"),
    ],
)
def test_a_rule_that_is_none_starts_a_service(said: str, reason: str) -> None:
    with pytest.raises(DocumentError, match=rf"policies/p.yaml:4: .*{reason}"):
        flagging(said + "\n")
