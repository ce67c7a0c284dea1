"""One verdict on one page, for people and as JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from qwarden.contracts.escalation import Content, Escalation
from qwarden.contracts.verdict import Basis, Scores, Verdict
from qwarden.explain.trail import Found, Refusal, Rule, Trail
from qwarden.render import plain, shortened

_BAR = 40
"""Characters of the bar of a probability of 1."""


def page(trail: Trail, rule: Rule | None, *, show: bool) -> Iterator[str]:
    """The page, a line each. `show`: whether with content."""
    verdict = trail.found.verdict
    yield f"verdict {verdict.verdict_id}"
    yield plain(
        f"  {verdict.tenant}/{verdict.event_id}, edit {verdict.edit}, task {verdict.task or 'all'}"
        + (f", of {verdict.subject}" if verdict.subject else "")
    )
    yield f"  {verdict.action or 'no action'}: basis {verdict.basis}" + (
        f", cause {verdict.cause}" if verdict.cause else ""
    )
    times = (
        "" if trail.copies == 1 else f", {trail.copies} times: a crash repeats what it published"
    )
    yield f"  at {trail.found.place}, {trail.found.place.at:%Y-%m-%d %H:%M:%S} UTC{times}"
    yield _standing(trail)
    yield ""
    yield from _said(verdict)
    yield ""
    yield from _policy(verdict, rule)
    yield ""
    yield from _versions(verdict, trail.found.headers)
    yield from _around(trail)
    yield from _people(trail)
    yield from _refused(trail.refusals)
    yield from _content(trail, show=show)


def _standing(trail: Trail) -> str:
    own = trail.found.verdict.verdict_id
    if trail.stands == own:
        return "  it stands: no other verdict takes its place"
    if trail.stands is None:
        return "  it does not stand: a later edit replaces it, and has no such task"
    return f"  it does not stand: consumers keep {trail.stands}"


def _said(verdict: Verdict) -> Iterator[str]:
    if verdict.safety is None or verdict.scores is None:
        yield "nothing was judged"
    else:
        names = ", ".join(verdict.categories or ()) or "no category"
        yield plain(f"the guard: {verdict.safety}, {names}{_refusal(verdict)}")
        yield from _bars(verdict.scores)
        for each in verdict.category_scores or ():
            yield plain(_bar(each.category, each.score))
        if verdict.category_scores is None:
            yield "  no category was decoded"
    for view in verdict.views or ():
        yield plain(f"  view {view.name}, piece {view.piece + 1}: {view.safety}")
        yield from _bars(view.scores, "    ")
    if verdict.dropped:
        yield plain(f"  not seen by the guard: {', '.join(verdict.dropped)}")
    sure = verdict.language_confidence
    language = verdict.language or "not known"
    yield plain(
        f"  language {language}" + ("" if sure is None else f", detected ({sure:.2f} ahead)")
    )
    facts = msgspec.to_builtins(verdict.facts)
    if facts:
        yield plain(f"  facts: {json.dumps(facts, ensure_ascii=False)}")


def _refusal(verdict: Verdict) -> str:
    if verdict.refusal is None:
        return ""
    return ", a refusal" if verdict.refusal else ", no refusal"


def _bars(scores: Scores, indent: str = "  ") -> Iterator[str]:
    for name in ("safe", "controversial", "unsafe"):
        yield _bar(name, getattr(scores, name), indent)


def _bar(name: str, score: float, indent: str = "  ") -> str:
    filled = round(max(0.0, min(1.0, score)) * _BAR)
    return f"{indent}{name:<30} {'█' * filled}{'░' * (_BAR - filled)} {score:.3f}"


def _policy(verdict: Verdict, rule: Rule | None) -> Iterator[str]:
    used = verdict.policy
    if used is None:
        yield "no policy was asked"
        return
    yield plain(f"policy {used.name} {used.version}, serial {used.serial}, rule {used.rule}")
    if verdict.basis is Basis.HUMAN:
        yield plain(
            f"  instead of its rules the decision {verdict.decision} acts: a person decided of "
            "equal content"
        )
    elif rule is None:
        yield (
            "  what it says is not known here: this version is neither on the control topic, nor "
            "built in, nor a file of QWARDEN_POLICY__PATH; --policy FILE names one"
        )
    else:
        yield f"  from {rule.source}" + (", under a freeze" if rule.is_frozen else "")
        yield from (plain(line) for line in _lines(rule.said, "    "))
    if verdict.notice is not None:
        notice = verdict.notice
        yield plain(f"  the user is told ({notice.ground}, {notice.clause}): {notice.text or '-'}")
    if verdict.meanwhile is not None:
        yield f"  until a person decides: {verdict.meanwhile}"


def _lines(said: dict[str, Any], indent: str) -> Iterator[str]:
    for name, value in said.items():
        if isinstance(value, dict):
            yield f"{indent}{name}:"
            yield from _lines(value, f"{indent}  ")
        else:
            yield f"{indent}{name}: {json.dumps(value, ensure_ascii=False)}"


def _versions(verdict: Verdict, carried: dict[str, str]) -> Iterator[str]:
    guard = verdict.guard
    if guard is None:
        yield "no guard answered"
    else:
        yield plain(
            f"guard {guard.model}, revision {guard.revision}, calibration {guard.calibration}"
        )
    if carried:
        said = ", ".join(f"{name.removeprefix('qw-')} {value}" for name, value in carried.items())
        yield plain(f"  {said}")


def _around(trail: Trail) -> Iterator[str]:
    supersedes = trail.found.verdict.supersedes
    if supersedes is not None:
        yield plain(f"supersedes {supersedes}")
    if trail.others:
        yield ""
        yield "other verdicts of this event"
    for other in trail.others:
        said = other.found.verdict
        by = f"{said.policy.name} {said.policy.version}" if said.policy else "no policy"
        yield plain(
            f"  {other.found.place.at:%Y-%m-%d %H:%M:%S} {said.verdict_id} edit {said.edit} "
            f"{said.action or '-'} ({said.basis}, {by}): {other.relation}"
        )


def _people(trail: Trail) -> Iterator[str]:
    if trail.escalations or trail.decisions:
        yield ""
    for each in trail.escalations:
        yield f"{each.place.at:%Y-%m-%d %H:%M:%S} {each.place}: {_escalation(each.escalation)}"
    for decision in trail.decisions:
        words = msgspec.to_builtins(decision.said)
        del words["schema_version"]
        yield plain(
            f"{decision.place.at:%Y-%m-%d %H:%M:%S} {decision.place}: decided "
            f"{json.dumps(words, ensure_ascii=False)}"
        )
    for kept in trail.evidence:
        rate = f", sample rate {kept.sample_rate}" if kept.sample_rate else ""
        yield plain(f"evidence at {kept.place}{rate}")


def _escalation(said: Escalation) -> str:
    if said.content is None:
        return f"close, by {said.verdict.verdict_id}"
    return (
        f"queue {said.queue}, harm {said.harm}, within {said.sla_s} s, meanwhile {said.meanwhile}, "
        f"on breach {said.on_breach}; verdict {said.verdict.verdict_id}"
    )


def _refused(refusals: Iterable[Refusal]) -> Iterator[str]:
    for each in refusals:
        origin = each.letter.origin
        yield plain(
            f"dead letter {each.place.partition}/{each.place.offset} of "
            f"{origin.topic}/{origin.partition}/{origin.offset}: {each.letter.error_class}: "
            f"{each.letter.reason}"
        )
        for mark in each.marks:
            yield plain(f"  {mark.what} by {mark.by} at {mark.at:%Y-%m-%d %H:%M:%S}")


def _content(trail: Trail, *, show: bool) -> Iterator[str]:
    content = _kept(trail)
    if content is None:
        return
    yield ""
    if not show:
        yield "its content is kept; --show shows it"
        return
    for message in content.messages:
        text = message.content
        if not isinstance(text, str):
            text = "\n".join(part.text or "" for part in text)
        yield f"{plain(message.role)}: {shortened(text)}"


def _kept(trail: Trail) -> Content | None:
    """The content, from evidence, or from the escalation of this very verdict."""
    for kept in trail.evidence:
        return kept.content
    own = trail.found.verdict.verdict_id
    for each in trail.escalations:
        if each.escalation.verdict.verdict_id == own and each.escalation.content is not None:
            return each.escalation.content
    return None


def as_json(trail: Trail, rule: Rule | None, *, show: bool) -> dict[str, Any]:
    """The same for programs; contents are null unless `show`."""
    return {
        **_found(trail.found),
        "copies": trail.copies,
        "stands": trail.stands,
        "rule": rule,
        "others": [_found(each.found) | {"relation": each.relation} for each in trail.others],
        "escalations": [
            {
                "place": each.place,
                "kind": each.escalation.kind,
                "verdict_id": each.escalation.verdict.verdict_id,
                "queue": each.escalation.queue,
                "harm": each.escalation.harm,
                "sla_s": each.escalation.sla_s,
                "meanwhile": each.escalation.meanwhile,
                "on_breach": each.escalation.on_breach,
            }
            for each in trail.escalations
        ],
        "evidence": [
            {"place": each.place, "sample_rate": each.sample_rate} for each in trail.evidence
        ],
        "decisions": trail.decisions,
        "dead_letters": [
            {
                "place": each.place,
                "origin": each.letter.origin,
                "error_class": each.letter.error_class,
                "reason": each.letter.reason,
                "marks": each.marks,
            }
            for each in trail.refusals
        ],
        "content": _kept(trail) if show else None,
    }


def _found(found: Found) -> dict[str, Any]:
    return {
        "verdict": found.verdict,
        "place": found.place,
        "headers": found.headers,
    }
