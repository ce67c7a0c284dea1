"""Revision 1: the first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None

_ID = sa.String(32)
_HASH = sa.String(64)
_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:  # noqa: PLR0915 - a statement for each table and index
    op.create_table(
        "events",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("event_id", sa.Text, primary_key=True),
        sa.Column("edit", sa.BigInteger, nullable=False),
        sa.Column("withdrawn", sa.Boolean, nullable=False),
        sa.Column("kept_until", sa.Double, nullable=False),
    )
    op.create_index("ix_events_kept_until", "events", ["kept_until"])
    op.create_table(
        "superseded",
        sa.Column("verdict_id", _ID, primary_key=True),
        sa.Column("kept_until", sa.Double, nullable=False),
    )
    op.create_index("ix_superseded_kept_until", "superseded", ["kept_until"])
    op.create_table(
        "ledger",
        sa.Column("verdict_id", _ID, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("edit", sa.BigInteger, nullable=False),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("subject", sa.Text),
        sa.Column("language", sa.Text, nullable=False),
        sa.Column("category", sa.Text, nullable=False),
        sa.Column("safety", sa.Text),
        sa.Column("basis", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("rule", sa.Text, nullable=False),
        sa.Column("content_hash", sa.Text),
        sa.Column("arrived_at", sa.Double, nullable=False),
        sa.Column("kept_until", sa.Double, nullable=False),
        sa.Column("sample_rate", sa.Double),
        sa.Column("verdict", sa.LargeBinary, nullable=False),
        sa.Column("content", sa.LargeBinary),
        sa.Column("key", sa.LargeBinary),
    )
    op.create_index("ix_ledger_kept_until", "ledger", ["kept_until"])
    op.create_index("ledger_by_content", "ledger", ["tenant", "content_hash"])
    op.create_index("ledger_by_event", "ledger", ["tenant", "event_id"])
    op.create_index("ledger_by_subject", "ledger", ["tenant", "subject", "arrived_at"])
    op.create_table(
        "items",
        sa.Column("item_id", _ID, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("language", sa.Text, nullable=False),
        sa.Column("category", sa.Text, nullable=False),
        sa.Column("rule", sa.Text, nullable=False),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("subject", sa.Text),
        sa.Column("content_hash", sa.Text),
        sa.Column("verdict_id", _ID),
        sa.Column("harm", sa.Integer, nullable=False),
        sa.Column("reach", sa.BigInteger, nullable=False),
        sa.Column("arrived_at", sa.Double, nullable=False),
        sa.Column("due_at", sa.Double, nullable=False),
        sa.Column("breach_at", sa.Double, nullable=False),
        sa.Column("on_breach", sa.Text, nullable=False),
        sa.Column("breached_at", sa.Double),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("holder", _ID),
        sa.Column("lease", sa.Text),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("leased_until", sa.Double),
        sa.Column("returned", sa.Integer, nullable=False),
        sa.Column("urgent_why", sa.Text),
        sa.Column("golden_id", _ID),
        sa.Column("ruling_id", _ID),
        sa.Column("appeal_id", _ID),
        sa.Column("ended_at", sa.Double),
        sa.Column("ended_why", sa.Text),
    )
    op.create_index("items_ended", "items", ["ended_at"])
    _partial("items_held", "items", ["holder", "leased_until"], "holder IS NOT NULL")
    _partial("items_next", "items", ["due_at"], "state = 'open' AND holder IS NULL")
    _partial(
        "items_next_sent",
        "items",
        ["due_at"],
        "state = 'open' AND holder IS NULL AND urgent_why IS NOT NULL",
    )
    _partial(
        "items_next_of_language",
        "items",
        ["language", "due_at"],
        "state = 'open' AND holder IS NULL",
    )
    _partial(
        "items_next_of_queue", "items", ["queue", "due_at"], "state = 'open' AND holder IS NULL"
    )
    _partial(
        "items_next_of_queue_language",
        "items",
        ["queue", "language", "due_at"],
        "state = 'open' AND holder IS NULL",
    )
    op.create_index("items_of_content", "items", ["tenant", "content_hash"])
    _partial("items_of_ruling", "items", ["ruling_id"], "ruling_id IS NOT NULL")
    _partial("items_of_verdict", "items", ["verdict_id"], "state = 'open'")
    _partial(
        "items_one_of_content",
        "items",
        ["tenant", "queue", "content_hash"],
        "state = 'open' AND kind = 'review' AND content_hash IS NOT NULL",
        unique=True,
    )
    _partial(
        "items_one_of_golden",
        "items",
        ["golden_id"],
        "state = 'open' AND golden_id IS NOT NULL",
        unique=True,
    )
    _partial("items_open", "items", ["queue", "language", "tenant"], "state = 'open'")
    _partial("items_to_breach", "items", ["breach_at"], "state = 'open' AND breached_at IS NULL")
    op.create_table(
        "escalations",
        sa.Column("verdict_id", _ID, primary_key=True),
        sa.Column("item_id", _ID, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("edit", sa.BigInteger, nullable=False),
        sa.Column("is_open", sa.Boolean, nullable=False),
        sa.Column("arrived_at", sa.Double, nullable=False),
    )
    op.create_index("escalations_of_event", "escalations", ["tenant", "event_id"])
    op.create_index("ix_escalations_item_id", "escalations", ["item_id"])
    op.create_table(
        "exclusions",
        sa.Column("item_id", _ID, primary_key=True),
        sa.Column("user_id", _ID, primary_key=True),
        sa.Column("why", sa.Text, nullable=False),
    )
    _partial("exclusions_skipped", "exclusions", ["item_id"], "why = 'skipped'")
    op.create_table(
        "rulings",
        sa.Column("ruling_id", _ID, primary_key=True),
        sa.Column("item_id", _ID),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("language", sa.Text, nullable=False),
        sa.Column("category", sa.Text, nullable=False),
        sa.Column("content_hash", sa.Text),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("categories", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("ground", sa.Text),
        sa.Column("clause", sa.Text),
        sa.Column("overrides", sa.Boolean, nullable=False),
        sa.Column("user_id", _ID),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("fence", sa.BigInteger),
        sa.Column("waited_s", sa.Double),
        sa.Column("held_s", sa.Double),
        sa.Column("decided_at", sa.Double, nullable=False),
        sa.Column("publish_at", sa.Double, nullable=False),
        sa.Column("taken_back_at", sa.Double),
        sa.Column("bulk_id", _ID),
        sa.Column("replaced", sa.Text),
    )
    op.create_index("ix_rulings_bulk_id", "rulings", ["bulk_id"])
    op.create_index("ix_rulings_decided_at", "rulings", ["decided_at"])
    op.create_index("ix_rulings_item_id", "rulings", ["item_id"])
    op.create_index("ix_rulings_user_id", "rulings", ["user_id"])
    op.create_index("rulings_of_category", "rulings", ["tenant", "category", "decided_at"])
    op.create_index("rulings_of_content", "rulings", ["tenant", "content_hash"])
    op.create_table(
        "decisions",
        sa.Column("decision_id", _ID, primary_key=True),
        sa.Column("ruling_id", _ID, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("edit", sa.BigInteger, nullable=False),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("verdict_id", _ID, nullable=False),
        sa.Column("supersedes", _ID, unique=True),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
    )
    op.create_index("decisions_of_event", "decisions", ["tenant", "event_id", "task"])
    op.create_index("ix_decisions_ruling_id", "decisions", ["ruling_id"])
    op.create_table(
        "outbox",
        sa.Column("number", _SERIAL, primary_key=True, autoincrement=True),
        sa.Column("ruling_id", _ID),
        sa.Column("publish_at", sa.Double, nullable=False),
        sa.Column("is_taken", sa.Boolean, nullable=False),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("key", sa.LargeBinary),
        sa.Column("value", sa.LargeBinary),
        sa.Column("headers", sa.LargeBinary, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_outbox_ruling_id", "outbox", ["ruling_id"])
    op.create_table(
        "overrides",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("content_hash", sa.Text, primary_key=True),
        sa.Column("decision_id", _ID, nullable=False),
        sa.Column("ruling_id", _ID, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
    )
    op.create_index("ix_overrides_until", "overrides", ["until"])
    op.create_table(
        "duties",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("holder", _ID, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
    )
    op.create_table(
        "notes",
        sa.Column("note_id", _ID, primary_key=True),
        sa.Column("item_id", _ID, nullable=False),
        sa.Column("user_id", _ID, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
    )
    op.create_index("ix_notes_item_id", "notes", ["item_id"])
    op.create_table(
        "appeals",
        sa.Column("appeal_id", _ID, primary_key=True),
        sa.Column("item_id", _ID, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("verdict_id", _ID, nullable=False),
        sa.Column("decision_id", _ID),
        sa.Column("statement", sa.Text, nullable=False),
        sa.Column("made_at", sa.Double, nullable=False),
        sa.Column("outcome", sa.Text),
        sa.Column("ruling_id", _ID),
    )
    op.create_index("appeals_of_event", "appeals", ["tenant", "event_id"])
    _partial(
        "appeals_one_open",
        "appeals",
        ["tenant", "event_id", "task"],
        "outcome IS NULL",
        unique=True,
    )
    op.create_table(
        "goldens",
        sa.Column("golden_id", _ID, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("language", sa.Text, nullable=False),
        sa.Column("category", sa.Text, nullable=False),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("verdict", sa.LargeBinary, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("added_by", sa.Text, nullable=False),
        sa.Column("added_at", sa.Double, nullable=False),
        sa.Column("retired_at", sa.Double),
    )
    op.create_table(
        "checks",
        sa.Column("check_id", _ID, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("ruling_id", _ID, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("user_id", _ID, nullable=False),
        sa.Column("against", _ID),
        sa.Column("language", sa.Text, nullable=False),
        sa.Column("category", sa.Text, nullable=False),
        sa.Column("said", sa.Text, nullable=False),
        sa.Column("expected", sa.Text, nullable=False),
        sa.Column("rate", sa.Double),
        sa.Column("at", sa.Double, nullable=False),
    )
    op.create_index("ix_checks_at", "checks", ["at"])
    op.create_index("ix_checks_ruling_id", "checks", ["ruling_id"])
    op.create_table(
        "users",
        sa.Column("user_id", _ID, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("pseudonym", sa.Text, nullable=False, unique=True),
        sa.Column("issuer", sa.Text),
        sa.Column("issued_subject", sa.Text),
        sa.Column("claims_at", sa.Double),
        sa.Column("roles", sa.Text, nullable=False),
        sa.Column("tenants", sa.Text, nullable=False),
        sa.Column("languages", sa.Text, nullable=False),
        sa.Column("preferences", sa.Text, nullable=False),
        sa.Column("is_tool", sa.Boolean, nullable=False),
        sa.Column("is_active", sa.Boolean, nullable=False),
        sa.Column("made_at", sa.Double, nullable=False),
        sa.UniqueConstraint("issuer", "issued_subject"),
    )
    op.create_table(
        "links",
        sa.Column("token_hash", _HASH, primary_key=True),
        sa.Column("user_id", _ID, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
    )
    op.create_table(
        "sessions",
        sa.Column("token_hash", _HASH, primary_key=True),
        sa.Column("user_id", _ID, nullable=False),
        sa.Column("csrf", _HASH, nullable=False),
        sa.Column("began_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
    )
    op.create_index("ix_sessions_user_id", "sessions", ["user_id"])
    op.create_table(
        "tokens",
        sa.Column("token_hash", _HASH, primary_key=True),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("user_id", _ID, nullable=False),
        sa.Column("made_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double),
    )
    op.create_index("ix_tokens_user_id", "tokens", ["user_id"])
    op.create_table(
        "audit",
        sa.Column("number", _SERIAL, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("act", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("item_id", _ID),
        sa.Column("about", sa.Text, nullable=False),
        sa.Column("position", sa.BigInteger, unique=True),
        sa.Column("chained", _HASH),
        sqlite_autoincrement=True,
    )
    op.create_index("audit_of_item", "audit", ["item_id"])


def _partial(
    name: str, table: str, columns: list[str], where: str, *, unique: bool = False
) -> None:
    """An index of the rows alone of which `where` is true."""
    op.create_index(
        name,
        table,
        columns,
        unique=unique,
        postgresql_where=sa.text(where),
        sqlite_where=sa.text(where),
    )
