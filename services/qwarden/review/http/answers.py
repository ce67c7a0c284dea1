"""What the API answers, where no dataclass of the store or of `masking` says it already. Times are
seconds since 1970; ids are 32 hexadecimal digits; people are pseudonyms, but where an admin looks
at accounts."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from qwarden.review.masking import Content
from qwarden.review.store.appeals import AppealRow
from qwarden.review.store.quality import Accuracy
from qwarden.review.store.queues import QueueRow
from qwarden.review.store.rulings import Past

ShownKind = Literal["review", "disagreement", "sample", "appeal"]
"""Golden items and second reviews are `review`: nothing tells them apart."""


class Queues(BaseModel):
    queues: list[QueueRow]
    now: float


class Row(BaseModel):
    """An item in a list."""

    item_id: str
    kind: ShownKind
    tenant: str
    queue: str
    language: str
    category: str
    rule: str
    task: str
    count: int
    """Of escalations with equal content that one decision covers."""
    arrived_at: float
    due_at: float
    breach_at: float
    breached: bool
    harm: int
    reach: int
    state: str
    holder: str | None
    leased_until: float | None
    returned: int
    """How many leases of it expired."""


class Page(BaseModel):
    items: list[Row]
    next: str | None
    """What `after` is for the next page; null at the end."""


class Lease(BaseModel):
    token: str
    fence: int
    until: float


class HeldItem(Lease):
    item_id: str


class Held(BaseModel):
    leases: list[HeldItem]


class Renewed(BaseModel):
    until: float


class Why(BaseModel):
    policy: str | None
    version: str | None
    rule: str


class Clause(BaseModel):
    ground: str
    clause: str
    text: str | None


class Earlier(BaseModel):
    """An earlier verdict of the subject."""

    verdict_id: str
    at: float
    task: str
    action: str
    safety: str | None
    categories: list[str]
    decision: str | None
    """What a person decided of it, if anybody has."""


class Note(BaseModel):
    """`text` is masked as the content is: it may quote it."""

    at: float
    pseudonym: str
    text: str


class Original(BaseModel):
    """What an appeal is against."""

    action: str
    reason: str | None
    ground: str | None
    clause: str | None
    at: float
    by: Literal["automatic", "person", "breach"]


class AppealOf(BaseModel):
    """`statement` is masked as the content is."""

    statement: str
    made_at: float
    original: Original


class Holding(BaseModel):
    holder: str
    until: float


class Detail(Row):
    """An item with all that a person needs to decide."""

    verdict: dict[str, Any]
    """safety, scores, categories, category_scores, views, language, basis, cause, guard, policy,
    facts, dropped, meanwhile and notice, as in the contract; the facts' metadata is masked."""
    accuracy: dict[str, Accuracy]
    content: Content | None
    """Null where it was erased, or its time is over."""
    why: Why
    clauses: list[Clause]
    subject_history: list[Earlier]
    past_decisions: list[Past]
    notes: list[Note]
    appeal: AppealOf | None
    lease: Holding | None


class Claimed(BaseModel):
    item: Detail
    lease: Lease


class TakenBack(BaseModel):
    """Null where nothing is left to decide: there was no item, or its content is gone."""

    item: Detail | None
    lease: Lease | None


class MovedTo(BaseModel):
    item_id: str
    """The item that it is part of now."""


class Revealed(BaseModel):
    """What is masked elsewhere, as it is. `metadata`: of the verdict's facts."""

    content: Content
    metadata: dict[str, Any]


class RevealedItem(Revealed):
    statement: str | None
    """An appeal's."""
    notes: list[Note]


class Ruled(BaseModel):
    ruling_id: str
    take_back_until: float
    decisions: int
    """How many escalations it covers."""


class ToolRuled(BaseModel):
    ruling_id: str
    decisions: list[str]
    take_back_until: float


class Previewed(BaseModel):
    count: int
    decisions: int
    """What would be published: one for each escalation that the items stand for."""
    held: int
    sample: list[Row]
    preview: str


class Undone(BaseModel):
    reopened: int


class AppealMade(BaseModel):
    appeal_id: str
    item_id: str


class Appeals(BaseModel):
    appeals: list[AppealRow]


class Statement(BaseModel):
    statement: dict[str, Any]
    """As statement.schema.json has it."""
    text: str


class Colleague(BaseModel):
    user_id: str
    pseudonym: str


class Colleagues(BaseModel):
    colleagues: list[Colleague]
