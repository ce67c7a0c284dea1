"""Tenants: which policy acts, whose cache is used, and what is said where there is none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qwarden.contracts.refusal import ErrorClass, Refused
from qwarden.contracts.verdict import Action
from qwarden.guard.answer import Safety
from qwarden.guard.row import View
from qwarden.policy.document import DocumentError
from qwarden.policy.file import FALLBACK
from qwarden.policy.reading import Circumstances, Reading
from qwarden.policy.sources import BUILT_IN
from qwarden.policy.tenants import Freezes, Tenants, policy_of, read_tenants

HOUSE = "name: house\nextends: strict\n"


def _read(*, strict: bool = False, house: str = HOUSE, **tenants: str) -> Tenants:
    return read_tenants({"house": house}, tenants, strict=strict)


def _tenant(name: str, more: str = "") -> str:
    return f"name: {name}\npolicies: [house, strict]\n{more}"


def test_the_first_policy_is_the_default_and_the_others_can_be_named() -> None:
    tenant = _read(forum=_tenant("forum")).of("forum", event_id="e")
    assert policy_of(tenant, None, event_id="e").name == "house"
    assert policy_of(tenant, "strict", event_id="e").name == "strict"


@pytest.mark.parametrize("name", ["loose", "default", "House", "", "nope"])
def test_a_policy_that_the_tenant_does_not_list_is_refused_with_those_it_does(name: str) -> None:
    tenant = _read(forum=_tenant("forum")).of("forum", event_id="e")
    with pytest.raises(Refused, match="house, strict") as raised:
        policy_of(tenant, name, event_id="e")
    assert raised.value.error_class is ErrorClass.UNKNOWN_POLICY
    assert (raised.value.event_id, raised.value.tenant) == ("e", "forum")


def test_an_unknown_tenant_gets_the_default_policy_and_a_cache_of_its_own() -> None:
    tenants = _read(forum=_tenant("forum", "share_cache: true\n"))
    newcomer = tenants.of("newcomer", event_id="e")
    assert newcomer.default.name == "default"
    assert set(newcomer.policies) == {"default"}
    assert newcomer.cache_scope == "newcomer"
    assert newcomer.cache_scope != tenants.of("other", event_id="e").cache_scope


def test_an_unknown_tenant_is_refused_where_tenants_are_strict() -> None:
    tenants = _read(strict=True, forum=_tenant("forum"), alpha=_tenant("alpha"))
    with pytest.raises(Refused, match=r"'newcomer'.*alpha, forum.*strict_tenants") as raised:
        tenants.of("newcomer", event_id="e")
    assert raised.value.error_class is ErrorClass.UNKNOWN_TENANT
    assert (raised.value.event_id, raised.value.tenant) == ("e", "newcomer")
    assert tenants.of("forum", event_id="e").name == "forum"


def test_very_many_tenants_do_not_hide_the_fix() -> None:
    many = {f"t{n:03}": _tenant(f"t{n:03}") for n in range(300)}
    with pytest.raises(Refused, match=r"t000, .* and 280 more\. Add tenants/NAME\.yaml"):
        _read(strict=True, **many).of("newcomer", event_id="e")


def test_a_cache_is_shared_only_by_those_who_say_so() -> None:
    tenants = _read(
        a=_tenant("a", "share_cache: true\n"),
        b=_tenant("b", "share_cache: true\n"),
        c=_tenant("c"),
        d=_tenant("d", "share_cache: false\n"),
    )
    scopes = {name: tenants.of(name, event_id="e").cache_scope for name in "abcd"}
    assert scopes == {"a": "", "b": "", "c": "c", "d": "d"}


def test_a_policy_keeps_its_own_views_where_all_are_to_judge_others() -> None:
    tenants = _read(forum=_tenant("forum", "share_cache: true\n"))
    one = tenants.with_views([View.AS_SENT])
    forum, newcomer = (one.of(name, event_id="e") for name in ("forum", "newcomer"))
    chosen = [policy_of(forum, name, event_id="e") for name in (None, "house", "strict")]
    chosen += [policy_of(newcomer, name, event_id="e") for name in (None, "default")]
    assert [policy.views for policy in chosen] == [(View.AS_SENT,)] * 5
    assert forum.cache_scope == ""
    assert one.strict == tenants.strict
    assert one.policies().keys() == tenants.policies().keys()
    versions = {policy.version for policy in one.policies().values()}
    assert not versions & {policy.version for policy in tenants.policies().values()}


def test_what_a_tenants_file_says_of_lanes_is_another_tenants_or_nobodys() -> None:
    own = "relay: false\nfresh_horizon_s: 5\ntokens_a_minute: 7\n"
    tenants = _read(forum=_tenant("forum", own), plain=_tenant("plain"))
    said = [
        (tenant.relay, tenant.fresh_horizon_s, tenant.tokens_a_minute)
        for tenant in (tenants.of(name, event_id="e") for name in ("forum", "plain", "newcomer"))
    ]
    assert said == [(False, 5, 7), (True, 600, None), (True, 600, None)]


def test_what_is_judged_while_no_policy_is_in_force_is_seen_by_nobody() -> None:
    text = "name: forum\npolicies: [later, house]\n"
    tenants = read_tenants({"house": HOUSE}, {"forum": text}, strict=False, activated=True)
    assert tenants.lacking == {"later"}
    policy = tenants.of("forum", event_id="e").default
    about = Circumstances("forum", "prompt")
    for safety in Safety:
        decided = policy.decide(Reading(about, safety, (0.4, 0.3, 0.3)))
        assert (policy.name, decided.rule) == ("later", "not-in-force")
        assert (decided.action, decided.handling) == (Action.REVIEW, FALLBACK)
        assert decided.reason is not None
        assert (decided.reason.ground, decided.reason.clause) == ("terms", "no policy is in force")


def test_a_tenant_waits_for_a_policy_that_can_never_come() -> None:
    with pytest.raises(DocumentError) as raised:
        read_tenants({}, {"a": "name: a\npolicies: [House]\n"}, strict=False, activated=True)
    assert str(raised.value) == (
        "tenants/a.yaml:2:12: policies.0: no policy can be called 'House'; names are as forum-2"
    )


def test_a_freeze_hides_which_record_bore_on_a_policy_last() -> None:
    policy = BUILT_IN["default"].standing(serial=4, frozen=False)
    for of, everybody, serial, frozen in (
        ({}, (0, False), 4, False),
        ({"a": (5, True)}, (0, False), 5, True),
        ({"a": (3, True)}, (6, False), 6, True),
        ({"a": (5, False)}, (3, True), 5, True),
        ({"b": (5, True)}, (0, False), 4, False),
    ):
        acts = Freezes(of, everybody).acting("a", policy)
        assert (acts.serial, acts.frozen) == (serial, frozen)
        assert Freezes(of, everybody).acting("a", policy) is acts
    untouched = BUILT_IN["default"]
    assert untouched.serial == 0
    assert Freezes({"b": (5, True)}).acting("a", untouched) is untouched


def test_a_frozen_tenant_without_a_file_is_blocked_all_the_same() -> None:
    tenants = replace(_read(), freezes=Freezes({"newcomer": (5, True)}))
    said = [tenants.of(name, event_id="e").default for name in ("newcomer", "other")]
    assert [(policy.serial, policy.frozen) for policy in said] == [(5, True), (0, False)]


def test_a_version_that_comes_into_force_leaves_a_tenants_default_as_it_was() -> None:
    tenants = _read(a=_tenant("a"))
    come = {
        name: policy.standing(serial=3, frozen=False) for name, policy in tenants.policies().items()
    }
    now = tenants.with_policies(come, Freezes({"a": (5, True)}), frozenset({"later"}))
    known, unknown = (now.of(name, event_id="e") for name in ("a", "newcomer"))
    assert (known.default.name, known.default) == ("house", known.policies["house"])
    assert {(each.serial, each.frozen) for each in known.policies.values()} == {(5, True)}
    assert known.policies.keys() == {"house", "strict"}
    assert unknown.default is come["default"]
    assert now.lacking == {"later"}
    assert [now.freezes.holds(name) for name in ("a", "newcomer")] == [True, False]


def test_a_policy_of_one_of_the_tenants_is_not_among_those_that_may_act() -> None:
    tenants = _read(a=_tenant("a"), b="name: b\npolicies: [loose]\n")
    assert tenants.policies().keys() == {"default", "house", "strict", "loose"}


WRONG = [
    ("no policies", "name: forum\n", "1:1: policies: is missing"),
    ("an empty list", "name: forum\npolicies: []\n", "2:1: policies: List should have at least 1"),
    ("no list", "name: forum\npolicies: house\n", "2:1: policies: Input should be a valid list"),
    ("an unknown policy", "name: forum\npolicies:\n  - house\n  - nope\n",
     "4:5: policies.1: no policy is called 'nope'; known are default, house, loose, strict"),
    ("another name", "policies: [house]\nname: home\n",
     "2:1: name: the file is called forum.yaml; give both one name, not 'home'"),
    ("a wrong switch", _tenant("forum", "share_cache: perhaps\n"),
     "3:1: share_cache: Input should"),
    ("an unknown field", _tenant("forum", "limits: 3\n"), "3:1: limits: unknown field"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"), [each[1:] for each in WRONG], ids=[each[0] for each in WRONG]
)
def test_a_wrong_tenant_file_is_refused_with_line_and_field(text: str, said: str) -> None:
    with pytest.raises(DocumentError) as raised:
        _read(forum=text)
    assert str(raised.value).startswith(f"tenants/forum.yaml:{said}")


def test_a_wrong_policy_file_is_one_error_and_not_one_more_in_each_tenant() -> None:
    with pytest.raises(DocumentError) as raised:
        _read(house="name: house\nx: 1\ny: 1\n", forum=_tenant("forum"))
    lines = str(raised.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["policies/house.yaml"] * 2


def test_errors_of_all_files_are_told_at_once() -> None:
    with pytest.raises(DocumentError) as raised:
        _read(house="[", a="name: a\n", b=_tenant("b", "x: 1\n"))
    files = [line.split(":")[0] for line in str(raised.value).splitlines()]
    assert files == ["policies/house.yaml", "tenants/a.yaml", "tenants/b.yaml"]


@pytest.mark.parametrize("name", ["default", "strict", "loose"])
def test_a_built_in_policy_is_not_replaced_by_a_file_in_silence(name: str) -> None:
    text = HOUSE.replace("house", name)
    with pytest.raises(DocumentError, match=rf"policies/{name}\.yaml:1:1: name: .*built in"):
        read_tenants({name: text}, {}, strict=False)
