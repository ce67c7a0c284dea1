"""The tables, on PostgreSQL and SQLite alike. Migrations bring a database here (`migrations/`).

Times are seconds since 1970, as `_at` or `_until`. Names that producers chose (`Name`) may hold a
zero character, which PostgreSQL's text cannot. Contents and verdicts are JSON as they travelled.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    and_,
    text,
)

metadata = MetaData()


class Name(TypeDecorator[str]):
    """Any text, with the zero character written as `\\0` and the backslash as two."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        if value is None or ("\0" not in value and "\\" not in value):
            return value
        return value.replace("\\", "\\\\").replace("\0", "\\0")

    def process_result_value(self, value: Any, dialect: Any) -> str | None:
        if value is None or "\\" not in value:
            return None if value is None else str(value)
        pieces = [piece.replace("\\0", "\0") for piece in str(value).split("\\\\")]
        return "\\".join(pieces)


_Serial = BigInteger().with_variant(Integer, "sqlite")
"""SQLite counts only a column of type INTEGER by itself."""

compatibility = Table(
    "compatibility",
    metadata,
    Column("oldest", Integer, primary_key=True, autoincrement=False),
)
"""One row: the oldest revision of the schema whose code works on this one (`migrating`)."""

events = Table(
    "events",
    metadata,
    Column("tenant", Name, primary_key=True),
    Column("event_id", Name, primary_key=True),
    Column("edit", BigInteger, nullable=False),
    Column("withdrawn", Boolean, nullable=False),
    Column("kept_until", Double, nullable=False, index=True),
)
"""The highest edit of each event and whether it was withdrawn: nothing is opened below them."""

superseded = Table(
    "superseded",
    metadata,
    Column("verdict_id", String(32), primary_key=True),
    Column("kept_until", Double, nullable=False, index=True),
)
"""Verdicts whose place another one has taken: nothing is opened for them."""

