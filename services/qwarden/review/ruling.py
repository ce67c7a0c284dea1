"""What a person says of an item, whether it can be meant, and whose place it takes. Pure.

Invariants, each held by `tests/property/test_review_ruling.py`:
- What `checked` lets through says the same when it is checked again, and fits a record: a decision
  of the longest names stays under MOST_BYTES, far below what any topic takes.
- A breach never takes the place of what a person said.
- A chain has one decision that nothing supersedes for each edit at most, whatever is added to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from qwarden.contracts.decision import ACTIONS, By
from qwarden.guard.taxonomy import CATEGORIES
from qwarden.review.refusals import Conflict, Invalid

REASONS: dict[str, tuple[str, ...]] = {
    "allow": ("no_violation", "in_context", "quoted_or_reported", "satire", "guard_mistaken"),
    "disclaim": ("borderline", "sensitive", "needs_context", "unverified"),
    "block": ("violates_terms", "illegal", "targets_a_person", "repeated", "spam"),
}
"""The codes that the console offers for each action. A person's own words are as good."""

NO_DECISION_IN_TIME = "no_decision_in_time"
"""The reason of a breach."""
OWN_WORDS = "own_words"
"""What the audit log says instead of a reason that is none of the codes: it may quote content."""

GROUNDS = ("law", "terms")
MOST_REASON, MOST_CLAUSE, MOST_REVIEWER = 500, 200, 100
"""Characters. A clause as in policies."""
MOST_BYTES = 16 * 1024
"""Of a decision or an override as a record, its key included; measured: 8 KB where every name is as
long as it may be, of characters of four bytes. No topic of ours takes less than four times that."""

_CODES = frozenset(code for codes in REASONS.values() for code in codes)


@dataclass(frozen=True, slots=True)
class Said:
    """What is said of an item. `ground`: law or terms; with `clause` where the action restricts.
    `override`: whether it holds for equal content of the tenant from now on."""

    action: str
    categories: tuple[str, ...] = ()
    reason: str = ""
    ground: str | None = None
    clause: str | None = None
    override: bool = False


@dataclass(frozen=True, slots=True)
class ToolSaid:
    """What a tool says of a verdict. `task`: for a check, where it is given. `supersedes`: the
    decision whose place it takes, where nothing is open. `decision_key`: the tool's own name for
    it; what is sent again with one is one decision. `reviewer`: the tool's own pseudonym."""

    said: Said
    tenant: str
    event_id: str
    verdict_id: str
    task: str | None = None
    supersedes: str | None = None
    decision_key: str | None = None
    reviewer: str | None = None


def checked(said: Said) -> Said:
    """The same, without blanks around its texts, its categories in the taxonomy's order, each once.

    Raises `Invalid` where it cannot be meant.
    """
    if said.action not in ACTIONS:
        raise Invalid(
            f"An action is one of {', '.join(ACTIONS)}: a person does not send content to people."
        )
    reason = _text(said.reason, "The reason", MOST_REASON)
    if not reason:
        raise Invalid(
            f"A decision needs its reason: a code such as {REASONS[said.action][0]}, or own words."
        )
    unknown = len(set(said.categories) - set(CATEGORIES))
    if unknown:
        raise Invalid(
            f"{unknown} of the categories are unknown; those that there are: "
            f"{', '.join(CATEGORIES)}."
        )
    clause = None if said.clause is None else _text(said.clause, "The clause", MOST_CLAUSE)
    if said.action == "allow":
        if said.ground is not None or clause or said.categories:
            raise Invalid(
                "What is allowed has no categories, no ground and no clause; leave them out."
            )
        clause = None
    elif said.ground not in GROUNDS or not clause:
        raise Invalid(
            f"To {said.action} content restricts it: name the ground (law or terms) and the "
            "clause, which the user is told."
        )
    return replace(
        said,
        categories=tuple(name for name in CATEGORIES if name in said.categories),
        reason=reason,
        clause=clause,
    )


def code_of(reason: str) -> str:
    """The reason where it is a code of ours, else OWN_WORDS."""
    return reason if reason in _CODES or reason == NO_DECISION_IN_TIME else OWN_WORDS


@dataclass(frozen=True, slots=True)
class Link:
    """A decision as a part of its chain: of one tenant, event and task, all edits. `publish_at`:
    seconds since 1970."""

    decision_id: str
    supersedes: str | None
    edit: int
    by: str
    publish_at: float = 0.0


class Unneeded(Exception):
    """A breach of what a person has decided already, or that was decided by a breach before."""


def last_of(chain: Iterable[Link], edit: int) -> Link | None:
    """The decision that stands for an edit, or for one before it: none supersedes it."""
    links = list(chain)
    taken = {link.supersedes for link in links}
    standing = [link for link in links if link.edit <= edit and link.decision_id not in taken]
    return max(standing, key=lambda link: (link.edit, link.decision_id), default=None)


def place_of(chain: Sequence[Link], edit: int, by: By) -> Link | None:
    """The decision whose place one of this edit takes, or None where it begins a chain.

    A breach begins one beside what a person said of an earlier edit, and raises `Unneeded` where
    anything was decided of this one.
    """
    if by is By.BREACH and any(link.edit == edit for link in chain):
        raise Unneeded
    last = last_of(chain, edit)
    if last is not None and by is By.BREACH and last.by == By.PERSON:
        return None
    return last


def check_place(chain: Iterable[Link], edit: int, named: str | None) -> None:
    """Raises `Conflict` unless `named` is the last decision, or None where there is none."""
    last = last_of(chain, edit)
    if last is None and named is not None:
        raise Conflict("There is no decision yet that could be superseded; leave `supersedes` out.")
    if last is not None and named != last.decision_id:
        raise Conflict(
            f"Nothing is open for this verdict, and its last decision is {last.decision_id}: name "
            "that one in `supersedes` if it is to be replaced."
        )


def _text(text: str, what: str, most: int) -> str:
    text = text.strip()
    if len(text) > most:
        raise Invalid(
            f"{what} has {len(text)} characters, and at most {most} are kept; shorten it."
        )
    if not all(character.isprintable() or character == "\n" for character in text):
        raise Invalid(f"{what} holds a control character; send plain text.")
    return text
