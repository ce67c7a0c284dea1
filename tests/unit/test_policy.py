"""Policies: which action a judged task gets, and what becomes of what nobody judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from qwarden.contracts.verdict import SEVERITY, Action
from qwarden.guard.answer import Safety, Triple
from qwarden.guard.conversation import Task
from qwarden.guard.debounce import RULES, Consecutive, Evaluation, Rule, Threshold
from qwarden.guard.row import View, tail_of
from qwarden.policy.conditions import Bounds, Condition
from qwarden.policy.document import DocumentError
from qwarden.policy.file import PolicyFile
from qwarden.policy.policy import Policy, Undecided, body_of, version_of, version_under
from qwarden.policy.reading import Circumstances, Reading, plain_of
from qwarden.policy.sources import BUILT_IN, load, read_source
from unit.builders import CONTROVERSIAL, SAFE, UNSAFE

HOUSE = (Path(__file__).parent / "policies" / "house.yaml").read_text(encoding="utf-8")
PARTS = {SAFE: (0.96, 0.02, 0.02), CONTROVERSIAL: (0.02, 0.96, 0.02), UNSAFE: (0.02, 0.02, 0.96)}


def read(text: str = HOUSE, **others: str) -> Policy:
    return load({"house": text, **others}).policies["house"]


def extended(more: str, base: str = "strict") -> Policy:
    return read(f"name: house\nextends: {base}\n{more}")


def reading(
    logits: Triple = SAFE,
    *categories: str,
    scores: Triple | None = None,
    refusal: bool | None = None,
    **about: Any,
) -> Reading:
    safety = {SAFE: Safety.SAFE, UNSAFE: Safety.UNSAFE}.get(logits, Safety.CONTROVERSIAL)
    circumstances = Circumstances(**({"tenant": "demo", "task": "prompt"} | about))
    return Reading(circumstances, safety, scores or PARTS[logits], categories, refusal)


def acts(policy: Policy, *args: Any, **kwargs: Any) -> tuple[str, str]:
    decided = policy.decide(reading(*args, **kwargs))
    return decided.action.value, decided.rule


@pytest.mark.parametrize(
    ("logits", "categories", "task", "action", "rule"),
    [
        (SAFE, (), "prompt", "allow", "otherwise"),
        (SAFE, ("Suicide & Self-Harm",), "prompt", "allow", "otherwise"),
        (UNSAFE, (), "prompt", "block", "unsafe"),
        (UNSAFE, ("Violent",), "prompt", "block", "unsafe"),
        (UNSAFE, ("Violent", "Suicide & Self-Harm"), "prompt", "review", "in-danger"),
        (CONTROVERSIAL, ("Suicide & Self-Harm",), "prompt", "review", "in-danger"),
        (CONTROVERSIAL, (), "prompt", "allow", "rough"),
        (CONTROVERSIAL, (), "response", "disclaim", "controversial"),
    ],
)
def test_another_rule_than_the_first_that_matches_acts(
    logits: Triple, categories: tuple[str, ...], task: str, action: str, rule: str
) -> None:
    assert acts(read(), logits, *categories, task=task) == (action, rule)


@pytest.mark.parametrize(
    ("when", "matches", "others"),
    [
        ("language: pt", {"language": "pt-BR"}, [{"language": "de"}, {"language": "und"}]),
        ("language: pt-BR", {"language": "pt-br"}, [{"language": "pt"}]),
        ("tenant: [a, b]", {"tenant": "b"}, [{"tenant": "c"}]),
        ("task: thinking", {"task": "thinking"}, [{"task": "prompt"}]),
        ("origin: authority", {"origin": "authority"}, [{"origin": "appeal"}]),
        ("reach: {at_least: 10, below: 20}", {"reach": 10}, [{"reach": 20}, {"reach": None}]),
        ("refusal: true", {"refusal": True}, [{"refusal": False}, {"refusal": None}]),
        (
            "metadata: {plan: [free, 1]}",
            {"metadata": {"plan": "free"}},
            [{"metadata": {}}, {"metadata": {"plan": True}}],
        ),
        (
            "score: {unsafe: {at_least: 0.4}}",
            {"scores": (0.6, 0.0, 0.4)},
            [{"scores": (0.601, 0.0, 0.399)}],
        ),
        (
            "score: {flagged: {at_least: 0.3, below: 0.4}}",
            {"scores": (0.7, 0.1, 0.2)},
            [{"scores": (0.6, 0.2, 0.2)}, {"scores": (0.71, 0.1, 0.19)}],
        ),
    ],
)
def test_a_condition_holds_where_it_should_not(
    when: str, matches: dict[str, Any], others: list[dict[str, Any]]
) -> None:
    rule = f"rules: [{{name: x, when: {{{when}}}, then: block, ground: law, clause: c}}]\n"
    policy = extended(rule)
    assert acts(policy, **matches) == ("block", "x")
    for other in others:
        assert acts(policy, **other) == ("allow", "otherwise"), other


def test_a_number_at_the_end_of_all_scores_is_none() -> None:
    for bounds in ({"at_least": 0, "below": 1}, {"at_least": 1}):
        said = Condition.model_validate({"score": {"safe": bounds}})
        assert said.score["safe"] == Bounds.model_validate(bounds)


def test_content_in_no_known_language_is_met_by_no_rule() -> None:
    policy = read(
        "name: house\nextends: strict\nrules: [{name: unread, when: {language: und}, then: review,"
        " ground: terms, clause: c, queue: q, harm: 1, sla: 1h, meanwhile: hide, on_breach: raise}]"
    )
    assert acts(policy, SAFE, language="und") == ("review", "unread")
    assert acts(policy, SAFE, language="de") == ("allow", "otherwise")


def test_rules_that_differ_in_more_than_a_number_are_called_overlapping() -> None:
    some = "then: block, ground: terms, clause: c}"
    more = "then: disclaim, ground: terms, clause: c, text: {en: Careful.}}"
    policy = read(
        "name: house\nrules:\n"
        f"- {{name: a, when: {{task: prompt, score: {{flagged: {{at_least: 0.5}}}}}}, {some}\n"
        f"- {{name: b, when: {{safety: Unsafe, score: {{flagged: {{below: 0.8}}}}}}, {more}\n"
        f"- {{name: c, when: {{task: response, reach: {{at_least: 10}}}}, {some}\n"
        f"- {{name: d, when: {{safety: Safe, reach: {{below: 20}}}}, {more}\n"
        "- {name: otherwise, then: block, ground: terms, clause: c}\n"
    )
    assert [rule.name for rule in policy.file.rules] == ["a", "b", "c", "d", "otherwise"]


def test_a_policy_without_a_last_rule_lets_content_pass_in_silence() -> None:
    policy = Policy(PolicyFile(name="house"))
    for decide in (policy.decide, policy.decide_or_tell):
        with pytest.raises(AssertionError, match=r"^the last rule of a policy has no condition$"):
            decide(reading())


def test_a_rule_reads_metadata_that_nobody_can_compare() -> None:
    sent = {"a": 1, "b": [1], "c": True, "d": None, "e": "x", "other": 1}
    assert plain_of(sent, "abcdef") == {"a": 1, "c": True, "e": "x"}


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
    about = reading().about
    assert policy.name == name
    assert acts(policy, SAFE)[0] == "allow"
    assert acts(policy, CONTROVERSIAL, "Violent")[0] == controversial
    assert acts(policy, UNSAFE, "Violent")[0] == unsafe
    assert policy.unjudged(about).action is Action.REVIEW
    assert policy.expired(about).action is Action.REVIEW
    assert policy.in_outage(about) is None


@pytest.mark.parametrize("name", list(BUILT_IN))
def test_a_review_that_no_rule_gave_has_nobody_to_go_to(name: str) -> None:
    decided = BUILT_IN[name].unjudged(reading().about)
    assert decided.handling == BUILT_IN[name].fallback == BUILT_IN[name].handling_of("on_unjudged")
    assert (decided.rule, decided.reason) == ("on_unjudged", None)


def test_a_review_rule_asks_people_otherwise_than_it_says() -> None:
    handling = read().handling_of("in-danger")
    assert (handling.queue, handling.harm, handling.sla) == ("welfare", 9, 900)
    assert (handling.meanwhile, handling.on_breach) == ("hide", "block")
    assert read().handling_of("unsafe") == read().fallback


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "Help is near."),
        ("EN-gb", "Help is near."),
        ("fr", "Hilfe ist nah."),
        ("und", "Hilfe ist nah."),
        (None, "Hilfe ist nah."),
        ("pt-BR", None),
    ],
)
def test_a_user_is_told_in_another_language_than_there_is(
    language: str | None, text: str | None
) -> None:
    reason = read().decide(reading(UNSAFE, "Suicide & Self-Harm")).reason
    assert reason is not None
    assert (reason.ground, reason.clause, reason.text(language)) == ("terms", "§4", text)


def test_what_is_not_judged_is_dealt_with_as_the_circumstances_say() -> None:
    policy = extended(
        "on_unjudged: block\n"
        "on_outage:\n"
        "  - {when: {tenant: calm, task: prompt, reach: {below: 100}}, then: allow}\n"
        "  - {when: {task: response}, then: review}\n"
        "  - {then: hold}\n"
        "on_expired: allow\n"
    )
    calm = reading(tenant="calm", reach=5).about
    assert policy.unjudged(calm).action is Action.BLOCK
    assert policy.expired(calm).action is Action.ALLOW
    assert policy.answers_in_outage
    said = [
        policy.in_outage(about)
        for about in (
            calm,
            reading(tenant="calm", reach=100).about,
            reading(tenant="calm").about,
            reading(task="response").about,
        )
    ]
    actions = [each and each.action.value for each in said]
    assert actions == ["allow", None, None, "review"]
    assert said[3] is not None
    assert (said[3].rule, said[3].handling) == ("on_outage", policy.fallback)


def test_what_is_late_or_not_judged_is_blocked_where_a_rule_asks_people() -> None:
    asks = "[{when: {tenant: calm, task: prompt}, then: review}, {then: block}]"
    policy = extended(f"on_unjudged: {asks}\non_expired: {asks}\n")
    for about, action, handling in (
        (reading(tenant="calm").about, Action.REVIEW, policy.fallback),
        (reading(tenant="calm", task="response").about, Action.BLOCK, None),
        (reading().about, Action.BLOCK, None),
    ):
        for decided in (policy.unjudged(about), policy.expired(about)):
            assert (decided.action, decided.handling) == (action, handling)


def test_a_users_report_is_seen_by_nobody() -> None:
    policy = read()
    assert acts(policy, origin="user_report") == ("review", "on_report")
    assert acts(policy, CONTROVERSIAL, origin="user_report") == ("review", "on_report")
    assert acts(policy, UNSAFE, origin="user_report") == ("block", "unsafe")
    assert acts(read(HOUSE + "on_report: rules\n"), origin="user_report") == ("allow", "otherwise")


def test_an_own_rule_takes_another_place_than_the_one_it_replaces() -> None:
    policy = extended(
        "rules:\n"
        "  - {name: controversial, when: {safety: Controversial}, then: allow}\n"
        "  - name: friends\n"
        "    when: {tenant: friends, safety: [Safe, Controversial, Unsafe]}\n"
        "    then: allow\n"
    )
    assert [rule.name for rule in policy.file.rules] == [
        "friends", "unsafe", "controversial", "otherwise",
    ]  # fmt: skip
    assert acts(policy, UNSAFE, tenant="friends") == ("allow", "friends")
    assert acts(policy, CONTROVERSIAL) == ("allow", "controversial")
    assert policy.name == "house"


def test_a_wider_own_rule_is_refused_for_those_behind_it() -> None:
    policy = extended(
        "rules: [{name: x, when: {score: {flagged: {at_least: 0.3}}}, then: block, "
        "ground: law, clause: c}]\n"
    )
    assert [rule.name for rule in policy.file.rules] == ["x", "otherwise"]


def test_fields_are_inherited_over_two_steps_and_cases_are_not() -> None:
    base = HOUSE + (
        "on_expired: allow\non_unjudged: block\n"
        "cases: [{name: c, given: {safety: Safe}, expect: {action: allow}}]\n"
    )
    middle = "name: middle\nextends: house\non_expired: block\n"
    texts = {"house": base, "middle": middle, "top": "name: top\nextends: middle\nviews: [as_sent]"}
    top = load(texts).policies["top"]
    about = reading().about
    assert (top.name, top.file.language, top.views) == ("top", "de", (View.AS_SENT,))
    assert top.unjudged(about).action is Action.BLOCK
    assert top.expired(about).action is Action.BLOCK
    assert not top.file.cases


def test_an_error_in_a_policy_names_the_file_in_which_it_stands() -> None:
    own = "name: own\nextends: house\n"
    with pytest.raises(DocumentError) as raised:
        load({"house": HOUSE.replace("then: allow}", "then: allow, queue: q}", 1), "own": own})
    (line,) = str(raised.value).splitlines()
    assert line.startswith("policies/house.yaml:20:5: rules.2: queue is for `then: review`")


def test_a_version_changes_with_all_that_a_policy_says_and_with_nothing_else() -> None:
    version = read().version
    same = [
        HOUSE.replace("sla: 15m", "sla: 900s"),
        HOUSE.replace("{safety: Unsafe}", "{safety: [Unsafe]}  # as before"),
        HOUSE + "on_unjudged: review\n",
        HOUSE + "on_unjudged: [{then: review}]\n",
        HOUSE + "cases: [{name: c, given: {safety: Safe}, expect: {action: allow}}]\n",
        HOUSE + "views: [normalised, markers_broken, as_sent, as_sent]\n",
    ]
    assert {read(text).version for text in same} == {version}
    others = [
        HOUSE.replace("harm: 9", "harm: 8"),
        HOUSE.replace("Hilfe ist nah.", "Hilfe kommt."),
        HOUSE.replace("language: de", "language: en"),
        HOUSE + "on_unjudged: block\n",
        HOUSE + "on_expired: allow\n",
        HOUSE + "views: [as_sent]\n",
        HOUSE + "quotas: {blocks_an_hour: 5}\n",
        HOUSE + "final_look: never\n",
    ]
    versions = {read(text).version for text in others}
    assert len(versions) == len(others)
    assert version not in versions
    assert read().standing(serial=7, frozen=False).version == version


def test_a_policy_that_judges_other_views_passes_for_the_same() -> None:
    policy = read()
    assert policy.views == tuple(View)
    assert policy.row_tail == tail_of(tuple(View))
    one = policy.with_views([View.AS_SENT])
    assert (one.views, one.row_tail) == ((View.AS_SENT,), tail_of([View.AS_SENT]))
    assert (one.name, one.version) == ("house", read(HOUSE + "views: [as_sent]\n").version)
    assert one.with_views(policy.views).version == policy.version


def test_a_score_beside_a_threshold_passes_for_certain() -> None:
    policy = extended(
        "rules: [{name: x, when: {score: {flagged: {at_least: 0.3}}}, then: block, "
        "ground: law, clause: c}]\n"
    )
    assert policy.is_near((0.695, 0.2, 0.105), 0.01)
    assert not policy.is_near((0.6, 0.2, 0.2), 0.01)
    assert not read().is_near((0.34, 0.33, 0.33), 0.01)


TWO_OF_ONE_CLAUSE = (
    "name: house\nlanguage: de\nrules:\n"
    "- {name: a, when: {category: PII}, then: review, ground: terms, clause: c, text: {en: Later.},"
    " queue: a, harm: 1, sla: 1h, meanwhile: show, on_breach: allow}\n"
    "- {name: b, when: {category: Violent}, then: block, ground: terms, clause: c,"
    " text: {en: No.}}\n"
    "- {name: c, when: {safety: Unsafe}, then: block, ground: law, clause: c, text: {en: Law.}}\n"
    "- {name: d, when: {safety: Controversial}, then: disclaim, ground: terms, clause: d,"
    " text: {en: Careful.}}\n"
    "- {name: otherwise, then: allow}\n"
    "fallback: {queue: f, harm: 2, sla: 2h, meanwhile: show, on_breach: allow}\n"
    "on_unjudged: block\n"
    "on_expired: block\n"
)


def written(text: str) -> Policy:
    """Without the checks, which ask for more rules than a test is about."""
    return Policy(PolicyFile.model_validate(yaml.safe_load(text)))


@pytest.mark.parametrize(
    ("action", "ground", "clause", "text"),
    [
        (Action.BLOCK, "terms", "c", "No."),
        (Action.REVIEW, "terms", "c", "Later."),
        (Action.DISCLAIM, "terms", "c", "Later."),
        (Action.BLOCK, "law", "c", "Law."),
        (Action.BLOCK, "terms", "d", "Careful."),
        (Action.BLOCK, "law", "d", None),
    ],
)
def test_a_person_restricts_and_the_user_is_told_of_another_clause(
    action: Action, ground: str, clause: str, text: str | None
) -> None:
    decided = written(TWO_OF_ONE_CLAUSE).by_person(action, ground, clause)
    assert (decided.action, decided.rule, decided.handling) == (action, "by_override", None)
    reason = decided.reason
    assert reason is not None
    assert (reason.ground, reason.clause, reason.default_language) == (ground, clause, "de")
    assert reason.text("en") == text


@pytest.mark.parametrize(
    ("action", "ground", "clause"),
    [(Action.ALLOW, "terms", "c"), (Action.BLOCK, None, "c"), (Action.BLOCK, "terms", None)],
)
def test_a_user_is_told_of_a_restriction_that_nobody_gave_a_ground_for(
    action: Action, ground: str | None, clause: str | None
) -> None:
    decided = written(TWO_OF_ONE_CLAUSE).by_person(action, ground, clause)
    assert (decided.action, decided.rule, decided.reason) == (action, "by_override", None)


def test_a_text_in_a_wider_language_is_given_instead_of_the_closest() -> None:
    text = HOUSE.replace("en: Help is near.", "zh: wide, zh-Hant: close, en: ' Help is near. '")
    reason = read(text).decide(reading(UNSAFE, "Suicide & Self-Harm")).reason
    assert reason is not None
    assert [reason.text(each) for each in ("zh-Hant-TW", "zh-Hans", "en")] == [
        "close", "wide", "Help is near.",
    ]  # fmt: skip


@pytest.mark.parametrize("texts", ["id: own, ms: wide", "ms: wide, id: own"])
def test_a_text_of_a_language_around_it_is_given_before_its_own(texts: str) -> None:
    """Indonesian is within Malay."""
    text = HOUSE.replace("en: Help is near.", f"{texts}, en: Help is near.")
    reason = read(text).decide(reading(UNSAFE, "Suicide & Self-Harm")).reason
    assert reason is not None
    assert [reason.text(each) for each in ("id-ID", "ms")] == ["own", "wide"]


def test_what_is_allowed_has_a_reason_and_what_rules_read_of_it_is_not_kept() -> None:
    policy = extended(
        "rules: [{name: x, when: {metadata: {plan: free, age: 1}}, then: block, ground: law, "
        "clause: c}]\n"
    )
    decided = policy.decide(reading(metadata={"plan": "paid", "age": 1}))
    assert (decided.action, decided.reason) == (Action.ALLOW, None)
    assert policy.metadata == ("age", "plan")


@pytest.mark.parametrize("on_breach", ["allow", "block", "raise"])
def test_a_freeze_shows_what_is_late_or_changes_more_than_blocks(on_breach: str) -> None:
    thawed = written(TWO_OF_ONE_CLAUSE.replace("on_breach: allow", f"on_breach: {on_breach}"))
    frozen = thawed.standing(serial=7, frozen=True)
    kept = "raise" if on_breach == "block" else on_breach
    assert (thawed.frozen, thawed.serial, thawed.fallback.on_breach) == (False, 0, on_breach)
    assert (frozen.frozen, frozen.serial, frozen.fallback.on_breach) == (True, 7, kept)
    raised = thawed.fallback.model_copy(update={"on_breach": "raise"})
    before, after = (each.decide(reading(UNSAFE)) for each in (thawed, frozen))
    assert (before.action, after.action, after.rule) == (Action.BLOCK, Action.REVIEW, "c")
    assert (after.handling, after.reason) == (raised, before.reason)
    before, after = (each.decide(reading(UNSAFE, "PII")) for each in (thawed, frozen))
    assert before.handling is not None and after.handling is not None
    assert after.handling == before.handling.model_copy(update={"on_breach": kept})
    assert frozen.handling_of("a") == after.handling
    assert (after.action, after.rule, after.reason) == (Action.REVIEW, "a", before.reason)
    about = reading().about
    assert [thawed.unjudged(about).action, thawed.expired(about).action] == [Action.BLOCK] * 2
    for decided, rule in (
        (frozen.unjudged(about), "on_unjudged"),
        (frozen.expired(about), "on_expired"),
    ):
        assert (decided.action, decided.rule, decided.handling) == (Action.REVIEW, rule, raised)
    assert frozen.decide(reading(CONTROVERSIAL)) == thawed.decide(reading(CONTROVERSIAL))


def test_a_frozen_policy_thaws_where_its_views_are_chosen_or_it_stands_as_before() -> None:
    frozen = read().standing(serial=7, frozen=True)
    assert frozen.standing(serial=7, frozen=True) is frozen
    one = frozen.with_views([View.AS_SENT])
    assert (one.serial, one.frozen, one.file.name) == (7, True, "house")
    other = frozen.standing(serial=8, frozen=True)
    assert (other.serial, other.frozen, other.version) == (8, True, frozen.version)
    thawed = frozen.standing(serial=7, frozen=False)
    assert (thawed.serial, thawed.frozen, thawed.version) == (7, False, read().version)


def test_a_review_that_a_user_asked_for_takes_the_place_of_the_rules_own() -> None:
    reported = read().decide(reading(UNSAFE, "Suicide & Self-Harm", origin="user_report"))
    assert reported.rule == "in-danger"
    assert reported.handling == read().handling_of("in-danger")
    asked = read().decide(reading(origin="user_report"))
    assert asked.handling == read().fallback
    assert read().decide_or_tell(reading(origin="user_report")) == asked


def test_a_rule_that_may_match_is_passed_over_or_hides_one_that_surely_does() -> None:
    policy = written(TWO_OF_ONE_CLAUSE.replace("category: PII", "category: PII, safety: Safe"))
    about = reading().about
    unknown = Reading(about, Safety.SAFE, (0.98, 0.01, 0.01), None)
    assert policy.decide_or_tell(unknown) == Undecided("a")
    assert policy.decide(unknown).rule == "otherwise"
    first = written(TWO_OF_ONE_CLAUSE.replace("category: PII", "safety: Safe"))
    told = first.decide_or_tell(unknown)
    assert not isinstance(told, Undecided) and told.rule == "a"


def test_a_score_just_at_the_bound_of_the_noise_passes_for_certain() -> None:
    policy = written(
        "name: house\nrules:\n"
        "- {name: x, when: {score: {unsafe: {at_least: 0.5, below: 0.75}}}, then: allow}\n"
        "- {name: otherwise, then: allow}\n"
    )
    assert [policy.is_near((1 - each, 0.0, each), 0.125) for each in (
        0.25, 0.375, 0.625, 0.875, 0.9375,
    )] == [False, True, True, True, False]  # fmt: skip


def test_a_policy_that_came_over_the_wire_asks_people_within_another_time() -> None:
    file = written(TWO_OF_ONE_CLAUSE).file
    said = json.loads(body_of(file))
    assert said["fallback"]["sla"] == "7200s"
    assert PolicyFile.model_validate(said) == file


def test_a_release_gives_a_policy_that_nobody_has_changed_another_version() -> None:
    file = PolicyFile.model_validate(
        yaml.safe_load(
            "name: pinned\nextends: strict\non_unjudged: block\nrules:\n"
            "- {name: x, when: {safety: Unsafe, score: {unsafe: {at_least: 0.4}}}, then: block, "
            "ground: law, clause: §1, text: {de: Nö}}\n- {name: otherwise, then: allow}\n"
            "cases: [{name: c, given: {safety: Safe}, expect: {action: allow}}]\n"
        )
    )
    said = (
        '{"name":"pinned","on_unjudged":[{"then":"block"}],"rules":[{"clause":"§1","ground":"law",'
        '"name":"x","text":{"de":"Nö"},"then":"block","when":{"safety":["Unsafe"],'
        '"score":{"unsafe":{"at_least":0.4}}}},{"name":"otherwise","then":"allow"}]}'
    )
    assert body_of(file).decode() == said
    assert version_of(file) == "b39bcdf96651"
    assert (Policy(file).version, Policy(file, frozen=True).version) == (
        "b39bcdf96651",
        "e2008104323d",
    )
    assert version_under("b39bcdf96651", Action.BLOCK, "d" * 32) == "d26ccbcfffa9"


WRONG = [
    ("empty", "", "1:1: the file must hold one mapping"),
    ("a list", "- a", "1:1: the file must hold one mapping"),
    ("a word", "house", "1:1: the file must hold one mapping"),
    ("no YAML", "name: house\nrules: [", "2:9: not YAML"),
    ("a tab", "name: house\nrules:\n\tdefault: review\n", "3:1: not YAML"),
    ("a control character", "name: \x01", "1:1: not YAML"),
    ("two documents", "name: house\n---\na: 1\n", "2:1: not YAML"),
    ("nested without end", "name: " + "[" * 5000, "1:1: not YAML: nested too deeply"),
    ("code", "name: house\nx: !!python/name:os.system\n", "2:4: not YAML"),
    ("an unknown field", HOUSE + "on_unsure: block\n", "28:1: on_unsure: unknown field"),
    ("an unknown field inside", HOUSE.replace("harm: 9", "harms: 9"),
     "11:5: rules.0.harms: unknown field"),
    ("a field twice", HOUSE + "name: house\n", "28:1: name: stands twice, first on line 1"),
    ("no view at all", HOUSE + "views: []\n", "28:1: views: views must hold as_sent"),
    ("no text as a field", HOUSE + "yes: 1\n", "28:1: (file): a field's name must be text"),
    ("a list as a field", HOUSE + "? [a]\n: b\n", "28:3: (file): a field's name must be text"),
    ("no date", HOUSE + "on_expired: 2024-13-45\n",
     "28:13: on_expired: '2024-13-45' is no timestamp; put it in quotes"),
    ("no truth", HOUSE + "on_expired: !!bool perhaps\n", "28:13: on_expired: 'perhaps' is no bool"),
    ("an alias of itself", HOUSE + "x: &x [*x]\n", "28:1: x: unknown field"),
    ("another name", HOUSE.replace("name: house", "name: home", 1),
     "1:1: name: the file is called house.yaml; give both one name, not 'home'"),
    ("a name with capitals", HOUSE.replace("name: house", "name: House", 1),
     "1:1: name: String should"),
    ("half a case", HOUSE + "cases: [{name: c, given: {}, expect: {action: allow}}]\n",
     "28:19: cases.0.given: give the safety of what is judged"),
    ("scores that are none", HOUSE +
     "cases: [{name: c, given: {safety: Safe, score: {safe: 1, unsafe: 1, controversial: 0}}, "
     "expect: {action: allow}}]\n", "28:19: cases.0.given: score: the three are probabilities"),
]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(
    ("text", "said"), [each[1:] for each in WRONG], ids=[each[0] for each in WRONG]
)
def test_a_wrong_file_is_refused_with_line_and_field(text: str, said: str) -> None:
    with pytest.raises(DocumentError) as raised:
        read(text)
    lines = str(raised.value).splitlines()
    assert any(line.startswith(f"policies/house.yaml:{said}") for line in lines), lines


def test_all_errors_of_a_file_are_told_at_once() -> None:
    text = HOUSE.replace("harm: 9", "harm: 90").replace("ground: law", "ground: fear")
    with pytest.raises(DocumentError) as raised:
        read(text)
    assert len(str(raised.value).splitlines()) == 2


def test_what_is_said_of_a_policy_that_came_over_the_wire_names_no_line() -> None:
    source = read_source({"house": HOUSE}, "house")
    assert source.places.sentence(("rules",), "x") == "policies/house.yaml:3:1: rules: x"
    assert read_source({}, "strict").places.sentence(("rules",), "x") == "policy strict: rules: x"


def test_a_policy_that_says_nothing_of_flags_gets_other_rules() -> None:
    assert read().flags == RULES and read().final_look == "doubt"


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
    flags = extended(f"flagging: {{thinking: {said}}}\n").flags
    assert flags == {**RULES, Task.THINKING: rule}


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
    with pytest.raises(DocumentError, match=rf"policies/house.yaml:3:\d+: .*{reason}"):
        extended(said + "\n")
