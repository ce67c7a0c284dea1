"""What records say of judged content: verdicts read again, for a policy that was not there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from qwarden.contracts.escalation import Content
from qwarden.contracts.values import Plain
from qwarden.contracts.verdict import Action, Basis, Facts, Scores
from qwarden.guard.answer import Safety
from qwarden.guard.language import UNDETERMINED
from qwarden.policy.reading import NO_METADATA, Circumstances, Reading

Kind = Literal["verdict", "evidence", "refused", "unreadable"]
"""What a record is. `refused`: a dead letter, of which nothing was said."""

_NO_FACTS = Facts()
_FLAGGED = frozenset({Safety.CONTROVERSIAL, Safety.UNSAFE})


class Named(msgspec.Struct, frozen=True, gc=False):
    """A category that was decoded."""

    category: str


class By(msgspec.Struct, frozen=True, gc=False):
    """The policy that acted, and by which rule."""

    name: str
    version: str
    rule: str


class Recorded(msgspec.Struct, frozen=True):
    """Of a verdict what rules read, and what was done."""

    verdict_id: str
    event_id: str
    tenant: str
    action: Action | None
    basis: str
    """A text: a later release has more of them."""
    task: str | None = None
    safety: Safety | None = None
    scores: Scores | None = None
    categories: list[str] | None = None
    category_scores: list[Named] | None = None
    refusal: bool | None = None
    language: str | None = None
    facts: Facts = _NO_FACTS
    cause: str | None = None
    policy: By | None = None
    supersedes: str | None = None


class _Evidence(msgspec.Struct, frozen=True):
    verdict: Recorded
    content: msgspec.Raw


class _Refused(msgspec.Struct, frozen=True):
    error_class: str
    reason: str


_recorded = msgspec.json.Decoder(Recorded)
_evidence = msgspec.json.Decoder(_Evidence)
_refused = msgspec.json.Decoder(_Refused)
_content = msgspec.json.Decoder(Content)


class Records:
    """Reads one stream of records, which are mostly of one kind: what the last one was is tried
    first."""

    __slots__ = ("_is_evidence",)

    def __init__(self) -> None:
        self._is_evidence = False

    def read(self, value: bytes) -> tuple[Kind, Recorded | None, msgspec.Raw | None]:
        """What a record is, its verdict, and the content beside it. Nothing that is read raises."""
        for is_evidence in (self._is_evidence, not self._is_evidence):
            try:
                if is_evidence:
                    kept = _evidence.decode(value)
                    self._is_evidence = True
                    return "evidence", kept.verdict, kept.content
                said = _recorded.decode(value)
                self._is_evidence = False
                return "verdict", said, None
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
        try:
            _refused.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return "unreadable", None, None
        return "refused", None, None


def text_of(content: bytes) -> str:
    """What a person reads of content that is kept; empty where it is sealed, or none."""
    try:
        messages = _content.decode(content).messages
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    turns = (
        each.content
        if isinstance(each.content, str)
        else "\n".join(part.text or "" for part in each.content)
        for each in messages
    )
    return "\n".join(turns)


def is_always_kept(recorded: Recorded) -> bool:
    """Whether evidence keeps this verdict whatever its sample's rate: as
    `contracts.escalation.must_be_kept`, of which this is the reader's half."""
    return recorded.action != Action.ALLOW or recorded.basis not in (Basis.GUARD, Basis.HUMAN)


def decoded_of(recorded: Recorded) -> tuple[str, ...] | None:
    """The categories that were decoded, best first; None where nobody knows them.

    A verdict of the stream guard has no scores of categories: what it names is what it decoded.
    What is Safe and has none was over the guard's floor, whatever that was.
    """
    if recorded.category_scores:
        return tuple([each.category for each in recorded.category_scores])
    if recorded.categories:
        return tuple(recorded.categories)
    return () if recorded.safety in _FLAGGED else None


def lacking(
    recorded: Recorded, reads: Iterable[str], named_by: Mapping[str, frozenset[str]]
) -> frozenset[str]:
    """Of these names of metadata those that a record lacks and its event may have had. `named_by`:
    what the policies of known versions keep in their verdicts: of those, what is not there was not
    in the event either."""
    kept = named_by.get(recorded.policy.version, frozenset()) if recorded.policy else frozenset()
    carried = recorded.facts.metadata
    return frozenset(name for name in reads if name not in carried and name not in kept)


def about_of(recorded: Recorded, unknown: frozenset[str] = frozenset()) -> Circumstances:
    """What was known of a record's task before it was judged."""
    facts = recorded.facts
    metadata: Mapping[str, Plain] = facts.metadata or NO_METADATA
    return Circumstances(
        tenant=recorded.tenant,
        task=recorded.task or "",
        language=recorded.language or UNDETERMINED,
        origin=facts.origin,
        reach=facts.reach,
        metadata=metadata,
        unknown=unknown,
    )


def reading_of(recorded: Recorded, unknown: frozenset[str] = frozenset()) -> Reading | None:
    """What rules read of a record: what they read when it was judged. None where nothing was."""
    if recorded.safety is None or recorded.scores is None:
        return None
    scores = recorded.scores
    return Reading(
        about_of(recorded, unknown),
        recorded.safety,
        (scores.safe, scores.controversial, scores.unsafe),
        decoded_of(recorded),
        recorded.refusal,
    )
