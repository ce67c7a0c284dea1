"""What a verdict or a refusal owes: the messages that make its record done. Pure."""

from __future__ import annotations

from qwarden.contracts import headers, topics
from qwarden.contracts.dead_letter import Origin, dead_letter
from qwarden.contracts.escalation import (
    Escalation,
    Evidence,
    Kind,
    content_of,
    is_sampled,
)
from qwarden.contracts.headers import Header
from qwarden.contracts.refusal import Refused
from qwarden.contracts.verdict import Action, Basis, Verdict, encode
from qwarden.delivery.owed import Message, Owed
from qwarden.moderator.case import MAX_ENVELOPE_BYTES, Case, Source


def owed_by_verdict(
    case: Case, verdict: Verdict, *, sample_rate: float, volatile: list[Header]
) -> Owed:
    """The verdict; the escalation or closing where it is one; the evidence where it is kept.

    `volatile`: headers that differ from run to run (timings, cache, trace), on the verdict and on
    what goes with it.
    """
    source = case.source
    key = source.key or f"{verdict.tenant}/{verdict.event_id}".encode()
    where = headers.origin(source.topic, source.partition, source.offset)

    def message(topic: str, kind: str, value: bytes, *more: Header) -> Message:
        about = headers.cloud_event(kind, verdict.verdict_id)
        return Message(topic, key, value, [*about, where, *volatile, *more])

    owed = [message(topics.VERDICTS, "verdict", encode(verdict))]
    kind = _escalation(verdict)
    if kind is not None:
        content = content_of(case.event) if kind is Kind.REVIEW else None
        escalation = Escalation(kind=kind, verdict=verdict, content=content)
        owed.append(message(topics.REVIEW, "review", encode(escalation)))
    if _is_evidence(verdict, sample_rate):
        evidence = Evidence(verdict=verdict, content=content_of(case.event))
        rate = (headers.SAMPLE_RATE, str(sample_rate).encode())
        owed.append(message(topics.EVIDENCE, "evidence", encode(evidence), rate))
    return tuple(owed)


def owed_by_refusal(
    source: Source, refused: Refused, *, consumer: str, max_bytes: int, volatile: list[Header]
) -> Owed:
    """The dead letter, with the record's own key, headers and value as far as they fit."""
    fits = source.envelope_bytes() <= MAX_ENVELOPE_BYTES
    letter = dead_letter(
        refused,
        origin=Origin(source.topic, source.partition, source.offset, source.timestamp),
        key=source.key if fits else None,
        value=source.value,
        headers=source.headers if fits else (),
        consumer=consumer,
        max_bytes=max_bytes,
    )
    identity = f"{source.topic}/{source.partition}/{source.offset}"
    return (
        Message(
            topics.DEAD_LETTERS,
            source.key if fits else None,
            encode(letter),
            [
                *headers.cloud_event("dead-letter", identity),
                headers.origin(source.topic, source.partition, source.offset),
                # Its trace is one of the headers that do not fit.
                *(volatile if fits else ()),
            ],
        ),
    )


def _escalation(verdict: Verdict) -> Kind | None:
    if verdict.action is Action.REVIEW:
        return Kind.REVIEW
    if verdict.basis is Basis.WITHDRAWN or verdict.edit > 0:
        return Kind.CLOSE
    return None


def _is_evidence(verdict: Verdict, sample_rate: float) -> bool:
    if verdict.basis is Basis.WITHDRAWN:
        return False
    if verdict.action is not Action.ALLOW or verdict.basis is not Basis.GUARD:
        return True
    return is_sampled(verdict.verdict_id, sample_rate)
