"""What a verdict or a refusal owes: the messages that make its record done. Pure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from qwarden.contracts import headers, topics
from qwarden.contracts.dead_letter import Origin, dead_letter
from qwarden.contracts.escalation import (
    Content,
    Escalation,
    Evidence,
    Kind,
    escalation_of,
    is_evidence,
)
from qwarden.contracts.headers import Header
from qwarden.contracts.names import name_of
from qwarden.contracts.refusal import Refused
from qwarden.contracts.verdict import Verdict, encode
from qwarden.delivery.owed import Message, Owed
from qwarden.outcomes.said import handling_of
from qwarden.outcomes.source import MAX_ENVELOPE_BYTES, Source
from qwarden.policy.file import Handling
from qwarden.policy.policy import Policy


def owed_by_verdict(
    source: Source,
    verdict: Verdict,
    content: Callable[[], Content],
    *,
    policy: Policy | None,
    sample_rate: float,
    volatile: list[Header],
    by: Header = headers.MODERATOR,
) -> Owed:
    """The verdict; the escalation or closing where it is one; the evidence where it is kept.

    `content`: of what was judged, asked for where it is shown. `policy`: what
    acted, which says how people are asked. `volatile`: headers that differ from
    run to run (timings, cache, trace), on the verdict and on what goes with it.
    """
    key = source.key or name_of(verdict.tenant, verdict.event_id).encode()
    where = headers.origin(source.topic, source.partition, source.offset)
    identity = verdict.verdict_id
    about = headers.cloud_event("verdict", identity, by=by)
    owed: Owed = (Message(topics.VERDICTS, key, encode(verdict), [*about, where, *volatile]),)
    kind = escalation_of(verdict)
    if kind is not None:
        escalation = _escalation(verdict, kind, content, handling_of(policy, verdict))
        about = headers.cloud_event("review", identity, by=by)
        owed += (Message(topics.REVIEW, key, encode(escalation), [*about, where, *volatile]),)
    if is_evidence(verdict, sample_rate):
        evidence = Evidence(verdict=verdict, content=content())
        about = headers.cloud_event("evidence", identity, by=by)
        rate = (headers.SAMPLE_RATE, str(sample_rate).encode())
        owed += (Message(topics.EVIDENCE, key, encode(evidence), [*about, where, *volatile, rate]),)
    return owed


def _escalation(
    verdict: Verdict, kind: Kind, content: Callable[[], Content], handling: Handling | None
) -> Escalation:
    if kind is Kind.CLOSE:
        return Escalation(kind=kind, verdict=verdict, content=None)
    assert handling is not None, "a review says how people are asked"
    return Escalation(
        kind=kind,
        verdict=verdict,
        content=content(),
        queue=handling.queue,
        harm=handling.harm,
        sla_s=handling.sla,
        meanwhile=handling.meanwhile,
        on_breach=handling.on_breach,
    )


def owed_by_relay(source: Source) -> Owed:
    """The record itself on the backlog's lane, with its origin."""
    carried = [each for each in source.headers if each[0] not in (headers.ORIGIN, headers.REPLAY)]
    where = headers.origin(source.topic, source.partition, source.offset)
    return (Message(topics.BACKLOG, source.key, source.value or b"", [*carried, where]),)


def owed_by_refusal(
    source: Source,
    refused: Refused,
    *,
    consumer: str,
    max_bytes: int,
    volatile: list[Header],
    tried: tuple[datetime, datetime] | None = None,
    by: Header = headers.MODERATOR,
) -> Owed:
    """The dead letter, with the record's own key, headers and value as far as they fit. `tried`:
    when it was first and last tried."""
    fits = source.envelope_bytes() <= MAX_ENVELOPE_BYTES
    letter = dead_letter(
        refused,
        origin=Origin(source.topic, source.partition, source.offset, source.timestamp),
        key=source.key,
        value=source.value,
        headers=source.headers,
        consumer=consumer,
        max_bytes=max_bytes,
        tried=tried,
    )
    identity = f"{source.topic}/{source.partition}/{source.offset}"
    return (
        Message(
            topics.DEAD_LETTERS,
            source.key if fits else None,
            encode(letter),
            [
                *headers.cloud_event("dead-letter", identity, by=by),
                headers.origin(source.topic, source.partition, source.offset),
                # Its trace is one of the headers that do not fit.
                *(volatile if fits else ()),
            ],
        ),
    )
