"""`qwarden policy diff`: what must not be guessed, counted twice, or shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qwarden import cli
from qwarden.contracts.escalation import Content, Evidence
from qwarden.contracts.event import Message
from qwarden.contracts.verdict import Verdict, encode
from qwarden.policy.diff import Comparison, RateMissing, masked
from qwarden.policy.diff_report import Report
from qwarden.policy.file import PolicyFile
from qwarden.policy.policy import Policy
from qwarden.policy.records import Records, text_of
from qwarden.policy.sources import BUILT_IN
from unit.builders import verdict, withdrawal

SECRET = "nobody else may read this"
REVIEW = {"then": "review", "ground": "terms", "clause": "§1", "queue": "second", "harm": 5,
          "sla": "1h", "meanwhile": "hide", "on_breach": "raise"}  # fmt: skip
BLOCK = {"then": "block", "ground": "terms", "clause": "§1"}
DEFAULT = BUILT_IN["default"]


def policy(*rules: dict[str, Any], name: str = "newer", **fields: Any) -> Policy:
    written = [{"name": f"r{at}", **rule} for at, rule in enumerate(rules)]
    written.append({"name": "otherwise", "then": "allow"})
    return Policy(PolicyFile.model_validate({"name": name, "rules": written, **fields}))


def said(
    number: int,
    *scores: float,
    by: Policy = DEFAULT,
    rule: str = "unsafe",
    action: str = "block",
    **fields: Any,
) -> Verdict:
    """A verdict with these scores; without any, what nobody has judged."""
    triple = dict(zip(("safe", "controversial", "unsafe"), scores, strict=True)) if scores else None
    words = ("Safe", "Controversial", "Unsafe")
    safety = words[max(range(3), key=scores.__getitem__)] if scores else None
    used = {"name": by.name, "version": by.version, "serial": 0, "rule": rule}
    body = {"safety": safety, "scores": triple, "action": action, "policy": used} | fields
    return verdict(f"{number:032x}", **body)


def compared(new: Policy, *rows: Verdict, old: Policy = DEFAULT, **asked: Any) -> Report:
    comparison = Comparison(old, new)
    for row in rows:
        comparison.read(encode(row))
    return comparison.report(**asked)


def flows(report: Report) -> dict[tuple[str, str], int]:
    return {(flow.old, flow.new): flow.records.rows for flow in report.actions}


UNSAFE = (0.1, 0.1, 0.8)
SAFE = (0.99, 0.01, 0.0)


def test_a_category_that_was_not_decoded_is_guessed() -> None:
    new = policy({"when": {"category": "PII", "score": {"safe": {"at_least": 0.5}}}, **BLOCK})
    over = said(1, *SAFE, rule="otherwise", action="allow", categories=[])
    # By a guard whose floor is lower than others'.
    below = said(2, 0.8, 0.2, 0.0, rule="otherwise", action="allow", categories=[])
    named = [{"category": "PII", "score": 0.9}]
    decoded = said(3, 0.8, 0.2, 0.0, rule="otherwise", action="allow", category_scores=named)
    flagged = said(4, 0.4, 0.6, 0.0, rule="controversial", action="review", categories=[])
    report = compared(new, over, below, decoded, flagged)
    assert flows(report) == {
        ("allow", "undecided"): 2, ("allow", "block"): 1, ("review", "allow"): 1
    }, "of what is Safe nobody decodes nothing"  # fmt: skip
    (doubt,) = report.doubts
    assert (doubt.side, doubt.rule, doubt.records.rows) == ("new", "r0", 2)
    assert "not decoded" in doubt.reason


def test_a_stream_verdict_is_called_undecided_for_want_of_category_scores() -> None:
    new = policy({"when": {"category": "PII"}, **REVIEW})
    report = compared(new, said(1, *UNSAFE, categories=["PII"], category_scores=None))
    assert flows(report) == {("block", "review"): 1}


def test_metadata_that_nobody_had_asked_for_is_taken_for_absent() -> None:
    new = policy({"when": {"metadata": {"paid": True}}, **REVIEW})
    silent = said(1, *UNSAFE)
    speaks = said(2, *UNSAFE, facts={"metadata": {"paid": True}})
    report = compared(new, silent, speaks)
    assert flows(report) == {("block", "undecided"): 1, ("block", "review"): 1}
    assert report.doubts[0].reason == "its facts lack metadata.paid"


@pytest.mark.parametrize("frozen", [False, True])
def test_metadata_that_the_policy_kept_is_called_unknown(*, frozen: bool) -> None:
    old = policy({"when": {"metadata": {"paid": True}}, **BLOCK}, name="older")
    new = policy({"when": {"metadata": {"paid": True}}, **REVIEW})
    by = old.standing(serial=3, frozen=frozen)
    report = compared(new, said(1, *UNSAFE, by=by, rule="otherwise", action="allow"), old=old)
    assert report.undecided.rows == 0
    assert flows(report) == {("allow", "allow"): 1}


def test_what_was_done_is_not_what_is_compared() -> None:
    loose = BUILT_IN["loose"]
    own = said(1, 0.1, 0.8, 0.1, rule="controversial", action="review")
    others = said(2, 0.1, 0.8, 0.1, by=loose, rule="controversial", action="allow")
    report = compared(loose, own, others)
    assert (report.recorded, report.redone) == (1, 1)
    assert flows(report) == {("review", "allow"): 2}, "the default policy would have reviewed both"


def test_a_quota_is_taken_for_a_rule() -> None:
    braked = said(1, *UNSAFE, action="review", basis="quota")
    report = compared(DEFAULT, braked)
    assert flows(report) == {("block", "block"): 1}
    assert (report.recorded, report.redone) == (0, 1)


@pytest.mark.parametrize(
    ("basis", "cause", "would_be"),
    [
        ("degraded", "no_answer", "block"),
        ("degraded", "too_long", "block"),
        ("degraded", "outage", "undecided"),
        ("expired", "deadline", "allow"),
    ],
)
def test_what_nobody_judged_is_decided_by_a_rule(basis: str, cause: str, would_be: str) -> None:
    new = policy(on_unjudged="block", on_expired="allow")
    row = said(1, basis=basis, cause=cause, action="review", rule="on_unjudged")
    report = compared(new, row)
    assert flows(report) == {("review", would_be): 1}
    assert [part.name for part in report.categories] == ["not judged"]


def test_a_rule_for_other_circumstances_decides_what_nobody_judged() -> None:
    new = policy(on_expired=[{"when": {"tenant": "other"}, "then": "allow"}, {"then": "block"}])
    report = compared(new, said(1, action="review", basis="expired", cause="deadline"))
    assert flows(report) == {("review", "block"): 1}


def test_what_cannot_be_compared_is_counted_as_compared() -> None:
    comparison = Comparison(DEFAULT, DEFAULT)
    comparison.take(recorded := Records().read(encode(said(1, *UNSAFE)))[1] or pytest.fail())
    comparison.leave("sealed")
    assert comparison.records == 1
    assert comparison.report().left == {"sealed": 1}
    assert comparison.take(recorded) is None
    assert comparison.report().repeated == 1


def test_content_that_is_sealed_is_shown() -> None:
    assert text_of(b'{"key_id":"k","sealed":"AAAA"}') == ""
    parts = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text"}]}
    assert text_of(
        msgspec.json.encode({"messages": [parts, {"role": "user", "content": "b"}]})
    ) == ("a\n\nb")


@pytest.mark.parametrize(
    ("cause", "was", "would_be"),
    [
        ("deadline", "block", "allow"),
        ("no_answer", "review", "block"),
        ("outage", "review", "undecided"),
    ],
)
def test_what_a_quota_braked_unjudged_is_decided_by_another_key(
    cause: str, was: str, would_be: str
) -> None:
    old = policy(name="older", on_expired="block", on_outage="review")
    new = policy(on_unjudged="block", on_expired="allow")
    row = said(1, basis="quota", cause=cause, action="review", rule="on_expired", by=old)
    assert flows(compared(new, row, old=old)) == {(was, would_be): 1}


def test_what_nobody_judged_is_guessed_from_metadata_that_is_not_there() -> None:
    new = policy(on_unjudged=[{"when": {"metadata": {"paid": True}}, "then": "block"},
                              {"then": "review"}])  # fmt: skip
    row = said(1, basis="degraded", cause="no_answer", action="review", rule="on_unjudged")
    report = compared(new, row)
    assert flows(report) == {("review", "undecided"): 1}
    assert (report.doubts[0].rule, report.doubts[0].reason) == (
        "on_unjudged", "its facts lack metadata.paid"
    )  # fmt: skip


def test_withdrawals_repeats_and_dead_letters_are_compared() -> None:
    comparison = Comparison(DEFAULT, BUILT_IN["strict"])
    human = msgspec.to_builtins(said(2, *UNSAFE)) | {"basis": "human"}
    for value in (
        encode(withdrawal("f" * 32)), encode(said(1, *UNSAFE)), encode(said(1, *UNSAFE)),
        encode(said(3, *UNSAFE, supersedes=f"{1:032x}")),
        msgspec.json.encode(human), b'{"error_class":"not_json","reason":"mend it"}', b"{", b"\xff",
    ):  # fmt: skip
        comparison.read(value)
    report = comparison.report()
    assert report.records.rows == 1
    assert report.repeated == 1
    assert report.left == {
        "withdrawn": 1,
        "superseding": 1,
        "human": 1,
        "refused": 1,
        "unreadable": 2,
    }


def test_a_sample_is_taken_for_the_whole() -> None:
    comparison = Comparison(DEFAULT, BUILT_IN["strict"])
    content = Content(messages=[Message(role="user", content=SECRET)])
    allowed = said(1, *SAFE, rule="otherwise", action="allow")
    with pytest.raises(RateMissing):
        comparison.read(encode(Evidence(verdict=allowed, content=content)))
    comparison.read(encode(Evidence(verdict=said(2, *UNSAFE), content=content)))
    comparison.read(encode(Evidence(verdict=allowed, content=content)), 0.01)
    report = comparison.report()
    assert report.records.total == 101
    assert report.records.low < 101 < report.records.high
    assert {flow.old: flow.records.is_exact for flow in report.actions if flow.records.rows} == {
        "allow": False, "block": True
    }  # fmt: skip


def test_a_sample_of_what_another_policy_did_misses_nothing_of_what_the_old_one_would_do() -> None:
    """Of what was allowed the sample kept nothing that the old policy would have reviewed."""
    flagged = {"when": {"score": {"flagged": {"at_least": 0.3}}}}
    old, new = policy({**flagged, **REVIEW}, name="older"), policy({**flagged, **BLOCK})
    content = Content(messages=[Message(role="user", content=SECRET)])
    for by, is_exact in ((DEFAULT, False), (old, True)):
        comparison = Comparison(old, new)
        action = "block" if by is DEFAULT else "review"
        rows = [said(number, *UNSAFE, by=by, action=action, rule="r0") for number in range(5)]
        rows += [said(9, *SAFE, by=by, action="allow", rule="otherwise")]
        for row in rows:
            comparison.read(encode(Evidence(verdict=row, content=content)), 0.01)
        report = comparison.report()
        (changed,) = [
            flow for flow in report.actions if (flow.old, flow.new) == ("review", "block")
        ]
        (load,) = report.queues
        for found in (changed.records, load.old):
            assert (found.rows, found.total, found.is_exact) == (5, 5, is_exact)


def test_examples_show_content_that_nobody_asked_for() -> None:
    new = policy({"when": {"safety": "Unsafe"}, **REVIEW})
    comparison = Comparison(DEFAULT, new, examples=2)
    content = Content(messages=[Message(role="user", content=SECRET)])
    for number in (9, 3, 5):
        comparison.read(encode(Evidence(verdict=said(number, *UNSAFE), content=content)), 0.5)
    hidden, shown = comparison.report(), comparison.report(show=True)
    assert [each.text for each in hidden.examples] == ["······ ···· ··· ···· ····"] * 2
    assert [each.text for each in shown.examples] == [SECRET] * 2
    assert [int(each.verdict_id, 16) for each in shown.examples] == [3, 5]
    assert not set(masked(SECRET + "ß1é", 99)) - {"·", " "}


def test_reviewers_are_counted_over_another_time() -> None:
    new = policy({"when": {"safety": "Unsafe"}, **REVIEW})
    rows = [said(number, *UNSAFE) for number in range(120)]
    rows += [said(200, 0.1, 0.8, 0.1, rule="controversial", action="review")]
    report = compared(new, *rows, hours=0.5, seconds_a_decision=30)
    loads = {load.queue: load for load in (*report.queues, report.reviews)}
    assert (loads["second"].new_an_hour, loads["second"].new_reviewers) == (240, 2)
    assert loads["second"].sla_s == 3600
    assert (loads["general"].old_an_hour, loads["general"].new_an_hour) == (2, 0)
    assert (loads[""].old_an_hour, loads[""].new_an_hour) == (2, 240)
    assert compared(new, *rows).reviews.new_reviewers is None


def test_another_queue_is_called_a_change_of_action() -> None:
    new = policy({"when": {"safety": "Controversial"}, **REVIEW}, {"when": {}, **BLOCK})
    report = compared(new, said(1, 0.1, 0.8, 0.1, rule="controversial", action="review"))
    assert (report.changed.rows, report.moved.rows) == (0, 1)


def test_what_records_cannot_tell_is_passed_over_in_silence() -> None:
    new = policy({"when": {"safety": "Unsafe"}, **BLOCK}, views=["as_sent"])
    report = compared(new, said(1, *UNSAFE), old=policy({"when": {"safety": "Unsafe"}, **BLOCK}))
    (note,) = report.notes
    assert note.startswith("views differ")


@pytest.fixture
def qwarden(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[object, str, str]]:
    """Runs `policy diff`; gives its exit code and what it wrote."""
    monkeypatch.setenv("QWARDEN_STACK__HOME", str(tmp_path / "stack"))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "matplotlib"))
    monkeypatch.delenv("QWARDEN_POLICY__PATH", raising=False)

    def run(*words: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["qwarden", "policy", "diff", *map(str, words)])
        code: object = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
        return code or 0, *capsys.readouterr()

    return run


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "verdicts.jsonl"
    verdicts = [
        *(said(number, *SAFE, rule="otherwise", action="allow") for number in range(3)),
        said(7, 0.1, 0.8, 0.1, rule="controversial", action="review"),
    ]
    file.write_bytes(b"\n".join(map(encode, verdicts)) + b"\n\n")
    return file


def test_a_change_over_the_limit_passes_ci(
    qwarden: Callable[..., tuple[object, str, str]], rows: Path, tmp_path: Path
) -> None:
    asked = ("default", "strict", "--events", rows, "--json", "--fail-over")
    code, told, _ = qwarden(*asked, 0.25)
    assert code == 0
    report = json.loads(told)
    assert report["changed_share"]["value"] == 0.25
    assert report["stricter"]["rows"] == 1
    code, told, why = qwarden(*asked, 0.2)
    assert code == 1
    assert json.loads(told) == report, "the report is there all the same"
    assert why == "25.00% of verdicts change, over 20.00%\n"
    picture = tmp_path / "flow.png"
    code, told, _ = qwarden("default", "strict", "--events", rows, "--plot", picture)
    assert code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "changed: 25.00%, 1; stricter 1, milder 0" in told


def test_a_file_that_extends_its_neighbour_is_not_found(
    qwarden: Callable[..., tuple[object, str, str]], rows: Path, tmp_path: Path
) -> None:
    (tmp_path / "base.yaml").write_text("name: base\nextends: default\non_expired: allow\n")
    own = tmp_path / "own.yaml"
    own.write_text("name: own\nextends: base\n")
    assert qwarden("default", own, "--events", rows)[0] == 0
    own.write_text("name: own\nrules: []\n")
    code, _, why = qwarden("default", own, "--events", rows)
    assert code == 2
    assert "there is no rule" in why


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--events", "nowhere.jsonl"), "there is no file nowhere.jsonl"),
        (("--events", "moderation.review"), "holds no verdicts"),
        (("--follow", "--fail-over", "0.1"), "a shadow has no end"),
        (("--metrics-port", "0"), "goes with --follow"),
        (("--events", "x.jsonl", "--over", "soon"), "write it as 90m, 24h or 2d"),
        (("--events", "x.jsonl", "--since", "2h"), "the records of a file have no time"),
        (("--plot", "nowhere/x.png"), "there is no folder nowhere"),
        (("--events", "x.jsonl", "--sample-rate", "0"), "is no rate"),
    ],
)
def test_options_that_mean_nothing_are_taken(
    qwarden: Callable[..., tuple[object, str, str]], words: tuple[str, ...], why: str
) -> None:
    code, _, told = qwarden("default", "strict", *words)
    assert code == 2
    assert why in told
    assert len(told.splitlines()) == 1


def test_a_file_without_verdicts_is_a_file_without_changes(
    qwarden: Callable[..., tuple[object, str, str]], tmp_path: Path
) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text('{"event_id": "1", "tenant": "demo", "text": "Hello"}\n')
    code, _, why = qwarden("default", "strict", "--events", file, "--fail-over", 0)
    assert code == 2
    assert "holds no verdict" in why
    content = Content(messages=[Message(role="user", content=SECRET)])
    allowed = said(1, *SAFE, rule="otherwise", action="allow")
    file.write_bytes(encode(Evidence(verdict=allowed, content=content)))
    code, _, why = qwarden("default", "strict", "--events", file)
    assert code == 2
    assert why.startswith("--sample-rate: ")
    code, told, _ = qwarden("default", "strict", "--events", file, "--sample-rate", 0.1)
    assert code == 0
    assert "~10 (" in told
    assert SECRET not in told
