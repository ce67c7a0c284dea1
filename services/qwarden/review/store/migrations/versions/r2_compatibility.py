"""Revision 2: the database says which is the oldest code that works on it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"

OLDEST = 1
"""It adds a table, which the code of revision 1 neither reads nor writes."""


def upgrade() -> None:
    table = op.create_table(
        "compatibility", sa.Column("oldest", sa.Integer, primary_key=True, autoincrement=False)
    )
    op.bulk_insert(table, [{"oldest": OLDEST}])