ledger = Table(
    "ledger",
    metadata,
    Column("verdict_id", String(32), primary_key=True),
    Column("tenant", Name, nullable=False),
    Column("event_id", Name, nullable=False),
    Column("edit", BigInteger, nullable=False),
    Column("task", Text, nullable=False),
    Column("subject", Name),
    Column("language", Text, nullable=False),
    Column("category", Text, nullable=False),
    Column("safety", Text),
    Column("basis", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("rule", Text, nullable=False),
    Column("content_hash", Text),
    Column("arrived_at", Double, nullable=False),
    Column("kept_until", Double, nullable=False, index=True),
    Column("sample_rate", Double),
    Column("verdict", LargeBinary, nullable=False),
    Column("content", LargeBinary),
    Column("key", LargeBinary),
    Index("ledger_by_event", "tenant", "event_id"),
    Index("ledger_by_subject", "tenant", "subject", "arrived_at"),
    Index("ledger_by_content", "tenant", "content_hash"),
)
"""Every verdict whose action is not `allow`, every degraded one and the sample of the rest, with
its content until `kept_until`, or until it is erased. `category`: the first one that the guard
named, or empty; `language`: `und` where nobody can tell; `sample_rate`: of allowed ones; `key`: of
the event's record, which its decisions have too."""

items = Table(
    "items",
    metadata,
    Column("item_id", String(32), primary_key=True),
    Column("kind", Text, nullable=False),
    Column("tenant", Name, nullable=False),
    Column("queue", Text, nullable=False),
    Column("language", Text, nullable=False),
    Column("category", Text, nullable=False),
    Column("rule", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("subject", Name),
    Column("content_hash", Text),
    Column("verdict_id", String(32)),
    Column("harm", Integer, nullable=False),
    Column("reach", BigInteger, nullable=False),
    Column("arrived_at", Double, nullable=False),
    Column("due_at", Double, nullable=False),
    Column("breach_at", Double, nullable=False),
    Column("on_breach", Text, nullable=False),
    Column("breached_at", Double),
    Column("state", Text, nullable=False),
    Column("count", Integer, nullable=False),
    Column("role", Text, nullable=False),
    Column("holder", String(32)),
    Column("lease", Text),
    Column("fence", BigInteger, nullable=False),
    Column("leased_until", Double),
    Column("returned", Integer, nullable=False),
    Column("urgent_why", Text),
    Column("golden_id", String(32)),
    Column("ruling_id", String(32)),
    Column("appeal_id", String(32)),
    Column("ended_at", Double),
    Column("ended_why", Text),
)
"""What people work on.

- `kind`: `review` (an escalation), `second` (blind, of `ruling_id`), `disagreement` (of a lead, on
  `ruling_id`), `golden`, `sample` (an automatic verdict), `appeal`.
- `verdict_id`: the ledger's row with the content; null for a golden one.
- `due_at` is what claims are ordered by and is fixed at arrival; another escalation that joins may
  only make it earlier. `breach_at`: arrived + SLA.
- `state`: open, decided, closed. Open ones have a `holder` while a person has leased them: `lease`
  is the secret token, `fence` grows with each claim and is never given back.
- `role`: who may claim it, `reviewer` or `lead`. `count`: escalations that it stands for.
- `returned`: how many leases of it expired."""

is_free = and_(items.c.state == text("'open'"), items.c.holder.is_(None))

Index("items_next", items.c.due_at, postgresql_where=is_free, sqlite_where=is_free)
Index("items_next_of_queue", items.c.queue, items.c.due_at,
      postgresql_where=is_free, sqlite_where=is_free)  # fmt: skip
# Of each language by itself: in the order of all it lies behind whatever waits in others.
Index("items_next_of_language", items.c.language, items.c.due_at,
      postgresql_where=is_free, sqlite_where=is_free)  # fmt: skip
Index("items_next_of_queue_language", items.c.queue, items.c.language, items.c.due_at,
      postgresql_where=is_free, sqlite_where=is_free)  # fmt: skip
_is_sent = and_(is_free, items.c.urgent_why.is_not(None))
Index("items_next_sent", items.c.due_at, postgresql_where=_is_sent, sqlite_where=_is_sent)
_is_held = items.c.holder.is_not(None)
Index("items_held", items.c.holder, items.c.leased_until,
      postgresql_where=_is_held, sqlite_where=_is_held)  # fmt: skip
_is_open = items.c.state == text("'open'")
Index("items_open", items.c.queue, items.c.language, items.c.tenant,
      postgresql_where=_is_open, sqlite_where=_is_open)  # fmt: skip
Index("items_to_breach", items.c.breach_at,
      postgresql_where=and_(_is_open, items.c.breached_at.is_(None)),
      sqlite_where=and_(_is_open, items.c.breached_at.is_(None)))  # fmt: skip
_is_open_review = and_(
    _is_open, items.c.kind == text("'review'"), items.c.content_hash.is_not(None)
)
Index("items_one_of_content", items.c.tenant, items.c.queue, items.c.content_hash, unique=True,
      postgresql_where=_is_open_review, sqlite_where=_is_open_review)  # fmt: skip
_is_open_golden = and_(_is_open, items.c.golden_id.is_not(None))
Index("items_one_of_golden", items.c.golden_id, unique=True,
      postgresql_where=_is_open_golden, sqlite_where=_is_open_golden)  # fmt: skip
_has_ruling = items.c.ruling_id.is_not(None)
Index("items_of_ruling", items.c.ruling_id,
      postgresql_where=_has_ruling, sqlite_where=_has_ruling)  # fmt: skip
Index("items_ended", items.c.ended_at)
Index("items_of_content", items.c.tenant, items.c.content_hash)
Index("items_of_verdict", items.c.verdict_id, postgresql_where=_is_open, sqlite_where=_is_open)

escalations = Table(
    "escalations",
    metadata,
    Column("verdict_id", String(32), primary_key=True),
    Column("item_id", String(32), nullable=False, index=True),
    Column("tenant", Name, nullable=False),
    Column("event_id", Name, nullable=False),
    Column("task", Text, nullable=False),
    Column("edit", BigInteger, nullable=False),
    Column("is_open", Boolean, nullable=False),
    Column("arrived_at", Double, nullable=False),
    Index("escalations_of_event", "tenant", "event_id"),
)
"""The verdicts that an item of kind `review` stands for; each is in one item, ever."""

exclusions = Table(
    "exclusions",
    metadata,
    Column("item_id", String(32), primary_key=True),
    Column("user_id", String(32), primary_key=True),
    Column("why", Text, nullable=False),
)
"""Who may not have an item: who decided what it checks or appeals against, and who skipped it. With
a golden item's id instead: who has decided that one already."""

_is_skip = exclusions.c.why == text("'skipped'")
Index("exclusions_skipped", exclusions.c.item_id,
      postgresql_where=_is_skip, sqlite_where=_is_skip)  # fmt: skip

rulings = Table(
    "rulings",
    metadata,
    Column("ruling_id", String(32), primary_key=True),
    Column("item_id", String(32), index=True),
    Column("kind", Text, nullable=False),
    Column("tenant", Name, nullable=False),
    Column("language", Text, nullable=False),
    Column("category", Text, nullable=False),
    Column("content_hash", Text),
    Column("action", Text, nullable=False),
    Column("categories", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("ground", Text),
    Column("clause", Text),
    Column("overrides", Boolean, nullable=False),
    Column("user_id", String(32), index=True),
    Column("by", Text, nullable=False),
    Column("fence", BigInteger),
    Column("waited_s", Double),
    Column("held_s", Double),
    Column("decided_at", Double, nullable=False, index=True),
    Column("publish_at", Double, nullable=False),
    Column("taken_back_at", Double),
    Column("bulk_id", String(32), index=True),
    Column("replaced", Text),
    Index("rulings_of_content", "tenant", "content_hash"),
    Index("rulings_of_category", "tenant", "category", "decided_at"),
)
"""What one person said of one item, once: it becomes a decision for each verdict of the item.
`user_id`: null for a breach. `categories`: a JSON list. `waited_s`: from arrival; `held_s`: from
the claim. `replaced`: the override that stood before, where this one replaced or ended it, as a
JSON object: it stands again when this one is taken back."""

decisions = Table(
    "decisions",
    metadata,
    Column("decision_id", String(32), primary_key=True),
    Column("ruling_id", String(32), nullable=False, index=True),
    Column("tenant", Name, nullable=False),
    Column("event_id", Name, nullable=False),
    Column("edit", BigInteger, nullable=False),
    Column("task", Text, nullable=False),
    Column("verdict_id", String(32), nullable=False),
    Column("supersedes", String(32), unique=True),
    Column("by", Text, nullable=False),
    Column("value", LargeBinary, nullable=False),
    Index("decisions_of_event", "tenant", "event_id", "task"),
)
"""The records of `moderation.decisions`, published or to be. Those of a ruling that is taken back
are deleted. `value`: the record."""

outbox = Table(
    "outbox",
    metadata,
    Column("number", _Serial, primary_key=True, autoincrement=True),
    Column("ruling_id", String(32), index=True),
    Column("publish_at", Double, nullable=False),
    Column("is_taken", Boolean, nullable=False),
    Column("topic", Text, nullable=False),
    Column("key", LargeBinary),
    Column("value", LargeBinary),
    Column("headers", LargeBinary, nullable=False),
    sqlite_autoincrement=True,
)
"""What is to be published, in the order of `number`; deleted when that is acknowledged. `is_taken`:
a publisher has begun with it, so that it cannot be taken back. `headers`: a JSON list of pairs."""

overrides = Table(
    "overrides",
    metadata,
    Column("tenant", Name, primary_key=True),
    Column("content_hash", Text, primary_key=True),
    Column("decision_id", String(32), nullable=False),
    Column("ruling_id", String(32), nullable=False),
    Column("action", Text, nullable=False),
    Column("until", Double, nullable=False, index=True),
)
"""The overrides in force, or about to be. Its row is locked before an override is put into the
outbox, so that those of one content are published in the order in which they were decided."""

duties = Table(
    "duties",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", String(32), nullable=False),
    Column("until", Double, nullable=False),
)
"""What one process of the service does for all: `publish`, `seal`, `sweep`. Who holds it renews
it, and who finds it expired takes it."""

notes = Table(
    "notes",
    metadata,
    Column("note_id", String(32), primary_key=True),
    Column("item_id", String(32), nullable=False, index=True),
    Column("user_id", String(32), nullable=False),
    Column("at", Double, nullable=False),
    Column("text", Name, nullable=False),
)

appeals = Table(
    "appeals",
    metadata,
    Column("appeal_id", String(32), primary_key=True),
    Column("item_id", String(32), nullable=False),
    Column("tenant", Name, nullable=False),
    Column("event_id", Name, nullable=False),
    Column("task", Text, nullable=False),
    Column("verdict_id", String(32), nullable=False),
    Column("decision_id", String(32)),
    Column("statement", Name, nullable=False),
    Column("made_at", Double, nullable=False),
    Column("outcome", Text),
    Column("ruling_id", String(32)),
    Index("appeals_of_event", "tenant", "event_id"),
)
"""`statement`: what the user says. `decision_id`: what it is against; null for an automatic
verdict. `outcome`: upheld, overturned, closed; null while it is open."""

_is_pending = appeals.c.outcome.is_(None)
Index("appeals_one_open", appeals.c.tenant, appeals.c.event_id, appeals.c.task, unique=True,
      postgresql_where=_is_pending, sqlite_where=_is_pending)  # fmt: skip

goldens = Table(
    "goldens",
    metadata,
    Column("golden_id", String(32), primary_key=True),
    Column("tenant", Name, nullable=False),
    Column("queue", Text, nullable=False),
    Column("language", Text, nullable=False),
    Column("category", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("verdict", LargeBinary, nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("added_by", Text, nullable=False),
    Column("added_at", Double, nullable=False),
    Column("retired_at", Double),
)
"""Items whose right answer is known: `action`. `verdict`: what the item shows for one."""

checks = Table(
    "checks",
    metadata,
    Column("check_id", String(32), primary_key=True),
    Column("kind", Text, nullable=False),
    Column("ruling_id", String(32), nullable=False, index=True),
    Column("tenant", Name, nullable=False),
    Column("user_id", String(32), nullable=False),
    Column("against", String(32)),
    Column("language", Text, nullable=False),
    Column("category", Text, nullable=False),
    Column("said", Text, nullable=False),
    Column("expected", Text, nullable=False),
    Column("rate", Double),
    Column("at", Double, nullable=False, index=True),
)
"""What a person said beside what another one, a golden item or the policy said. `kind`: golden
(`against` is it), second (`against` is the first reviewer), sample (`expected` is the automatic
action, `rate` the share of such verdicts that samples take)."""

users = Table(
    "users",
    metadata,
    Column("user_id", String(32), primary_key=True),
    Column("name", Name, nullable=False, unique=True),
    Column("pseudonym", Text, nullable=False, unique=True),
    Column("issuer", Text),
    Column("issued_subject", Name),
    Column("claims_at", Double),
    Column("roles", Text, nullable=False),
    Column("tenants", Text, nullable=False),
    Column("languages", Text, nullable=False),
    Column("preferences", Text, nullable=False),
    Column("is_tool", Boolean, nullable=False),
    Column("is_active", Boolean, nullable=False),
    Column("made_at", Double, nullable=False),
    UniqueConstraint("issuer", "issued_subject"),
)
"""People and tools. `roles`, `tenants`, `languages`: JSON lists; `["*"]` is all of them.
`claims_at`: of the latest word of `issuer`. `preferences`: a JSON object."""

links = Table(
    "links",
    metadata,
    Column("token_hash", String(64), primary_key=True),
    Column("user_id", String(32), nullable=False),
    Column("expires_at", Double, nullable=False),
)
"""Sign-in links, each good for one session; deleted when it is used."""

sessions = Table(
    "sessions",
    metadata,
    Column("token_hash", String(64), primary_key=True),
    Column("user_id", String(32), nullable=False, index=True),
    Column("csrf", String(64), nullable=False),
    Column("began_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("token_hash", String(64), primary_key=True),
    Column("label", Text, nullable=False),
    Column("user_id", String(32), nullable=False, index=True),
    Column("made_at", Double, nullable=False),
    Column("expires_at", Double),
)
"""Of the REST interface; deleted when revoked."""

audit = Table(
    "audit",
    metadata,
    Column("number", _Serial, primary_key=True, autoincrement=True),
    Column("at", Double, nullable=False),
    Column("actor", Text, nullable=False),
    Column("act", Text, nullable=False),
    Column("tenant", Name, nullable=False),
    Column("item_id", String(32)),
    Column("about", Text, nullable=False),
    Column("position", BigInteger, unique=True),
    Column("chained", String(64)),
    Index("audit_of_item", "item_id"),
    sqlite_autoincrement=True,
)
"""Who saw, claimed, revealed, decided what, and why. `about`: a JSON object of ids, hashes and
words of ours. A row is written in the transaction of its act, and a moment later gets its place in
the chain: `position` without holes from 0, and `chained`, the hash of the one before and of it."""
