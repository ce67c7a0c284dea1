"""Whether the content key here is the one that the fleet writes with. Pure.

Its id stands in no record by itself: it goes into ids and hashes. What is kept with its content can
be hashed again; the same key gives the same hash.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from qwarden.contracts.escalation import Evidence
from qwarden.contracts.event import Event
from qwarden.contracts.judged import conversations_of
from qwarden.contracts.keys import ContentKey
from qwarden.contracts.refusal import Refused
from qwarden.doctor.finding import Findings

_evidence = msgspec.json.Decoder(Evidence)


def hashes_alike(value: bytes | None, keys: ContentKey) -> bool | None:
    """Whether a record of `moderation.evidence` carries the hash that this key gives its content;
    None where it cannot tell: it was written by another contract, or nothing was hashed."""
    try:
        evidence = _evidence.decode(value or b"")
        verdict = evidence.verdict
        event = Event(
            event_id=verdict.event_id, tenant=verdict.tenant, messages=evidence.content.messages
        )
        conversations, _ = conversations_of(event)
    except (msgspec.DecodeError, msgspec.ValidationError, Refused, ValueError):
        return None
    of = [each for each in conversations if each.task.value == verdict.task]
    if verdict.content_hash is None or len(of) != 1:
        return None
    return keys.content_hash(of[0].to_json()).hex() == verdict.content_hash


def judge(found: Findings, alike: Iterable[bool | None], keys: ContentKey) -> None:
    """`alike`: of the newest records of `moderation.evidence`."""
    told = [each for each in alike if each is not None]
    if not told:
        found.left_out(
            "content key", f"no evidence is there to compare it with; its id is {keys.id}"
        )
    elif all(told):
        found.good(
            "content key",
            f"it is the one that the last {len(told)} records of evidence were hashed with (id "
            f"{keys.id})",
        )
    else:
        found.wrong(
            "content key",
            f"{told.count(False)} of the last {len(told)} records of evidence were hashed with "
            f"another key than the one here (id {keys.id}): a person's decisions do not hold for "
            "equal content and the cache is split; give every service the same "
            "QWARDEN_CONTENT_KEY. After a change of the key this passes with the records of before",
        )
