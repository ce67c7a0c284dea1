"""A comparison of two policies as people read it: what stands on the page, and what does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qwarden.offline.policy_diff.text import head, matrix, page, parts, written
from qwarden.policy.diff_report import (
    Doubt,
    Example,
    Flow,
    Load,
    Part,
    Report,
    RuleFlow,
    Side,
)
from qwarden.policy.estimates import Estimate, Share

NONE = Estimate(0, 0.0, 0.0, 0.0)


def exactly(rows: int) -> Estimate:
    return Estimate(rows, float(rows), float(rows), float(rows))


def about(total: float) -> Estimate:
    """Of a sample, with half as many at least and twice as many at most."""
    return Estimate(1, total, total / 2, total * 2)


def load(queue: str = "second", an_hour: tuple[float, float] | None = None) -> Load:
    was, will = an_hour or (None, None)
    people = (None, None) if an_hour is None else (an_hour[0] / 80, an_hour[1] / 80)
    return Load(queue, 3600, exactly(1), exactly(2), was, will, *people)


EMPTY = Report(
    old=Side("house", "0" * 12), new=Side("house", "1" * 12), records=NONE, recorded=0, redone=0,
    repeated=0, left={}, changed=NONE, changed_share=Share(0.0, 0.0, 0.0), stricter=NONE,
    milder=NONE, moved=NONE, undecided=NONE, actions=(), rules=(), categories=(), tenants=(),
    doubts=(), hours=None, seconds_a_decision=45.0, queues=(), reviews=load(""), examples=(),
    notes=(),
)  # fmt: skip
TEN = replace(EMPTY, records=exactly(10), recorded=10)


def test_a_comparison_of_nothing_has_figures() -> None:
    assert "\n".join(page(EMPTY)) == (
        "house 000000000000  ->  house 111111111111\nNo record was compared.\nwas \\ would be  "
        "allow  disclaim  review  block  undecided"
    )


def test_what_was_left_out_or_cannot_be_told_is_kept_from_people() -> None:
    said = head(replace(EMPTY, repeated=1234, left={"withdrawn": 2, "\x1b[2J": 1}, notes=("so",)))
    assert "note: so\n" in said
    assert said.endswith("not compared: 2 withdrawn, 1 \\u001b[2J, 1,234 that came again")
    assert "not compared" not in head(TEN)


@pytest.mark.parametrize(
    ("recorded", "redone", "words"),
    [
        (10, 0, "10 verdicts; what was is what was done: the old policy gave them all"),
        (0, 10, "another version gave them, so what was is what the old policy says of them"),
        (7, 3, "of those read 7 were given by the old policy, and what was is what was done; of 3"),
    ],
)
def test_what_was_done_is_taken_for_what_the_old_policy_says(
    recorded: int, redone: int, words: str
) -> None:
    assert words in head(replace(TEN, recorded=recorded, redone=redone))


def test_an_estimate_passes_for_a_count() -> None:
    assert written(exactly(1234)) == "1,234"
    assert written(about(1000)) == "~1,000 (500 to 2,000)"
    share = Share(0.25, 0.125, 0.5)
    counted = replace(TEN, changed=exactly(5), changed_share=share)
    assert "changed: 25.00%, 5; stricter" in head(counted)
    for estimated in (replace(counted, changed=about(5)), replace(counted, records=about(20))):
        assert "changed: 25.00% (12.50% to 50.00%), " in head(estimated)


def test_an_action_that_nobody_took_has_a_line() -> None:
    flows = (
        Flow("block", "allow", exactly(3)),
        Flow("allow", "allow", about(1000)),
        Flow("review", "block", NONE),
    )
    assert matrix(replace(TEN, actions=flows)).splitlines() == [
        "was \\ would be   allow  disclaim  review  block  undecided",
        "allow           ~1,000         -       -      -          -",
        "block                3         -       -      -          -",
    ]


def part(name: str) -> Part:
    return Part(name, exactly(9), exactly(1), NONE, exactly(1), NONE)


def test_a_table_hides_that_it_was_cut() -> None:
    whole = parts("by tenant", [part(f"t{n}") for n in range(15)])
    assert len(whole.splitlines()) == 16 and "more" not in whole
    cut = parts("by tenant", [part(f"t{n}") for n in range(17)])
    assert cut.endswith("\n… and 2 more; --json has them all")
    assert len(cut.splitlines()) == 17
    named = parts("by tenant", [part("\x1b[2J")])
    assert "\x1b" not in named
    assert named.splitlines()[1].split()[1:] == ["9", "1", "-", "1", "-"]


def test_parts_are_shown_of_a_comparison_in_which_nothing_changed() -> None:
    told = replace(TEN, tenants=(part("demo"),), categories=(part("PII"),))
    assert "by tenant" not in "\n".join(page(told))
    for changed in (replace(told, changed=exactly(1)), replace(told, undecided=exactly(1))):
        said = "\n".join(page(changed))
        assert "by category" in said and "by tenant" in said


def test_which_rules_change_what_is_not_told() -> None:
    rules = (RuleFlow("unsafe", "block", "second-look", "review", exactly(4)),)
    assert list(page(replace(TEN, rules=rules)))[2].splitlines() == [
        "was, by rule   would be, by rule    verdicts",
        "block  unsafe  review  second-look         4",
    ]


def test_a_doubt_is_laid_at_the_other_policys_door() -> None:
    told = replace(
        TEN,
        new=Side("newer", "1" * 12),
        doubts=(
            Doubt("old", "r0", "PII was not decoded", exactly(2)),
            Doubt("new", "r1", "its facts lack reach", about(10)),
        ),
    )
    assert list(page(told))[2].splitlines() == [
        "undecided, by the rule that may match or not",
        "  2: house, rule r0: PII was not decoded",
        "  ~10 (5 to 20): newer, rule r1: its facts lack reach",
    ]


def test_reviewers_are_counted_where_nobody_knows_the_time() -> None:
    unknown = list(page(replace(TEN, queues=(load(),))))[2]
    assert "reviewers" not in unknown.splitlines()[0]
    assert "--over 24h gives items an hour" in unknown
    assert len(unknown.splitlines()) == 3, "one queue is all there is"
    known = replace(
        TEN,
        hours=2.0,
        queues=(load("first", (40.0, 0.0)), load("second", (0.0, 1600.0))),
        reviews=load("", (40.0, 1600.0)),
    )
    lines = list(page(known))[2].splitlines()
    assert lines[0].split() == ["queue", "was", "would", "be", "an", "hour", "reviewers"]
    assert lines[2].split() == ["second", "1", "2", "0.0", "->", "1,600.0", "0.00", "->", "20.00"]
    assert lines[3].startswith("all ")
    assert lines[-1] == "reviewers: people who decide all the time, 45 s each"


def example(identity: str, old: str = "block", text: str | None = None) -> Example:
    return Example(
        identity, "demo", "e1", "prompt", "Unsafe", (0.1, 0.2, 0.7), ("PII",), old, "unsafe",
        "allow", "rest", text,
    )  # fmt: skip


def test_an_example_of_one_change_stands_under_another() -> None:
    every = (
        example("a"),
        example("b", text="  two\n lines  "),
        replace(
            example("c", "review"), safety=None, scores=None, categories=(), task=None, text=""
        ),
    )
    assert list(page(replace(TEN, examples=every)))[2].splitlines() == [
        "block -> allow, for example",
        "  a  demo/e1  Unsafe  0.100/0.200/0.700  PII  prompt  unsafe -> rest",
        "  b  demo/e1  Unsafe  0.100/0.200/0.700  PII  prompt  unsafe -> rest",
        "    two lines",
        "review -> allow, for example",
        "  c  demo/e1  not judged  unsafe -> rest",
        "    ",
    ]
