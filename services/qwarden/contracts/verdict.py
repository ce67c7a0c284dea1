"""The verdict: an assessment, a policy, an action and the basis for it.

Its id is a function of what went into it, so that a redelivery gives the same id, and two records
with one id are equal in safety, categories and action.
"""

from __future__ import annotations

import enum
import hashlib
import struct
from functools import lru_cache
from typing import Annotated, Literal

import msgspec

from qwarden.contracts.values import Plain, one_of
from qwarden.guard.answer import SAFETIES
from qwarden.guard.conversation import Task
from qwarden.guard.row import View
from qwarden.guard.taxonomy import CATEGORIES


class Action(enum.StrEnum):
    """What a platform does, the mildest first."""

    ALLOW = "allow"
    DISCLAIM = "disclaim"
    REVIEW = "review"
    BLOCK = "block"


SEVERITY: dict[Action, int] = {action: rank for rank, action in enumerate(Action)}


class Basis(enum.StrEnum):
    """Why a verdict says what it says."""

    WITHDRAWN = "withdrawn"
    HUMAN = "human"
    GUARD = "guard"
    QUOTA = "quota"
    EXPIRED = "expired"
    DEGRADED = "degraded"


class Scores(msgspec.Struct, frozen=True):
    """Probabilities of the three safeties, rounded to three decimals."""

    safe: float
    controversial: float
    unsafe: float


Category = Annotated[str, one_of(*CATEGORIES)]


class CategoryScore(msgspec.Struct, frozen=True):
    """One category that was decoded, with its probability."""

    category: Category
    score: float


class ViewScores(msgspec.Struct, frozen=True):
    """What the guard says of one view of the content, or of one piece of a view."""

    name: Annotated[str, one_of(*View)]
    """`as_sent`; `markers_broken`: with a space in every text marker of the guard's template; or
    `normalised`: as a person reads it, without zero-width characters, look-alikes and the like."""
    piece: int
    """From 0: a turn that is longer than the guard's context is judged in pieces."""
    safety: Annotated[str, one_of(*SAFETIES)]
    scores: Scores


class Guard(msgspec.Struct, frozen=True):
    """Which guard answered."""

    model: str
    revision: str
    calibration: str = "none"


class PolicyUsed(msgspec.Struct, frozen=True):
    """Which policy acted, and by which of its rules."""

    name: str
    version: str
    """A hash of all that the policy says, and of any freeze or override that acted on it."""
    serial: int
    rule: str


class Facts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What rules may read beside the assessment."""

    origin: str = "automatic"
    reach: int | None = None
    metadata: dict[str, Plain] = {}
    """Of the event's metadata what the policy's rules read, and nothing else."""


class Notice(msgspec.Struct, frozen=True):
    """What the user is told of a restriction."""

    ground: Annotated[str, one_of("law", "terms")]
    clause: str
    """Of the law or of the terms."""
    text: str | None
    """In the verdict's language where the rule has it, else in the policy's own."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of one task of an event. Null safety, scores and categories: nothing was
    judged."""

    schema_version: Literal[1] = 1
    verdict_id: str
    """Two records with one id are equal in safety, categories and action."""
    event_id: str
    edit: int
    """A verdict of a higher edit replaces all before it."""
    tenant: str
    subject: str | None
    task: Annotated[str, one_of(*Task)] | None
    """Which kind of turn was judged; null for a withdrawal, which is of all of them."""
    safety: Annotated[str, one_of(*SAFETIES)] | None
    scores: Scores | None
    categories: list[Category] | None
    """As the guard answers: empty when Safe."""
    category_scores: list[CategoryScore] | None
    """The categories that were decoded, also when Safe; null where none were."""
    refusal: bool | None
    """Whether the response refuses; null for prompts."""
    language: str | None
    """A tag as BCP 47 writes it, given or detected; `und` where nobody can tell."""
    language_confidence: float | None = None
    """How far a detected language is ahead of the next likely one, from 0 to 1, and 0 for `und`;
    null where it was given."""
    views: list[ViewScores] | None = None
    """Each view and piece, where there are several; the worst of them is the verdict's. A
    `markers_broken` tells that the content holds text markers of the guard's template."""
    content_hash: str | None
    """Of conversation and task, keyed, hexadecimal."""
    facts: Facts
    action: Action | None
    """What to do; null for a withdrawal."""
    meanwhile: Annotated[str, one_of("show", "hide")] | None = None
    """What to do with the content until a person has decided; null where none is asked."""
    notice: Notice | None = None
    """Of a rule that restricts; null where content is allowed, and where no rule was asked."""
    basis: Basis
    """Why the verdict says what it says; a withdrawal is final."""
    cause: str | None
    """Why nothing was judged: `deadline`, `too_long`, `no_answer`, …"""
    guard: Guard | None
    policy: PolicyUsed | None
    dropped: list[str]
    """What was taken out before judging: roles of turns, and `reasoning` for that of an earlier
    turn; then `oldest:N` where N turns were left out so that the rest fits the guard's context."""
    supersedes: str | None = None
    """The `verdict_id` of a verdict that a person has had taken back, and whose place this one
    takes; null for the verdict on an event."""
    decision: str | None = None
    """The `decision_id` of what a person decided of equal content, where that acted instead of the
    policy: `basis` is `human` then. The assessment is the guard's all the same."""


def verdict_id(
    *,
    tenant: str,
    event_id: str,
    task: str,
    key_id: str,
    value: bytes,
    revision: str,
    calibration: str,
    detector: str,
    policy_version: str,
    policy_serial: int,
    basis: Basis,
    cause: str,
) -> str:
    """32 hexadecimal digits: a hash of everything that the verdict's meaning depends on.

    `value` is the event's, after decoding and mapping; of a verdict that supersedes another that
    one's id, 32 digits in ASCII, which no event's value is: an event is an object. `detector`: the
    version of what told the language, empty where it was given. The parts' lengths come first and
    the value last, so that no two lists of parts give the same bytes.
    """
    before, between, after = _around(
        tenant,
        task,
        key_id,
        revision,
        calibration,
        detector,
        policy_version,
        policy_serial,
        basis,
        cause,
    )
    own = event_id.encode()
    hashed = _VERDICT_ID.copy()
    hashed.update(b"".join((before, len(own).to_bytes(4, "little"), between, own, after, value)))
    return hashed.hexdigest()


_VERDICT_ID = hashlib.blake2b(digest_size=16, person=b"qwarden.verdict")
"""128 bits: no two verdicts of any fleet have one id by chance."""


# A large fleet's tenants, tasks and policies that are at work at a time.
@lru_cache(maxsize=4096)
def _around(tenant: str, *others: str | int) -> tuple[bytes, bytes, bytes]:
    """What stands before, between and behind an event id's length and the id itself. Most verdicts
    have it in common with others: to write it for each was half of what an id takes."""
    first = tenant.encode()
    written = [str(part).encode() for part in others]
    lengths = struct.pack(f"<{len(written)}I", *map(len, written))
    return struct.pack("<I", len(first)), lengths + first, b"".join(written)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Verdict)


def encode(record: msgspec.Struct) -> bytes:
    """Any record of this package as compact JSON in UTF-8."""
    return _encoder.encode(record)


def decode_verdict(value: bytes) -> Verdict:
    """Reads a verdict; raises `msgspec.ValidationError` for what is not one."""
    return _decoder.decode(value)
