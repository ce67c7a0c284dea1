"""Comparing policies over records: what is read, what is counted, and what a sample says."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator
from itertools import product

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from qwarden.contracts.escalation import is_sampled, must_be_kept
from qwarden.contracts.verdict import Action, Basis, Scores, Verdict, encode
from qwarden.guard.answer import Assessment, Safety
from qwarden.outcomes.said import facts_of, reading_of, said_of
from qwarden.policy import records
from qwarden.policy.diff import Comparison
from qwarden.policy.estimates import Estimate
from qwarden.policy.file import PolicyFile
from qwarden.policy.policy import Policy
from qwarden.policy.reading import Circumstances
from qwarden.policy.records import Named, Recorded, Records, is_always_kept, lacking
from qwarden.policy.sources import BUILT_IN
from qwarden.policy.told import told, word_of
from unit.builders import verdict

CATEGORIES = ("Violent", "PII")
NUMBERS = (0.3, 0.5, 0.9)
HANDLED: dict[str, object] = {
    "queue": "q",
    "harm": 1,
    "sla": "1m",
    "meanwhile": "hide",
    "on_breach": "raise",
}
TERMS: dict[str, object] = {"ground": "terms", "clause": "§1"}
THEN: dict[str, dict[str, object]] = {
    "allow": {},
    "disclaim": {**TERMS, "text": {"en": "Careful."}},
    "review": {**TERMS, **HANDLED},
    "block": TERMS,
}

logits = st.tuples(*[st.floats(-8, 8, allow_nan=False)] * 3)
names = st.lists(st.sampled_from(CATEGORIES), unique=True, max_size=2)
abouts = st.builds(
    Circumstances,
    tenant=st.sampled_from(("a", "b")),
    task=st.sampled_from(("prompt", "response")),
    language=st.sampled_from(("de", "pt-BR", "und")),
    origin=st.sampled_from(("automatic", "user_report")),
    reach=st.sampled_from((None, 0, 99, 100)),
    metadata=st.sampled_from(({}, {"paid": True}, {"paid": 1})),
)


@st.composite
def assessments(draw: st.DrawFn) -> Assessment:
    decoded = tuple((name, 0.5) for name in draw(names))
    return Assessment(
        draw(logits), decoded, draw(st.sampled_from((None, True, False))), 1, 0, "g@1"
    )


def judged(about: Circumstances, assessment: Assessment, **fields: object) -> Verdict:
    said = said_of(assessment, assessment.safety)
    return verdict(
        fields.pop("verdict_id", "0" * 32),  # type: ignore[arg-type]
        tenant=about.tenant,
        task=about.task,
        language=about.language,
        facts=msgspec.to_builtins(facts_of(about)),
        safety=said.safety,
        scores=msgspec.to_builtins(said.scores),
        categories=said.categories,
        category_scores=msgspec.to_builtins(said.category_scores),
        refusal=said.refusal,
        **fields,
    )


def recorded_of(value: Verdict) -> Recorded:
    kind, recorded, _ = Records().read(encode(value))
    assert kind == "verdict"
    assert recorded is not None
    return recorded


@given(abouts, assessments())
def test_rules_read_something_else_of_a_record_than_of_what_was_judged(
    about: Circumstances, assessment: Assessment
) -> None:
    recorded = recorded_of(judged(about, assessment))
    assert records.reading_of(recorded) == reading_of(about, assessment)


@given(
    st.sampled_from([*Action, None]),
    st.sampled_from(list(Basis)),
)
def test_reader_and_writer_disagree_on_what_the_sample_left_out(
    action: Action | None, basis: Basis
) -> None:
    said = verdict("0" * 32, action=action, basis=basis)
    if action is not None and basis is not Basis.WITHDRAWN:  # those are left alone
        assert is_always_kept(recorded_of(said)) == must_be_kept(said)


@st.composite
def policies(draw: st.DrawFn, name: str) -> Policy:
    score = st.builds(
        lambda name, bound, number: ("score", {name: {bound: number}}),
        st.sampled_from(("safe", "controversial", "unsafe", "flagged")),
        st.sampled_from(("at_least", "below")),
        st.sampled_from(NUMBERS),
    )
    one = st.one_of(
        score,
        st.sampled_from(Safety).map(lambda each: ("safety", each)),
        st.sampled_from(CATEGORIES).map(lambda each: ("category", each)),
        st.just(("tenant", "a")),
        st.just(("task", "prompt")),
        st.sampled_from((("language", "pt"), ("language", "de"))),
        st.just(("origin", "user_report")),
        st.just(("refusal", True)),
        st.just(("reach", {"at_least": 100})),
        st.sampled_from((("metadata", {"paid": True}), ("metadata", {"vip": 1}))),
    )
    condition = st.lists(one, min_size=1, max_size=2).map(dict)
    rules = [
        {"name": f"r{at}", "when": when, "then": then, **THEN[then]}
        for at, (when, then) in enumerate(
            draw(
                st.lists(st.tuples(condition, st.sampled_from(list(THEN))), min_size=1, max_size=4)
            )
        )
    ]
    unjudged = draw(st.sampled_from(("review", "block")))
    return Policy(
        PolicyFile.model_validate(
            {
                "name": name,
                "rules": [*rules, {"name": "otherwise", "then": "allow"}],
                "on_unjudged": [
                    {"when": {"metadata": {"vip": 1}}, "then": "block"},
                    {"then": unjudged},
                ],
            }
        )
    )


@st.composite
def rows(draw: st.DrawFn) -> Recorded:
    about = draw(abouts)
    identity = f"{draw(st.integers(0, 2**128 - 1)):032x}"
    by = draw(st.sampled_from(("somebody", "old")))
    policy = {"name": by, "version": "0" * 12, "serial": 0, "rule": "r0"}
    if draw(st.integers(0, 4)) == 0:
        basis, cause = draw(
            st.sampled_from((("expired", "deadline"), ("degraded", "outage"), ("degraded", "x")))
        )
        said = verdict(
            identity,
            tenant=about.tenant,
            action="review",
            basis=basis,
            cause=cause,
            policy=policy,
            facts=msgspec.to_builtins(facts_of(about)),
            safety=None,
            categories=None,
        )
    else:
        action = draw(st.sampled_from(list(Action)))
        said = judged(about, draw(assessments()), verdict_id=identity, action=action, policy=policy)
    return recorded_of(said)


def neighbours(row: Recorded) -> Iterator[Recorded]:
    """The row, and others that differ from it in one thing that rules may read."""
    change = msgspec.structs.replace
    yield row
    yield from (change(row, tenant=each) for each in ("a", "b"))
    yield from (change(row, task=each) for each in ("prompt", "response"))
    yield from (change(row, language=each) for each in ("de", "pt-BR", "und"))
    for facts in (
        {"origin": "user_report"},
        {"reach": 99},
        {"reach": 100},
        {"metadata": {"paid": True}},
        {"metadata": {"paid": 1}},
        {"metadata": {"vip": 1, "paid": False}},
    ):
        yield change(row, facts=change(row.facts, **facts))
    if row.scores is None:
        yield from (change(row, cause=each) for each in ("outage", "no_answer"))
        return
    yield from (change(row, refusal=each) for each in (None, True, False))
    yield from (change(row, safety=each) for each in Safety)
    yield change(row, categories=[], category_scores=None)
    yield from (change(row, category_scores=[Named(each)]) for each in CATEGORIES)
    for name, number in product(("safe", "controversial", "unsafe"), NUMBERS):
        for near in (round(number - 0.001, 3), number):
            yield change(row, scores=change(row.scores, **{name: near}))


@pytest.mark.long
@settings(max_examples=examples(200))
@given(policies("old"), policies("new"), rows())
def test_records_of_one_cell_are_told_apart_by_a_rule(
    old: Policy, new: Policy, row: Recorded
) -> None:
    distinct = {
        f"{number:032x}": msgspec.structs.replace(each, verdict_id=f"{number:032x}")
        for number, each in enumerate(neighbours(row))
    }
    comparison = Comparison(old, new)
    one_by_one: Counter[tuple[str, str]] = Counter()
    for each in distinct.values():
        unknown = lacking(each, {*old.metadata, *new.metadata}, {})
        flow = word_of(told(old, each, unknown)), word_of(told(new, each, unknown))
        assert comparison.take(each) == flow
        one_by_one[flow] += 1
    report = comparison.report()
    assert {(flow.old, flow.new): flow.records.total for flow in report.actions} == one_by_one
    assert report.records.rows == len(distinct)
    assert report.redone == len(distinct)
    assert sum(part.records.rows for part in report.tenants) == len(distinct)


def covers(estimate: Estimate, truth: float) -> bool:
    return estimate.low <= truth <= estimate.high


@pytest.mark.long
def test_intervals_of_a_sample_hold_the_truth_less_often_than_they_say() -> None:
    """Against the full verdict topic: the same rows, all of them and what evidence kept of them."""
    allow = BUILT_IN["loose"]  # everything Controversial passes
    review = BUILT_IN["default"]
    seeded = random.Random(5)
    rounds, wide, narrow, shares = 400, 0, 0, 0
    rare, common, safe = 15, 300, 700
    policy = {"name": "loose", "version": allow.version, "serial": 0, "rule": "otherwise"}
    changes = recorded_of(
        verdict(
            "0" * 32,
            safety="Controversial",
            scores={"safe": 0.0, "controversial": 1.0, "unsafe": 0.0},
            policy=policy,
        )
    )
    stays = msgspec.structs.replace(changes, safety=Safety.SAFE, scores=Scores(1.0, 0.0, 0.0))
    rows = [
        *[msgspec.structs.replace(changes, tenant="rare")] * rare,
        *[changes] * common,
        *[stays] * safe,
    ]
    for at in range(rounds):
        rate = (0.05, 0.2)[at % 2]
        everything, kept = Comparison(allow, review), Comparison(allow, review)
        for row in rows:
            recorded = msgspec.structs.replace(row, verdict_id=f"{seeded.getrandbits(128):032x}")
            if at == 0:
                everything.take(recorded)
            if is_sampled(recorded.verdict_id, rate):
                kept.take(recorded, rate=rate)
        report = kept.report()
        if at == 0:
            truth = everything.report()
            assert truth.changed.total == rare + common
            assert truth.changed.is_exact
        wide += covers(report.changed, rare + common)
        seen = {part.name: part.changed for part in report.tenants}
        narrow += "rare" not in seen or covers(seen["rare"], rare)
        share = report.changed_share
        shares += share.low <= (rare + common) / (rare + common + safe) <= share.high
    # 95 % of 400 is 380, and its own standard deviation 4.4.
    for covered in (wide, narrow, shares):
        assert covered >= 364
    assert wide <= 396


@given(st.integers(0, 200), st.sampled_from((0.01, 0.1, 0.5)), st.integers(0, 50))
def test_an_interval_is_surer_than_the_records_that_were_seen(
    sampled: int, rate: float, certain: int
) -> None:
    comparison = Comparison(BUILT_IN["loose"], BUILT_IN["default"])
    for number in range(sampled + certain):
        action = "allow" if number < sampled else "block"
        recorded = msgspec.convert(
            msgspec.to_builtins(
                verdict(f"{number:032x}", action=action, safety="Controversial",
                        scores={"safe": 0.0, "controversial": 1.0, "unsafe": 0.0})
            ),
            Recorded,
        )  # fmt: skip
        comparison.take(recorded, rate=rate)
    found = comparison.report().records
    assert found.rows == sampled + certain
    assert math.isclose(found.total, sampled / rate + certain)
    assert sampled + certain <= found.low <= found.total <= found.high
    assert found.is_exact == (sampled == 0)
