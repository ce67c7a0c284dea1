"""Runs the revisions in the transaction that `Database.migrate` has begun."""

from __future__ import annotations

from alembic import context

from qwarden.review.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,  # SQLite's too, which Alembic does not expect
)
with context.begin_transaction():
    context.run_migrations()
