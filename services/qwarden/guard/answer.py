"""What the guard answers for one row: an assessment, or why there is none; and its wire form."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from qwarden.guard.row import View


class Safety(enum.StrEnum):
    """How safe content is. By name only: the numbers of checkpoints are not in this order."""

    SAFE = "Safe"
    CONTROVERSIAL = "Controversial"
    UNSAFE = "Unsafe"


SAFETIES: tuple[Safety, ...] = (Safety.SAFE, Safety.CONTROVERSIAL, Safety.UNSAFE)
"""The order of every triple of logits or scores in this project."""

Triple = tuple[float, float, float]


Categories = tuple[tuple[str, float], ...]


def scores_of(logits: Triple) -> Triple:
    """Probabilities of Safe, Controversial, Unsafe: a softmax over the three logits."""
    top = max(logits)
    safe, controversial, unsafe = logits
    safe = math.exp(safe - top)
    controversial = math.exp(controversial - top)
    unsafe = math.exp(unsafe - top)
    total = safe + controversial + unsafe
    return safe / total, controversial / total, unsafe / total


def safety_of(logits: Triple) -> Safety:
    """The likeliest word; of equal ones the more severe, so that a tie is never Safe.

    Raises `ValueError` where a logit is not finite, which no order holds for.
    """
    safe, controversial, unsafe = logits
    if not (math.isfinite(safe) and math.isfinite(controversial) and math.isfinite(unsafe)):
        raise ValueError(f"the logits {logits} are not all finite numbers")
    if unsafe >= controversial and unsafe >= safe:
        return Safety.UNSAFE
    return Safety.CONTROVERSIAL if controversial >= safe else Safety.SAFE


@dataclass(frozen=True, slots=True)
class Entry:
    """What the guard says of one view, or of one piece of it (from 0).

    `logits`: raw, of Safe, Controversial, Unsafe, after the forced `Safety:`, each the logit of
    that word's first token. `categories`: (name, probability) as decoded, best first; empty above
    the floor. `refusal`: null for prompts. `tokens`: how many were judged, without the template.
    """

    view: View
    piece: int
    logits: Triple
    categories: Categories
    refusal: bool | None
    tokens: int

    @property
    def scores(self) -> Triple:
        return scores_of(self.logits)

    @property
    def safety(self) -> Safety:
        return safety_of(self.logits)


@dataclass(frozen=True, slots=True)
class Assessment:
    """What the guard says of a row; it knows no policy and no tenant.

    `logits`, `categories` and `refusal` are those of the worst entry (see `Entry`). `tokens`: all
    that were judged. `dropped_turns`: oldest turns left out so that the rest fits the context.
    `revision`: of the guard that answered. `entries`: every view and piece, where there are
    several; else empty.
    """

    logits: Triple
    categories: Categories
    refusal: bool | None
    tokens: int
    dropped_turns: int
    revision: str
    entries: tuple[Entry, ...] = ()

    @property
    def scores(self) -> Triple:
        return scores_of(self.logits)

    @property
    def safety(self) -> Safety:
        return safety_of(self.logits)


def worst_of(entries: Sequence[Entry]) -> Entry:
    """The entry of the higher severity, then of the lower P(Safe); of equal ones the first."""
    return max(entries, key=lambda entry: (SAFETIES.index(entry.safety), -entry.scores[0]))


def assessment_of(entries: Sequence[Entry], dropped_turns: int, revision: str) -> Assessment:
    """The assessment of a row from the entries of its views and pieces, at least one."""
    worst = worst_of(entries)
    return Assessment(
        logits=worst.logits,
        categories=worst.categories,
        refusal=worst.refusal,
        tokens=sum(entry.tokens for entry in entries),
        dropped_turns=dropped_turns,
        revision=revision,
        entries=tuple(entries) if len(entries) > 1 else (),
    )


class Failure(enum.StrEnum):
    """Why one row has no assessment. Never a reason to call it Safe."""

    REFUSED = "refused"
    """The row itself is wrong and always will be: a dead letter."""
    TOO_LONG = "too_long"
    """The last turn has more pieces than the guard judges."""
    NO_ANSWER = "no_answer"
    """The engine failed on this row alone (not a number, out of memory)."""
    CRASHED = "crashed"
    """This row alone ended the engine's process twice, and a good row between them did not."""


@dataclass(frozen=True, slots=True)
class Unanswered:
    """No assessment for this row, why, and under which revision that was found."""

    failure: Failure
    reason: str
    revision: str


Answer = Assessment | Unanswered


class _Wire(msgspec.Struct, omit_defaults=True):
    """An entry for each view and piece, or the failure."""

    revision: str
    entries: tuple[Entry, ...] = ()
    dropped_turns: int = 0
    failure: Failure | None = None
    reason: str = ""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Wire)


def encode_answer(answer: Answer) -> bytes:
    """The form in which an answer travels from Triton: compact UTF-8 JSON."""
    if isinstance(answer, Unanswered):
        return _encoder.encode(_Wire(answer.revision, failure=answer.failure, reason=answer.reason))
    only = Entry(View.AS_SENT, 0, answer.logits, answer.categories, answer.refusal, answer.tokens)
    entries = answer.entries or (only,)
    return _encoder.encode(_Wire(answer.revision, entries, answer.dropped_turns))


def decode_answer(data: bytes) -> Answer:
    """Reads what `encode_answer` wrote. Raises `ValueError` for anything else."""
    wire = _decoder.decode(data)
    if wire.failure is not None:
        return Unanswered(wire.failure, wire.reason, wire.revision)
    if not wire.entries:
        raise ValueError("an answer has entries or a failure, and this has neither")
    return assessment_of(wire.entries, wire.dropped_turns, wire.revision)
